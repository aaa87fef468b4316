"""Biadversarial VAE, with encoder and decoder both implicit (Fickinger 2019).

    x, z      data and its latent code z ~ q(z|x)                   [B, *x_shape], [B, d]
    z_p       a latent code from the prior                          [B, d]
    x_p       an observation from the decoder at the *same* z       [B, *x_shape]
    D_φ       critic for KL(q(z|x) ‖ p(z))                          [B]
    D_θφ      critic for the reconstruction                         [B]

    (6)       max_D_φ    E_q[1 − D] − E_p(z)[exp(−D)];  with T = 1 − D it has the form of (14), which is used for both
    (14)      max_D_θφ   E_q(x,z)[D(x, z)] − E_q(z) E_p(x'|z)[exp(D(x', z) − 1)]
    (19)      min_θ,φ    V(D_θφ, θ, φ) + V(D_φ, φ)

What (14) contrasts. The paper reads the value of its game as E_z KL(data ‖ p(x|z)). But the z that an x
is paired with comes from q(z|x) at *that* x, so the pairs (x, z) follow q(x, z), not q(x) q(z). The optimum is
D* = 1 + log q(x, z) / (q(z) p(x|z)), and the game's value is

    −E_q[log p(x|z)] + I_q(x; z) − H(x)

whose first term is the reconstruction term of the bound. The rest does not depend on θ, so the θ-gradient
is right. It depends on φ through the mutual information I_q(x; z), so the φ-gradient has one more term than
that of the evidence lower bound: it discourages latent codes that are informative about x. (θ enters only the second
expectation of the fixed critic: that gradient is the bound's at the optimal critic.)

The value is E_q(z) KL(q(x|z) ‖ p(x|z)): zero for *every* encoder once the decoder is its inverse, also for latent
codes independent of x. The prior's game then favors those: with good critics the samples are sharp and the latent
codes uninformative.

Both critics use exp: a single pair can dominate a batch. T is limited by a smooth ceiling (an option).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import softplus

from advae.density_ratio import kl_contrast
from advae.methods.base import METHODS, MODEL, CriticSpec, Losses, Method, Players, Weight
from advae.model import LatentModel
from advae.networks.base import bind_x


def soft_clamp_max(T: Tensor, ceiling: float) -> Tensor:
    """Limit T smoothly: T well below ``ceiling``, never above it, with a gradient everywhere."""
    return ceiling - softplus(ceiling - T)


@METHODS.register("bavae")
@dataclass(frozen=True)
class BAVAE(Method):
    """Two f-GAN critics under the KL contrast, for a prior term and a reconstruction term without densities."""

    known: Literal["densities", "none"] = "none"
    """Known terms of D_φ: −log p(z), the only density available; or none (the paper's). With it exp(T) has no
    finite mean under the prior until the critic has learned to compensate, so the default is none."""
    ceiling: float = 10.0
    """Largest T of the critics, where T is the log ratio plus one: it limits what one pair adds to a loss."""

    paper: ClassVar[str] = "Fickinger 2019"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "critics": ("prior", "pairs")}

    @property
    def critic_specs(self) -> dict[str, CriticSpec]:
        known = {"densities": "−log p(z)", "none": ""}[self.known]
        return {
            "prior": CriticSpec("q(x) q(z|x)", "q(x) p(z)", known=known, gives_kl=True),
            "pairs": CriticSpec("q(x) q(z|x)", "q(z) p(x|z)"),
        }

    def T_prior(self, model: LatentModel, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Return ``1 − D_φ(x, ·)``, from ``z [B, d]`` to ``[B]``: the log ratio q(z|x)/p(z) plus one."""
        D = bind_x(model.critics["prior"], x)

        def T(z: Tensor) -> Tensor:
            known = -model.prior.log_prob(z) if self.known == "densities" else 0.0
            return soft_clamp_max(D(z).float() + known, self.ceiling)

        return T

    def T_reconstruction(self, model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
        """Return ``D_θφ(x, z) [B]``: the log ratio q(x|z)/p(x|z) plus one."""
        return soft_clamp_max(model.critics["pairs"](x, z).float(), self.ceiling)

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        z, z_p = model.encode(x).rsample(), model.prior.rsample(x.shape[:1])
        x_p = model.decode(z).rsample()

        T_x = self.T_prior(model, x)
        prior = kl_contrast(T_x(z), T_x(z_p))  # (6)
        pairs = kl_contrast(self.T_reconstruction(model, x, z), self.T_reconstruction(model, x_p, z))  # (14)
        return Losses(
            model=-pairs.loss - kl_weight * prior.loss,  # (19)
            critics=prior.loss + pairs.loss,
            diagnostics={
                "kl": prior.log_ratio_p,
                "game/prior": -prior.loss,
                "game/reconstruction": -pairs.loss,
                **prior.diagnostics("prior"),
                **pairs.diagnostics("pairs"),
            },
        )
