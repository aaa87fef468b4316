"""Distributions known by their samples: whatever a network makes of its input and of noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Size, Tensor

from advae.distributions.base import HEADS, Distribution, Head, SampledOnly, wide


class Implicit(SampledOnly):
    """A sampler.

    Args:
        draw: ``draw(n)`` gives ``n`` draws for every element of the batch, ``[n, B, *event]``.
        batch: ``B``.
        event_shape: shape of one event.
        moment_samples: how many draws :meth:`moments` and :attr:`mean` use.
    """

    def __init__(
        self,
        draw: Callable[[int], Tensor],
        batch: int,
        event_shape: Sequence[int],
        moment_samples: int = 64,
    ) -> None:
        self.draw, self.moment_samples = draw, moment_samples
        self.batch_shape, self.event_shape = Size([batch]), Size(event_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        values = self.draw(Size(sample_shape).numel())
        return values.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    @property
    def mean(self) -> Tensor:
        """The mean of ``moment_samples`` draws."""
        return self.draw(self.moment_samples).mean(0)

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        """Moments of ``moment_samples`` draws; for a full covariance of ``d > 1`` at least ``4 d``.

        With fewer draws than dimensions the covariance would be singular; four times as many keep its
        eigenvalues within a factor of about two of the truth.
        """
        count = max(self.moment_samples, 4 * self.event_shape.numel() if full else 2)
        values = wide(self.draw(count))
        mean = values.mean(0)
        centred = values - mean
        if not full:
            return mean, centred.square().sum(0) / (count - 1)
        with torch.autocast(values.device.type, enabled=False):
            return mean, torch.einsum("nbk,nbl->bkl", centred, centred) / (count - 1)


class ByDraws(Distribution):
    """A distribution whose moments have no closed form: they are those of draws, and other ones each time.

    Attributes:
        moment_samples: how many draws :meth:`moments` and :attr:`mean` use.
    """

    moment_samples: int

    @property
    def mean(self) -> Tensor:
        """The mean of ``moment_samples`` draws, ``[B, *event]``."""
        return self._draws().mean

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        """Moments of draws, as of any sampler."""
        return self._draws().moments(full)

    def _draws(self) -> Implicit:
        batch = self.batch_shape.numel()
        return Implicit(lambda n: self.rsample((n,)), batch, self.event_shape, self.moment_samples)


@HEADS.register("implicit")
class ImplicitHead(Head):
    """The network's output itself, the network being fed noise beside its input.

    Without noise it is a function of the input: a generator, whose code is all the noise there is.

    Args:
        event_shape: shape of one event.
        noise: how many standard normal numbers the network is given with each input; 0 for none.
        moment_samples: draws from which moments are estimated where a method needs them.
        squash: put through a sigmoid to lie in (0, 1), as images do.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        noise: int = 64,
        moment_samples: int = 64,
        squash: Literal["none", "sigmoid"] = "none",
    ) -> None:
        super().__init__(event_shape)
        self.noise, self.moment_samples, self.squash = noise, moment_samples, squash
        if squash == "sigmoid":
            self.support = "interval"

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        batch = inputs.shape[0]

        def draw(n: int) -> Tensor:
            if not self.noise:  # all draws are one
                return squashed(network(inputs)).expand(n, batch, *self.event_shape)
            repeated = inputs if n == 1 else inputs.repeat(n, *([1] * (inputs.dim() - 1)))
            noise = torch.randn(n * batch, self.noise, device=inputs.device)
            return squashed(network(repeated, noise)).reshape(n, batch, *self.event_shape)

        def squashed(raw: Tensor) -> Tensor:
            values = wide(raw[:, 0])
            return torch.sigmoid(values) if self.squash == "sigmoid" else values

        return Implicit(draw, batch, self.event_shape, self.moment_samples)
