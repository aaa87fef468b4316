"""Estimates: a value with its standard error, its kind, and the protocol that it was made under."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from advae.formatting import format_with_error

Kind = Literal[
    "lower bound",
    "upper bound",
    "unbiased",
    "exact",
    "adversarial estimate",
    "error",
    "score",
    "baseline",
    "diagnostic",
]
Section = Literal["likelihood", "reconstruction", "posterior", "critics", "samples"]


@dataclass(frozen=True)
class Estimate:
    """One value.

    Attributes:
        name: unique within an evaluation and unit: "elbo", "iwae-64[full-normal]", "rmse (PCA-32)". For people:
            programs read ``metric``, ``variant``, ``kind`` and ``unit``.
        value: the value itself.
        stderr: its standard error over examples.
        kind: how it relates to the true value. An "adversarial estimate" contains a critic's estimate of a log
            ratio and is not a bound. An "error" is better when it is smaller, a "score" when it is larger. A
            "baseline" is the same metric of something other than the model (held-out data, PCA). A "diagnostic"
            is neither good nor bad by itself.
        unit: "nats", "bits/dim", "gray levels"; empty for plain numbers.
        n: number of examples.
        protocol: how it was made (split, preprocessing, samples, seed): what another estimate must share to be
            comparable.
        section: of a report.
        interval: a 95 % confidence interval, where one was computed (by bootstrap).
        per_example: values for each example, by name, ``[N, …]``. Where the estimate is a mean over examples,
            "value" holds the terms of the mean.
        metric: what is measured, the same for all variants and units and for their baselines: "elbo", "iwae",
            "ais", "bdmc", "rmse", "fid", "inference-gap", "memorization". By default the name.
        variant: what the name adds to the metric, for people: "64 samples, full-normal", "PCA-32", "test data".
        higher_is_better: whether models are ranked by it, and in which direction; None where they are not, as for
            baselines, diagnostics, and upper bounds on log p(x). Set for errors and scores by their kind.
    """

    name: str
    value: float
    stderr: float
    kind: Kind
    unit: str
    n: int
    protocol: dict[str, Any]
    section: Section = "likelihood"
    interval: tuple[float, float] | None = None
    per_example: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    metric: str = ""
    variant: str = ""
    higher_is_better: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", self.metric or self.name)
        if self.kind in ("error", "score"):
            object.__setattr__(self, "higher_is_better", self.kind == "score")

    def __str__(self) -> str:
        value = format_with_error(self.value, self.stderr)
        return f"{self.name} = {value}{self.unit and f' {self.unit}'} ({self.kind}, n = {self.n})"

    def scaled(self, factor: float, unit: str) -> Estimate:
        """Return the estimate in another unit; a negative factor turns a lower bound into an upper bound."""
        opposite: dict[str, Kind] = {"lower bound": "upper bound", "upper bound": "lower bound"}
        better = self.higher_is_better
        return replace(
            self,
            name=f"{self.name} ({unit})",
            value=self.value * factor,
            stderr=self.stderr * abs(factor),
            kind=opposite.get(self.kind, self.kind) if factor < 0 else self.kind,
            unit=unit,
            interval=None,
            per_example={"value": factor * self.per_example["value"]} if "value" in self.per_example else {},
            higher_is_better=better if better is None or factor > 0 else not better,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values of everything but the per-example tensors."""
        fields = asdict(replace(self, per_example={}))
        del fields["per_example"]
        return fields


@dataclass(frozen=True)
class Criterion:
    """One criterion of a diagnostic: a value and its threshold.

    Attributes:
        name: what is compared: "R-hat", "calibration error".
        value: its value; NaN does not pass.
        threshold: the limit.
        passed: whether the value keeps to it.
        limit: whether the threshold is the largest ("max") or the smallest ("min") value that passes.
    """

    name: str
    value: float
    threshold: float
    passed: bool
    limit: Literal["max", "min"] = "max"

    @classmethod
    def at_most(cls, name: str, value: float, threshold: float) -> Criterion:
        """Return a criterion that values up to the threshold pass."""
        return cls(name, value, threshold, value <= threshold)

    @classmethod
    def at_least(cls, name: str, value: float, threshold: float) -> Criterion:
        """Return a criterion that values from the threshold on pass."""
        return cls(name, value, threshold, value >= threshold, "min")


@dataclass(frozen=True)
class Remark:
    """A sentence on what estimates mean.

    Attributes:
        about: the section, metric or estimate that it is about: "critic", "bdmc", "FID[digits-classifier]".
        text: the sentence.
        warning: whether an estimate is unreliable.
        criteria: what the sentence is based on, as rows of a table.
        section: of a report; by default that of what it is about.
    """

    about: str
    text: str
    warning: bool = False
    criteria: tuple[Criterion, ...] = ()
    section: Section | None = None


class EvaluationResult(list[Estimate]):
    """The estimates of an evaluation, and remarks on them.

    Args:
        estimates: in the order of a report.
        remarks: sentences on what they mean.
    """

    def __init__(self, estimates: Iterable[Estimate] = (), remarks: Iterable[Remark] = ()) -> None:
        super().__init__(estimates)
        self.remarks: list[Remark] = list(remarks)

    def add(self, more: Iterable[Estimate]) -> None:
        """Append estimates, and their remarks if they have any."""
        self.extend(more)
        self.remarks += more.remarks if isinstance(more, EvaluationResult) else []

    def find(self, name: str) -> Estimate:
        """Return the estimate with this name; raise KeyError if there is none."""
        for estimate in self:
            if estimate.name == name:
                return estimate
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values under the keys ``estimates`` and ``remarks``."""
        return {
            "estimates": [estimate.to_dict() for estimate in self],
            "remarks": [asdict(remark) for remark in self.remarks],
        }

    def __str__(self) -> str:
        return "\n".join([*map(str, self), *(remark.text for remark in self.remarks)])


def file_stem(name: str) -> str:
    """Return an estimate's name as the stem of a file name.

    >>> file_stem("FID[digits-classifier]"), file_stem("elbo (bits/dim)")
    ('fid-digits-classifier', 'elbo-bits-dim')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def mean_and_stderr(values: Tensor) -> tuple[float, float]:
    """Return the mean of ``values [N]`` and its standard error, computed in float64."""
    values = values.double()
    n = len(values)
    stderr = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    return float(values.mean()), stderr


def from_per_example(
    values: Tensor,
    name: str,
    kind: Kind,
    unit: str,
    protocol: dict[str, Any],
    section: Section = "likelihood",
    per_example: Mapping[str, Tensor] | None = None,
    *,
    metric: str = "",
    variant: str = "",
    higher_is_better: bool | None = None,
) -> Estimate:
    """Return the mean of ``values [N]`` as an estimate; ``per_example`` are other values to keep with them."""
    value, stderr = mean_and_stderr(values)
    estimate = Estimate(name, value, stderr, kind, unit, len(values), protocol, section)
    labels: dict[str, Any] = {
        "metric": metric or name,
        "variant": variant,
        "higher_is_better": higher_is_better,
    }
    return replace(estimate, per_example={"value": values, **(per_example or {})}, **labels)
