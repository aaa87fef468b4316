"""Maximum likelihood, for models that score an observation without codes: PixelCNN++ (Salimans et al. 2017).

    x     observation      [B, *x_shape]

    max_θ   E_q(x)[log p(x)]

The value is the log-likelihood itself: no bound, and no KL. It needs p(x) and not p(x|z), so there are no codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advae.errors import ConfigError
from advae.methods.base import METHODS, Losses, Method
from advae.model import LatentModel


@METHODS.register("mle")
@dataclass(frozen=True)
class MaximumLikelihood(Method):
    """The likelihood of the data, computed and not bounded."""

    paper: ClassVar[str] = "Salimans, Karpathy, Chen and Kingma 2017"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": ("decoder",)}
    needs: ClassVar[dict[str, str]] = {"likelihood": "density"}

    def losses(
        self,
        model: LatentModel,
        x: Tensor,
        players: Sequence[str] | None = None,
        kl_weight: float | Tensor = 1.0,
    ) -> Losses:
        p = model.decode(model.prior.rsample(x.shape[:1]))  # codes of length 0
        reconstruction = -p.log_prob(x)
        return Losses(model=reconstruction, report={"reconstruction": reconstruction})

    def check(self, model: LatentModel) -> None:
        super().check(model)
        if model.latent:
            raise ConfigError(
                "maximum likelihood needs p(x), and a model with codes has p(x|z) alone",
                given=f"model.latent = {model.latent}",
                remedy="set model.latent to 0, or train with an encoder (vae)",
            )
