"""Adaptive contrast for one posterior (Mescheder, Nowozin and Geiger 2017, algorithm 2), its moments over the batch.

    u        draws of q                                          [F, n, d]
    ū        u, standardised by the moments of the batch         [F, n, d]
    η        draws of N(0, I)                                    [F, n, d]
    T        critic: log q(u) / r(u)                             [F, n]

    (3.3)    max_T   E_q[log σ(T(ū))] + E_η[log σ(−T(η))]
    alg. 2   max_q   E_q[log p(u) − T(ū) − log r(u)],            r = N(E u, Cov u)

:mod:`advae.methods.avb` has moments of its own for every observation; here all draws share one factor. The moments are
those of the very draws that they standardise, which makes more than it seems: for ``u = A ε`` the mean gradient of
log r is then exactly that of the entropy, ``A⁻ᵀ``, whatever the number of draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advae.distributions.base import LOG_2PI

FLOOR = 1e-6  # added to variances, which begin at 1


@dataclass(frozen=True)
class Normals:
    """``r``, one a fit.

    Attributes:
        mean: ``[F, d]``.
        factor: of the covariance, lower triangular ``[F, d, d]``.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, u: Tensor, full: bool) -> Normals:
        """The normals with the moments of draws ``u [F, n, d]``: constants for the gradient."""
        mean = u.mean(1)
        centred = u - mean.unsqueeze(1)
        if full:
            cov = centred.mT @ centred / u.shape[1]
        else:
            cov = torch.diag_embed(centred.square().mean(1))
        eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
        return cls(mean, torch.linalg.cholesky_ex(cov + FLOOR * eye).L)

    def standardised(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """``ū [F, n, d]`` and ``log r(u) [F, n]``; gradients flow through u alone."""
        centred = u - self.mean.unsqueeze(1)
        bar = torch.linalg.solve_triangular(self.factor, centred.mT, upper=False).mT
        log_volume = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        return bar, -0.5 * bar.square().sum(-1) - log_volume - 0.5 * u.shape[-1] * LOG_2PI
