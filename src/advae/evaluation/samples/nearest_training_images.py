"""Memorization test as a sample metric, with the samples nearest to training images."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from advae.evaluation.estimate import Criterion, Estimate, EvaluationResult, Remark
from advae.evaluation.samples.base import SAMPLE_METRICS, MetricContext, SampleMetric
from advae.metrics.memorization import SIGNIFICANT_STDERRS, MemorizationTest, memorization_test
from advae.random import mix_seeds

NUM_STORED_PAIRS = 16  # samples stored with their nearest training images
SMALLEST_MEDIAN = 1e-300  # avoids division by 0


@SAMPLE_METRICS.register("nearest-neighbors")
class NearestNeighbors(SampleMetric):
    """Whether samples are closer to training images than held-out images are, and the fraction of copies."""

    kind, order, depends_on_n = "diagnostic", 50, False

    def estimate(self, context: MetricContext) -> EvaluationResult:
        samples, held_out = context.samples, context.held_out
        test = memorization_test(context.train_features, held_out.features, samples.features)
        protocol = {
            **context.protocol,
            "images": samples.source.description,
            "reference": f"{context.train.n} training images",
            "compared with": f"{held_out.n} {held_out.source.description}",
        }
        copies = min(1.0, max(0.0, test.copies))
        z_statistic = "Mann–Whitney z of distances to the nearest training image"
        values = (
            ("memorization", test.z, 1.0, z_statistic),
            ("memorization ratio", test.ratio, ratio_stderr(context, test), "ratio of median distances"),
            ("copies", copies, test.copies_stderr, "fraction, by nearest real images"),
        )
        result = EvaluationResult()
        for name, value, stderr, statistic in values:
            full_name, settings = context.full_name(name), {**protocol, "statistic": statistic}
            if math.isfinite(value):  # the ratio to a median distance of 0 is undefined
                estimate = Estimate(full_name, value, stderr, self.kind, "", samples.n, settings, "samples")
                result.append(replace(estimate, metric=name.replace(" ", "-"), variant=context.network))
        closest = test.distance.argsort()[:NUM_STORED_PAIRS]
        per_example = {
            "samples": samples.source.get(closest),
            "nearest": context.train.get(test.nearest[closest]),
            "distance": test.distance.float(),
            "held_out_distance": test.held_out_distance.float(),
        }
        result[0] = replace(result[0], per_example=per_example)
        result.remarks.append(remark(test, result[0].name, held_out.source.description))
        return result


def remark(test: MemorizationTest, about: str, held_out: str) -> Remark:
    """Return what the test means, with its criteria; ``held_out`` is for people: "test images"."""
    ratio = f"median distance {test.ratio:.2f} times that of {held_out}, z = {test.z:.1f}"
    copies = f"an estimated {min(test.copies, 1):.0%} ± {test.copies_stderr:.0%} of samples are copies"
    if test.has_copies and test.is_too_close:
        closer = f"Memorization: samples are closer to training images than {held_out} are ({ratio})"
        text = f"{closer}, and {copies}."
    elif test.has_copies:
        text = f"Memorization: {copies}, as they are closer to training images than to similar {held_out}."
    elif test.is_inconclusive:
        closer = f"Possible memorization: samples are closer to training images than {held_out} are ({ratio})"
        text = f"{closer}, and {copies}; there are too few images to be sure. Compare the nearest pairs."
    elif test.is_too_close:
        text = (
            f"No sign of memorization: samples are closer to training images than {held_out} are ({ratio}),"
            f" but also closer to {held_out}: the model generates only typical images."
        )
    else:
        farther = test.z > SIGNIFICANT_STDERRS
        comparison = "farther from training images than" if farther else "as far from training images as"
        text = f"No sign of memorization: samples are {comparison} {held_out} ({ratio})."
    criteria = (
        Criterion.at_least("z", test.z, -SIGNIFICANT_STDERRS),
        Criterion.at_most("copies", test.copies, test.copies_threshold),
    )
    return Remark(about, text, test.has_copies or test.is_inconclusive, criteria)


def ratio_stderr(context: MetricContext, test: MemorizationTest) -> float:
    """Return the standard error of the ratio of median distances, by a bootstrap of both sets."""
    generator = torch.Generator().manual_seed(mix_seeds(context.seed, 5))
    medians = []
    for distance in (test.distance, test.held_out_distance):
        n = len(distance)
        resampled = torch.randint(n, (context.replicates, n), generator=generator)
        medians.append(distance[resampled].median(1).values)
    return float((medians[0] / medians[1].clamp_min(SMALLEST_MEDIAN)).std())
