"""Adversarial symmetric VAE and its two halves (Pu et al. 2017).

    x, z      data x ~ q(x) and its code z ~ q(z|x)                  [B, *x_shape], [B, d]
    z_p, x_p  a code z ~ p(z) and an observation x_θ(z, ξ) from it   [B, d], [B, *x_shape]
    f₁        critic: log q(x, z) − log p_θ(x) p(z)                  [B]
    f₂        critic: log p(x, z) − log q(x) q_φ(z)                  [B]

    (5)       max_f₁    E_q(x,z)[log σ(f₁)] + E_p(x)p(z)[log σ(−f₁)]
    (6)       max_f₂    E_p(x,z)[log σ(f₂)] + E_q(x)q(z)[log σ(−f₂)]
    (11)      max_θ,φ   E_q(x,z)[log p(x|z) − f₁(x, z)]               AS-VAE-r, (8)
                      + E_p(x,z)[log q(z|x) − f₂(x, z)]               AS-VAE-g, (9)

The x and z of the second pairs in (5) and (6) are *independent*: each x goes with the code of another.

What the gradients are. f₁* depends on θ through p_θ(x) and f₂* on φ through q_φ(z); with the critics held
fixed, as the paper trains, those parts drop out. The gradient of the first half is then exactly that of the
ordinary evidence lower bound; that of the second half is, for θ, the gradient of −KL(p(x,z) ‖ q(x,z)) and,
for φ, the sleep phase E_p[∇ log q(z|x)].

Known terms: f₁ holds log q(z|x) − log p(z), so its critic learns log q(x)/p_θ(x) only. f₂ may hold log p(x|z),
which leaves it log p(z)/q_φ(z) − log q(x). That is off by default: at a pair that does not belong together
log p(x|z) is hundreds of nats below zero, and the rest, −log q(x), is as large as the data's entropy: a critic
of bounded slope cannot make it up, and its log ratio is then wrong on P as well (measured on the digits: f₂
right for 7 % of the pairs with it, for 89 % without).

Warm-up (``kl_warmup``) weighs f₁ and, where there is a first half, all of the second: from the start E_p[log q(z|x)]
teaches the encoder of a decoder that says nothing yet to ignore x, and so it stays (measured on MNIST, docs/asvae.md).
The second half alone leads with E_p[log q(z|x)], and only f₂ is weighed.

The paper's appendix, version 1, prints f₁* with a plus before log p(x)p(z); it is a minus (lemma 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from advae.density_ratio import Contrast, logistic_contrast
from advae.distributions import Distribution
from advae.errors import ConfigError
from advae.methods.base import METHODS, MODEL, Losses, Method, log_density, wanted
from advae.model import LatentModel
from advae.networks.base import statistics_kept


def another(batch: Tensor) -> Tensor:
    """The batch turned by one: every element meets one that was drawn independently of it."""
    if len(batch) < 2:
        raise ConfigError("a batch of one has no independent pairs", remedy="set train.batch to 2 or more")
    return batch.roll(1, 0)


@dataclass(frozen=True)
class Symmetric(Method):
    """What the three variants share."""

    known: Literal["f1", "densities", "none"] = "f1"
    """Known terms: log q(z|x) − log p(z) in f₁; that and log p(x|z) in f₂; or none (the paper's plain critics)."""

    paper: ClassVar[str] = "Pu et al. 2017"
    needs: ClassVar[dict[str, str]] = {"posterior": "density", "likelihood": "density"}
    sides: ClassVar[dict[str, tuple[str, str]]] = {
        "f1": ("q(x) q(z|x)", "p(x) p(z)"),
        "f2": ("p(z) p(x|z)", "q(x) q(z)"),
    }

    def f1(self, model: LatentModel, x: Tensor, z: Tensor, q: Distribution) -> Tensor:
        """``f₁(x, z) [B]``, where ``q = q(·|x)``."""
        residual = model.critics["f1"](x, z).float()
        return residual if self.known == "none" else residual + log_density(q, z) - model.prior.log_prob(z)

    def f2(self, model: LatentModel, x: Tensor, z: Tensor, p: Distribution) -> Tensor:
        """``f₂(x, z) [B]``, where ``p = p(·|z)``."""
        residual = model.critics["f2"](x, z).float()
        return residual + log_density(p, x) if self.known == "densities" else residual

    def losses(
        self,
        model: LatentModel,
        x: Tensor,
        players: Sequence[str] | None = None,
        kl_weight: float | Tensor = 1.0,
    ) -> Losses:
        q, z_p = model.encode(x), model.prior.rsample(x.shape[:1])
        z, log_q = q.rsample_and_log_prob()
        # Batch normalisation is that of data and their codes; of -g, whose decoder sees no other, of the prior's codes.
        reads = "f1" in self.critics
        with statistics_kept(*[] if reads else [model.decoder]):
            p = model.decode(z)
        with statistics_kept(model.encoder, *[model.decoder] if reads else []):
            p_p = model.decode(z_p)
            x_p = p_p.rsample()  # x_θ(z, ξ); a Bernoulli decoder gives its relaxation
            q_p = model.encode(x_p)
        reconstruction, z_reconstruction = -p.log_prob(x), -q_p.log_prob(z_p)
        report = {"reconstruction": reconstruction, "z_reconstruction": z_reconstruction}

        terms, contrasts = [], {}
        if "f1" in self.critics:
            f1 = self.f1(model, x, z, q)
            z_other = another(z_p)
            contrasts["f1"] = logistic_contrast(f1, self.f1(model, x_p, z_other, q_p))  # (5)
            terms.append(reconstruction + kl_weight * f1)  # (11), first half
        if "f2" in self.critics:
            f2 = self.f2(model, x_p, z_p, p_p)
            x_other = another(x)
            contrasts["f2"] = logistic_contrast(f2, self.f2(model, x_other, z, p))  # (6)
            lead = kl_weight if terms else 1.0  # warm-up: the first half leads, where there is one
            terms.append(lead * z_reconstruction + kl_weight * f2)  # (11), second half
        report["kl"] = log_q - model.prior.log_prob(z)
        return self.collect(players, terms, contrasts, report)

    def collect(
        self,
        players: Sequence[str] | None,
        terms: list[Tensor],
        contrasts: dict[str, Contrast],
        report: dict[str, Tensor],
    ) -> Losses:
        """The model's loss, the sum of its terms, and the critics', with everybody's diagnostics."""
        losses = {"model": sum(terms[1:], terms[0])} if wanted(players, "model") else {}
        for role, contrast in contrasts.items():
            losses[role] = contrast.loss
            report |= contrast.report(role)
        return Losses(report=report, **losses)


@METHODS.register("asvae")
@dataclass(frozen=True)
class ASVAE(Symmetric):
    """AS-VAE: the whole of (11) and (12), both critics, separate weights."""

    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "f1": ("f1",), "f2": ("f2",)}


@METHODS.register("asvae-r")
@dataclass(frozen=True)
class ASVAEr(Symmetric):
    """AS-VAE-r: the first half of (11), for reconstruction; its gradient is the evidence lower bound's."""

    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "f1": ("f1",)}


@METHODS.register("asvae-g")
@dataclass(frozen=True)
class ASVAEg(Symmetric):
    """AS-VAE-g: the second half of (11), for generation; the decoder never sees a reconstruction."""

    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL, "f2": ("f2",)}
