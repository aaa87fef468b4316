"""Runs side by side: one table of estimates with a run a column, one sheet of samples, curves over each other.

Two figures can be compared only if they are of one kind, in one unit, on the same data under the same
protocol. A row where that does not hold says so, and has no best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from advae.errors import AdvaeError
from advae.files import write_atomically, write_json
from advae.report.curves import collect, overlaid_curves
from advae.report.paper import Plate, plate, render
from advae.report.sheets import sheets_beside
from advae.report.tables import flat, grouped, kind_text, listed, rounded, shared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advae.run import Run

HIGHER, LOWER = {"lower bound"}, {"error"}
INCIDENTAL = {"seed", "device", "batch", "batch_size", "time"}  # settings that figures may differ in and be compared
TIE = 2.0  # standard errors of a difference below which two runs are not told apart
SAMPLES = 64


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
    """One row: an estimate, its cell for each run (None where the run has none), and what forbids comparing."""

    name: str
    unit: str
    kinds: str
    cells: list[Cell | None]
    protocol: str
    differs: str


@dataclass(frozen=True)
class Comparison:
    """Runs and the rows of their table."""

    runs: list[str]
    paths: list[str]
    lines: list[Line]

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
        if any(cell and cell.best for line in self.lines for cell in line.cells):
            table.caption = "* best, or within two standard errors of it"
        return table


def compare(runs: Sequence[Run]) -> Comparison:
    """The table of estimates of several runs."""
    names = run_names(runs)
    found = [{(e["name"], e.get("unit") or ""): e for e in run.estimates()} for run in runs]
    keys = list(dict.fromkeys(key for estimates in found for key in estimates))
    lines = [
        compare_line(*key, [_cell(run, estimates.get(key)) for run, estimates in zip(runs, found, strict=True)], names)
        for key in keys
    ]
    return Comparison(names, [str(run.path) for run in runs], lines)


def compare_line(name: str, unit: str, cells: list[Cell | None], runs: Sequence[str]) -> Line:
    """One row, its best marked where figures can be compared at all."""
    present = [cell for cell in cells if cell]
    kinds = list(dict.fromkeys(cell.kind for cell in present))
    common = shared([cell.protocol for cell in present])
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
    likelihood = kind in ("unbiased", "exact") and name.split("-")[0].lower() in ("elbo", "iwae", "ais", "log")
    if kind in HIGHER or likelihood:
        return -1 if unit == "bits/dim" else 1
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


def write_comparison(runs: Sequence[Run], out: Path) -> Path:
    """Write ``compare.html``, ``compare.json`` and PNG figures into the folder ``out``.

    Returns:
        The path of the page.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    result = compare(runs)
    write_json(out / "compare.json", result.as_dict())
    samples, silent = gather_samples(runs, result.runs)
    metrics = {name: run.metrics() for name, run in zip(result.runs, runs, strict=True)}
    plates: list[Plate] = []
    if samples:
        caption = "Means of p(x|z) at codes drawn from the prior, the same draws for every run; not selected."
        plates.append(
            plate(lambda t: sheets_beside(samples, theme=t), "Samples.", caption, file=out / "compare-samples.png")
        )
    if any(collect(m) for m in metrics.values()):
        caption = "On validation data where all runs recorded it, else running means over training batches."
        plates.append(
            plate(lambda t: overlaid_curves(metrics, theme=t), "Curves.", caption, file=out / "compare-curves.png")
        )
    page = render("comparison.html", result=result, plates=plates, silent=silent)
    write_atomically(out / "compare.html", page)
    return out / "compare.html"


def run_names(runs: Sequence[Run]) -> list[str]:
    """Short names that tell the runs apart: the folder's, with its parents' or a number where that is not enough."""
    for depth in (1, 2, 3):
        names = ["/".join(run.path.resolve().parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i})" for i, name in enumerate(names, 1)]


def gather_samples(runs: Sequence[Run], names: Sequence[str]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Samples of each run whose data are images, in grey levels; and the reasons why others have none."""
    samples: dict[str, NDArray[Any]] = {}
    silent = []
    for run, name in zip(runs, names, strict=True):
        try:
            model = run.model()
        except AdvaeError as error:
            silent.append(f"{name}: {error.what}")
            continue
        if len(model.x_shape) != 3:
            silent.append(f"{name}: its data are not images")
            continue
        protocol = (run.env.get("data") or model.info.get("data") or {}).get("protocol") or {}
        samples[name] = to_levels(model.sample(SAMPLES, seed=0).float().cpu().numpy(), protocol)
    return samples, silent


def to_levels(x: NDArray[Any], protocol: Mapping[str, Any] | str) -> NDArray[Any]:
    """Observations in the model's space to grey levels 0..255, by the name of their protocol.

    The data themselves are not opened for this; so standardised reals are stretched to fill the scale.
    """
    name = str(protocol.get("name", "") if isinstance(protocol, Mapping) else protocol)
    if name.startswith(("binarise", "grey")):
        return 255.0 * x
    if name == "dequantise":
        return 256.0 * x - 0.5
    low, high = float(x.min()), float(x.max())
    return (x - low) * (255.0 / max(high - low, 1e-12))


def _cell(run: Run, estimate: Mapping[str, Any] | None) -> Cell | None:
    if estimate is None:
        return None
    protocol = flat(estimate.get("protocol") or {})
    checksum = (run.env.get("data") or {}).get("checksum")
    if checksum and not any("checksum" in key for key in protocol):
        protocol["data checksum"] = str(checksum)
    value, stderr, n = (estimate.get(key) for key in ("value", "stderr", "n"))
    return Cell(value, stderr, str(estimate.get("kind") or "unknown kind"), n, protocol)
