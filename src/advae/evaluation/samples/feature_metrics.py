"""Metrics in feature space: Fréchet and kernel distance, inception score, precision and recall."""

from __future__ import annotations

from dataclasses import replace

import torch

from advae.evaluation.estimate import Estimate
from advae.evaluation.samples.base import SAMPLE_METRICS, ImageSet, MetricContext, SampleMetric
from advae.metrics.frechet import (
    MIN_IMAGES_FOR_PARTS,
    NUM_SCORE_PARTS,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from advae.metrics.prdc import K_DENSITY_COVERAGE, K_PRECISION_RECALL, prdc

MAX_IMAGES_PER_SET = 10_000  # of KID and PRDC, whose cost is quadratic
# With many features one replicate of the FID takes seconds: there are fewer of them.
MANY_FEATURES, REPLICATES_WITH_MANY_FEATURES = 512, 20


@SAMPLE_METRICS.register("fid")
class FID(SampleMetric):
    """Fréchet distance between the features of images and of training images."""

    kind, order = "error", 10

    def compute(self, context: MetricContext, images: ImageSet) -> list[Estimate]:
        m, num_features = images.features.shape
        limit = REPLICATES_WITH_MANY_FEATURES if num_features > MANY_FEATURES else context.replicates
        halves = context.halves(m, min(context.replicates, limit))
        value = frechet_distance(context.train_features, images.features, halves)
        reference = f"{len(context.train_features)} training images"
        estimate = context.estimate(self, "FID", value, images, m, reference=reference)
        excess = torch.tensor(value.excess_of_halves, dtype=torch.float32)
        return [replace(estimate, per_example={"excess_of_halves": excess})]


@SAMPLE_METRICS.register("kid")
class KID(SampleMetric):
    """Kernel distance between the features of images and of training images."""

    kind, order = "error", 20

    def compute(self, context: MetricContext, images: ImageSet) -> list[Estimate]:
        x = context.random_subset(context.train_features, MAX_IMAGES_PER_SET)
        y = context.random_subset(images.features, MAX_IMAGES_PER_SET)
        value, reference = kernel_distance(x, y, context.halves(len(y))), f"{len(x)} training images"
        protocol = {"reference": reference, "estimator": "unbiased, all pairs", "scale": "× 1"}
        return [context.estimate(self, "KID", value, images, len(y), **protocol)]


@SAMPLE_METRICS.register("is")
class InceptionScore(SampleMetric):
    """Inception score of images; independent of the training images."""

    requires = ("features",)
    kind, order = "score", 30

    def compute(self, context: MetricContext, images: ImageSet) -> list[Estimate]:
        m = len(images.logits)
        value = inception_score(context.random_subset(images.logits, m), context.halves(m))
        estimator = f"mean over {NUM_SCORE_PARTS} parts" if m >= MIN_IMAGES_FOR_PARTS else "of all images"
        return [context.estimate(self, "IS", value, images, m, estimator=estimator)]


@SAMPLE_METRICS.register("prdc")
class PrecisionRecall(SampleMetric):
    """Precision, recall, density and coverage against as many training images."""

    kind, order = "score", 40

    def compute(self, context: MetricContext, images: ImageSet) -> list[Estimate]:
        size = min(len(context.train_features), len(images.features), MAX_IMAGES_PER_SET)
        x, y = (context.random_subset(f, size) for f in (context.train_features, images.features))
        reference = f"{size} training images"
        estimates = []
        for name, value in prdc(x, y, context.halves(size)).items():
            k = K_PRECISION_RECALL if name in ("precision", "recall") else K_DENSITY_COVERAGE
            estimates.append(context.estimate(self, name, value, images, size, reference=reference, k=k))
        return estimates
