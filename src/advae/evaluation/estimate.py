"""An estimate: a value with its standard error, its kind, and the whole protocol it was made under."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

Kind = Literal["lower bound", "upper bound", "unbiased", "exact", "error", "adversarial estimate"]


@dataclass(frozen=True)
class Estimate:
    """One figure.

    Attributes:
        name: what it is of: "elbo", "iwae-64", "rmse".
        value: the figure.
        stderr: its standard error over images.
        kind: how it stands to the truth. An "adversarial estimate" contains a critic's opinion: it is not a bound.
        unit: "nats", "bits/dim", "grey levels".
        n: number of images.
        protocol: split, observation protocol, draws, seed: what another figure must share to be compared.
    """

    name: str
    value: float
    stderr: float
    kind: Kind
    unit: str
    n: int
    protocol: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.2f} ± {self.stderr:.2f} {self.unit} ({self.kind}, n = {self.n})"

    def scaled(self, factor: float, unit: str) -> Estimate:
        """The same figure in another unit; a negative factor turns a lower bound into an upper one."""
        turned: dict[str, Kind] = {"lower bound": "upper bound", "upper bound": "lower bound"}
        kind = turned.get(self.kind, self.kind) if factor < 0 else self.kind
        return Estimate(
            f"{self.name} ({unit})",
            self.value * factor,
            self.stderr * abs(factor),
            kind,
            unit,
            self.n,
            self.protocol,
        )


class Estimates(list[Estimate]):
    """The figures of one evaluation.

    Args:
        estimates: the figures.

    Attributes:
        images: what some of them found for each image, by the figure's name and the quantity's, ``[N]`` each.
    """

    def __init__(self, estimates: Iterable[Estimate] = ()) -> None:
        super().__init__(estimates)
        self.images: dict[str, dict[str, Tensor]] = {}

    def named(self, name: str) -> Estimate:
        """The figure called ``name``; KeyError if there is none."""
        for estimate in self:
            if estimate.name == name:
                return estimate
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, under the key ``estimates``."""
        return {"estimates": [asdict(estimate) for estimate in self]}

    def __str__(self) -> str:
        return "\n".join(map(str, self))


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of per-image ``values [N]`` and its standard error, in float64."""
    values = values.double()
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    return float(values.mean()), error


def from_images(values: Tensor, name: str, kind: Kind, unit: str, protocol: dict[str, Any]) -> Estimate:
    """The estimate that per-image ``values [N]`` amount to."""
    value, stderr = mean_and_error(values)
    return Estimate(name, value, stderr, kind, unit, len(values), protocol)
