"""What a table's runs have to say of themselves, as JSON values; and what its columns make of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from advae.reproduce.against import Runs, less, reference_of
from advae.reproduce.jobs import Job, Plan, Record
from advae.reproduce.table_spec import Column, Table
from advae.run import Run

TURNED = {"lower bound": "upper bound", "upper bound": "lower bound"}


def of_run(job: Job, run: Run) -> Record:
    """How a run was trained, and on what.

    Seconds are of training with its validations, over all sittings; so are milliseconds a step.
    """
    config, env, rows = run.config, run.env, run.metrics()
    last = {split: [row for row in rows if row["split"] == split][-1] for split in ("train", "validation")}
    steps, seconds = last["train"]["step"], last["train"]["time"]
    config["data"].pop("source")  # where they lie; the checksum says what they are
    return {
        **of_job(job),
        "run": str(run.path),
        "steps": steps,
        "seconds": seconds,
        "ms_per_step": round(1000 * seconds / steps, 3),
        "device": env["device"],
        "versions": env["versions"],
        "parameters": env["parameters"],
        "data": {key: env["data"][key] for key in ("name", "sizes", "shape", "protocol", "checksum")},
        "config": {key: config[key] for key in ("data", "model", "method", "train")},
        "last_validation": {key: value for key, value in last["validation"].items() if "/" in key},
    }


def of_job(job: Job) -> Record:
    """Which run it is."""
    return {
        "recipe": job.row.name,
        "seed": job.config.seed,
        "planned_steps": job.config.train.steps,
        "recipe_steps": job.recipe_steps,
    }


def whole(plan: Plan, records: Sequence[Record]) -> Record:
    """The table with every run so far; rows that are not run yet have no runs."""
    table, wanted = plan.table, plan.wanted
    by_row = {row.name: [record for record in records if record["recipe"] == row.name] for row in table.rows}
    rows = []
    for row in table.rows:
        runs = by_row[row.name]
        published = {name: asdict(known) for name, known in row.published.items()}
        figures = {column.name: figure(column, runs) for column in table.columns}
        yardsticks = {column.name: yardstick(column, runs) for column in table.columns if column.yardstick}
        rows.append(
            {
                "label": row.label,
                "recipe": row.name,
                "published": published,
                "figures": figures,
                "yardsticks": yardsticks,
                "against": against(table, row.name, by_row),
                "runs": runs,
            }
        )
    return {
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "seeds": sorted({job.config.seed for job in plan.jobs}),
        "budget": wanted.budget,
        "evaluation": plan.parts,
        "columns": {column.name: column.title for column in table.columns},
        "needs": {column.name: column.needs for column in table.columns},
        "rows": rows,
        "notes": list(table.notes),
    }


def against(table: Table, recipe: str, runs: Runs) -> Record | None:
    """A row less the reference on its data, by column; None where there is none."""
    reference = reference_of(recipe, table.references, runs)
    if reference is None:
        return None
    columns = {column.name: less(column, runs[recipe], runs[reference]) for column in table.columns}
    return {"recipe": reference, "columns": columns}


def figure(column: Column, runs: Sequence[Record]) -> Record | None:
    """What stands in a column for a row: the mean over its runs, with the spread; None if no run has it.

    The standard error is that over images of one run; all runs are judged on the same ones.
    """
    found = [estimate for run in runs if (estimate := column.estimate(run))]
    if not found:
        return None
    first, values = found[0], [estimate["value"] for estimate in found]
    errors = [e["stderr"] for e in found if e["stderr"] is not None and math.isfinite(e["stderr"])]
    sign = -1 if column.negated else 1
    return {
        "name": first["name"],
        "value": sign * float(np.mean(values)),
        "stderr": float(np.mean(errors)) if errors else None,
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "seeds": len(values),
        "kind": TURNED.get(first["kind"], first["kind"]) if column.negated else first["kind"],
        "unit": first["unit"],
        "n": first["n"],
    }


def yardstick(column: Column, runs: Sequence[Record]) -> Record | None:
    """What something other than the model gets in a column, by the first run that knows it."""
    found = (column.estimate(run, column.yardstick) for run in runs)
    estimate = next(filter(None, found), None)
    return estimate and {key: estimate[key] for key in ("name", "value", "stderr", "n")}
