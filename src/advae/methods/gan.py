"""Generative adversarial networks with the non-saturating loss (Goodfellow et al. 2014).

    x         data                                          [B, *x_shape]
    z, x_p    a latent code from the prior, x_p ~ p(x|z)    [B, d], [B, *x_shape]
    T         critic: log q(x) − log p(x)                   [B]
    D         σ(T): the probability that x is data          [B]

    (1)       min_θ max_D   E_q(x)[log D(x)] + E_p(x)[log(1 − D(x))],     log(1 − σ(T)) = log σ(−T)
    (2)       D* = q(x) / (q(x) + p(x)),  so that T* = log q(x) − log p(x)
    (6)       at D* the value of (1) is 2 JSD(q‖p) − 2 log 2
    sec. 3    max_θ         E_p(x)[log D(x)]                              non-saturating; the same fixed point

There is no encoder, so nothing is reconstructed. With an implicit decoder there is no likelihood either. (1) gives
the generator no gradient once the critic separates data from samples; by default the generator maximizes the
critic's error instead.

Data and samples pass the critic one after the other, never in one batch: batch normalization in a critic would
mix the statistics of the two (trap 9).

With ``gradient_penalty`` γ the critic also minimizes R1 + R2, γ/2 (E_q‖∇T(x)‖² + E_p‖∇T(x_p)‖²): T is then smaller
than a log ratio, in return for a game that converges (Mescheder, Geiger and Nowozin 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import softplus

from advae.density_ratio import logistic_contrast, zero_centered_penalty
from advae.errors import ConfigError
from advae.methods.base import (
    METHODS,
    CriticSpec,
    Losses,
    Method,
    Players,
    Weight,
    is_active,
    sample_for_critic,
)
from advae.model import LatentModel
from advae.networks.base import check_no_batchnorm, critic_of_x


def generator_loss(T: Tensor, minimax: bool) -> Tensor:
    """Return the generator's loss from the critic at its samples, ``[B]``: −log D (sec. 3), or log(1 − D) of (1)."""
    return -softplus(T) if minimax else softplus(-T)


@METHODS.register("gan")
@dataclass(frozen=True)
class GAN(Method):
    """A generator whose samples a critic cannot tell from data."""

    generator: Literal["non-saturating", "minimax"] = "non-saturating"
    """The generator's loss: the critic's error at its samples (section 3), or (1) as printed."""
    gradient_penalty: float = 0.0
    """γ of the penalties R1 + R2 on the critic's squared gradients at data and at samples."""

    paper: ClassVar[str] = "Goodfellow et al. 2014"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": ("decoder",), "critic": ("critic",)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradient_penalty < 0:
            raise ConfigError("method.gradient_penalty must be 0 or more", given=self.gradient_penalty)

    def check(self, model: LatentModel) -> None:
        """Check also that a penalized critic has no batch normalization."""
        if self.gradient_penalty:
            check_no_batchnorm(model.critics)
        super().check(model)

    @property
    def critic_specs(self) -> dict[str, CriticSpec]:
        return {"critic": CriticSpec("q(x)", "p(x)", inputs="x")}

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        critic = partial(critic_of_x, model.critics["critic"])
        x_p = sample_for_critic(model, len(x), players)
        T_p = critic(x_p)
        losses = Losses(diagnostics={})
        if is_active(players, "model"):
            losses["model"] = generator_loss(T_p, self.generator == "minimax")
        if is_active(players, "critic"):
            contrast = logistic_contrast(critic(x), T_p)  # (1)
            losses["critic"], losses.diagnostics = contrast.loss, contrast.diagnostics("critic")
            if self.gradient_penalty:
                losses["critic"] = contrast.loss + zero_centered_penalty(
                    critic, [x], [x_p], self.gradient_penalty
                )
        return losses
