"""Adaptive contrast for one posterior, with moments of the batch.

Mescheder, Nowozin and Geiger 2017, algorithm 2:

    u        samples of q                                        [F, n, d]
    ū        u, whitened by the moments of the batch             [F, n, d]
    η        samples of N(0, I)                                  [F, n, d]
    T        critic: log q(u) / r(u)                             [F, n]

    (3.3)    max_T   E_q[log σ(T(ū))] + E_η[log σ(−T(η))]
    alg. 2   max_q   E_q[log p(u) − T(ū) − log r(u)],            r = N(E u, Cov u)

:mod:`advae.methods.avb` has separate moments for every observation; here all samples of a fit share one factor. A batch
is whitened by its own moments. For ``u = A ε`` the mean gradient of log r is then exactly the gradient of the entropy,
``A⁻ᵀ``, for any number of samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from advae.inference.affine_map import AffineMap, normal_log_prob

JITTER = 1e-6  # added to variances, which are about 1


@dataclass(frozen=True)
class GaussianContrast(AffineMap):
    """The normal r of each fit: the map from η ~ N(0, I) to ``u ~ r``, ``[F, …]``."""

    @classmethod
    @torch.no_grad()
    def from_batch(cls, u: Tensor, full_covariance: bool) -> Self:
        """Return the normals with the moments of ``u [F, n, d]``, without gradients."""
        mean = u.mean(1)
        centered = u - mean.unsqueeze(1)
        if full_covariance:
            cov = centered.mT @ centered / u.shape[1]
        else:
            cov = torch.diag_embed(centered.square().mean(1))
        eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
        return cls(mean, torch.linalg.cholesky_ex(cov + JITTER * eye).L)

    def whiten(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``ū [F, n, d]`` and ``log r(u) [F, n]``; gradients flow through u only."""
        whitened = self.inverse(u)
        return whitened, normal_log_prob(whitened, self.log_volume.unsqueeze(-1))
