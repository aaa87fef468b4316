"""Variational autoencoder (Kingma and Welling 2014), the baseline: no critic.

    x     observation      [B, *x_shape]
    z     code             [B, d]

    max_θ,φ   E_q[log p(x|z)] − β KL(q(z|x) ‖ p(z))

β ≠ 1: Higgins et al. 2017. Free bits λ: each code dimension k pays max(λ, E_x KL_k) (Kingma et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advae.distributions.normal import Normal
from advae.errors import ConfigError
from advae.methods.base import METHODS, Losses, Method
from advae.model import LatentModel


def free_bits(kl: Tensor, nats: float) -> Tensor:
    """KL of each dimension ``[B, d]`` with the dimensions cheaper than ``nats`` on the batch's mean held there."""
    return torch.where(kl.mean(0) > nats, kl, nats)


@METHODS.register("vae")
@dataclass(frozen=True)
class VAE(Method):
    """The evidence lower bound with a reparametrised posterior."""

    kl: Literal["closed", "monte-carlo"] = "closed"
    """KL to the prior in closed form (normal posteriors only), or from the drawn code."""
    beta: float = 1.0
    """Weight of the KL."""
    free_bits: float = 0.0
    """Nats of KL that each code dimension may spend for nothing; needs the closed form."""

    paper: ClassVar[str] = "Kingma and Welling 2014"
    needs: ClassVar[dict[str, str]] = {"posterior": "score", "likelihood": "density"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta", "free_bits"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"method.{name} must be 0 or more", given=getattr(self, name))
        if self.free_bits and self.kl != "closed":
            raise ConfigError("free bits need the KL of each dimension", remedy="set method.kl to closed")

    def losses(
        self,
        model: LatentModel,
        x: Tensor,
        players: Sequence[str] | None = None,
        kl_weight: float | Tensor = 1.0,
    ) -> Losses:
        q = model.encode(x)
        if self.kl == "closed":
            z, kl_k = q.rsample(), self.closed_kl(q)
            kl, paid = (
                kl_k.sum(-1),
                free_bits(kl_k, self.free_bits).sum(-1) if self.free_bits else kl_k.sum(-1),
            )
        else:
            z, log_q = q.rsample_and_log_prob()
            kl = paid = log_q - model.prior.log_prob(z)
        reconstruction = -model.decode(z).log_prob(x)
        return Losses(
            model=reconstruction + kl_weight * self.beta * paid,
            report={"reconstruction": reconstruction, "kl": kl},
        )

    @staticmethod
    def closed_kl(q: object) -> Tensor:
        """KL to the prior for each code dimension, ``[B, d]``."""
        if not isinstance(q, Normal):
            raise ConfigError(
                "only a normal posterior has a KL in closed form",
                given=type(q).__name__,
                remedy="set method.kl to monte-carlo",
            )
        return q.kl_to_standard()
