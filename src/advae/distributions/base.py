"""Interfaces of distributions and heads.

A distribution has a batch of ``B`` and an event (a latent ``[d]`` or an observation ``[C, H, W]`` or ``[n]``). Log
densities are summed over the event, in nats, in float32 or wider, whatever the precision of the networks. Arguments are
not validated: a check would make the host wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Size, Tensor, nn

from advae.errors import ConfigError, NoDensityError
from advae.registry import Registry

LOG_2PI = math.log(2 * math.pi)


class Distribution:
    """A distribution over events, one for each element of a batch."""

    has_log_prob: ClassVar[bool] = True
    noise_dim: int = 0
    """Length n of ε where ``q(v) = ∫ q(v|ε) N(ε; 0, I) dε`` with a known normal q(v|ε); else 0."""

    batch_shape: Size
    event_shape: Size

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return reparameterized samples ``[*sample_shape, B, *event]``, with gradients to the parameters."""
        raise NotImplementedError

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return samples ``[*sample_shape, B, *event]`` without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density (or probability) of ``value [..., B, *event]`` in nats, ``[..., B]``.

        Raises:
            NoDensityError: the distribution is implicit.
        """
        raise NotImplementedError

    @property
    def has_sample_log_prob(self) -> bool:
        """Whether :meth:`rsample_and_log_prob` is available, by the density or by an estimate of it."""
        return self.has_log_prob

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Return samples ``v [*sample_shape, B, *event]`` and their log densities ``[*sample_shape, B]``.

        For a flow both together cost no more than the samples, and much less than :meth:`log_prob` of other values.

        A distribution without a log density may return ``log q̂`` in place of ``log q(v)``, where the reciprocal of q̂ is
        unbiased: ``E[1/q̂ | v] = 1/q(v)``. Weights ``p/q̂`` therefore keep their mean. ``log q̂`` is biased upwards,
        ``E[log q̂ | v] ≥ log q(v)``, so a lower bound made with it is still a lower bound, but a looser one.

        Raises:
            NoDensityError: the distribution is implicit and has no such estimate.
        """
        value = self.rsample(sample_shape)
        return value, self.log_prob(value)

    def given_noise(self, noise: Tensor) -> Any:
        """Return the normal ``q(v|ε)`` over flat events given ``noise [..., B, n]``, if there is a :attr:`noise_dim`.

        Its scale may be 0: v is then a function of ε.

        Raises:
            NoDensityError: no such normal is known.
        """
        raise NoDensityError(f"The density of {type(self).__name__} given its noise is unknown.")

    def is_normal_given_noise(self, like: Tensor) -> bool:
        """Return whether :meth:`given_noise` is known and has a positive scale, for noise of the type of ``like``."""
        noise = like.new_zeros(*self.batch_shape, self.noise_dim)
        return self.noise_dim > 0 and bool((self.given_noise(noise).scale > 0).all())

    @property
    def mean(self) -> Tensor:
        """Expectation, ``[B, *event]``."""
        raise NotImplementedError

    def point_estimate(self) -> Tensor:
        """Return a single representative value, ``[B, *event]``: the mean, or a sample if it is implicit."""
        return self.mean

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        """Return mean ``[B, d]`` and variance ``[B, d]``, or with ``full`` covariance ``[B, d, d]``."""
        raise NotImplementedError

    def as_density(self) -> Distribution:
        """Return the continuous distribution that :meth:`rsample` samples from; itself unless it is discretized."""
        return self

    def detach(self) -> Distribution:
        """Return the same distribution with constant parameters: gradients reach the value, not the network."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch={tuple(self.batch_shape)}, event={tuple(self.event_shape)})"


class ImplicitDistribution(Distribution):
    """A distribution without a density."""

    has_log_prob = False

    def log_prob(self, value: Tensor) -> Tensor:
        """Raise a :class:`NoDensityError`."""
        raise NoDensityError(
            f"{type(self).__name__} is implicit: it can be sampled, but has no log density.",
            fix="use a method or an estimator that needs samples only, or a head with a density",
        )

    def point_estimate(self) -> Tensor:
        """Return a sample: the mean of an implicit decoder would be a blur unlike any of its samples."""
        return self.sample()


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values in float32, or unchanged if they are wider."""
    return values.float() if values.dtype.itemsize < 4 else values


def sum_event(values: Tensor, event_dims: int) -> Tensor:
    """Sum over the last ``event_dims`` axes."""
    return values.flatten(-event_dims).sum(-1)


class StandardNormal(Distribution):
    """``N(0, I)`` over vectors of length ``d``: the prior. It has no batch axis.

    >>> StandardNormal(2).log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(
        self, d: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.batch_shape, self.event_shape, self.device, self.dtype = Size(), Size([d]), device, dtype

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.randn(*sample_shape, *self.event_shape, device=self.device, dtype=self.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        return -0.5 * (at_least_float32(value).square().sum(-1) + self.event_shape[0] * LOG_2PI)

    @property
    def mean(self) -> Tensor:
        return torch.zeros(self.event_shape, device=self.device, dtype=self.dtype)

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        variance = torch.ones(self.event_shape, device=self.device, dtype=self.dtype)
        return self.mean, torch.diag(variance) if full else variance

    def detach(self) -> StandardNormal:
        return self


class Head(nn.Module):
    """Turns a network's raw output into a distribution; may have its own parameters.

    Attributes:
        num_params: how many numbers the network outputs for each element of the event.
        noise_dim: length of the standard normal noise that the network takes as a second input.
        support: the values that a likelihood of this kind can evaluate: "binary", "unit" (probabilities too),
            "8-bit", "interval" (between 0 and 1) or "real".
    """

    name: ClassVar[str]
    num_params: int = 1
    noise_dim: int = 0
    support: str = "real"

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = Size(event_shape)

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        """Return the distribution over the event given ``inputs [B, ...]``."""
        raise NotImplementedError

    def start_offsets(self, std: Tensor) -> Tensor:
        """Return what to add to the network's outputs after the first, to start with given standard deviations.

        Parameters of the head itself are set in place. By default nothing is changed.

        Args:
            std: standard deviations, ``[*event]``.

        Returns:
            ``[num_params − 1, *event]``.
        """
        return std.new_zeros(self.num_params - 1, *self.event_shape)


HEADS: Registry[type[Head]] = Registry("distribution", "advae.distributions", Head)


@HEADS.register("passthrough")
class PassthroughHead(Head):
    """The distribution that a custom network returns."""

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        result = network(inputs)
        if not isinstance(result, Distribution):
            raise ConfigError(
                "With the distribution 'passthrough' the network must return a distribution.",
                given=type(result).__name__,
                expected="advae.distributions.Distribution",
                fix="choose another distribution ('normal', 'bernoulli', …) for a network that returns tensors",
            )
        return result
