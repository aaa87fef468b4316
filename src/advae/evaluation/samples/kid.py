"""Kernel distance as a sample metric."""

from __future__ import annotations

from advae.evaluation.estimate import Estimate
from advae.evaluation.samples.base import SAMPLE_METRICS, ImageSet, MetricContext, SampleMetric
from advae.metrics.frechet import kernel_distance

MAX_IMAGES_PER_SET = 10_000  # the cost is quadratic


@SAMPLE_METRICS.register("kid")
class KID(SampleMetric):
    """Kernel distance between the features of images and of training images."""

    kind, order = "error", 20

    def compute(self, context: MetricContext, images: ImageSet) -> list[Estimate]:
        x = context.random_subset(context.train_features, MAX_IMAGES_PER_SET)
        y = context.random_subset(images.features, MAX_IMAGES_PER_SET)
        value = kernel_distance(x, y, context.halves(len(y)))
        protocol = {
            "reference": f"{len(x)} training images",
            "estimator": "unbiased, all pairs",
            "scale": "× 1",
        }
        return [context.estimate(self, "KID", value, images, len(y), **protocol)]
