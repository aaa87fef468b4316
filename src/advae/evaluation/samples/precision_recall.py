"""Precision, recall, density and coverage as sample metrics."""

from __future__ import annotations

from advae.evaluation.estimate import Estimate
from advae.evaluation.samples.base import SAMPLE_METRICS, ImageSet, MetricContext, SampleMetric
from advae.metrics.prdc import K_DENSITY_COVERAGE, K_PRECISION_RECALL, prdc

MAX_IMAGES_PER_SET = 10_000  # the cost is quadratic


@SAMPLE_METRICS.register("prdc")
class PrecisionRecall(SampleMetric):
    """Precision, recall, density and coverage against as many training images."""

    kind, order = "score", 40

    def compute(self, context: MetricContext, images: ImageSet) -> list[Estimate]:
        size = min(len(context.train_features), len(images.features), MAX_IMAGES_PER_SET)
        x = context.random_subset(context.train_features, size)
        y = context.random_subset(images.features, size)
        values = prdc(x, y, context.halves(size))
        k = dict.fromkeys(values, K_DENSITY_COVERAGE)
        k["precision"] = k["recall"] = K_PRECISION_RECALL
        reference = f"{size} training images"
        return [
            context.estimate(self, name, value, images, size, reference=reference, k=k[name])
            for name, value in values.items()
        ]
