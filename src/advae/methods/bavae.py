"""Biadversarial VAE (Fickinger 2019): encoder and decoder both without a density.

    x, z      data and its code z ~ q(z|x)                          [B, *x_shape], [B, d]
    z_p       a code from the prior                                 [B, d]
    x_p       an observation from the decoder at the *same* z       [B, *x_shape]
    D_φ       critic for KL(q(z|x) ‖ p(z))                          [B]
    D_θφ      critic for the reconstruction                         [B]

    (6)       max_D_φ    E_q[1 − D] − E_p(z)[exp(−D)];  with T = 1 − D it is (14)'s form, which is used for both
    (14)      max_D_θφ   E_q(x,z)[D(x, z)] − E_q(z) E_p(x'|z)[exp(D(x', z) − 1)]
    (19)      min_θ,φ    V(D_θφ, θ, φ) + V(D_φ, φ)

What is contrasted in (14). The paper reads the value of its game as E_z KL(data ‖ p(x|z)). But the z that an x
is paired with comes from q(z|x) at *that* x, so the pairs (x, z) follow q(x, z), not q(x) q(z). The optimum is
D* = 1 + log q(x, z) / (q(z) p(x|z)), and the game's value is

    −E_q[log p(x|z)] + I_q(x; z) − H(x)

whose first term is the reconstruction that the bound wants. The rest does not depend on θ, so the θ-gradient
is right; it depends on φ through the mutual information I_q(x; z), so the φ-gradient carries one term more than
the evidence lower bound's: it discourages codes that tell much about x. (θ moves the fixed critic's second
expectation only: that gradient is the bound's at the optimal critic.)

The value is E_q(z) KL(q(x|z) ‖ p(x|z)): zero for *every* encoder once the decoder is its inverse, also for codes
that tell nothing. The prior's game then favours those: with good critics the samples are sharp and the codes empty.

Both critics use exp: one far-off pair can dominate a batch. T is held below a ceiling by a smooth limit (an option).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import softplus

from advae.density_ratio import kl_contrast
from advae.methods.base import METHODS, MODEL, Losses, Method
from advae.model import LatentModel
from advae.networks.base import critic_at


def limited(T: Tensor, ceiling: float) -> Tensor:
    """T where it is well below ``ceiling``, never above it, with a gradient everywhere."""
    return ceiling - softplus(ceiling - T)


@METHODS.register("bavae")
@dataclass(frozen=True)
class BAVAE(Method):
    """Two f-GAN critics under the KL contrast, for a prior term and a reconstruction term without densities."""

    known: Literal["densities", "none"] = "none"
    """Known terms of D_φ: −log p(z), the one density there is; or none (the paper's). With it exp(T) has no
    finite mean under the prior until the critic has learned to undo it, so it is off."""
    ceiling: float = 10.0
    """Greatest T that the critics can give, one more than a log ratio: it bounds what one pair adds to a loss."""

    paper: ClassVar[str] = "Fickinger 2019"
    players: ClassVar[dict[str, tuple[str, ...]]] = {
        "model": MODEL,
        "critics": ("prior", "pairs"),
    }
    sides: ClassVar[dict[str, tuple[str, str]]] = {
        "prior": ("q(x) q(z|x)", "q(x) p(z)"),
        "pairs": ("q(x) q(z|x)", "q(z) p(x|z)"),
    }
    claims_kl: ClassVar[str] = "prior"

    def T_prior(self, model: LatentModel, x: Tensor) -> Callable[[Tensor], Tensor]:
        """``1 − D_φ(x, ·)``, from codes to ``[B]``: one more than the log ratio q(z|x)/p(z)."""
        D = critic_at(model.critics["prior"], x)

        def T(z: Tensor) -> Tensor:
            known = -model.prior.log_prob(z) if self.known == "densities" else 0.0
            return limited(D(z).float() + known, self.ceiling)

        return T

    def T_reconstruction(self, model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
        """``D_θφ(x, z) [B]``: one more than the log ratio q(x|z)/p(x|z)."""
        return limited(model.critics["pairs"](x, z).float(), self.ceiling)

    def losses(
        self,
        model: LatentModel,
        x: Tensor,
        players: Sequence[str] | None = None,
        kl_weight: float | Tensor = 1.0,
    ) -> Losses:
        z, z_p = model.encode(x).rsample(), model.prior.rsample(x.shape[:1])
        x_p = model.decode(z).rsample()

        T_x = self.T_prior(model, x)
        prior = kl_contrast(T_x(z), T_x(z_p))  # (6)
        pairs = kl_contrast(self.T_reconstruction(model, x, z), self.T_reconstruction(model, x_p, z))  # (14)
        losses = Losses(
            model=-pairs.loss - kl_weight * prior.loss,  # (19)
            critics=prior.loss + pairs.loss,
            report={
                "kl": prior.log_ratio_p,
                "game/prior": -prior.loss,
                "game/reconstruction": -pairs.loss,
                **prior.report("prior"),
                **pairs.report("pairs"),
            },
        )
        return losses
