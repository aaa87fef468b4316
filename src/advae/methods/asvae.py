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

Marginal critics (``known: marginals``). No critic has to see a pair: f₁ and f₂ are known terms plus two log ratios of
marginals, which both halves share,

    D_x       critic: log p_θ(x) − log q(x)                                 [B]
    D_z       critic: log p(z) − log q_φ(z)                                 [B]
    f₁        log q(z|x) − log p(z) − D_x(x)
    f₂        log p(x|z) − log p_θ(x) + D_x(x) + D_z(z)

where log p_θ(x) is estimated with importance weights from q(z|x). Held fixed, D_x has no gradient at data, and D_z none
at prior samples. So the model's gradients are those of the ELBO, of −KL(p_θ(x)‖q(x)) by D_x, and of
−E_p(x) KL(p(z|x)‖q(z|x)), of which ``importance_samples: 0`` leaves the encoder's part, the sleep phase.

*Spread* (``spread_std`` s > 0): D_x compares E[x|z] + s η with data + s η, η ~ N(0, I), in place of the decoder's
samples with data (a spread divergence, Zhang et al. 2020). A critic of the samples learns how their noise differs from
data, not shapes. ``critic_weight`` λ is the weight of D_x in f₂; docs/papers/asvae.md derives how large it must be.
Marginal critics may be telescoped (:mod:`advae.density_ratio`).

Pair critics. f₁ contains log q(z|x) − log p(z), so its critic learns log q(x)/p_θ(x) only (``f1``). f₂ may contain
log p(x|z), which leaves log p(z)/q_φ(z) − log q(x) to the critic (``densities``): at independent pairs log p(x|z) is
hundreds of nats below zero, and the rest, −log q(x), is as large as the data's entropy: a critic with bounded slope
cannot compensate, and its log ratio is then wrong on P as well (measured on the digits: f₂ classifies 7 % of the pairs
correctly with it, 89 % without).

Warm-up (``kl_warmup``) weights f₁ and, where there is a first half, all of the second: from the start E_p[log q(z|x)]
teaches the encoder of an uninformative decoder to ignore x, which it does not unlearn (measured on MNIST,
docs/papers/asvae.md). The second half alone starts with E_p[log q(z|x)], and only f₂ is weighted.

The paper's appendix, version 1, prints f₁* with a plus before log p(x)p(z); it is a minus (lemma 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advae.density_ratio import Contrast, logistic_contrast, telescoped_contrast
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
from advae.networks.base import critic_of_x, critic_of_z, freeze_batchnorm_stats

Sample = tuple[Tensor, Tensor, Distribution, Distribution]
"""x and z of a joint distribution, with q(·|x) and p(·|z)."""
Critics = tuple[dict[str, Tensor], dict[str, Contrast]]
"""f₁ and f₂ at the samples of their halves, ``[B]`` each, and the contrast of each critic."""


def roll_batch(batch: Tensor) -> Tensor:
    """Shift a batch by one, so that each element is paired with one that was sampled independently of it."""
    if len(batch) < 2:
        raise ConfigError("A batch of one has no independent pairs.", fix="set train.batch_size to 2 or more")
    return batch.roll(1, 0)


def log_evidence(model: LatentModel, x: Tensor, q: Distribution, samples: int) -> Tensor:
    """Return the importance-weighted ``log p_θ(x) [B]`` from ``samples`` latent codes of ``q = q(z|x)``.

    All parameters are constants, and so is q: only x has gradients, ``∇_x log p_θ(x) = E_p(z|x)[∇_x log p(x|z)]``. On
    average the value is too low (Burda et al. 2016).
    """
    with torch.no_grad(), freeze_batchnorm_stats(model.decoder):
        z, log_q = q.rsample_and_log_prob((samples,))
        log_weight = model.prior.log_prob(z) - log_q
        p = model.decode(z.flatten(0, 1)).as_density()
    log_p = p.log_prob(x.expand(samples, *x.shape).flatten(0, 1)).reshape(samples, -1)
    return torch.logsumexp(log_p + log_weight, 0) - math.log(samples)


@dataclass(frozen=True)
class SymmetricVAE(Method):
    """Base class of the three variants."""

    known: Literal["marginals", "f1", "densities", "none"] = "f1"
    """Known terms: all but log ratios of marginals; log q(z|x) − log p(z) in f₁; that and log p(x|z) in f₂; or none
    (the paper's plain critics)."""
    spread_std: float = 0.0
    """With marginals: standard deviation s of the noise that D_x sees on decoder means and on data; 0 to compare
    samples of the decoder with data."""
    critic_weight: float = 1.0
    """With marginals: weight λ of D_x in the second half."""
    importance_samples: int = 4
    """With marginals: latent codes for log p_θ(x); with 0 the decoder does not minimize E_p(x) KL(p(z|x)‖q(z|x))."""

    paper: ClassVar[str] = "Pu et al. 2017"
    requires: ClassVar[Requirements] = {"posterior": "log_prob", "likelihood": "log_prob"}
    halves: ClassVar[tuple[str, ...]] = ()
    """The critics f₁, f₂ of the halves of (11) that are used."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, least in {"spread_std": 0, "critic_weight": 0, "importance_samples": 0}.items():
            if not least <= getattr(self, option) < math.inf:
                raise ConfigError(
                    f"method.{option} is out of range.", given=getattr(self, option), expected=f"≥ {least}"
                )

    @property
    def players(self) -> dict[str, tuple[str, ...]]:  # type: ignore[override]
        """The model, and the critics of the halves or their marginal critics."""
        return {"model": MODEL} | {role: (role,) for role in self.critic_specs}

    @property
    def telescopes(self) -> bool:  # type: ignore[override]
        """Whether critics may have several bridges: marginal ones may."""
        return self.known == "marginals"

    @property
    def critic_specs(self) -> dict[str, CriticSpec]:
        if self.known == "marginals":
            spread = f" * N(0, {self.spread_std:g}²)" if self.spread_std else ""
            mean = "E[x|z] of p(z)" if spread else "p_θ(x)"
            specs = {"d_x": CriticSpec(f"{mean}{spread}", f"q(x){spread}", inputs="x")}
            if "f2" in self.halves:
                specs["d_z"] = CriticSpec("p(z)", "q(z)", inputs="z")
            return specs
        f1 = "" if self.known == "none" else "log q(z|x) − log p(z)"
        f2 = "log p(x|z)" if self.known == "densities" else ""
        specs = {
            "f1": CriticSpec("q(x) q(z|x)", "p(x) p(z)", known=f1, kl_bounds=(KLBound.POSTERIOR_KL,)),
            "f2": CriticSpec("p(z) p(x|z)", "q(x) q(z)", known=f2, kl_bounds=(KLBound.Z_RECONSTRUCTION,)),
        }
        return {role: specs[role] for role in self.halves}

    @property
    def decoder_follows_posterior(self) -> bool:
        """Whether the second half teaches the decoder to have posteriors that q(z|x) can represent."""
        return self.known != "marginals" or self.importance_samples > 0

    def f1(self, model: LatentModel, x: Tensor, z: Tensor, q: Distribution) -> Tensor:
        """Return ``f₁(x, z) [B]`` of the pair critic, where ``q = q(·|x)``."""
        residual = model.critics["f1"](x, z).float()
        return residual if self.known == "none" else residual + log_density(q, z) - model.prior.log_prob(z)

    def f2(self, model: LatentModel, x: Tensor, z: Tensor, p: Distribution) -> Tensor:
        """Return ``f₂(x, z) [B]`` of the pair critic, where ``p = p(·|z)``."""
        residual = model.critics["f2"](x, z).float()
        return residual + log_density(p, x) if self.known == "densities" else residual

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        q, z_p = model.encode(x), model.prior.rsample(x.shape[:1])
        z, log_q = q.rsample_and_log_prob()
        # Running batch statistics are those of data and of their latent codes; in AS-VAE-g, whose decoder is not
        # trained on these, those of prior samples.
        has_first_half = "f1" in self.halves
        with freeze_batchnorm_stats(*[] if has_first_half else [model.decoder]):
            p = model.decode(z)
        with freeze_batchnorm_stats(model.encoder, *[model.decoder] if has_first_half else []):
            p_p = model.decode(z_p)
            x_p = p_p.rsample()  # x_θ(z, ξ); for a Bernoulli decoder its relaxation
            q_p = model.encode(x_p if self.decoder_follows_posterior else x_p.detach())
        pairs = (x, z, q, p), (x_p, z_p, q_p, p_p)
        f, contrasts = (self.marginal_critics if self.known == "marginals" else self.pair_critics)(
            model, *pairs
        )

        reconstruction, z_reconstruction = -p.log_prob(x), -q_p.log_prob(z_p)
        terms = []
        if has_first_half:
            terms.append(reconstruction + kl_weight * f["f1"])  # (11), first half
        if "f2" in self.halves:
            z_weight = kl_weight if has_first_half else 1.0  # see warm-up above
            terms.append(z_weight * z_reconstruction + kl_weight * f["f2"])  # (11), second half
        losses = {"model": sum(terms[1:], terms[0])} if is_active(players, "model") else {}
        kl = log_q - model.prior.log_prob(z)
        diagnostics = {"reconstruction": reconstruction, "z_reconstruction": z_reconstruction, "kl": kl}
        for role, contrast in contrasts.items():
            losses[role] = contrast.loss
            diagnostics |= contrast.diagnostics(role)
        return Losses(diagnostics=diagnostics, **losses)

    def pair_critics(self, model: LatentModel, data: Sample, samples: Sample) -> Critics:
        """Return f₁ at ``(x, z) ~ q`` and f₂ at ``(x, z) ~ p``, and the contrasts of their critics."""
        (x, z, q, p), (x_p, z_p, q_p, p_p) = data, samples
        f, contrasts = {}, {}
        if "f1" in self.halves:
            f["f1"] = self.f1(model, x, z, q)
            contrasts["f1"] = logistic_contrast(f["f1"], self.f1(model, x_p, roll_batch(z_p), q_p))  # (5)
        if "f2" in self.halves:
            f["f2"] = self.f2(model, x_p, z_p, p_p)
            contrasts["f2"] = logistic_contrast(f["f2"], self.f2(model, roll_batch(x), z, p))  # (6)
        return f, contrasts

    def marginal_critics(self, model: LatentModel, data: Sample, samples: Sample) -> Critics:
        """Return the same from the marginal critics, and their contrasts."""
        (x, z, q, _), (x_p, z_p, q_p, p_p) = data, samples
        seen, seen_p = x, x_p
        if self.spread_std:
            seen, seen_p = (v + self.spread_std * torch.randn_like(v) for v in (x, p_p.mean))
        D_x = partial(critic_of_x, model.critics["d_x"])
        contrasts = {"d_x": telescoped_contrast(D_x, [seen_p], [seen])}
        f = {"f1": log_density(q, z) - model.prior.log_prob(z) - contrasts["d_x"].log_ratio_q}
        if "f2" in self.halves:
            D_z = partial(critic_of_z, model.critics["d_z"])
            contrasts["d_z"] = telescoped_contrast(D_z, [z_p], [z])
            f["f2"] = self.critic_weight * contrasts["d_x"].log_ratio_p + contrasts["d_z"].log_ratio_p
            if self.decoder_follows_posterior:
                f["f2"] += log_density(p_p, x_p) - log_evidence(model, x_p, q_p, self.importance_samples)
        return f, contrasts


@METHODS.register("asvae")
@dataclass(frozen=True)
class ASVAE(SymmetricVAE):
    """AS-VAE: both halves of (11), each with its critic (12)."""

    halves: ClassVar[tuple[str, ...]] = ("f1", "f2")


@METHODS.register("asvae-r")
@dataclass(frozen=True)
class ASVAEr(SymmetricVAE):
    """AS-VAE-r: the first half of (11), for reconstruction; its gradient is that of the evidence lower bound."""

    halves: ClassVar[tuple[str, ...]] = ("f1",)


@METHODS.register("asvae-g")
@dataclass(frozen=True)
class ASVAEg(SymmetricVAE):
    """AS-VAE-g: the second half of (11), for generation; the decoder is not trained on reconstructions."""

    halves: ClassVar[tuple[str, ...]] = ("f2",)
