"""Semi-implicit variational inference (Yin and Zhou 2018, arXiv:1805.11183): an implicit encoder without a critic.

    x, z      observation, latent code               [B, *x_shape], [B, d]
    ε_0       the noise that z is made of            [B, n]
    ε_k       further noise, k = 1 … K               [K, n]
    q(z|x)    ∫ q(z|x, ε) N(ε; 0, I) dε, with q(z|x, ε) normal

    max_θ,φ   E[log p(x, z) − log q̂_K(z|x)],   q̂_K(z|x) = 1/(K+1) Σ_{k=0}^K q(z|x, ε_k),   z ~ q(z|x, ε_0)

a lower bound on the ELBO of q(z|x), and so on log p(x), that rises to the ELBO with K: by Jensen's inequality its
distance is between 0 and E[log(1 + (q(z|x, ε_0)/q(z|x) − 1)/(K + 1))]. K = 0 gives the bound of a normal encoder with
noise in its network. The further noise is shared by the examples of a batch; each example's expectation is that of its
own noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advae.errors import ConfigError
from advae.methods.base import METHODS, Losses, Method, Players, Requirements, Weight
from advae.model import LatentModel


@METHODS.register("sivi")
@dataclass(frozen=True)
class SIVI(Method):
    """A VAE whose encoder's density is averaged over samples of its noise."""

    num_noise: int = 64
    """K: samples of noise per batch that the encoder's density is averaged over, besides that of each latent code."""

    paper: ClassVar[str] = "Yin and Zhou 2018"
    requires: ClassVar[Requirements] = {"likelihood": "log_prob"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_noise < 0:
            raise ConfigError("method.num_noise must be 0 or more", given=self.num_noise)

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        q = model.encode(x)
        noise = torch.randn(len(x) + self.num_noise, q.noise_dim, device=x.device)
        own, further = noise.split([len(x), self.num_noise])
        q_own = q.given_noise(own)
        z = q_own.rsample()
        log_q = torch.cat([q_own.log_prob(z).unsqueeze(0), q.given_noise(further.unsqueeze(1)).log_prob(z)])
        kl = log_q.logsumexp(0) - math.log(self.num_noise + 1) - model.prior.log_prob(z)
        reconstruction = -model.decode(z).log_prob(x)
        return Losses(
            model=reconstruction + kl_weight * kl,
            diagnostics={"reconstruction": reconstruction, "kl": kl},
        )

    def check(self, model: LatentModel) -> None:
        x = torch.zeros(2, *model.x_shape, device=model.device, dtype=model.dtype)
        q = model.encode(x) if model.has_encoder else None
        if q and not q.is_normal_given_noise(x):
            raise ConfigError(
                "sivi requires a posterior that is normal given its noise.",
                given=f"model.posterior.name = {model.spec['posterior']['name'] if model.spec else q}",
                fix="choose the model.posterior noise-basis with smoothing_std above 0",
            )
        super().check(model)
