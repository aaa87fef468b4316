"""Normalizing flows: a normal transformed by an invertible map (Rezende and Mohamed 2015).

    z₀ = μ + σ ε,    z = f(z₀),    log q(z) = log N(z₀; μ, σ²) − log |det ∂f/∂z₀|

A sample and its density are computed together, by f. The density of any other value needs f⁻¹, which is slower, so
methods and estimators that need both ask for them at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Size, Tensor

from advae.distributions.implicit import MonteCarloMoments
from advae.distributions.normal import Normal


class Flow(MonteCarloMoments):
    """``f(z₀)`` with a normal ``z₀ [B, n]`` and events of n elements."""

    def __init__(self, base: Normal, event_shape: Sequence[int], moment_samples: int = 64) -> None:
        self.base, self.moment_samples = base, moment_samples
        self.batch_shape, self.event_shape = base.batch_shape, Size(event_shape)

    def forward(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``f(z₀) [..., B, n]`` of ``z₀ [..., B, n]``, and ``log |det ∂f/∂z₀| [..., B]``."""
        raise NotImplementedError

    def inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``z₀ = f⁻¹(z) [..., B, n]`` of ``z [..., B, n]``, and ``log |det ∂f/∂z₀| [..., B]`` at z₀."""
        raise NotImplementedError

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Return samples and their log densities, at the cost of the samples.

        The gradient of the density is the total one, through the sample and through the parameters.
        """
        start = self.base.rsample(sample_shape)
        value, log_det = self.forward(start)
        return value.unflatten(-1, self.event_shape), self.base.log_prob(start) - log_det

    def log_prob(self, value: Tensor) -> Tensor:
        flat = value.to(self.base.mean.dtype).flatten(-len(self.event_shape))
        start, log_det = self.inverse(flat)
        return self.base.log_prob(start) - log_det
