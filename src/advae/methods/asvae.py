"""Adversarial symmetric VAE and its two halves (Pu et al. 2017).

    x, z      data x ~ q(x) and its latent code z ~ q(z|x)                  [B, *x_shape], [B, d]
    z_p, x_p  a latent code z ~ p(z) and an observation x_θ(z, ξ) from it   [B, d], [B, *x_shape]
    f₁        critic: log q(x, z) − log p_θ(x) p(z)                         [B]
    f₂        critic: log p(x, z) − log q(x) q_φ(z)                         [B]

    (5)       max_f₁    E_q(x,z)[log σ(f₁)] + E_p(x)p(z)[log σ(−f₁)]
    (6)       max_f₂    E_p(x,z)[log σ(f₂)] + E_q(x)q(z)[log σ(−f₂)]
    (11)      max_θ,φ   E_q(x,z)[log p(x|z) − f₁(x, z)]               AS-VAE-r, (8)
                      + E_p(x,z)[log q(z|x) − f₂(x, z)]               AS-VAE-g, (9)

The x and z of the second pairs in (5) and (6) are *independent*: each x is paired with another example's latent code.

What the gradients are. f₁* depends on θ through p_θ(x) and f₂* on φ through q_φ(z); with the critics held
fixed, as the paper trains, those parts drop out. The gradient of the first half is then exactly that of the
ordinary evidence lower bound; that of the second half is, for θ, the gradient of −KL(p(x,z) ‖ q(x,z)) and,
for φ, the sleep phase E_p[∇ log q(z|x)].

Known terms: f₁ contains log q(z|x) − log p(z), so its critic learns log q(x)/p_θ(x) only. f₂ may contain log p(x|z),
which leaves log p(z)/q_φ(z) − log q(x) to the critic. That is off by default: at independent pairs
log p(x|z) is hundreds of nats below zero, and the rest, −log q(x), is as large as the data's entropy: a critic
with bounded slope cannot compensate, and its log ratio is then wrong on P as well (measured on the digits: f₂
classifies 7 % of the pairs correctly with it, 89 % without).

Warm-up (``kl_warmup``) weights f₁ and, where there is a first half, all of the second: from the start E_p[log q(z|x)]
teaches the encoder of an uninformative decoder to ignore x, which it does not unlearn (measured on MNIST,
docs/papers/asvae.md). The second half alone starts with E_p[log q(z|x)], and only f₂ is weighted.

The paper's appendix, version 1, prints f₁* with a plus before log p(x)p(z); it is a minus (lemma 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from advae.density_ratio import Contrast, logistic_contrast
from advae.distributions import Distribution
from advae.errors import ConfigError
from advae.methods.base import (
    METHODS,
    MODEL,
    CriticSpec,
    KLBound,
    Losses,
    Method,
    Players,
    Requirements,
    Weight,
    is_active,
    log_density,
)
from advae.model import LatentModel
from advae.networks.base import freeze_batchnorm_stats


def roll_batch(batch: Tensor) -> Tensor:
    """Shift a batch by one, so that each element is paired with one that was sampled independently of it."""
    if len(batch) < 2:
        raise ConfigError("A batch of one has no independent pairs.", fix="set train.batch_size to 2 or more")
    return batch.roll(1, 0)


@dataclass(frozen=True)
class SymmetricVAE(Method):
    """Base class of the three variants."""

    known: Literal["f1", "densities", "none"] = "f1"
    """Known terms: log q(z|x) − log p(z) in f₁; that and log p(x|z) in f₂; or none (the paper's plain critics)."""

    paper: ClassVar[str] = "Pu et al. 2017"
    requires: ClassVar[Requirements] = {"posterior": "log_prob", "likelihood": "log_prob"}

    @property
    def critic_specs(self) -> dict[str, CriticSpec]:
        f1 = "" if self.known == "none" else "log q(z|x) − log p(z)"
        f2 = "log p(x|z)" if self.known == "densities" else ""
        return {
            "f1": CriticSpec("q(x) q(z|x)", "p(x) p(z)", known=f1, kl_bounds=(KLBound.POSTERIOR_KL,)),
            "f2": CriticSpec("p(z) p(x|z)", "q(x) q(z)", known=f2, kl_bounds=(KLBound.Z_RECONSTRUCTION,)),
        }

    def f1(self, model: LatentModel, x: Tensor, z: Tensor, q: Distribution) -> Tensor:
        """Return ``f₁(x, z) [B]``, where ``q = q(·|x)``."""
        residual = model.critics["f1"](x, z).float()
        return residual if self.known == "none" else residual + log_density(q, z) - model.prior.log_prob(z)

    def f2(self, model: LatentModel, x: Tensor, z: Tensor, p: Distribution) -> Tensor:
        """Return ``f₂(x, z) [B]``, where ``p = p(·|z)``."""
        residual = model.critics["f2"](x, z).float()
        return residual + log_density(p, x) if self.known == "densities" else residual

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        q, z_p = model.encode(x), model.prior.rsample(x.shape[:1])
        z, log_q = q.rsample_and_log_prob()
        # Running batch statistics are those of data and of their latent codes; in AS-VAE-g, whose decoder is not
        # trained on these, those of prior samples.
        has_first_half = "f1" in self.critics
        with freeze_batchnorm_stats(*[] if has_first_half else [model.decoder]):
            p = model.decode(z)
        with freeze_batchnorm_stats(model.encoder, *[model.decoder] if has_first_half else []):
            p_p = model.decode(z_p)
            x_p = p_p.rsample()  # x_θ(z, ξ); for a Bernoulli decoder its relaxation
            q_p = model.encode(x_p)
        reconstruction, z_reconstruction = -p.log_prob(x), -q_p.log_prob(z_p)

        terms, contrasts = [], {}
        if has_first_half:
            f1 = self.f1(model, x, z, q)
            contrasts["f1"] = logistic_contrast(f1, self.f1(model, x_p, roll_batch(z_p), q_p))  # (5)
            terms.append(reconstruction + kl_weight * f1)  # (11), first half
        if "f2" in self.critics:
            f2 = self.f2(model, x_p, z_p, p_p)
            contrasts["f2"] = logistic_contrast(f2, self.f2(model, roll_batch(x), z, p))  # (6)
            z_weight = kl_weight if has_first_half else 1.0  # see warm-up above
            terms.append(z_weight * z_reconstruction + kl_weight * f2)  # (11), second half
        kl = log_q - model.prior.log_prob(z)
        diagnostics = {"reconstruction": reconstruction, "z_reconstruction": z_reconstruction, "kl": kl}
        return self.collect_losses(players, terms, contrasts, diagnostics)

    def collect_losses(
        self,
        players: Players,
        terms: list[Tensor],
        contrasts: dict[str, Contrast],
        diagnostics: dict[str, Tensor],
    ) -> Losses:
        """Collect the model's loss, the sum of ``terms``, and the critics' losses, with all diagnostics."""
        losses = {"model": sum(terms[1:], terms[0])} if is_active(players, "model") else {}
        for role, contrast in contrasts.items():
            losses[role] = contrast.loss
            diagnostics |= contrast.diagnostics(role)
        return Losses(diagnostics=diagnostics, **losses)


@METHODS.register("asvae")
@dataclass(frozen=True)
class ASVAE(SymmetricVAE):
    """AS-VAE: both halves of (11) and both critics (12), with separate weights."""

    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "f1": ("f1",), "f2": ("f2",)}


@METHODS.register("asvae-r")
@dataclass(frozen=True)
class ASVAEr(SymmetricVAE):
    """AS-VAE-r: the first half of (11), for reconstruction; its gradient is that of the evidence lower bound."""

    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "f1": ("f1",)}


@METHODS.register("asvae-g")
@dataclass(frozen=True)
class ASVAEg(SymmetricVAE):
    """AS-VAE-g: the second half of (11), for generation; the decoder is not trained on reconstructions."""

    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "f2": ("f2",)}
