"""Adversarially learned inference (Dumoulin et al. 2017; AS-VAE's baseline, its equation (3)).

    x, z      data and its code z ~ q(z|x)                [B, *x_shape], [B, d]
    z_p, x_p  a code from the prior and x ~ p(x|z)        [B, d], [B, *x_shape]
    f         critic: log q(x, z) − log p(x, z)           [B]

    (3)       min_θ,φ max_f   E_q(x,z)[log σ(f(x, z))] + E_p(x,z)[log σ(−f(x, z))]

There is no reconstruction term: encoder and decoder only fool the critic. Minimising (3) as it stands gives no
gradient once the critic wins; the usual remedy, the default, is to maximise the critic's error instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advae.density_ratio import logistic_contrast, logistic_loss
from advae.methods.base import METHODS, MODEL, Losses, Method, conditional_density
from advae.model import LatentModel
from advae.networks.base import statistics_kept


@METHODS.register("ali")
@dataclass(frozen=True)
class ALI(Method):
    """One critic between the two joint distributions; encoder and decoder fool it."""

    known: Literal["densities", "none"] = "densities"
    """Known terms: log q(z|x) − log p(z) − log p(x|z) where these densities exist, or none (the paper's)."""
    generator: Literal["non-saturating", "minimax"] = "non-saturating"
    """The model's loss: the critic's with the roles of P and Q exchanged, or (3) as printed."""

    paper: ClassVar[str] = "Dumoulin et al. 2017"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "critic": ("critic",)}
    sides: ClassVar[dict[str, tuple[str, str]]] = {"critic": ("q(x) q(z|x)", "p(z) p(x|z)")}

    def f(self, model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
        """``f(x, z) [B]``. The model moves x or z, so the known terms are differentiated in both."""
        residual = model.critics["critic"](x, z).float()
        if self.known == "none":
            return residual
        log_q = conditional_density(model.encoder, x, z)
        return residual + log_q - model.prior.log_prob(z) - conditional_density(model.decoder, z, x)

    def losses(
        self,
        model: LatentModel,
        x: Tensor,
        players: Sequence[str] | None = None,
        kl_weight: float | Tensor = 1.0,
    ) -> Losses:
        z, z_p = model.encode(x).rsample(), model.prior.rsample(x.shape[:1])
        x_p = model.decode(z_p).rsample()

        # Batch normalisation is that of data in the encoder, and of the prior's codes in the decoder, nothing else.
        with statistics_kept(model.encoder, model.decoder):
            contrast = logistic_contrast(self.f(model, x, z), self.f(model, x_p, z_p))  # (3)
        f_q, f_p = contrast.log_ratio_p, contrast.log_ratio_q
        fooled = logistic_loss(-f_q, -f_p) if self.generator == "non-saturating" else -contrast.loss
        report = contrast.report("critic")
        with torch.no_grad(), statistics_kept(model.decoder):  # no part of the game
            p = model.decode(z)
            if p.has_log_prob:
                report["reconstruction"] = -p.log_prob(x)
        return Losses(model=fooled, critic=contrast.loss, report=report)
