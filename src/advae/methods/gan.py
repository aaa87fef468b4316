"""Generative adversarial networks with the non-saturating loss (Goodfellow et al. 2014).

    x         data                                  [B, *x_shape]
    z, x_p    a code from the prior, x_p ~ p(x|z)   [B, d], [B, *x_shape]
    T         critic: log q(x) − log p(x)           [B]
    D         σ(T): how likely x is to be data      [B]

    (1)       min_θ max_D   E_q(x)[log D(x)] + E_p(x)[log(1 − D(x))],     log(1 − σ(T)) = log σ(−T)
    (2)       D* = q(x) / (q(x) + p(x)),  so that T* = log q(x) − log p(x)
    (6)       at D* the value of (1) is 2 JSD(q‖p) − 2 log 2
    sec. 3    max_θ         E_p(x)[log D(x)]                              non-saturating; the same fixed point

There is no encoder: nothing is reconstructed, and no code belongs to an observation. With an implicit decoder there is
no likelihood either. The generator sees no data but through the critic; (1) as it stands gives it no gradient once the
critic wins, so it maximises the critic's error instead, which is the default.

Data and samples pass the critic one after the other, never in one batch: batch normalisation in a critic would
otherwise mix the statistics of the two (trap 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from advae.density_ratio import logistic_contrast
from advae.methods.base import METHODS, Losses, Method, wanted
from advae.model import LatentModel


def generator_loss(T: Tensor, minimax: bool) -> Tensor:
    """The generator's loss by the critic at its samples, ``[B]``: −log D (section 3), or log(1 − D) of (1)."""
    return -softplus(T) if minimax else softplus(-T)


@METHODS.register("gan")
@dataclass(frozen=True)
class GAN(Method):
    """A generator that makes samples a critic takes for data."""

    generator: Literal["non-saturating", "minimax"] = "non-saturating"
    """The generator's loss: the critic's error at its samples (section 3), or (1) as printed."""

    paper: ClassVar[str] = "Goodfellow et al. 2014"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": ("decoder",), "critic": ("critic",)}
    sides: ClassVar[dict[str, tuple[str, str]]] = {"critic": ("q(x)", "p(x)")}

    def T(self, model: LatentModel, x: Tensor) -> Tensor:
        """The critic's log ratio, ``[B]``, in float32: it sees observations alone."""
        return model.critics["critic"](x, x.new_empty(len(x), 0)).float()

    def losses(
        self,
        model: LatentModel,
        x: Tensor,
        players: Sequence[str] | None = None,
        kl_weight: float | Tensor = 1.0,
    ) -> Losses:
        moving = torch.is_grad_enabled() and wanted(players, "model")
        with torch.set_grad_enabled(moving):  # a critic's own step needs samples, not their gradients
            x_p = model.decode(model.prior.rsample(x.shape[:1])).rsample()
        T_p = self.T(model, x_p)
        fooled = (
            {"model": generator_loss(T_p, self.generator == "minimax")} if wanted(players, "model") else {}
        )
        if not wanted(players, "critic"):
            return Losses(report={}, **fooled)
        contrast = logistic_contrast(self.T(model, x), T_p)  # (1)
        return Losses(critic=contrast.loss, report=contrast.report("critic"), **fooled)
