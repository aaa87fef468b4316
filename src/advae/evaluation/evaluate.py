"""The evaluation that every run gets: what can be said of this model, and nothing that cannot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from advae.data import Dataset, protocol_from
from advae.errors import AdvaeError, ConfigError, UnsupportedError, nearest
from advae.evaluation.capabilities import lacking, said
from advae.evaluation.critics.critic_diagnostics import critics
from advae.evaluation.estimate import Estimate, Estimates, Remark
from advae.evaluation.eval_data import Observed, unit_dims
from advae.evaluation.latent_diagnostics import posterior
from advae.evaluation.likelihood.adversarial_elbo import adversarial_elbo
from advae.evaluation.likelihood.ais import Annealing, ais, bdmc, whitening
from advae.evaluation.likelihood.bounds import elbo, iwae
from advae.evaluation.likelihood.exact import exact
from advae.evaluation.likelihood.proposals import Proposal, chosen
from advae.evaluation.reconstruction import reconstructions
from advae.evaluation.resumable import ALONE, Work
from advae.evaluation.samples.features import Features
from advae.evaluation.samples.sample_metrics import METRICS, prepared, samples
from advae.model import LatentModel, seeded
from advae.networks.products import faster_products

LIKELIHOODS = ("elbo", "iwae", "exact", "ais", "bdmc")
CHECKS = ("posterior", "critics")
LISTS = ("likelihood", "samples", "checks")
SHARPEST = ("exact log-likelihood", "ais", "iwae")  # figures of log p(x), the best first


@dataclass(frozen=True)
class Asked:
    """What is to be judged, and how.

    Attributes:
        likelihood: of LIKELIHOODS, where the model has them.
        samples: metrics of samples, of METRICS.
        checks: of CHECKS.
        importance: K of the importance-weighted bound.
        draws: codes an image for the ELBO.
        proposal: what importance weights draw codes from.
        annealing: how AIS and BDMC anneal.
        simulated: how many images the model makes for BDMC.
        features: the network in whose features samples are judged: "classifier", "inception" or a weights file.
        generated: how many samples are judged; None: as many as there are test images, at most 10,000.
        strict: refuse what is asked for by name and the model cannot have; else it is left out.
    """

    likelihood: tuple[str, ...] = ("elbo", "iwae", "exact")
    samples: tuple[str, ...] = ()
    checks: tuple[str, ...] = CHECKS
    importance: int = 64
    draws: int = 16
    proposal: Proposal = "auto"
    annealing: Annealing = field(default_factory=Annealing)
    simulated: int = 64
    features: str = "classifier"
    generated: int | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        for kind, known in (("likelihood", LIKELIHOODS), ("samples", METRICS), ("checks", CHECKS)):
            for name in getattr(self, kind):
                if name not in known:
                    raise ConfigError(f"{kind} has no {name!r}", remedy=nearest(name, known))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Asked:
        """From the arguments of :func:`evaluate`, of which it takes its own; names may stand alone, None is none."""
        own = {k: v for k, v in options.items() if k in cls.__dataclass_fields__ and v is not None}
        listed = {k: (own[k],) if isinstance(own[k], str) else tuple(own[k]) for k in LISTS if k in own}
        return cls(**own | listed)

    def without(self, impossible: Mapping[str, AdvaeError], named: Iterable[str]) -> Asked:
        """The same but for what is impossible, which is refused where it was named."""
        for name in named:
            if self.strict and name in impossible:
                raise impossible[name]
        likelihood, checks = (
            tuple(name for name in names if name not in impossible)
            for names in (self.likelihood, self.checks)
        )
        return replace(self, likelihood=likelihood, checks=checks)


def evaluate(
    model: LatentModel,
    data: Dataset,
    *,
    likelihood: str | Sequence[str] | None = None,
    samples: str | Sequence[str] = Asked.samples,
    checks: str | Sequence[str] | None = None,
    split: str = "test",
    seed: int = 0,
    limit: int | None = None,
    work: Work = ALONE,
    **more: Any,
) -> Estimates:
    """Judge a model on data.

    Args:
        model: a trained model.
        data: the data set it is judged on, under the observation protocol it was trained for.
        likelihood: which of "elbo", "iwae", "exact", "ais" and "bdmc"; by default what the model has of the first
            three. Annealing needs no density of the encoder, and minutes to hours.
        samples: which of "fid", "kid", "is", "prdc" and "neighbours"; they need labels or an inception network.
        checks: which of "posterior" and "critics"; by default what the model has of them.
        split: "train", "validation" or "test".
        seed: of every draw.
        limit: the first so many images only.
        work: how a long evaluation is shown, shared out and kept.
        more: the other attributes of :class:`Asked`.

    Returns:
        Each figure with its kind, error and protocol, and remarks on what they mean: reconstruction errors beside
        those of principal components; bounds on log p(x), for 8-bit images also in bits per dimension; what
        can be said of the posterior, the critics and the samples.

    Raises:
        ConfigError: an unknown figure, split or option.
        NoDensityError, UnsupportedError: something was asked for by name that the model cannot have; before any
            work.
    """
    for name in more:
        if name not in Asked.__dataclass_fields__:
            raise ConfigError(
                f"evaluate has no option {name!r}", remedy=nearest(name, Asked.__dataclass_fields__)
            )
    asked = Asked.of({"likelihood": likelihood, "samples": samples, "checks": checks, **more})
    named = [
        *(asked.likelihood if likelihood is not None else ()),
        *(asked.checks if checks is not None else ()),
    ]
    model.eval()
    observed = Observed(as_trained(model, data), split, seed, limit)
    observed.refuse_too_few()
    found = Estimates((), said(model, likelihood=bool(asked.likelihood)))
    asked = asked.without(lacking(model, observed), named)
    with faster_products(), seeded(seed, model.device):
        network = ready(model, observed, asked, work)
        if model.has_encoder:
            found.add(reconstructions(model, observed, work=work))
        found.add(likelihoods(model, observed, asked, work))
        best, bound = sharpest(found), first(found, "elbo")
        if "posterior" in asked.checks:
            found.add(posterior(model, observed, log_prob=best, bound=bound, seed=seed, work=work))
        if "critics" in asked.checks:
            found.add(critics(model, observed, log_prob=best, work=work))
        if network is not None:
            found.add(_samples(model, observed, asked, network, work))
    return found


def ready(model: LatentModel, observed: Observed, asked: Asked, work: Work) -> Features | None:
    """See that what was asked for can be had, before any work; and the network that samples are judged by.

    Raises:
        NoDensityError: a start or proposal was asked for that the encoder is too implicit for.
        UnsupportedError: annealing was to start from the codes of an encoder, and there is none.
        ConfigError: samples cannot be judged: no labels, no weights, too few images.
    """
    if {"elbo", "iwae"} & set(asked.likelihood):
        chosen(model, asked.proposal)
    if {"ais", "bdmc"} & set(asked.likelihood):
        if not model.has_encoder and asked.annealing.start != "prior":
            raise UnsupportedError(
                "annealing was to start from the encoder's codes, and this model has no encoder",
                given=f"start = {asked.annealing.start}",
                remedy="start it from the prior",
            )
        whitening(model, torch.zeros(2, *model.x_shape, device=model.device), asked.annealing.start)
    if not asked.samples:
        return None
    return prepared(observed, asked.features, asked.generated, device=model.device, work=work)


def likelihoods(model: LatentModel, observed: Observed, asked: Asked, work: Work) -> Estimates:
    """What can be said of log p(x), and for 8-bit images the same in bits per dimension."""
    found, names = Estimates(), asked.likelihood
    if not model.decoder_has_density():
        return found
    if why := _no_probabilities(model, observed):
        return Estimates((), [Remark("likelihood", why, warning=True)])
    if "elbo" in names:
        found.append(elbo(model, observed, asked.draws, asked.proposal, work=work))
    if model.critics and model.has_encoder and not model.encoder_has_density():
        claimed = adversarial_elbo(model, observed, work=work)
        found.extend(e for e in claimed if e.section == "likelihood" or "critics" not in asked.checks)
    if "iwae" in names and asked.importance:
        found.append(iwae(model, observed, asked.importance, asked.proposal, work=work))
    if "exact" in names:
        found.append(exact(model, observed, work=work))
    if "ais" in names:
        found.append(ais(model, observed, asked.annealing, work=work))
    if "bdmc" in names:
        made = replace(observed, limit=max(2, min(observed.count, asked.simulated)))
        found.add(bdmc(model, made, asked.annealing, work=work))
    if observed.scores_bins(model):
        per_dim = -1 / (unit_dims(model) * math.log(2))
        bounds = [e for e in found if e.kind != "adversarial estimate" and not e.name.startswith("bdmc")]
        found.extend(bound.scaled(per_dim, "bits/dim") for bound in bounds)
    return found


def _no_probabilities(model: LatentModel, observed: Observed) -> str:
    """Why densities would pass for probabilities of images, or an empty string."""
    levels = observed.data.train.dtype == torch.uint8 and observed.data.protocol.support in ("unit", "real")
    if levels and getattr(getattr(model.decoder, "head", None), "support", "") in ("real", "interval"):
        return (
            "A normal's density at grey levels is no probability of an image: no likelihood is given."
            " Train with data.protocol dequantise, whose images are scored by probabilities of their levels."
        )
    return ""


def sharpest(found: Estimates) -> Estimate | None:
    """The best figure of log p(x) for each image, if there is one."""
    return next((e for name in SHARPEST if (e := first(found, name))), None)


def first(found: Estimates, name: str) -> Estimate | None:
    """The first figure of this name, whatever its proposal or number of draws, with its value for each image."""
    return next(
        (e for e in found if e.name.startswith(name) and e.kind != "adversarial estimate" and e.each), None
    )


def _samples(
    model: LatentModel, observed: Observed, asked: Asked, network: Features, work: Work
) -> Estimates:
    return samples(
        model,
        observed,
        metrics=asked.samples,
        features=network,
        generated=asked.generated,
        seed=observed.seed,
        work=work,
    )


def as_trained(model: LatentModel, data: Dataset) -> Dataset:
    """The data under the model's own protocol, where it is one of the same name with other numbers.

    Standardised data keep the mean and scale of the data that the model was trained on.
    """
    described = (model.info.get("data") or {}).get("protocol", {})
    if described.get("name") != data.protocol.name:
        return data
    return replace(data, protocol=protocol_from(described))
