"""What a plan would do, run by run, and about how long it would take."""

from __future__ import annotations

from typing import Any

from advae.errors import AdvaeError
from advae.io import read_json
from advae.reproduce.evaluate_job import answer
from advae.reproduce.jobs import Job, Plan, Say
from advae.reproduce.plan import timed
from advae.reproduce.probe import Speed
from advae.run import Run
from advae.training.checkpoint import STATE
from advae.training.train import finished

TRAINED, DONE = "trained", "done"


def forecast(plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Of each run its state, steps, and the seconds that are left of training and evaluation, estimated.

    What is done takes no time; None is what no speed is known for.
    """
    open_ones = {job.row.name: job for job in plan.jobs if _state(plan, job) != DONE}
    configs = {name: job.config for name, job in open_ones.items() if name not in plan.speeds}
    data = {job.config.data: job.data for job in open_ones.values()}
    speeds = {**plan.speeds, **timed(configs, data, say)}
    return [_of(plan, job, speeds.get(job.row.name)) for job in plan.jobs]


def _of(plan: Plan, job: Job, speed: Speed | None) -> dict[str, Any]:
    state, run, images = _state(plan, job), job.run(), len(job.data.test)
    trained, done = state in (DONE, TRAINED), _steps(run) if run else 0
    judging = speed.judging(plan.parts, images) if speed and plan.parts else None
    return {
        "recipe": job.row.name,
        "seed": job.config.seed,
        "run": str(job.place()),
        "state": state,
        "steps": job.config.train.steps,
        "recipe_steps": job.recipe_steps,
        "training": 0.0 if trained else speed and speed.training(job.config.train, done),
        "evaluation": 0.0 if state == DONE else judging,
    }


def _state(plan: Plan, job: Job) -> str:
    run = job.run()
    if run is None:
        return "to train"
    if not finished(run):
        return f"stopped at {_steps(run):,}"
    return TRAINED if answer(run, plan.study.question(plan, job)) is None else DONE


def _steps(run: Run) -> int:
    """How far a run has come."""
    try:
        return int(read_json(run.checkpoint() / STATE)["step"])
    except AdvaeError:  # killed before its first checkpoint
        return 0
