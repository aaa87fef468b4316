"""Inception score as a sample metric."""

from __future__ import annotations

from advae.evaluation.estimate import Estimate
from advae.evaluation.samples.base import SAMPLE_METRICS, ImageSet, MetricContext, SampleMetric
from advae.metrics.frechet import MIN_IMAGES_FOR_PARTS, NUM_SCORE_PARTS, inception_score


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
