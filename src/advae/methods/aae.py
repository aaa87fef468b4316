"""Adversarial autoencoder (Makhzani, Shlens, Jaitly, Goodfellow and Frey 2015, arXiv:1511.05644).

    x, z      data and its latent code z ~ q(z|x), so that z ~ q(z)    [B, *x_shape], [B, d]
    z_p       a latent code from the prior                             [B, d]
    T         critic of z alone: log q(z) − log p(z)                   [B]
    D         σ(−T): the probability that z comes from the prior       [B]

    (1) reconstruction phase      min_θ,φ   E_q(x) E_q(z|x)[−log p(x|z)]
    (2) regularization phase      max_D     E_p(z)[log D(z)] + E_q(z)[log(1 − D(z))]
    (3) the encoder as generator  max_φ     E_q(z)[log D(z)]                        non-saturating

The numbers are ours: the paper describes the phases in words (sections 1 and 2). Here one update minimizes the sum
E[−log p(x|z)] + λ E_q(z)[g(T(z))], where the phases of the paper alternate with separate optimizers. With the optimal
critic held fixed, E_q(z)[∇_φ log q(z)] = 0 is the only term that drops out of the gradient of E_q(z)[T*], so the
gradients in φ are those of

    generator         g(T)               divergence of q(z) from p(z)
    kl                T                  KL(q(z)‖p(z))
    non-saturating    −log σ(−T)         KL(q(z)‖p(z)) − 2 JSD(q(z)‖p(z))     (3)
    minimax           log σ(T)           2 JSD(q(z)‖p(z))                     (2) as printed

With kl and λ = 1 the objective is the negative ELBO minus the mutual information I_q(x; z): the prior term of the ELBO
is KL(q(z|x)‖p(z)) = I_q(x; z) + KL(q(z)‖p(z)). Latent codes are not penalized for being informative about x, and
the objective bounds no likelihood. The encoder may be deterministic ("implicit" without noise), implicit or explicit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import softplus

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
    is_active,
)
from advae.model import LatentModel
from advae.networks.base import critic_of_z


@METHODS.register("aae")
@dataclass(frozen=True)
class AAE(Method):
    """An autoencoder whose aggregated posterior q(z) a critic of z compares with the prior."""

    generator: Literal["non-saturating", "kl", "minimax"] = "non-saturating"
    """The encoder's loss g(T): the critic's error at its latent codes (3), the log ratio itself, or (2) as printed."""
    beta: float = 1.0
    """λ, the weight of the latent term relative to a reconstruction in nats."""

    paper: ClassVar[str] = "Makhzani et al. 2015"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "critic": ("critic",)}
    requires: ClassVar[Requirements] = {"likelihood": "log_prob"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < math.inf:
            raise ConfigError("method.beta must be 0 or more", given=self.beta)

    @property
    def critic_specs(self) -> dict[str, CriticSpec]:
        return {"critic": CriticSpec("q(z)", "p(z)", inputs="z", kl_bounds=(KLBound.AGGREGATE_POSTERIOR,))}

    def g(self, T: Tensor) -> Tensor:
        """Return the encoder's loss from the critic at its latent codes, ``[B]``."""
        return {"kl": T, "non-saturating": softplus(T), "minimax": -softplus(-T)}[self.generator]

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        z, z_p = model.encode(x).rsample(), model.prior.rsample(x.shape[:1])
        critic = model.critics["critic"]
        T = critic_of_z(critic, z)
        contrast = logistic_contrast(T, critic_of_z(critic, z_p))  # (2)
        losses = Losses(critic=contrast.loss, diagnostics=contrast.diagnostics("critic"))
        if is_active(players, "model"):
            reconstruction = -model.decode(z).log_prob(x)  # (1)
            losses["model"] = reconstruction + kl_weight * self.beta * self.g(T)  # (1) + λ (3)
            losses.diagnostics["reconstruction"] = reconstruction.detach()
        return losses
