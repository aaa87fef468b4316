"""Rows compared with a reference example by example: the difficulty of examples cancels in the differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from advae.formatting import format_with_error
from advae.report.comparison import ComparisonRow, RunEstimate, paired_difference, why_incomparable
from advae.reproduce.evaluate_job import FOLDER
from advae.reproduce.plan import Record
from advae.reproduce.table_spec import Column, Table
from advae.run import Run

Runs = Mapping[str, Sequence[Record]]


@dataclass(frozen=True)
class EvaluatedRun(Run):
    """A run with its estimates for a table, whatever it was evaluated for since."""

    eval_folder: ClassVar[str] = FOLDER
    table_estimates: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_record(cls, record: Record) -> EvaluatedRun:
        """Return the run of a record."""
        return cls(Path(record["run"]), table_estimates=record["estimates"])

    def estimates(self) -> list[dict[str, Any]]:
        return self.table_estimates


def row_differences(table: Table, recipe: str, runs: Runs) -> Record | None:
    """Return a row minus its reference, by column; None if it has no reference.

    The reference is the first one that was trained on the same data.
    """
    checksums = {
        name: {r["data"]["checksum"] for r in records if "data" in r} for name, records in runs.items()
    }
    candidates = (
        name for name in table.references if checksums[name] and checksums[name] == checksums[recipe]
    )
    reference = None if recipe in table.references else next(candidates, None)
    if reference is None:
        return None
    columns = {
        column.name: _mean_difference(column, runs[recipe], runs[reference]) for column in table.columns
    }
    return {"recipe": reference, "columns": columns}


def _mean_difference(column: Column, runs: Sequence[Record], others: Sequence[Record]) -> Record | None:
    """Return the mean over common seeds of the paired differences; None without comparable values.

    The standard error is that of one seed's differences over examples.
    """
    by_seed = {run["seed"]: run for run in others}
    differences, n = [], 0
    for run in runs:
        a, b = _estimate(column, run), _estimate(column, by_seed.get(run["seed"], {}))
        if a and b and _is_paired(column, a, b):
            differences.append(paired_difference(a, b))
            n = a.n or 0
    if not differences:
        return None
    value, stderr = np.mean(differences, axis=0)
    sign = -1 if column.negated else 1
    return {"value": sign * float(value), "stderr": float(stderr), "seeds": len(differences), "n": n}


def _estimate(column: Column, record: Record) -> RunEstimate | None:
    estimate = column.find(record.get("estimates", ()))
    return RunEstimate.load(EvaluatedRun.from_record(record), estimate) if estimate else None


def _is_paired(column: Column, a: RunEstimate, b: RunEstimate) -> bool:
    """Return whether two estimates are means over the same examples, of the same kind and protocol."""
    if a.per_example is None or b.per_example is None:
        return False
    row = ComparisonRow(column.name, column.name, "", "likelihood", None, [a, b])
    return not why_incomparable(row, ("a", "b"))


def difference_cells(record: Record) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of the rows and columns of a table record that have differences."""
    labels = {row["recipe"]: row["label"] for row in record["rows"]}
    rows = [(row, differences) for row in record["rows"] if (differences := available(row))]
    columns = [name for name in record["columns"] if any(name in differences for _, differences in rows)]
    cells = []
    for row, differences in rows:
        texts = [_signed(differences[name]) if name in differences else "–" for name in columns]
        cells.append([f"{row['label']} − {labels[row['differences']['recipe']]}", *texts])
    return ["", *(record["columns"][name] for name in columns)], cells


def available(row: Record) -> dict[str, Record]:
    """Return a row's differences by column, without columns that have none."""
    columns = row["differences"]["columns"] if row["differences"] else {}
    return {name: difference for name, difference in columns.items() if difference}


def _signed(difference: Record) -> str:
    text = format_with_error(difference["value"], difference["stderr"])
    return text if text.startswith("−") else f"+{text}"
