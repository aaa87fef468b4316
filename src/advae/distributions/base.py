"""The interface of every distribution here, and of the heads that turn a network's output into one.

A distribution has a batch of ``B`` and an event (a code ``[d]`` or an observation ``[C, H, W]`` or ``[n]``).
Log densities are summed over the event, in nats, in float32 or wider whatever the networks run in.
Arguments are not validated: a check would make the host wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Size, Tensor, nn

from advae.errors import NoDensityError
from advae.registry import Registry

LOG_2PI = math.log(2 * math.pi)


class Distribution:
    """A distribution over events, one for each element of a batch."""

    has_log_prob: ClassVar[bool] = True

    batch_shape: Size
    event_shape: Size

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A draw through which gradients flow to the parameters, ``[*sample_shape, B, *event]``."""
        raise NotImplementedError

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A draw without gradients, ``[*sample_shape, B, *event]``."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density (or probability) of ``value [..., B, *event]`` in nats, ``[..., B]``.

        Raises:
            NoDensityError: the distribution is known by its samples only.
        """
        raise NotImplementedError

    @property
    def scores_draws(self) -> bool:
        """Whether :meth:`rsample_and_log_prob` can be had: by the density, or by an estimate of it."""
        return self.has_log_prob

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw ``v [*sample_shape, B, *event]`` and its log density ``[*sample_shape, B]``.

        For a flow both together cost no more than the draw, and much less than :meth:`log_prob` of any other value.

        A distribution that has no log density, but scores its draws, gives ``log q̂`` in place of ``log q(v)``: the
        reciprocal is unbiased, ``E[1/q̂ | v] = 1/q(v)``. Weights ``p/q̂`` therefore keep their mean, and ``log q̂``
        errs upwards, ``E[log q̂ | v] ≥ log q(v)``: a lower bound made with it stays one, a looser one.

        Raises:
            NoDensityError: the distribution is known by its samples only.
        """
        value = self.rsample(sample_shape)
        return value, self.log_prob(value)

    @property
    def mean(self) -> Tensor:
        """Expectation, ``[B, *event]``."""
        raise NotImplementedError

    def representative(self) -> Tensor:
        """One value to stand for the distribution, ``[B, *event]``: its mean, or a draw where a mean would not do."""
        return self.mean

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        """Mean ``[B, d]`` and variance ``[B, d]``, or with ``full`` covariance ``[B, d, d]``."""
        raise NotImplementedError

    def density(self) -> Distribution:
        """What :meth:`rsample` draws from, with a density in place of probabilities of levels; mostly itself."""
        return self

    def fixed(self) -> Distribution:
        """The same distribution with constant parameters: gradients reach a value, never the network."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch={tuple(self.batch_shape)}, event={tuple(self.event_shape)})"


class SampledOnly(Distribution):
    """A distribution without a density."""

    has_log_prob = False

    def log_prob(self, value: Tensor) -> Tensor:
        """There is none.

        Raises:
            NoDensityError: always.
        """
        raise NoDensityError(
            f"{type(self).__name__} is implicit: it can be sampled but has no log density",
            remedy="use a method or an estimator that needs samples only, or a head with a density",
        )

    def representative(self) -> Tensor:
        """A draw: the mean of an implicit decoder's draws would be a blur that it never shows."""
        return self.sample()


def wide(values: Tensor) -> Tensor:
    """In float32, or as they are if wider: whatever precision a network ran in, its output is read in this one."""
    return values.float() if values.dtype.itemsize < 4 else values


def sum_event(values: Tensor, event_dims: int) -> Tensor:
    """Sum over the last ``event_dims`` axes."""
    return values.flatten(-event_dims).sum(-1)


class StandardNormal(Distribution):
    """``N(0, I)`` over vectors of length ``d``: the prior. It has no batch of its own.

    >>> StandardNormal(2).log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(self, d: int, device: torch.device | str = "cpu") -> None:
        self.batch_shape, self.event_shape, self.device = Size(), Size([d]), device

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.randn(*sample_shape, *self.event_shape, device=self.device)

    def log_prob(self, value: Tensor) -> Tensor:
        return -0.5 * (wide(value).square().sum(-1) + self.event_shape[0] * LOG_2PI)

    @property
    def mean(self) -> Tensor:
        return torch.zeros(self.event_shape, device=self.device)

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        ones = torch.ones(self.event_shape, device=self.device)
        return self.mean, torch.diag(ones) if full else ones

    def fixed(self) -> StandardNormal:
        return self


class Head(nn.Module):
    """Turns a network's raw output into a distribution; may hold parameters of its own.

    Attributes:
        values: how many raw numbers the network gives for each number of the event.
        noise: how many standard normal numbers the network takes beside its input.
        support: the values that a likelihood of this kind can score: "binary", "unit" (probabilities too),
            "8-bit", "interval" (between 0 and 1) or "real".
    """

    name: ClassVar[str]
    values: int = 1
    noise: int = 0
    support: str = "real"

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = Size(event_shape)

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        """The distribution over the event given ``inputs [B, ...]``."""
        raise NotImplementedError


HEADS: Registry[type[Head]] = Registry("distribution", "advae.distributions", Head)
