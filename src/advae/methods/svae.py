"""Symmetric VAE (Chen et al. 2018, arXiv:1709.01846): the symmetric KL of two joints by one critic.

    x, z      data x ~ q(x) and its latent code z ~ q(z|x)                  [B, *x_shape], [B, d]
    z_p, x_p  a latent code z_p ~ p(z) and an observation x_p ~ p(x|z_p)    [B, d], [B, *x_shape]
    f         critic: log q(x, z) − log p(x, z)                             [B]

    (1)       min_θ,φ   KL(q(x,z) ‖ p(x,z)) + KL(p(x,z) ‖ q(x,z))  =  E_q(x,z)[f*] − E_p(x,z)[f*]
    (2)       max_f     E_q(x,z)[log σ(f(x, z))] + E_p(x,z)[log σ(−f(x, z))]
    (3)       min_θ,φ   E_q(x,z)[f(x, z)] − E_p(x,z)[f(x, z)]
                        − λ (E_q(x,z)[log p(x|z)] + E_p(x,z)[log q(z|x)])

The numbers are this file's. The first KL of (1) is minus the ELBO less the data's entropy, the second its mirror image
with x and z exchanged. AS-VAE has the same aim with two critics, as it compares joints with products of marginals.

What the reconstruction terms are. f* = log q(x) q(z|x) − log p(z) p(x|z) depends on θ and φ, and with the critic held
fixed these parts of the gradient drop out. That of the first KL for θ is all of it, −E_q[∇ log p(x|z)], and that of the
second for φ, −E_p[∇ log q(z|x)]; the other two are zero. So the critic alone (λ = 0) trains the encoder on the first KL
and the decoder on the second. With λ = 1 and constant pairs in the last line, (3) has exactly the gradient of (1).

``pairs: sampled`` lets that line move z and x_p as well, like an ordinary reconstruction error: a regularizer that
is added to (1) rather than a part of it (the paper's sVAE-r).

Known terms: f contains log q(z|x) − log p(z) − log p(x|z), which leaves log q(x) to the critic: of x_p that is far from
the data as large as log p(x|z) at independent pairs in AS-VAE's f₂, and off by default for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from advae.density_ratio import logistic_contrast
from advae.errors import ConfigError
from advae.methods.base import (
    METHODS,
    MODEL,
    CriticSpec,
    KLBound,
    Losses,
    Method,
    Players,
    Requirements,
    Weight,
    known_joint_ratio,
)
from advae.model import LatentModel
from advae.networks.base import freeze_batchnorm_stats


@METHODS.register("svae")
@dataclass(frozen=True)
class SVAE(Method):
    """Both directions of the KL between the joints of encoder and decoder, by one critic."""

    known: Literal["none", "densities"] = "none"
    """Known terms: none (the paper's), or log q(z|x) − log p(z) − log p(x|z)."""
    reconstruction: float = 1.0
    """λ: weight of log p(x|z) and log q(z|x)."""
    pairs: Literal["constant", "sampled"] = "constant"
    """Whether these terms train encoder and decoder through the pairs (x, z) and (x_p, z_p) too."""

    paper: ClassVar[str] = "Chen et al. 2018"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "critic": ("critic",)}
    requires: ClassVar[Requirements] = {"posterior": "log_prob", "likelihood": "log_prob"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reconstruction < 0:
            raise ConfigError("method.reconstruction must be 0 or more", given=self.reconstruction)

    @property
    def critic_specs(self) -> dict[str, CriticSpec]:
        known = "log q(z|x) − log p(z) − log p(x|z)" if self.known == "densities" else ""
        bounds = (KLBound.AGGREGATE_POSTERIOR,)
        return {"critic": CriticSpec("q(x) q(z|x)", "p(z) p(x|z)", known=known, kl_bounds=bounds)}

    def f(self, model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
        """Return ``f(x, z) [B]``. Gradients of the known terms flow to x and z."""
        residual = model.critics["critic"](x, z).float()
        return residual if self.known == "none" else residual + known_joint_ratio(model, x, z)

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        q, z_p = model.encode(x), model.prior.rsample(x.shape[:1])
        z, log_q = q.rsample_and_log_prob()
        # Running batch statistics are those of data and of their latent codes.
        constant = self.pairs == "constant"
        p = model.decode(z.detach() if constant else z)
        with freeze_batchnorm_stats(model.encoder, model.decoder):
            x_p = model.decode(z_p).rsample()
            q_p = model.encode(x_p.detach() if constant else x_p)
            contrast = logistic_contrast(self.f(model, x, z), self.f(model, x_p, z_p))  # (2)
        reconstruction, z_reconstruction = -p.log_prob(x), -q_p.log_prob(z_p)
        divergence = contrast.log_ratio_p - contrast.log_ratio_q + self.reconstruction * z_reconstruction
        diagnostics = {
            "reconstruction": reconstruction,
            "z_reconstruction": z_reconstruction,
            "kl": log_q - model.prior.log_prob(z),
        }
        return Losses(
            model=kl_weight * divergence + self.reconstruction * reconstruction,  # (3)
            critic=contrast.loss,
            diagnostics=diagnostics | contrast.diagnostics("critic"),
        )
