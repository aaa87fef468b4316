"""Sample quality: a model's samples against training images, in the features of a named network.

Whatever is computed of samples is computed of held-out real images too: that *yardstick* is what a perfect model would
get. Most of these metrics depend on the number of images, so by default both sides have as many.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advae.data import mix
from advae.errors import ConfigError, nearest
from advae.evaluation.estimate import Estimate, Estimates, Kind, Remark
from advae.evaluation.eval_data import Observed
from advae.evaluation.resumable import ALONE, Work
from advae.evaluation.samples.features import Features, feature_network
from advae.evaluation.samples.image_features import Images, features_of, sampled, stored
from advae.metrics.bootstrap import Figure, check_replicates, halves
from advae.metrics.frechet import SPLIT_FROM, SPLITS, frechet_distance, inception_score, kernel_distance
from advae.metrics.memorization import Copying, copying, verdict
from advae.metrics.prdc import NEIGHBOUR, WIDER, prdc
from advae.model import LatentModel

METRICS = ("fid", "kid", "is", "prdc", "neighbours")
REFERENCE = 50_000  # training images at most: published Fréchet distances have no more
JUDGED = 10_000  # samples by default, and images on either side of metrics whose cost grows as their square
FEWEST = 16  # images on either side
WIDE, WIDE_REPLICATES = 512, 20  # with so many features one replicate of the Fréchet distance takes seconds
SHOWN = 16  # samples kept beside their nearest training images


@dataclass(frozen=True)
class Side:
    """Images that are judged: the model's samples, or real ones.

    Attributes:
        what: which images.
        suffix: of the names of their figures.
        yardstick: whether they are real.
        features, logits: ``[m, D]`` and ``[m, K]``.
    """

    what: str
    suffix: str
    yardstick: bool
    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Setting:
    """What the figures share.

    Attributes:
        network: whose features.
        reference: features of training images, ``[n, D]``.
        protocol: of all.
        bootstrap: replicates.
        seed: of subsets and bootstrap.
    """

    network: Features
    reference: Tensor
    protocol: dict[str, Any]
    bootstrap: int
    seed: int

    def halves(self, m: int, replicates: int | None = None) -> Tensor:
        """For the bootstrap over m images."""
        return halves(m, replicates or self.bootstrap, mix(self.seed, 3))

    def some(self, x: Tensor, n: int) -> Tensor:
        """``n`` rows of ``x`` in a random order: stored images may come class by class."""
        return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(mix(self.seed, 4)))[:n]]

    def estimate(self, metric: str, found: Figure, kind: Kind, side: Side, n: int, **more: Any) -> Estimate:
        """The estimate of a figure of ``n`` images of a side."""
        return Estimate(
            f"{metric}[{self.network.name}]{side.suffix}",
            found.value,
            found.stderr,
            "yardstick" if side.yardstick else kind,
            "",
            n,
            {**self.protocol, "judged": side.what, **more, "bootstrap": len(found.replicates)},
            "samples",
            found.interval,
        )


def samples(
    model: LatentModel,
    observed: Observed,
    *,
    metrics: str | Sequence[str] = METRICS,
    features: str | Features = "classifier",
    generated: int | None = None,
    bootstrap: int = 100,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    work: Work = ALONE,
) -> Estimates:
    """Judge a model's samples, and held-out images in the same way.

    Args:
        model: a trained model.
        observed: its data, and which of the images it was not trained on are the yardstick (of the training split
            none are: then those of the test split).
        metrics: which of :data:`METRICS`.
        features: the network, or the name of one: see :func:`advae.evaluation.samples.features.feature_network`.
        generated: number of samples; by default as many as there are held-out images, at most 10,000.
        bootstrap: replicates.
        seed: of samples, subsets and bootstrap.
        cache: where trained and converted networks are kept.
        work: how it is carried out.

    Returns:
        ``FID[network]`` and so on of the samples, ``FID[network] of test data`` and so on of held-out images, with
        remarks on the network and on memorising.

    Raises:
        ConfigError: an unknown metric or network, too few images or replicates.
        NotFiniteError: the model's samples are not finite.
    """
    asked = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in asked:
        if name not in METRICS:
            raise ConfigError(f"there is no sample metric {name!r}", remedy=nearest(name, METRICS))
    check_replicates(bootstrap)
    data, held = observed.data, _held(observed)
    n = min(held.count, JUDGED) if generated is None else generated
    network = prepared(observed, features, generated, cache=cache, device=model.device, work=work)
    made, train = sampled(model, data, n, seed), stored(data, data.train, REFERENCE, mix(seed, 1))
    real = stored(data, getattr(data, held.split), n, mix(seed, 2), first=held.count)
    sides = (
        Side(made.what, "", False, *features_of(network, made, model.device, work)),
        Side(real.what, f" of {held.split} data", True, *features_of(network, real, model.device, work)),
    )
    reference = torch.empty(0)
    if set(asked) != {"is"}:
        reference, _ = features_of(network, train, model.device, work)
    protocol = held.protocol(**network.protocol, grey="clamped to 0..255, rounded to 8 bits")
    setting = Setting(network, reference, {**protocol, "seed": seed}, bootstrap, seed)
    found = Estimates(network.found, network.found.remarks)
    with work.stage("sample metrics", len(asked)) as tick:
        for name in METRICS:
            if name in COMPUTED and name in asked:
                found.add(estimate for side in sides for estimate in COMPUTED[name](setting, side))
            elif name in asked:
                found.add(_copying(setting, *sides, made, train))
            tick(1 if name in asked else 0)
    found.remarks += _on_numbers(setting, sides, asked)
    return found


def prepared(
    observed: Observed,
    features: str | Features,
    generated: int | None = None,
    *,
    cache: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    work: Work = ALONE,
) -> Features:
    """The network that samples would be judged by, once it is seen that they can be.

    Raises:
        ConfigError: too few images or samples, or no such network for these data.
    """
    held = _held(observed)
    n = min(held.count, JUDGED) if generated is None else generated
    _check_counts(n, held.count, len(observed.data.train))
    if isinstance(features, Features):
        return features
    return feature_network(features, observed.data, cache=cache, device=device, work=work)


def _held(observed: Observed) -> Observed:
    """The images that are the yardstick: of the training split none are."""
    return replace(observed, split="test") if observed.split == "train" else observed


def _check_counts(*counts: int) -> None:
    """Raise ConfigError unless there are enough samples, held-out and training images."""
    for what, count in zip(("samples", "held-out images", "training images"), counts, strict=True):
        if count < FEWEST:
            raise ConfigError(
                f"too few {what} to judge samples by", given=count, expected=f"{FEWEST} or more"
            )


def _fid(s: Setting, side: Side) -> list[Estimate]:
    m, width = side.features.shape
    drawn = s.halves(m, min(s.bootstrap, WIDE_REPLICATES) if width > WIDE else None)
    found = frechet_distance(s.reference, side.features, drawn)
    figure = s.estimate("FID", found, "error", side, m, reference=f"{len(s.reference)} training images")
    return [replace(figure, each={"excess_of_halves": torch.tensor(found.excess)})]


def _kid(s: Setting, side: Side) -> list[Estimate]:
    x, y = (s.some(each, JUDGED) for each in (s.reference, side.features))
    found = kernel_distance(x, y, s.halves(len(y)))
    more = {"reference": f"{len(x)} training images", "estimator": "unbiased, all pairs", "scale": "× 1"}
    return [s.estimate("KID", found, "error", side, len(y), **more)]


def _is(s: Setting, side: Side) -> list[Estimate]:
    m = len(side.logits)
    found = inception_score(s.some(side.logits, m), s.halves(m))
    estimator = f"mean over {SPLITS} parts" if m >= SPLIT_FROM else "of all images"
    return [s.estimate("IS", found, "score", side, m, estimator=estimator)]


def _prdc(s: Setting, side: Side) -> list[Estimate]:
    size = min(len(s.reference), len(side.features), JUDGED)
    found = prdc(s.some(s.reference, size), s.some(side.features, size), s.halves(size))
    k = {"precision": NEIGHBOUR, "recall": NEIGHBOUR, "density": WIDER, "coverage": WIDER}
    reference = f"{size} training images"
    return [
        s.estimate(name, figure, "score", side, size, reference=reference, k=k[name])
        for name, figure in found.items()
    ]


COMPUTED: dict[str, Callable[[Setting, Side], list[Estimate]]] = {
    "fid": _fid,
    "kid": _kid,
    "is": _is,
    "prdc": _prdc,
}


def _copying(s: Setting, made: Side, held: Side, samples: Images, train: Images) -> Estimates:
    """z, ratio and copies of :class:`~advae.metrics.memorization.Copying`, with pictures of the nearest pairs."""
    found = copying(s.reference, held.features, made.features)
    closest = found.distance.argsort()[:SHOWN]
    each = {
        "samples": samples.at(closest),
        "nearest": train.at(found.nearest[closest]),
        "distance": found.distance.float(),
        "held_distance": found.held_distance.float(),
    }
    name, n = s.network.name, len(made.features)
    reference = {"reference": f"{train.n} training images", "beside": f"{len(held.features)} {held.what}"}
    protocol = {**s.protocol, "judged": made.what, **reference}
    figures = (
        ("copying", found.z, 1.0, "Mann–Whitney z of distances to the nearest training image"),
        ("copying ratio", found.ratio, _ratio_error(s, found), "ratio of the medians of these distances"),
        ("copies", min(1.0, max(0.0, found.copies)), found.copies_error, "share, by nearest real images"),
    )
    estimates = Estimates(
        Estimate(
            f"{metric}[{name}]", value, error, "diagnostic", "", n, {**protocol, "statistic": what}, "samples"
        )
        for metric, value, error, what in figures
        if math.isfinite(value)  # a median distance of 0 has no ratio to it
    )
    estimates[0] = replace(estimates[0], each=each)
    text, warning = verdict(found, held.what)
    estimates.remarks.append(Remark(estimates[0].name, text, warning))
    return estimates


def _ratio_error(s: Setting, found: Copying) -> float:
    """The standard error of the ratio of medians, by a bootstrap of both."""
    generator = torch.Generator().manual_seed(mix(s.seed, 5))
    medians = []
    for d in (found.distance, found.held_distance):
        chosen = torch.randint(len(d), (s.bootstrap, len(d)), generator=generator)
        medians.append(d[chosen].median(1).values)
    return float((medians[0] / medians[1].clamp_min(1e-300)).std())


def _on_numbers(s: Setting, sides: Sequence[Side], asked: Sequence[str]) -> list[Remark]:
    """What the numbers of images do to the figures, where they do something."""
    (made, width), (held, _) = (side.features.shape for side in sides)
    remarks = []
    if made != held and set(asked) - {"neighbours"}:
        text = (
            f"the yardsticks are of {held} images and the samples {made}: their figures are not like for like"
        )
        remarks.append(Remark("samples", text, True))
    if min(made, held) <= width and "fid" in asked:
        text = f"a covariance of {width} features from {min(made, held)} images is singular: see the other metrics"
        remarks.append(Remark(f"FID[{s.network.name}]", text, True))
    return remarks
