"""Headline metrics of a run: each a value, and a sentence on what it means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from advae.formatting import format_with_error
from advae.report.estimate_table import ADVERSARIAL, BASELINE, EstimateDict, section_of

LIKELIHOOD_METRICS = ("exact", "ais", "iwae", "elbo")  # the first that a run has, tighter ones before others


class Headline(NamedTuple):
    """A metric's name, its value with error and unit, and a sentence."""

    name: str
    value: str
    text: str


def make_headlines(estimates: Sequence[EstimateDict]) -> list[Headline]:
    """Return headlines on reconstructions, likelihood, and latents or (where they were evaluated) samples."""
    parts = (_reconstruction(estimates), _likelihood(estimates), _samples(estimates) or _latents(estimates))
    return [headline for headline in parts if headline]


def _reconstruction(estimates: Sequence[EstimateDict]) -> Headline | None:
    error = _find(estimates, "rmse")
    if not error:
        return None
    unit = str(error.get("unit"))
    per = "pixel" if unit == "gray levels" and "pixel" in str(error.get("protocol")) else "column"
    text = f"Root mean squared error per {per} from a latent sampled from q(z|x)."
    baselines = {
        e.get("variant"): e for e in estimates if e.get("metric") == "rmse" and e.get("kind") == BASELINE
    }
    for variant, baseline in baselines.items():
        value = format_with_error(baseline.get("value"), baseline.get("stderr")).partition(" ±")[0]
        if str(variant).startswith("PCA-"):
            count = str(variant).removeprefix("PCA-")
            text += f" Principal components, as many as latents ({count}): {value}."
        elif variant == "mean example":
            text += f" The mean training example: {value}."
    return Headline("Reconstruction error", _value(error), text)


def _likelihood(estimates: Sequence[EstimateDict]) -> Headline | None:
    nats = [e for e in estimates if section_of(e) == "likelihood" and e.get("unit") == "nats"]
    bound = next((e for metric in LIKELIHOOD_METRICS if (e := _find(nats, metric))), None)
    if bound is None:
        return None
    name, kind = bound.get("name"), str(bound.get("kind"))
    if kind == ADVERSARIAL:
        text = f"Estimate of the ELBO by a critic ({name}); it is not a bound and cannot be compared with bounds."
    elif kind in ("exact", "unbiased"):
        text = f"Mean log likelihood of an example ({name}). Higher is better, for the same data and preprocessing."
    else:
        text = (
            f"The mean log likelihood of an example is at least this ({name}, {kind}). Higher is better, for the same"
            " data and preprocessing."
        )
    bits = next(
        (e for e in estimates if e.get("unit") == "bits/dim" and e.get("metric") == bound.get("metric")), None
    )
    text += (
        f" In bits per dimension: {format_with_error(bits.get('value'), bits.get('stderr'))}." if bits else ""
    )
    return Headline("Log likelihood", _value(bound), text)


def _samples(estimates: Sequence[EstimateDict]) -> Headline | None:
    ranked = (
        e
        for e in estimates
        if section_of(e) == "samples" and e.get("higher_is_better") is not None and e.get("kind") != BASELINE
    )
    estimate = next(ranked, None)
    if estimate is None:
        return None
    metric = estimate.get("metric")
    reference = next((e for e in estimates if e.get("metric") == metric and e.get("kind") == BASELINE), None)
    better = "Higher" if estimate.get("higher_is_better") else "Lower"
    text = f"Compares samples of the model with data. {better} is better"
    text += f"; held-out data have {_value(reference)}." if reference else "."
    return Headline(str(estimate.get("name")), _value(estimate), text)


def _latents(estimates: Sequence[EstimateDict]) -> Headline | None:
    active, test = _find(estimates, "active-units"), _find(estimates, "c2st")
    if not active:
        return None
    text = "Latent dimensions that have at least 0.1 nats of information on x."
    if test and active.get("value"):
        accuracy = format_with_error(test.get("value"), test.get("stderr"))
        text += (
            f" A classifier tells latents of data from samples of the prior with accuracy {accuracy}; at 0.5, generated"
            " samples come from latents like those of data."
        )
    return Headline("Active dimensions", f"{active.get('value'):.0f} {active.get('unit')}", text)


def _find(estimates: Sequence[EstimateDict], metric: str) -> EstimateDict | None:
    return next((e for e in estimates if e.get("metric") == metric and e.get("kind") != BASELINE), None)


def _value(estimate: EstimateDict) -> str:
    value = format_with_error(estimate.get("value"), estimate.get("stderr"), estimate.get("interval"))
    return f"{value} {estimate.get('unit') or ''}".rstrip()
