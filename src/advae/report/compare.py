"""Runs side by side: one table of estimates with a run a column.

Two figures can be compared only if they are of one kind, in one unit, on the same data under the same
protocol. A row where that does not hold says so, and has no best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from advae.report.tables import flat, grouped, kind_text, listed, rounded, shared

if TYPE_CHECKING:
    from advae.run import Run

HIGHER, LOWER = {"lower bound"}, {"error"}
INCIDENTAL = {"seed", "device", "batch", "batch_size", "time"}  # figures that differ in these compare
LIKELIHOODS = {"elbo", "iwae", "ais", "log"}  # first words of names of estimates of log p(x)
TIE = 2.0  # standard errors of a difference below which two runs are not told apart


@dataclass(frozen=True)
class Cell:
    """One run's estimate of a row; ``best`` also for those within two standard errors of the best."""

    value: float | None
    stderr: float | None
    kind: str
    n: int | None
    protocol: dict[str, str]
    best: bool = False

    @property
    def text(self) -> str:
        value, error = rounded(self.value, self.stderr)
        return f"{value} ± {error}" if error else value


@dataclass(frozen=True)
class Line:
    """One row: an estimate, its cell in each run (None: the run has none), what forbids comparing them."""

    name: str
    unit: str
    kinds: str
    cells: list[Cell | None]
    protocol: str
    differs: str


@dataclass(frozen=True)
class Comparison:
    """Runs, the rows of their table, and the part of the protocol that all figures in it have in common."""

    runs: list[str]
    paths: list[str]
    lines: list[Line]
    protocol: str

    def as_dict(self) -> dict[str, Any]:
        """JSON: as the fields."""
        return asdict(self)

    def table(self) -> Table:
        """The table for a terminal; best in bold and starred, so that it shows without colour too."""
        table = Table(box=box.SIMPLE_HEAD, caption_justify="left")
        for title in ("estimate", "unit", "kind", *self.runs):
            table.add_column(Text(title), justify="right" if title in self.runs else "left")
        table.add_column("protocol", overflow="fold")
        for line in self.lines:
            cells = [
                Text(f"{c.text}{' *' if c.best else ''}" if c else "—", style="bold" if c and c.best else "")
                for c in line.cells
            ]
            note = Text(line.differs, style="yellow") if line.differs else Text(line.protocol, style="dim")
            table.add_row(Text(line.name), Text(line.unit), Text(line.kinds), *cells, note)
        notes = [f"common to all: {self.protocol}"] if self.protocol else []
        if any(cell and cell.best for line in self.lines for cell in line.cells):
            notes.append("* best, or within two standard errors of it")
        table.caption = Text("\n".join(notes))
        return table


def compare(runs: Sequence[Run]) -> Comparison:
    """The table of estimates of several runs."""
    names = run_names(runs)
    found = [
        {(str(e.get("name", "")), str(e.get("unit") or "")): _cell(run, e) for e in run.estimates()}
        for run in runs
    ]
    keys = list(dict.fromkeys(key for cells in found for key in cells))
    common = shared([cell.protocol for cells in found for cell in cells.values()])
    lines = [compare_line(*key, [cells.get(key) for cells in found], names, common) for key in keys]
    return Comparison(names, [str(run.path) for run in runs], lines, listed(common))


def compare_line(
    name: str, unit: str, cells: list[Cell | None], runs: Sequence[str], known: Mapping[str, str]
) -> Line:
    """One row, its best marked where figures can be compared at all; ``known`` is said once for all rows."""
    present = [cell for cell in cells if cell]
    kinds = list(dict.fromkeys(cell.kind for cell in present))
    common = {k: v for k, v in shared([cell.protocol for cell in present]).items() if k not in known}
    differs = difference(cells, runs)
    if not differs and len(present) > 1:
        cells = mark_best(cells, direction(name, unit, kinds[0]))
    return Line(name, unit, ", ".join(kind_text(kind) for kind in kinds), cells, listed(common), differs)


def difference(cells: Sequence[Cell | None], runs: Sequence[str]) -> str:
    """Why the figures of a row cannot be compared, or an empty string."""
    having = [(run, cell) for run, cell in zip(runs, cells, strict=True) if cell]
    if len({cell.kind for _, cell in having}) > 1:
        kinds = "; ".join(f"{run}: {kind_text(cell.kind)}" for run, cell in having)
        return f"not comparable: different kinds ({kinds})"
    settings = [{**_essential(cell.protocol), "n": grouped(cell.n)} for _, cell in having]
    common = shared(settings)
    keys = sorted({key for s in settings for key in s} - set(common))
    parts = [f"{key}: {' | '.join(s.get(key, 'none') for s in settings)}" for key in keys]
    return f"not comparable: protocols differ ({'; '.join(parts)})" if parts else ""


def _essential(protocol: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in protocol.items() if key.split(".")[-1] not in INCIDENTAL}


def direction(name: str, unit: str, kind: str) -> int:
    """1 where higher is better, −1 where lower is, 0 where neither may be said."""
    likelihood = name.partition(" ")[0].split("-")[0].lower() in LIKELIHOODS
    if unit == "bits/dim":  # −log p(x): what bounds log p(x) below bounds it above
        return -1 if likelihood and kind in ("upper bound", "unbiased", "exact") else 0
    if kind in HIGHER or (likelihood and kind in ("unbiased", "exact")):
        return 1
    return -1 if kind in LOWER else 0


def mark_best(cells: Sequence[Cell | None], sign: int) -> list[Cell | None]:
    """Mark the best of the finite figures, and those that cannot be told from it."""
    finite = [c for c in cells if c and c.value is not None and math.isfinite(c.value)]
    if sign == 0 or not finite:
        return list(cells)
    best = max(finite, key=lambda cell: sign * (cell.value or 0.0))

    def ties(cell: Cell) -> bool:
        error = math.hypot(cell.stderr or 0.0, best.stderr or 0.0)
        return abs((cell.value or 0.0) - (best.value or 0.0)) <= TIE * error

    return [Cell(**{**vars(c), "best": ties(c)}) if c and c in finite else c for c in cells]


def run_names(runs: Sequence[Run]) -> list[str]:
    """Names that tell the runs apart: the folder's, where needed with its parents', at last numbered."""
    for depth in (1, 2, 3):
        names = ["/".join(run.path.resolve().parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i})" for i, name in enumerate(names, 1)]


def _cell(run: Run, estimate: Mapping[str, Any]) -> Cell:
    protocol = flat(estimate.get("protocol") or {})
    checksum = (run.env.get("data") or {}).get("checksum")
    if checksum and not any("checksum" in key for key in protocol):
        protocol["data checksum"] = str(checksum)
    value, stderr, n = (estimate.get(key) for key in ("value", "stderr", "n"))
    return Cell(value, stderr, str(estimate.get("kind") or "unknown kind"), n, protocol)
