"""Adversarially learned inference (Dumoulin et al. 2017; AS-VAE's baseline, its equation (3)).

    x, z      data and its latent code z ~ q(z|x)                [B, *x_shape], [B, d]
    z_p, x_p  a latent code from the prior and x ~ p(x|z)        [B, d], [B, *x_shape]
    f         critic: log q(x, z) − log p(x, z)                  [B]

    (3)       min_θ,φ max_f   E_q(x,z)[log σ(f(x, z))] + E_p(x,z)[log σ(−f(x, z))]

There is no reconstruction term: encoder and decoder are trained by the critic alone. (3) gives them no gradient once
the critic separates P from Q; by default they maximize the critic's error instead.

Matched joints do not say how x and z depend on each other. ALICE (Li et al. 2017, arXiv:1709.01215) bounds the
conditional entropy H(x|z) of q(x, z) and adds it, with a weight λ (``cycle``), to the model's loss:

    cycle     min_θ,φ         λ E_q(x,z)[−log p(x|z)]                  ≥ λ H_q(x|z)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advae.density_ratio import logistic_contrast, logistic_loss
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
    conditional_density,
)
from advae.model import LatentModel
from advae.networks.base import freeze_batchnorm_stats


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

    paper: ClassVar[str] = "Dumoulin et al. 2017"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "critic": ("critic",)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cycle < 0:
            raise ConfigError("method.cycle must be 0 or more", given=self.cycle)

    @property
    def critic_specs(self) -> dict[str, CriticSpec]:
        known = {"densities": "log q(z|x) − log p(z) − log p(x|z)", "none": ""}[self.known]
        bounds = (KLBound.AGGREGATE_POSTERIOR,)
        return {"critic": CriticSpec("q(x) q(z|x)", "p(z) p(x|z)", known=known, kl_bounds=bounds)}

    def f(self, model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
        """Return ``f(x, z) [B]``. The model updates x or z, so gradients of the known terms flow to both."""
        residual = model.critics["critic"](x, z).float()
        if self.known == "none":
            return residual
        log_q = conditional_density(model.encoder, x, z)
        return residual + log_q - model.prior.log_prob(z) - conditional_density(model.decoder, z, x)

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        z, z_p = model.encode(x).rsample(), model.prior.rsample(x.shape[:1])
        x_p = model.decode(z_p).rsample()
        # Running batch statistics are those of data in the encoder and of prior samples in the decoder.
        with freeze_batchnorm_stats(model.encoder, model.decoder):
            contrast = logistic_contrast(self.f(model, x, z), self.f(model, x_p, z_p))  # (3)
        swapped = logistic_loss(-contrast.log_ratio_p, -contrast.log_ratio_q)
        loss = swapped if self.generator == "non-saturating" else -contrast.loss
        return Losses(
            model=loss + self.cycle * cycle_error(model, x, z) if self.cycle else loss,
            critic=contrast.loss,
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
