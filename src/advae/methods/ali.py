"""Adversarially learned inference (Dumoulin et al. 2017; AS-VAE's baseline, its equation (3)).

    x, z      data and its latent code z ~ q(z|x)                [B, *x_shape], [B, d]
    z_p, x_p  a latent code from the prior and x ~ p(x|z)        [B, d], [B, *x_shape]
    f         critic: log q(x, z) − log p(x, z)                  [B]

    (3)       min_θ,φ max_f   E_q(x,z)[log σ(f(x, z))] + E_p(x,z)[log σ(−f(x, z))]

There is no reconstruction term: encoder and decoder are trained by the critic alone. (3) gives them no gradient once
the critic separates P from Q; by default they maximize the critic's error instead.

A critic with several bridges is the sum of log ratios between waymarks of the two pairs (:mod:`advae.density_ratio`).
With ``gradient_penalty`` γ the critic also minimizes R1 + R2, γ/2 (E_q‖∇f(x, z)‖² + E_p‖∇f(x, z)‖²): f is then smaller
than a log ratio, in return for a game that converges (Mescheder, Geiger and Nowozin 2018). Known terms are not learned
and not penalized.

Matched joints do not say how x and z depend on each other. ALICE (Li et al. 2017, arXiv:1709.01215) bounds the
conditional entropy H(x|z) of q(x, z) and adds it, with a weight λ (``cycle``), to the model's loss:

    cycle     min_θ,φ         λ E_q(x,z)[−log p(x|z)]                  ≥ λ H_q(x|z)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advae.density_ratio import add_known_terms, logistic_loss, telescoped_contrast, zero_centered_penalty
from advae.errors import ConfigError
from advae.methods.base import (
    METHODS,
    MODEL,
    CriticSpec,
    KLBound,
    Losses,
    Method,
    Players,
    Weight,
    is_active,
    known_joint_ratio,
)
from advae.model import LatentModel
from advae.networks.base import check_no_batchnorm, freeze_batchnorm_stats


@METHODS.register("ali")
@dataclass(frozen=True)
class ALI(Method):
    """One critic between the two joint distributions, which encoder and decoder make indistinguishable."""

    known: Literal["densities", "none"] = "densities"
    """Known terms: log q(z|x) − log p(z) − log p(x|z) where these densities exist, or none (the paper's)."""
    generator: Literal["non-saturating", "minimax"] = "non-saturating"
    """The model's loss: the critic's with the roles of P and Q exchanged, or (3) as printed."""
    cycle: float = 0.0
    """ALICE's λ: weight of −log p(x|z), or of the squared error ‖x − x_p‖² of x_p ~ p(x|z) where it has no density."""

    gradient_penalty: float = 0.0
    """γ of the penalties R1 + R2 on the critic's squared gradients at both pairs."""

    paper: ClassVar[str] = "Dumoulin et al. 2017"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "critic": ("critic",)}
    telescopes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("cycle", "gradient_penalty"):
            if getattr(self, option) < 0:
                raise ConfigError(f"method.{option} must be 0 or more", given=getattr(self, option))

    def check(self, model: LatentModel) -> None:
        """Check also that a penalized critic has no batch normalization."""
        if self.gradient_penalty:
            check_no_batchnorm(model.critics)
        super().check(model)

    @property
    def critic_specs(self) -> dict[str, CriticSpec]:
        known = {"densities": "log q(z|x) − log p(z) − log p(x|z)", "none": ""}[self.known]
        bounds = (KLBound.AGGREGATE_POSTERIOR,)
        return {"critic": CriticSpec("q(x) q(z|x)", "p(z) p(x|z)", known=known, kl_bounds=bounds)}

    def f(self, model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
        """Return ``f(x, z) [B]``, or ``[B, K]`` with K bridges. Gradients of known terms flow to x and z, which
        the model updates."""
        residual = model.critics["critic"](x, z).float()
        if self.known == "none":
            return residual
        return add_known_terms(residual, known_joint_ratio(model, x, z))

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        z, z_p = model.encode(x).rsample(), model.prior.rsample(x.shape[:1])
        x_p = model.decode(z_p).rsample()
        # Running batch statistics are those of data in the encoder and of prior samples in the decoder.
        with freeze_batchnorm_stats(model.encoder, model.decoder):
            contrast = telescoped_contrast(partial(self.f, model), [x, z], [x_p, z_p])  # (3)
        swapped = logistic_loss(-contrast.log_ratio_p, -contrast.log_ratio_q)
        critic_loss = contrast.loss
        if self.gradient_penalty and is_active(players, "critic"):
            critic, weight = model.critics["critic"], self.gradient_penalty
            critic_loss = critic_loss + zero_centered_penalty(critic, [x, z], [x_p, z_p], weight)
        loss = swapped if self.generator == "non-saturating" else -contrast.loss
        return Losses(
            model=loss + self.cycle * cycle_error(model, x, z) if self.cycle else loss,
            critic=critic_loss,
            diagnostics=contrast.diagnostics("critic") | reconstruction_diagnostic(model, x, z),
        )


@METHODS.register("alice")
@dataclass(frozen=True)
class ALICE(ALI):
    """ALI with a cycle term."""

    cycle: float = 0.1
    paper: ClassVar[str] = "Li et al. 2017"


def cycle_error(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """Return ``−log p(x|z) [B]``, or the squared error of a sample of p(x|z) where the decoder has no density."""
    with freeze_batchnorm_stats(model.decoder):
        p = model.decode(z)
    return -p.log_prob(x) if p.has_log_prob else (x - p.rsample()).square().flatten(1).sum(1)


@torch.no_grad()
def reconstruction_diagnostic(model: LatentModel, x: Tensor, z: Tensor) -> dict[str, Tensor]:
    """Return ``−log p(x|z) [B]``, which is not a part of the game, where the decoder has a density."""
    with freeze_batchnorm_stats(model.decoder):
        p = model.decode(z)
    return {"reconstruction": -p.log_prob(x)} if p.has_log_prob else {}
