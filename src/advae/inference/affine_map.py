"""Batched affine maps, as whitening and as normal distributions.

z = μ + L u         L lower triangular; for u ~ N(0, I), z ~ N(μ, L Lᵀ)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from advae.distributions.base import LOG_2PI

RELATIVE_JITTER = 1e-6  # added to an empirical covariance, as a fraction of its mean variance


@dataclass(frozen=True)
class AffineMap:
    """One map or, with leading axes ``*F``, several.

    Attributes:
        mean: ``μ [*F, d]``.
        factor: ``L [*F, d, d]``.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def translation(cls, mean: Tensor) -> Self:
        """Return ``z = μ + u`` for ``μ [*F, d]``."""
        eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        return cls(mean, eye.expand(*mean.shape, mean.shape[-1]).contiguous())

    @classmethod
    def from_samples(cls, z: Tensor) -> Self:
        """Return the map with the mean and covariance of ``z [n, d]``; never singular."""
        mean, eye = z.mean(0), torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        cov = (z - mean).mT @ (z - mean) / len(z)
        return cls(mean, torch.linalg.cholesky(cov + RELATIVE_JITTER * cov.diagonal().mean() * eye))

    def __call__(self, u: Tensor) -> Tensor:
        """Return ``z [*F, n, d]`` for ``u [*F, n, d]``."""
        return self.mean.unsqueeze(-2) + u @ self.factor.mT

    def inverse(self, z: Tensor) -> Tensor:
        """Return ``u [*F, n, d]`` for ``z [*F, n, d]``."""
        centered = z - self.mean.unsqueeze(-2)
        return torch.linalg.solve_triangular(self.factor, centered.mT, upper=False).mT

    @property
    def log_volume(self) -> Tensor:
        """``log |det L| [*F]``."""
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def normal_log_prob(whitened: Tensor, log_volume: Tensor) -> Tensor:
    """Return ``log N(z; μ, L Lᵀ) [*F]`` from whitened vectors ``u [*F, d]`` and ``log |det L|``."""
    return -0.5 * whitened.square().sum(-1) - log_volume - 0.5 * whitened.shape[-1] * LOG_2PI
