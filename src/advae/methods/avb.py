"""Adversarial variational Bayes, plain and with adaptive contrast (Mescheder, Nowozin and Geiger 2017).

    x        observation                              [B, *x_shape]
    z, z̄     latent code, standardized latent code    [B, d]
    μ, σ     moments of q(z|x)                        [B, d]; with contrast "full" σ is a factor L [B, d, d]
    η        a sample from N(0, I)                    [B, d]
    T        critic: log q(z|x) / r(z|x)              [B]

    (3.3)    max_T     E_q[log σ(T(x, z))] + E_p(z)[log σ(−T(x, z))]
    (3.7)    max_θ,φ   E_q[log p(x|z) − T(x, z)]                                 algorithm 1: r = p(z), z̄ = z
    alg. 2   max_θ,φ   E_q[log p(x, z) − T(x, z̄) − log r(z|x)],   r = N(μ, σ²), z̄ = (z − μ)/σ

The encoder may be any sampler. μ and σ are constants for the gradient. Algorithm 2 prints only the part of
log r that has a gradient; the value of the bound needs all of it, so all of it is computed here. One variance, with
the small constant added, is used to standardize and to score (the authors' code uses two different ones).

The bound's value contains the critic's own estimate of the KL. A weak critic underestimates it, so the value is an
*adversarial estimate*: it is not a bound, and can exceed log p(x). A critic with several bridges is the sum of log
ratios between waymarks of z̄ and η at the same x, for a KL that one logistic contrast cannot show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advae.density_ratio import add_known_terms, telescoped_contrast
from advae.distributions import Distribution
from advae.distributions.base import LOG_2PI
from advae.methods.base import (
    METHODS,
    MODEL,
    CriticSpec,
    Losses,
    Method,
    Players,
    Requirements,
    Weight,
    is_active,
)
from advae.model import LatentModel
from advae.networks.base import bind_x

VARIANCE_FLOOR = 1e-4  # added to variances (the authors' constant)


def standardize(q: Distribution, z: Tensor, full: bool) -> tuple[Tensor, Tensor]:
    """Return ``z̄ [B, d]`` and ``log r(z|x) [B]`` for ``r = N(E[z|x], Cov[z|x])`` (algorithm 2, lines 8 and 9).

    Gradients flow through z alone. With ``full`` the Cholesky factor of the whole covariance is divided out.
    """
    with torch.no_grad():
        mu, var = (moment.detach() for moment in q.moments(full))  # a normal returns its live parameters
    if full:
        with torch.autocast(z.device.type, enabled=False):
            eye = torch.eye(z.shape[-1], dtype=var.dtype, device=z.device)
            L = torch.linalg.cholesky_ex(var + VARIANCE_FLOOR * eye).L
            z_bar = torch.linalg.solve_triangular(L, (z - mu).unsqueeze(-1), upper=False).squeeze(-1)
        log_sigma = L.diagonal(dim1=-2, dim2=-1).log()
    else:
        sigma = (var + VARIANCE_FLOOR).sqrt()
        z_bar, log_sigma = (z - mu) / sigma, sigma.log()
    log_r = -0.5 * z_bar.square().sum(-1) - log_sigma.sum(-1) - 0.5 * z.shape[-1] * LOG_2PI
    return z_bar, log_r


@METHODS.register("avb")
@dataclass(frozen=True)
class AVB(Method):
    """A VAE whose encoder may be any sampler; a critic learns the log ratio that the bound needs."""

    contrast: Literal["prior", "diagonal", "full"] = "prior"
    """What q(z|x) is contrasted with: the prior (algorithm 1), or a normal with the moments of q(z|x) (algorithm 2)
    and a diagonal covariance (the paper's) or the full one."""
    known: Literal["densities", "none"] = "densities"
    """Known terms of the critic: −log N(·; 0, I) of its latent input, so that it learns log q alone; or none."""

    paper: ClassVar[str] = "Mescheder, Nowozin and Geiger 2017"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "critic": ("critic",)}
    requires: ClassVar[Requirements] = {"likelihood": "log_prob"}
    telescopes: ClassVar[bool] = True

    @property
    def critic_specs(self) -> dict[str, CriticSpec]:
        r = "p(z)" if self.contrast == "prior" else "r(z|x)"
        known = {"densities": "−log N(z̄; 0, I)", "none": ""}[self.known]
        return {"critic": CriticSpec("q(x) q(z|x)", f"q(x) {r}", known=known, gives_kl=True)}

    def T(self, model: LatentModel, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the critic's log ratio at x, from ``z̄ [B, d]`` to ``[B]`` or, with K bridges, ``[B, K]``."""
        residual = bind_x(model.critics["critic"], x)

        def T(z_bar: Tensor) -> Tensor:
            known = -model.prior.log_prob(z_bar) if self.known == "densities" else None
            T = residual(z_bar).float()
            return T if known is None else add_known_terms(T, known)

        return T

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        q = model.encode(x)
        z = q.rsample()
        if self.contrast == "prior":
            z_bar, log_r = z, model.prior.log_prob(z)
        else:
            z_bar, log_r = standardize(q, z, full=self.contrast == "full")
        eta = model.prior.rsample(x.shape[:1])

        contrast = telescoped_contrast(self.T(model, x), [z_bar], [eta])  # (3.3), alg. 2 line 13
        T = contrast.log_ratio_p
        losses = Losses(critic=contrast.loss, diagnostics=contrast.diagnostics("critic"))
        if is_active(players, "model"):
            kl = T + log_r - model.prior.log_prob(z)
            reconstruction = -model.decode(z).log_prob(x)
            losses["model"] = reconstruction + kl_weight * kl  # (3.7), alg. 2 lines 11 and 12
            losses.diagnostics |= {"reconstruction": reconstruction.detach(), "kl": kl.detach()}
        return losses
