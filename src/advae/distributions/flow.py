"""What flows share: a normal carried along an invertible map (Rezende and Mohamed 2015).

    z₀ = μ + σ ε,    z = f(z₀),    log q(z) = log N(z₀; μ, σ²) − log |det ∂f/∂z₀|

A draw and its density come together, by f. The density of any other value goes backwards, by f⁻¹, which is
slower: methods and estimators that draw and score ask for both at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Size, Tensor

from advae.distributions.implicit import ByDraws
from advae.distributions.normal import MIN_SCALE, Normal, soft_floor


class Flow(ByDraws):
    """``f(z₀)`` with ``z₀`` from a normal over vectors of the event's ``n`` numbers.

    Mean and moments have no closed form: they are those of ``moment_samples`` draws, and other ones each time.

    Args:
        base: of ``z₀ [B, n]``.
        event_shape: shape of one event.
        moment_samples: how many draws :meth:`moments` and :attr:`mean` use.
    """

    def __init__(self, base: Normal, event_shape: Sequence[int], moment_samples: int = 64) -> None:
        self.base, self.moment_samples = base, moment_samples
        self.batch_shape, self.event_shape = base.batch_shape, Size(event_shape)

    def forward(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """``f(z₀) [..., B, n]`` of ``z₀ [..., B, n]``, and ``log |det ∂f/∂z₀| [..., B]``."""
        raise NotImplementedError

    def inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """``z₀ = f⁻¹(z) [..., B, n]`` of ``z [..., B, n]``, and ``log |det ∂f/∂z₀| [..., B]`` there."""
        raise NotImplementedError

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw and its log density, for the price of the draw.

        The gradient of the density is the whole one, through the draw and through the parameters.
        """
        start = self.base.rsample(sample_shape)
        value, log_det = self.forward(start)
        return value.unflatten(-1, self.event_shape), self.base.log_prob(start) - log_det

    def log_prob(self, value: Tensor) -> Tensor:
        flat = value.to(self.base.mean.dtype).flatten(-len(self.event_shape))
        start, log_det = self.inverse(flat)
        return self.base.log_prob(start) - log_det


def base_normal(raw: Tensor) -> Normal:
    """The normal of ``z₀`` from two rows of a network's output, mean and log scale: ``[B, 2, n]``."""
    return Normal(raw[:, 0], soft_floor(raw[:, 1], math.log(MIN_SCALE)))
