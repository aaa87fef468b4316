"""An estimate: a value with its standard error, its kind, and the whole protocol it was made under."""

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
    """One figure.

    Attributes:
        name: what it is of: "elbo", "iwae-64", "rmse".
        value: the figure.
        stderr: its standard error over images.
        kind: how it stands to the truth. An "adversarial estimate" contains a critic's opinion: it is not a bound.
            Of an "error" less is better, of a "score" more; a "baseline" is what something other than the model
            gets, to measure it by; a "diagnostic" is neither good nor bad by itself.
        unit: "nats", "bits/dim", "gray levels"; empty for plain numbers.
        n: number of images.
        protocol: split, preprocessing, draws, seed: what another figure must share to be compared.
        section: of a report, where it belongs.
        interval: a 95 % confidence interval, where one was computed (by bootstrap).
        each: what was found for each image, by name, ``[N, …]``; from images, "value" is the figure itself.
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

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        value = format_with_error(self.value, self.stderr, self.interval)
        return f"{self.name} = {value}{unit} ({self.kind}, n = {self.n})"

    def scaled(self, factor: float, unit: str) -> Estimate:
        """The same in another unit, for each image too; a negative factor turns a lower bound into an upper one."""
        turned: dict[str, Kind] = {"lower bound": "upper bound", "upper bound": "lower bound"}
        kind = turned.get(self.kind, self.kind) if factor < 0 else self.kind
        return replace(
            self,
            name=f"{self.name} ({unit})",
            value=self.value * factor,
            stderr=self.stderr * abs(factor),
            kind=kind,
            unit=unit,
            interval=None,
            per_example={"value": factor * self.per_example["value"]} if "value" in self.per_example else {},
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, without what was found for each image."""
        return asdict(
            replace(self, per_example={}), dict_factory=lambda pairs: {k: v for k, v in pairs if k != "each"}
        )


@dataclass(frozen=True)
class Remark:
    """What the figures mean, in a plain sentence.

    Attributes:
        about: the section or figure it is about: "critic", "bdmc", "FID[digits-classifier]".
        text: the sentence.
        warning: whether a figure must not be believed as it stands.
    """

    about: str
    text: str
    warning: bool = False


class EvaluationResult(list[Estimate]):
    """The figures of one evaluation.

    Args:
        estimates: the figures.

    Attributes:
        remarks: what they mean, in plain sentences.
    """

    def __init__(self, estimates: Iterable[Estimate] = (), remarks: Iterable[Remark] = ()) -> None:
        super().__init__(estimates)
        self.remarks: list[Remark] = list(remarks)

    def add(self, more: Iterable[Estimate]) -> None:
        """Append figures, with their remarks."""
        self.extend(more)
        self.remarks += more.remarks if isinstance(more, EvaluationResult) else []

    def named(self, name: str) -> Estimate:
        """The figure called ``name``; KeyError if there is none."""
        for estimate in self:
            if estimate.name == name:
                return estimate
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, under the keys ``estimates`` and ``remarks``."""
        return {
            "estimates": [estimate.to_dict() for estimate in self],
            "remarks": [asdict(remark) for remark in self.remarks],
        }

    def __str__(self) -> str:
        return "\n".join([*map(str, self), *(remark.text for remark in self.remarks)])


def file_stem(name: str) -> str:
    """A figure's name as a file is called.

    >>> file_name("FID[digits-classifier]"), file_name("elbo (bits/dim)")
    ('fid-digits-classifier', 'elbo-bits-dim')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def mean_and_stderr(values: Tensor) -> tuple[float, float]:
    """The mean of per-image ``values [N]`` and its standard error, in float64."""
    values = values.double()
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    return float(values.mean()), error


def from_per_example(
    values: Tensor,
    name: str,
    kind: Kind,
    unit: str,
    protocol: dict[str, Any],
    section: Section = "likelihood",
    each: Mapping[str, Tensor] | None = None,
) -> Estimate:
    """The estimate that per-image ``values [N]`` amount to; ``each`` is what else was found for them."""
    value, stderr = mean_and_stderr(values)
    found = {"value": values, **(each or {})}
    return Estimate(name, value, stderr, kind, unit, len(values), protocol, section, per_example=found)
