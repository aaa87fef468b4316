"""Fréchet distance as a sample metric."""

from __future__ import annotations

from dataclasses import replace

import torch

from advae.evaluation.estimate import Estimate
from advae.evaluation.samples.base import SAMPLE_METRICS, ImageSet, MetricContext, SampleMetric
from advae.metrics.frechet import frechet_distance

# With many features one replicate takes seconds: there are fewer of them.
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
