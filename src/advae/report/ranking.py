"""Which of several runs' figures is best, and when that cannot be said.

Two figures can be compared only if they are of one kind, in one unit, on the same data under the same
protocol. Bounds of log p(x) that differ in how tight they were made are bounds still, but not ranked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from advae.formatting import common_items, format_count, format_interval, round_to_error
from advae.report.kinds import kind_text

# Figures that differ in these compare; the last was found with the figure, and is no setting.
INCIDENTAL = {"seed", "device", "batch", "batch_size", "time"}
# Settings that move a bound nearer to log p(x) and no farther: it stays a bound of the same figure.
TIGHTNESS = {
    *("estimator", "proposal", "draws"),
    *("chains", "temperatures", "schedule", "start", "leapfrogs"),
}
LIKELIHOOD = re.compile(
    r"(elbo|iwae|ais|log|exact log-likelihood)\b"
)  # begins names of log p(x) and its bounds
SIMULATED = re.compile(r"bdmc\b")
BOUNDS = ("lower bound", "upper bound")
TIE = 2.0  # standard errors of a difference below which two runs are not told apart
NORMAL_95 = 1.959964  # half a 95 % interval, in standard errors of a normal


@dataclass(frozen=True)
class Cell:
    """One run's estimate of a row; ``best`` also for those that :func:`gap` cannot tell from it.

    ``each`` is what the figure is the mean of, image by image, where that is known.
    """

    value: float | None
    stderr: float | None
    kind: str
    n: int | None
    protocol: dict[str, str]
    interval: tuple[float, float] | None = None
    best: bool = False
    each: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    @property
    def text(self) -> str:
        value, error = round_to_error(self.value, self.stderr, self.interval)
        interval = format_interval(self.interval)
        return f"{value} ± {error}" if error else f"{value} {interval}".rstrip()

    @property
    def error(self) -> float:
        """The standard error: as given, or as the interval would have it, or 0."""
        if self.stderr and math.isfinite(self.stderr):
            return self.stderr
        low, high = self.interval or (0.0, 0.0)
        return (high - low) / (2 * NORMAL_95)


def difference(name: str, cells: Sequence[Cell | None], runs: Sequence[str]) -> str:
    """Why the figures of a row cannot be compared, or an empty string."""
    having = [(run, cell) for run, cell in zip(runs, cells, strict=True) if cell]
    kinds = {cell.kind for _, cell in having}
    if len(kinds) > 1:
        each = "; ".join(f"{run}: {kind_text(cell.kind)}" for run, cell in having)
        return f"not comparable: different kinds ({each})"
    if SIMULATED.match(name.lower()) and len(having) > 1:
        return "not comparable: on images that each model made itself"
    protocols = [{**_essential(cell.protocol), "n": format_count(cell.n)} for _, cell in having]
    common = common_items(protocols)
    keys = sorted({key for protocol in protocols for key in protocol} - set(common))
    if not keys:
        return ""
    parts = "; ".join(f"{key}: {' | '.join(p.get(key, 'none') for p in protocols)}" for key in keys)
    if LIKELIHOOD.match(name.lower()) and kinds <= set(BOUNDS) and set(keys) <= TIGHTNESS:
        return (
            f"not comparable like for like: bounds of log p(x), each as tight as its own settings ({parts})"
        )
    return f"not comparable: protocols differ ({parts})"


def gap(a: Cell, b: Cell) -> tuple[float, float]:
    """``a − b`` of two figures that can be compared, and its standard error.

    Where both are means over the same images, the error is that of the differences image by image: how hard an image
    is moves both alike, and is most of the error of either.
    """
    if a.each is not None and b.each is not None and len(a.each) == len(b.each) > 1:
        differences = a.each - b.each
        return float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return (a.value or 0.0) - (b.value or 0.0), math.hypot(a.error, b.error)


def _essential(protocol: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in protocol.items() if key.split(".")[-1] not in INCIDENTAL}


def direction(name: str, unit: str, kind: str) -> int:
    """1 where higher is better, −1 where lower is, 0 where neither may be said.

    Yardsticks and diagnostics judge no model; bounds and estimates are ranked only where they are of log p(x).

    >>> direction("iwae-5000[full-normal]", "nats", "lower bound"), direction("bdmc lower", "nats", "lower bound")
    (1, 0)
    >>> direction("FID[inception]", "", "error"), direction("SSIM", "", "score")
    (-1, 1)
    """
    if kind in ("error", "score"):
        return -1 if kind == "error" else 1
    if not LIKELIHOOD.match(name.lower()):
        return 0
    if unit == "bits/dim":  # −log p(x): what bounds log p(x) below bounds it above
        return -1 if kind in ("upper bound", "unbiased", "exact") else 0
    return 1 if kind in ("lower bound", "unbiased", "exact") else 0


def mark_best(cells: Sequence[Cell | None], sign: int) -> list[Cell | None]:
    """Mark the best of the finite figures, and those that cannot be told from it."""
    finite = [c for c in cells if c and c.value is not None and math.isfinite(c.value)]
    if sign == 0 or not finite:
        return list(cells)
    best = max(finite, key=lambda cell: sign * (cell.value or 0.0))

    def ties(cell: Cell) -> bool:
        less, error = gap(cell, best)
        return abs(less) <= TIE * error

    return [replace(c, best=c is best or ties(c)) if c and c in finite else c for c in cells]
