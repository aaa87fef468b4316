"""Maximum likelihood for models without latent codes, such as PixelCNN++ (Salimans et al. 2017).

    x     observation      [B, *x_shape]

    max_θ   E_q(x)[log p(x)]

The value is the log-likelihood itself, not a bound, and there is no KL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advae.errors import ConfigError
from advae.methods.base import METHODS, Losses, Method, Players, Requirements, Weight
from advae.model import LatentModel


@METHODS.register("mle")
@dataclass(frozen=True)
class MaximumLikelihood(Method):
    """The exact likelihood of the data."""

    paper: ClassVar[str] = "Salimans, Karpathy, Chen and Kingma 2017"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": ("decoder",)}
    requires: ClassVar[Requirements] = {"likelihood": "log_prob"}

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        p = model.decode(model.prior.rsample(x.shape[:1]))  # latent codes of length 0
        reconstruction = -p.log_prob(x)
        return Losses(model=reconstruction, diagnostics={"reconstruction": reconstruction})

    def check(self, model: LatentModel) -> None:
        """Check also that the decoder is p(x), not p(x|z)."""
        super().check(model)
        if model.latent_dim:
            raise ConfigError(
                "Maximum likelihood needs p(x); a model with latent codes has p(x|z) only.",
                given=f"model.latent_dim = {model.latent_dim}",
                fix="set model.latent_dim to 0, or train with an encoder (vae)",
            )
