"""Sample metrics by name: what each needs, and its estimates.

A metric is a class, registered in a module of this package::

    @SAMPLE_METRICS.register("my-metric")
    class MyMetric(SampleMetric):
        requires = ("features", "training data")
        kind = "error"

        def compute(self, context, images):
            value = my_formula(context.train_features, images.features, context.halves(images.n))
            return [context.estimate(self, "my metric", value, images, images.n)]
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advae.data import Dataset
from advae.errors import ConfigError
from advae.evaluation.estimate import Estimate, EvaluationResult, Kind
from advae.evaluation.samples.features import FeatureExtractor
from advae.evaluation.samples.image_features import ImageSource
from advae.metrics.bootstrap import BootstrapEstimate, half_subsamples
from advae.random import mix_seeds
from advae.registry import Registry

Requirement = Literal["features", "training data", "labels"]


@dataclass(frozen=True)
class ImageSet:
    """Images that are evaluated: the model's samples, or held-out images as a baseline.

    Attributes:
        source: the images.
        baseline: what the images are instead of samples: "test data"; empty for samples.
        features, logits: ``[n, D]`` and ``[n, K]``; empty if no metric requires them.
    """

    source: ImageSource
    baseline: str
    features: Tensor
    logits: Tensor

    @property
    def n(self) -> int:
        """Number of images."""
        return self.source.n


@dataclass(frozen=True)
class MetricContext:
    """What all metrics of an evaluation share.

    Attributes:
        samples, held_out: images that the model generated, and images that it was not trained on.
        train: training images, as the reference.
        train_features: their features, ``[n, D]``; empty if no metric requires them.
        extractor: the network that computes features; None if no metric requires them.
        protocol: of all estimates.
        replicates: of the bootstrap.
        seed: of subsets and bootstrap.
    """

    data: Dataset
    samples: ImageSet
    held_out: ImageSet
    train: ImageSource
    train_features: Tensor
    extractor: FeatureExtractor | None
    protocol: dict[str, Any]
    replicates: int
    seed: int

    @property
    def network(self) -> str:
        """The name of the network that computes features, or an empty string."""
        return self.extractor.name if self.extractor else ""

    def halves(self, m: int, replicates: int | None = None) -> Tensor:
        """Return half-subsamples of m images for the bootstrap, ``[R, m]``."""
        return half_subsamples(m, replicates or self.replicates, mix_seeds(self.seed, 3))

    def random_subset(self, x: Tensor, n: int) -> Tensor:
        """Return at most ``n`` rows of ``x`` in random order: stored images may be sorted by class."""
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, 4))
        return x[torch.randperm(len(x), generator=generator)[:n]]

    def full_name(self, name: str) -> str:
        """Return the name of an estimate with that of the network: "FID[inception]"."""
        return f"{name}[{self.network}]" if self.extractor else name

    def estimate(
        self,
        metric: SampleMetric,
        name: str,
        value: BootstrapEstimate,
        images: ImageSet,
        n: int,
        **protocol: Any,
    ) -> Estimate:
        """Return the estimate of a metric called ``name`` over ``n`` images."""
        kind: Kind = "baseline" if images.baseline else metric.kind
        protocol = {"images": images.source.description, **protocol, "bootstrap": len(value.replicates)}
        full_name = self.full_name(name) + (f" of {images.baseline}" if images.baseline else "")
        protocol, variant = self.protocol | protocol, ", ".join(filter(None, (self.network, images.baseline)))
        estimate = Estimate(full_name, value.value, value.stderr, kind, metric.unit, n, protocol, "samples")
        return replace(estimate, interval=value.interval, metric=name.lower(), variant=variant)


class SampleMetric(ABC):
    """A metric of images that a model generated.

    Attributes:
        name: set by the registry.
        requires: "features" of a network, "training data" as the reference, class "labels" of the data.
        kind: of the estimates: an "error" is better when smaller, a "score" when larger, a "diagnostic" is neither.
        unit: of the estimates.
        order: position among the estimates of an evaluation.
        depends_on_n: whether estimates from different numbers of images are not comparable.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[tuple[Requirement, ...]] = ("features", "training data")
    kind: ClassVar[Kind]
    unit: ClassVar[str] = ""
    order: ClassVar[int] = 100
    depends_on_n: ClassVar[bool] = True

    def estimate(self, context: MetricContext) -> EvaluationResult:
        """Return the estimates of samples and, as baselines, of held-out images."""
        return EvaluationResult(
            e for images in (context.samples, context.held_out) for e in self.compute(context, images)
        )

    def compute(self, context: MetricContext, images: ImageSet) -> Sequence[Estimate]:
        """Return the estimates of a set of images."""
        raise NotImplementedError


SAMPLE_METRICS: Registry[type[SampleMetric]] = Registry(
    "sample metric", "advae.evaluation.samples", SampleMetric
)


def sample_metric_names() -> list[str]:
    """Return the names of all metrics in the order of their estimates."""
    return sorted(SAMPLE_METRICS.names(), key=lambda name: (SAMPLE_METRICS.find(name).order, name))


def make_metrics(names: Sequence[str], data: Dataset) -> list[SampleMetric]:
    """Return the metrics with these names, in the order of their estimates.

    Raises:
        ConfigError: a name is unknown, or a metric requires labels that the data do not have.
    """
    metrics = [SAMPLE_METRICS.find(name)() for name in names]
    for metric in metrics:
        if "labels" in metric.requires and data.classes is None:
            raise ConfigError(f"The sample metric {metric.name} needs class labels.", given=data.source)
    return sorted(metrics, key=lambda metric: (metric.order, metric.name))


def requires(metrics: Sequence[SampleMetric], requirement: Requirement) -> bool:
    """Return whether a metric has this requirement."""
    return any(requirement in metric.requires for metric in metrics)
