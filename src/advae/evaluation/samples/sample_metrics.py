"""Evaluation of a model's samples against training images, with held-out images as the baseline.

Every metric of samples is also computed of held-out images: this *baseline* is the value of a perfect model. Most
metrics depend on the number of images, so by default there are as many samples as held-out images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from advae.errors import ConfigError
from advae.evaluation.estimate import EvaluationResult, Remark
from advae.evaluation.eval_data import EvalData
from advae.evaluation.resumable import LOCAL, Runner
from advae.evaluation.samples.base import (
    ImageSet,
    MetricContext,
    SampleMetric,
    make_metrics,
    requires,
    sample_metric_names,
)
from advae.evaluation.samples.features import FeatureExtractor, load_feature_extractor
from advae.evaluation.samples.image_features import (
    ImageSource,
    extract_features,
    model_samples,
    real_images,
)
from advae.metrics.bootstrap import check_replicates
from advae.model import LatentModel
from advae.random import mix_seeds

MAX_REFERENCE_IMAGES = 50_000  # training images; published Fréchet distances do not use more
DEFAULT_MAX_SAMPLES = 10_000
MIN_IMAGES = 16  # samples, held-out images, and training images


def evaluate_samples(
    model: LatentModel,
    data: EvalData,
    *,
    metrics: str | Sequence[str] | None = None,
    features: str | FeatureExtractor | None = "classifier",
    num_samples: int | None = None,
    replicates: int = 100,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    runner: Runner = LOCAL,
) -> EvaluationResult:
    """Compute metrics of a model's samples, and of held-out images.

    Args:
        data: its data, and the held-out images that are the baseline; for the training split those of the test split.
        metrics: names of metrics; by default all.
        features: the feature extractor, or its name: see :func:`load_feature_extractor`.
        num_samples: number of samples; by default the number of held-out images, at most 10,000.
        replicates: of the bootstrap.
        seed: of samples, subsets and bootstrap.

    Returns:
        ``FID[network]`` and so on of the samples, ``FID[network] of test data`` and so on of held-out images, with
        remarks on the network and on memorization.

    Raises:
        ConfigError: a metric or network is unknown, or there are too few images or replicates.
        NotFiniteError: the model's samples are not finite.
    """
    names = [metrics] if isinstance(metrics, str) else sample_metric_names() if metrics is None else metrics
    selected = make_metrics(names, data.data)
    check_replicates(replicates)
    extractor = check_and_load_features(
        data, names, features, num_samples, cache=cache, device=model.device, runner=runner
    )
    context = _make_context(model, data, selected, extractor, num_samples, replicates, seed, runner)
    result = EvaluationResult()
    if extractor is not None:
        result.add(extractor.estimates)
    with runner.stage("sample metrics", len(selected)) as tick:
        for metric in selected:
            result.add(metric.estimate(context))
            tick(1)
    result.remarks += _remarks_on_counts(context, selected)
    return result


def _make_context(
    model: LatentModel,
    data: EvalData,
    metrics: Sequence[SampleMetric],
    extractor: FeatureExtractor | None,
    num_samples: int | None,
    replicates: int,
    seed: int,
    runner: Runner,
) -> MetricContext:
    """Sample from the model, and compute the features of all images."""
    held_out, n = _held_out(data), _sample_count(data, num_samples)

    def features(source: ImageSource, needed: bool = True) -> tuple[Tensor, Tensor]:
        if extractor is None or not needed:
            return torch.empty(0), torch.empty(0)
        return extract_features(extractor, source, model.device, runner)

    train = real_images(data.data, data.data.train, MAX_REFERENCE_IMAGES, mix_seeds(seed, 1))
    samples = model_samples(model, data.data, n, seed)
    real = real_images(
        data.data, held_out.examples, n, mix_seeds(seed, 2), limit=held_out.count, other=held_out.other
    )
    label = f"{held_out.other.name if held_out.other else held_out.split} data"
    network = extractor.protocol if extractor else {}
    return MetricContext(
        data=data.data,
        samples=ImageSet(samples, "", *features(samples)),
        held_out=ImageSet(real, label, *features(real)),
        train=train,
        train_features=features(train, requires(metrics, "training data"))[0],
        extractor=extractor,
        protocol=held_out.protocol(**network, gray="clamped to 0..255, rounded to 8 bits") | {"seed": seed},
        replicates=replicates,
        seed=seed,
    )


def check_and_load_features(
    data: EvalData,
    metrics: Sequence[str],
    features: str | FeatureExtractor | None,
    num_samples: int | None = None,
    *,
    cache: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    runner: Runner = LOCAL,
) -> FeatureExtractor | None:
    """Check that metrics can be computed, and return the feature extractor if one of them requires it.

    Raises:
        ConfigError: there are too few images or samples, or no such network for these data.
    """
    counts = {"samples": _sample_count(data, num_samples), "held-out images": _held_out(data).count}
    counts["training images"] = len(data.data.train)
    for what, count in counts.items():
        if count < MIN_IMAGES:
            expected = f"{MIN_IMAGES} or more"
            raise ConfigError(f"There are too few {what} for sample metrics.", given=count, expected=expected)
    if not requires(make_metrics(metrics, data.data), "features"):
        return None
    if isinstance(features, FeatureExtractor):
        return features
    return load_feature_extractor(
        features or "classifier", data.data, cache=cache, device=device, runner=runner
    )


def _held_out(data: EvalData) -> EvalData:
    """Return the data with held-out images: test images instead of training images."""
    return replace(data, split="test") if data.split == "train" else data


def _sample_count(data: EvalData, num_samples: int | None) -> int:
    return min(_held_out(data).count, DEFAULT_MAX_SAMPLES) if num_samples is None else num_samples


def _remarks_on_counts(context: MetricContext, metrics: Sequence[SampleMetric]) -> list[Remark]:
    """Return warnings about metrics that the numbers of images make unreliable or not comparable."""
    n, n_baseline = context.samples.n, context.held_out.n
    remarks = []
    if n != n_baseline and any(metric.depends_on_n for metric in metrics):
        text = f"Baselines are not comparable: they are of {n_baseline} images, and the samples are {n}."
        remarks.append(Remark("samples", text, True))
    num_features, fewest = context.samples.features.shape[-1], min(n, n_baseline)
    if fewest <= num_features and any(metric.name == "fid" for metric in metrics):
        text = f"The covariance of {num_features} features of {fewest} images is singular: use other metrics."
        remarks.append(Remark(context.full_name("FID"), text, True))
    return remarks
