"""The state of each run of a plan, and an estimate of the remaining training time."""

from __future__ import annotations

from typing import Any

from advae.errors import AdvaeError
from advae.io import read_json
from advae.reproduce.evaluate_job import cached_result
from advae.reproduce.plan import Job, Log, Plan
from advae.run import Run
from advae.training.benchmark import time_step
from advae.training.checkpoint import STATE_FILE
from advae.training.setup import Setup
from advae.training.train import is_finished


def estimate_cost(plan: Plan, log: Log) -> list[dict[str, Any]]:
    """Return state, steps and remaining seconds of training for each run; None if a row cannot be set up."""
    seconds_per_step: dict[str, float | None] = {}
    rows = []
    for job in plan.jobs:
        state, steps_done = _state(plan, job)
        steps_left = max(0, job.config.train.steps - steps_done)
        name = job.row.name
        if steps_left and name not in seconds_per_step:
            seconds_per_step[name] = _time_step(job, log)
        per_step = seconds_per_step.get(name)
        row = {"recipe": name, "seed": job.config.seed, "run": str(job.run_folder()), "state": state}
        row |= {"steps": job.config.train.steps, "recipe_steps": job.recipe_steps}
        rows.append(row | {"training": 0.0 if not steps_left else per_step and per_step * steps_left})
    return rows


def _state(plan: Plan, job: Job) -> tuple[str, int]:
    """Return the state of a job's run and its number of steps."""
    run = job.find_run()
    if run is None:
        return "to train", 0
    if not is_finished(run):
        steps = _steps_done(run)
        return f"stopped at {steps:,}", steps
    state = "trained" if cached_result(plan, job, run) is None else "done"
    return state, job.config.train.steps


def _steps_done(run: Run) -> int:
    try:
        return int(read_json(run.checkpoint() / STATE_FILE)["step"])
    except AdvaeError:  # killed before its first checkpoint
        return 0


def _time_step(job: Job, log: Log) -> float | None:
    """Return the seconds of a training step on this machine as it is now."""
    log(f"timing a few steps of {job.row.name} …")
    try:
        return time_step(Setup(job.config, job.data))
    except AdvaeError as error:  # training the row will raise it again
        log(f"{job.row.name}: {error.what}")
        return None
