"""Comparison of runs: one table of their estimates, and which run is best.

Estimates are compared only if they have the same kind, unit, data and protocol. Bounds on log p(x) that differ only
in how tight they were made are all bounds, but are not ranked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advae.errors import AdvaeError, CheckpointError
from advae.evaluation.estimate import file_stem
from advae.formatting import (
    MISSING,
    Column,
    Table,
    TableCell,
    TableNote,
    TableRow,
    as_interval,
    common_items,
    format_count,
    format_duration,
    format_interval,
    format_settings,
    format_with_error,
)
from advae.io import path_inside, read_npz
from advae.report.estimate_table import (
    BASELINE,
    UNRANKED_KINDS,
    EstimateDict,
    ProtocolRow,
    build_table,
    describe_kind,
    display_order,
    protocol_items,
    read_evaluation,
    section_of,
)

if TYPE_CHECKING:
    from advae.run import Run

INCIDENTAL_SETTINGS = {"seed", "device", "batch", "batch_size", "time"}  # do not affect comparability
TIGHTNESS_SETTINGS = {  # move a bound closer to log p(x) or farther from it, but leave it a bound
    *("estimator", "proposal", "samples"),
    *("chains", "temperatures", "schedule", "init", "leapfrog_steps"),
}
BOUND_KINDS = {"lower bound", "upper bound"}
MAX_TIE_SIGMAS = 2.0  # standard errors of a difference up to which two runs are equally good
# Where a run is, what has a row of its own, and sentences on the recipe, which would widen the table beyond a page.
UNCOMPARED_OPTIONS = {"out", "device", "method.name", "description", "published"}
NORMAL_95_SIGMAS = 1.959964  # half a 95 % interval of a normal
RUN_NAME_DEPTH = 3  # parent folders that may be part of a run's name
MEAN_REL_TOL = (
    1e-5  # between the mean of per-example values and the estimate, which may have been rounded to float32
)


@dataclass(frozen=True)
class RunEstimate:
    """One run's estimate in a row; ``best`` also for those within two standard errors of the best.

    ``per_example`` are the values whose mean the estimate is, where they are known.
    """

    value: float | None
    stderr: float | None
    kind: str
    n: int | None
    protocol: dict[str, str]
    interval: tuple[float, float] | None = None
    best: bool = False
    per_example: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, run: Run, estimate: EstimateDict) -> RunEstimate:
        """Return an estimate as ``eval/estimates.json`` of a run has it; the run's data are part of its protocol."""
        protocol, data = protocol_items(estimate), run.env.get("data")
        checksum = data.get("checksum") if isinstance(data, Mapping) else None
        if checksum and not {"checksum", "data.checksum"} & set(protocol):
            protocol["data checksum"] = str(checksum)
        return cls(
            value=estimate.get("value"),
            stderr=estimate.get("stderr"),
            kind=str(estimate.get("kind")),
            n=estimate.get("n"),
            protocol=protocol,
            interval=as_interval(estimate.get("interval")),
            per_example=per_example_values(run, estimate),
        )

    def __str__(self) -> str:
        text = format_with_error(self.value, self.stderr, self.interval)
        return text if "±" in text else f"{text} {format_interval(self.interval)}".rstrip()

    @property
    def error(self) -> float:
        """The standard error, or that of a normal with the same 95 % interval, or 0."""
        if self.stderr and math.isfinite(self.stderr):
            return self.stderr
        low, high = self.interval or (0.0, 0.0)
        return (high - low) / (2 * NORMAL_95_SIGMAS)


@dataclass(frozen=True)
class ComparisonRow:
    """One estimate in every run that has it; ``incomparable`` is the reason why the runs are not ranked by it."""

    name: str
    metric: str
    unit: str
    section: str
    higher_is_better: bool | None
    estimates: list[RunEstimate | None]
    incomparable: str = ""

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(e.kind for e in self.estimates if e))

    def table_row(self) -> TableRow:
        """Return the row with a cell for each run, the unit and the kinds."""
        cells = [TableCell(str(e) if e else "—", "best" if e and e.best else "") for e in self.estimates]
        kinds = ", ".join(map(describe_kind, self.kinds))
        has_warning = kinds != ", ".join(self.kinds)
        cells += [TableCell(self.unit), TableCell(kinds, "warning" if has_warning else "")]
        return TableRow(self.name, tuple(cells), baseline=self.kinds == [BASELINE])


@dataclass(frozen=True)
class Comparison:
    """The estimates of several runs, a row for each name and unit; for runs without estimates the reason, if known.

    ``differences`` are method, training and the options that differ, by name, with a text for each run.
    """

    runs: list[str]
    paths: list[str]
    rows: list[ComparisonRow]
    unevaluated: dict[str, str] = field(default_factory=dict)
    differences: dict[str, list[str]] = field(default_factory=dict)

    def differences_table(self) -> Table:
        """Return the table of differences with a column for each run."""
        rows = [(name, *texts) for name, texts in self.differences.items()]
        return Table.from_texts(["", *self.runs], rows)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values of everything but the per-example values."""
        result = asdict(self)
        for row in result["rows"]:
            for estimate in filter(None, row["estimates"]):
                del estimate["per_example"]
        return result

    def table(self) -> Table:
        """Return the table with a column for each run."""
        columns = [Column("metric", breakable=True), *(Column(run, numeric=True) for run in self.runs)]
        columns += [Column("unit"), Column("kind", breakable=True)]
        rows = [
            ProtocolRow(
                row.section, row.table_row(), [e.protocol for e in row.estimates if e], row.incomparable
            )
            for row in self.rows
        ]
        notes = [("", TableNote(run, text, warning=True)) for run, text in self.unevaluated.items()]
        return build_table(columns, rows, notes)

    @property
    def has_best(self) -> bool:
        return any(e and e.best for row in self.rows for e in row.estimates)


def compare(runs: Sequence[Run], names: Sequence[str] = ()) -> Comparison:
    """Return the estimates of several runs by name; runs are named as given, or by their folders."""
    names = list(names) or run_names(runs)
    evaluations = [read_evaluation(run) for run in runs]
    by_key = [{(e.get("name"), e.get("unit")): e for e in estimates} for estimates, _ in evaluations]
    first = {key: estimate for estimates in reversed(by_key) for key, estimate in estimates.items()}
    keys = list(dict.fromkeys(key for estimates in by_key for key in estimates))
    rows = []
    for i in display_order([first[key] for key in keys]):
        estimate, values = first[keys[i]], [estimates.get(keys[i]) for estimates in by_key]
        row = ComparisonRow(
            name=str(estimate.get("name", "")),
            metric=str(estimate.get("metric", "")),
            unit=str(estimate.get("unit") or ""),
            section=section_of(estimate),
            higher_is_better=estimate.get("higher_is_better"),
            estimates=[RunEstimate.load(run, e) if e else None for run, e in zip(runs, values, strict=True)],
        )
        rows.append(rank(replace(row, incomparable=why_incomparable(row, names))))
    unevaluated = {
        name: str(remarks[0].get("text", ""))
        for name, (estimates, remarks) in zip(names, evaluations, strict=True)
        if remarks and not estimates
    }
    return Comparison(names, [str(run.path) for run in runs], rows, unevaluated, describe_differences(runs))


def describe_differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return method, steps, training time and parameters of each run, and the options that differ, as texts."""
    described = [_describe_run(run) for run in runs]
    options = [format_settings(run.config) for run in runs]
    common = common_items(options)
    differing = [
        name
        for name in dict.fromkeys(name for settings in options for name in settings)
        if name not in common and name not in UNCOMPARED_OPTIONS
    ]
    rows = {name: [description[name] for description in described] for name in described[0]}
    return rows | {name: [settings.get(name, MISSING) for settings in options] for name in differing}


def _describe_run(run: Run) -> dict[str, str]:
    method, metrics = run.config.get("method"), run.metrics()
    last = {name: value for line in metrics for name, value in line.items() if name in ("step", "time")}
    try:
        parameters = format_count(sum(p.numel() for p in run.model().parameters()))
    except AdvaeError:
        parameters = MISSING
    seconds = last.get("time")
    return {
        "method": str((method.get("name") if isinstance(method, Mapping) else method) or MISSING),
        "steps": format_count(last.get("step")),
        "training time": (
            format_duration(seconds)
            if isinstance(seconds, int | float) and math.isfinite(seconds)
            else MISSING
        ),
        "parameters": parameters,
    }


def why_incomparable(row: ComparisonRow, runs: Sequence[str]) -> str:
    """Return why the estimates of a row cannot be compared, or an empty string."""
    present = {run: e for run, e in zip(runs, row.estimates, strict=True) if e}
    if len(row.kinds) > 1:
        kinds = "; ".join(f"{run}: {describe_kind(e.kind)}" for run, e in present.items())
        return f"not comparable: different kinds ({kinds})"
    if len(present) > 1 and any("images" in e.protocol for e in present.values()):
        return "not comparable: each model is evaluated on images that it generated"
    protocols = [
        {k: text for k, text in e.protocol.items() if k.split(".")[-1] not in INCIDENTAL_SETTINGS}
        | {"n": format_count(e.n)}
        for e in present.values()
    ]
    common = common_items(protocols)
    different = sorted({key for protocol in protocols for key in protocol} - set(common))
    if not different:
        return ""
    settings = "; ".join(f"{key}: {' | '.join(p.get(key, 'none') for p in protocols)}" for key in different)
    is_log_likelihood_bound = row.section == "likelihood" and set(row.kinds) <= BOUND_KINDS
    if is_log_likelihood_bound and set(different) <= TIGHTNESS_SETTINGS:
        return f"not ranked: bounds on log p(x) that differ in tightness ({settings})"
    return f"not comparable: different protocols ({settings})"


def rank(row: ComparisonRow) -> ComparisonRow:
    """Mark the best of comparable finite estimates, and those within two standard errors of the difference."""
    finite = [e for e in row.estimates if e and e.value is not None and math.isfinite(e.value)]
    is_unranked = row.higher_is_better is None or any(e.kind in UNRANKED_KINDS for e in finite)
    if row.incomparable or is_unranked or sum(e is not None for e in row.estimates) < 2 or not finite:
        return row
    best = (max if row.higher_is_better else min)(finite, key=lambda e: e.value or 0.0)

    def mark(estimate: RunEstimate | None) -> RunEstimate | None:
        if estimate is None or not any(estimate is e for e in finite):
            return estimate
        difference, error = paired_difference(estimate, best)
        return replace(estimate, best=estimate is best or abs(difference) <= MAX_TIE_SIGMAS * error)

    return replace(row, estimates=list(map(mark, row.estimates)))


def paired_difference(a: RunEstimate, b: RunEstimate) -> tuple[float, float]:
    """Return ``a − b`` of two comparable estimates, and its standard error.

    Where both are means over the same examples, the error is that of the paired differences: how hard an example is
    affects both alike, and is most of the error of either.
    """
    if a.per_example is not None and b.per_example is not None:
        n = len(a.per_example)
        if n == len(b.per_example) > 1:
            differences = a.per_example - b.per_example
            return float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(n)
    return (a.value or 0.0) - (b.value or 0.0), math.hypot(a.error, b.error)


def per_example_arrays(run: Run, estimate: EstimateDict) -> dict[str, NDArray[Any]]:
    """Return the arrays of an estimate, ``eval/NAME.npz``; empty if there is no such file or it cannot be read."""
    try:
        name = f"{file_stem(str(estimate.get('name', '')))}.npz"
        return dict(read_npz(path_inside(run.path, run.eval_folder, name)))
    except CheckpointError:
        return {}


def per_example_values(run: Run, estimate: EstimateDict) -> NDArray[np.float64] | None:
    """Return the values whose mean an estimate is; None if they were not saved or are of another evaluation."""
    values, mean = per_example_arrays(run, estimate).get("value"), estimate.get("value")
    if (
        values is None
        or mean is None
        or values.dtype.kind not in "fiu"
        or values.shape != (estimate.get("n"),)
    ):
        return None
    values = values.astype(np.float64)
    return values if abs(values.mean() - mean) <= MEAN_REL_TOL * max(1.0, abs(mean)) else None


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return names that distinguish the runs: their folders, with parents where needed, finally numbered."""
    for depth in range(1, RUN_NAME_DEPTH + 1):
        names = ["/".join(run.path.resolve().parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i})" for i, name in enumerate(names, 1)]
