"""Adversarial variational Bayes, plain and with adaptive contrast (Mescheder, Nowozin and Geiger 2017).

    x        observation                              [B, *x_shape]
    z, z̄     code, standardised code                  [B, d]
    μ, σ     moments of q(z|x)                        [B, d]; with contrast "full" σ is a factor L [B, d, d]
    η        a draw from N(0, I)                      [B, d]
    T        critic: log q(z|x) / r(z|x)              [B]

    (3.3)    max_T     E_q[log σ(T(x, z))] + E_p(z)[log σ(−T(x, z))]
    (3.7)    max_θ,φ   E_q[log p(x|z) − T(x, z)]                                 algorithm 1: r = p(z), z̄ = z
    alg. 2   max_θ,φ   E_q[log p(x, z) − T(x, z̄) − log r(z|x)],   r = N(μ, σ²), z̄ = (z − μ)/σ

The encoder may be any sampler. μ and σ are constants for the gradient. Algorithm 2 prints only the part of
log r that has a gradient; the value of the bound needs all of it, and it is kept here. One variance, with the
small constant added, standardises and scores (the authors' code scores with another than it standardises by).

The bound's value contains the critic's own estimate of the KL. A weak critic errs low, so the figure is an
*adversarial estimate*: it is not a bound, and can exceed log p(x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advae.density_ratio import logistic_contrast
from advae.distributions import Distribution
from advae.distributions.base import LOG_2PI
from advae.methods.base import METHODS, MODEL, Losses, Method, wanted
from advae.model import LatentModel
from advae.networks.base import critic_at

VARIANCE_FLOOR = 1e-4  # added to variances (the authors' constant)


def standardise(q: Distribution, z: Tensor, full: bool) -> tuple[Tensor, Tensor]:
    """``z̄ [B, d]`` and ``log r(z|x) [B]`` for ``r = N(E[z|x], Cov[z|x])`` (algorithm 2, lines 8 and 9).

    Gradients flow through z alone. With ``full`` the whole covariance is taken out by its Cholesky factor.
    """
    with torch.no_grad():
        mu, var = (moment.detach() for moment in q.moments(full))  # a normal hands out its own, live tensors
    if full:
        with torch.autocast(z.device.type, enabled=False):
            eye = torch.eye(z.shape[-1], device=z.device)
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
    """What q(z|x) is contrasted with: the prior (algorithm 1), or a normal of its own moments (algorithm 2)
    with a diagonal covariance (the paper's) or the full one."""
    known: Literal["densities", "none"] = "densities"
    """Known terms of the critic: −log N(·; 0, I) of the code it sees, so that it learns log q alone; or none."""

    paper: ClassVar[str] = "Mescheder, Nowozin and Geiger 2017"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "critic": ("critic",)}
    needs: ClassVar[dict[str, str]] = {"likelihood": "density"}
    sides: ClassVar[dict[str, tuple[str, str]]] = {"critic": ("q(x) q(z|x)", "q(x) r(z|x)")}
    claims_kl: ClassVar[str] = "critic"

    def T(self, model: LatentModel, x: Tensor) -> Callable[[Tensor], Tensor]:
        """The critic's log ratio at x, from codes to ``[B]``: known terms + learned residual, in float32."""
        residual = critic_at(model.critics["critic"], x)

        def T(z_bar: Tensor) -> Tensor:
            known = -model.prior.log_prob(z_bar) if self.known == "densities" else 0.0
            return residual(z_bar).float() + known

        return T

    def losses(
        self,
        model: LatentModel,
        x: Tensor,
        players: Sequence[str] | None = None,
        kl_weight: float | Tensor = 1.0,
    ) -> Losses:
        q = model.encode(x)
        z = q.rsample()
        if self.contrast == "prior":
            z_bar, log_r = z, model.prior.log_prob(z)
        else:
            z_bar, log_r = standardise(q, z, full=self.contrast == "full")
        eta = model.prior.rsample(x.shape[:1])

        T_x = self.T(model, x)
        T = T_x(z_bar)
        contrast = logistic_contrast(T, T_x(eta))  # (3.3), alg. 2 line 13
        if not wanted(players, "model"):
            return Losses(critic=contrast.loss, report=contrast.report("critic"))
        kl = T + log_r - model.prior.log_prob(z)
        reconstruction = -model.decode(z).log_prob(x)
        return Losses(
            model=reconstruction + kl_weight * kl,  # (3.7), alg. 2 lines 11 and 12
            critic=contrast.loss,
            report={"reconstruction": reconstruction, "kl": kl, **contrast.report("critic")},
        )
