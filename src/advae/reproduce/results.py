"""The JSON record of a table: how its runs were trained, and the value of each row in each column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from advae.reproduce.paired_differences import row_differences
from advae.reproduce.plan import Job, Plan, Record
from advae.reproduce.table_spec import Column
from advae.run import Run

OPPOSITE_BOUND = {"lower bound": "upper bound", "upper bound": "lower bound"}


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
    config, env, metrics = run.config, run.env, run.metrics()
    last = {split: [row for row in metrics if row["split"] == split][-1] for split in ("train", "validation")}
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
    record["kind"] = OPPOSITE_BOUND.get(first["kind"], first["kind"]) if column.negated else first["kind"]
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
