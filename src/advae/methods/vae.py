"""Variational autoencoder (Kingma and Welling 2014), the baseline without a critic.

    x     observation      [B, *x_shape]
    z     latent code      [B, d]

    max_θ,φ   E_q[log p(x|z)] − β KL(q(z|x) ‖ p(z))

β ≠ 1: Higgins et al. 2017. Free bits λ: each latent dimension k costs max(λ, E_x KL_k) (Kingma et al. 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advae.distributions import Distribution
from advae.distributions.normal import Normal
from advae.errors import ConfigError
from advae.methods.base import METHODS, Losses, Method, Players, Requirements, Weight
from advae.model import LatentModel


def free_bits_kl(kl: Tensor, nats: float) -> Tensor:
    """Raise the KL ``[B, d]`` of dimensions whose batch mean is below ``nats`` to the constant ``nats``."""
    return torch.where(kl.mean(0) > nats, kl, nats)


@METHODS.register("vae")
@dataclass(frozen=True)
class VAE(Method):
    """The evidence lower bound with a reparametrized posterior."""

    kl: Literal["closed", "monte-carlo"] = "closed"
    """KL to the prior: in closed form (normal posteriors only), or from one sample of the latent code."""
    beta: float = 1.0
    """Weight of the KL."""
    free_bits: float = 0.0
    """Nats of KL per latent dimension that are free of cost; needs the closed form."""

    paper: ClassVar[str] = "Kingma and Welling 2014"
    requires: ClassVar[Requirements] = {"posterior": "sample_log_prob", "likelihood": "log_prob"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta", "free_bits"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"method.{name} must be 0 or more", given=getattr(self, name))
        if self.free_bits and self.kl != "closed":
            raise ConfigError(
                "method.free_bits needs the KL of each dimension.", fix="set method.kl to closed"
            )

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        q = model.encode(x)
        if self.kl == "closed":
            z, kl_k = q.rsample(), closed_kl(q)
            kl = kl_k.sum(-1)
            cost = free_bits_kl(kl_k, self.free_bits).sum(-1) if self.free_bits else kl
        else:
            z, log_q = q.rsample_and_log_prob()
            kl = cost = log_q - model.prior.log_prob(z)
        reconstruction = -model.decode(z).log_prob(x)
        return Losses(
            model=reconstruction + kl_weight * self.beta * cost,
            diagnostics={"reconstruction": reconstruction, "kl": kl},
        )


def closed_kl(q: Distribution) -> Tensor:
    """Return the KL to the prior of each latent dimension, ``[B, d]``."""
    if not isinstance(q, Normal):
        raise ConfigError(
            "Only a normal posterior has a KL in closed form.",
            given=type(q).__name__,
            fix="set method.kl to monte-carlo",
        )
    return q.kl_to_standard()
