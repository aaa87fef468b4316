"""The JSON record of a table: its runs, the value of each row in each column, and paired differences between rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from advae.errors import CheckpointError
from advae.report.comparison import ComparisonRow, RunEstimate, paired_difference, why_incomparable
from advae.reproduce.evaluate_job import FOLDER
from advae.reproduce.plan import Job, Plan, Record
from advae.reproduce.table_spec import Column, PaperTable
from advae.run import Run

OPPOSITE_BOUND = {"lower bound": "upper bound", "upper bound": "lower bound"}


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


def describe_job(job: Job) -> Record:
    """Return which run it is."""
    return {
        "recipe": job.row.name,
        "seed": job.config.seed,
        "planned_steps": job.config.train.steps,
        "recipe_steps": job.recipe_steps,
    }


def describe_run(run: Run) -> Record:
    """Return how a run was trained, and on what; times include validations."""
    config, env = run.config, run.env
    last = {row.get("split"): row for row in run.metrics()}
    if not {"train", "validation"} <= set(last):
        raise CheckpointError("Run has no metrics.", given=run.path / "metrics.jsonl", fix="train it again")
    steps, seconds = last["train"]["step"], last["train"]["time"]
    config["data"].pop("source")  # the checksum identifies the data
    data_keys = ("name", "sizes", "shape", "preprocessing", "checksum")
    return {
        "run": str(run.path),
        "steps": steps,
        "seconds": seconds,
        "ms_per_step": round(1000 * seconds / steps, 3),
        **{key: env[key] for key in ("device", "versions", "parameters")},
        "data": {key: env["data"][key] for key in data_keys},
        "config": {key: config[key] for key in ("data", "model", "method", "train")},
        "last_validation": {key: value for key, value in last["validation"].items() if "/" in key},
    }


def table_record(plan: Plan, records: Sequence[Record]) -> Record:
    """Return the table with all runs so far."""
    table = plan.table
    runs = {row.name: [r for r in records if r["recipe"] == row.name] for row in table.rows}
    rows = [
        {
            "label": row.label,
            "recipe": row.name,
            "published": {name: asdict(value) for name, value in row.published.items()},
            "values": {column.name: column_value(column, runs[row.name]) for column in table.columns},
            "baselines": {c.name: baseline_value(c, runs[row.name]) for c in table.columns if c.baseline},
            "differences": row_differences(table, row.name, runs),
            "runs": runs[row.name],
        }
        for row in table.rows
    ]
    return {
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "seeds": sorted({job.config.seed for job in plan.jobs}),
        "evaluation": plan.evaluation,
        "columns": {column.name: column.title for column in table.columns},
        "needs": {column.name: column.needs for column in table.columns},
        "rows": rows,
        "notes": list(table.notes),
    }


def column_value(column: Column, runs: Sequence[Record]) -> Record | None:
    """Return the mean over a row's runs, and its standard deviation; None if no run has a value.

    The standard error is that of one run over examples; all runs are evaluated on the same ones.
    """
    estimates = [e for run in runs if (e := column.find(run.get("estimates", ())))]
    if not estimates:
        return None
    first, values = estimates[0], [estimate["value"] for estimate in estimates]
    errors = [e["stderr"] for e in estimates if e["stderr"] is not None and math.isfinite(e["stderr"])]
    record: dict[str, Any] = {key: first[key] for key in ("name", "metric", "variant", "kind", "unit", "n")}
    if column.negated:
        record["kind"] = OPPOSITE_BOUND.get(first["kind"], first["kind"])
    return record | {
        "value": (-1 if column.negated else 1) * float(np.mean(values)),
        "stderr": float(np.mean(errors)) if errors else None,
        "seed_std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "seeds": len(values),
    }


def baseline_value(column: Column, runs: Sequence[Record]) -> Record | None:
    """Return the baseline of a column, from the first run that has one."""
    estimates = (column.find(run.get("estimates", ()), is_baseline=True) for run in runs)
    estimate = next(filter(None, estimates), None)
    return estimate and {key: estimate[key] for key in ("name", "metric", "variant", "value", "stderr", "n")}


# --- paired differences: the difficulty of examples cancels -------------------------------------------------


def row_differences(table: PaperTable, recipe: str, runs: Mapping[str, Sequence[Record]]) -> Record | None:
    """Return a row minus its reference, by column; None if it has no reference.

    The reference is the first one that was trained on the same data.
    """
    checksums = {
        name: {r["data"]["checksum"] for r in records if "data" in r} for name, records in runs.items()
    }
    for reference in table.references if recipe not in table.references else ():
        if checksums[reference] and checksums[reference] == checksums[recipe]:
            pair = runs[recipe], runs[reference]
            return {
                "recipe": reference,
                "columns": {c.name: mean_difference(c, *pair) for c in table.columns},
            }
    return None


def mean_difference(column: Column, runs: Sequence[Record], others: Sequence[Record]) -> Record | None:
    """Return the mean over common seeds of the paired differences; None without comparable values.

    The standard error is that of one seed's differences over examples.
    """
    by_seed = {run["seed"]: run for run in others}
    differences, n = [], 0
    for run in runs:
        a, b = (_load_estimate(column, record) for record in (run, by_seed.get(run["seed"], {})))
        if a and b and _is_paired(column, a, b):
            differences.append(paired_difference(a, b))
            n = a.n or 0
    if not differences:
        return None
    value, stderr = np.mean(differences, axis=0)
    sign = -1 if column.negated else 1
    return {"value": sign * float(value), "stderr": float(stderr), "seeds": len(differences), "n": n}


def _load_estimate(column: Column, record: Record) -> RunEstimate | None:
    estimate = column.find(record.get("estimates", ()))
    return RunEstimate.load(EvaluatedRun.from_record(record), estimate) if estimate else None


def _is_paired(column: Column, a: RunEstimate, b: RunEstimate) -> bool:
    """Return whether two estimates are means over the same examples, of the same kind and protocol."""
    if a.per_example is None or b.per_example is None:
        return False
    row = ComparisonRow(column.name, column.name, "", "likelihood", None, [a, b])
    return not why_incomparable(row, ("a", "b"))


def available_differences(row: Record) -> dict[str, Record]:
    """Return a row's differences by column, without columns that have none."""
    columns = row["differences"]["columns"] if row["differences"] else {}
    return {name: difference for name, difference in columns.items() if difference}
