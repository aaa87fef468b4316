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
        test = memorization_test(context.train_features, context.held_out.features, context.samples.features)
        closest = test.distance.argsort()[:NUM_STORED_PAIRS]
        per_example = {
            "samples": context.samples.source.get(closest),
            "nearest": context.train.get(test.nearest[closest]),
            "distance": test.distance.float(),
            "held_out_distance": test.held_out_distance.float(),
        }
        held_out = context.held_out.source.description
        protocol = {
            **context.protocol,
            "images": context.samples.source.description,
            "reference": f"{context.train.n} training images",
            "compared with": f"{context.held_out.n} {held_out}",
        }
        copies = min(1.0, max(0.0, test.copies))
        z_statistic = "Mann–Whitney z of distances to the nearest training image"
        values = (
            ("memorization", test.z, 1.0, z_statistic),
            ("memorization ratio", test.ratio, ratio_stderr(context, test), "ratio of median distances"),
            ("copies", copies, test.copies_stderr, "fraction, by nearest real images"),
        )
        network = context.extractor.name if context.extractor else ""
        result = EvaluationResult(
            Estimate(
                context.full_name(name),
                value,
                stderr,
                self.kind,
                self.unit,
                context.samples.n,
                {**protocol, "statistic": statistic},
                "samples",
                metric=name.replace(" ", "-"),
                variant=network,
            )
            for name, value, stderr, statistic in values
            if math.isfinite(value)  # the ratio to a median distance of 0 is undefined
        )
        result[0] = replace(result[0], per_example=per_example)
        result.remarks.append(remark(test, result[0].name, held_out))
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
