"""A table carried out: every run trained, judged and recorded, one after another, and the page written after each.

Interrupted at any point, the same call finds what is done, goes on with what was begun, and ends with the same figures.
"""

from __future__ import annotations

import os
import time
import traceback
from pathlib import Path
from typing import Any

from advae.errors import AdvaeError
from advae.reproduce.evaluate_job import kept
from advae.reproduce.jobs import Job, Plan, Record, Say, Stage
from advae.reproduce.results import of_job, of_run
from advae.run import Run
from advae.training.train import completed

BETWEEN = 10.0  # seconds between two pages, so that rows found finished cost little


def carried_out(
    plan: Plan, out: Path, stage: Stage, say: Say, *, command: str = "", quiet: bool = False
) -> list[Record]:
    """Train, judge and record every run of a plan; a run that fails is recorded with its error.

    Args:
        plan: what to do.
        out: the folder of the results.
        stage: shows the progress of evaluations.
        say: told what is done.
        command: what runs record as the command.
        quiet: show no progress of training.

    Returns:
        A record of each run.

    Raises:
        KeyboardInterrupt: a signal came; what is done so far is kept, and the page is written.
    """
    records = list[Record]()
    out.mkdir(parents=True, exist_ok=True)
    written = time.monotonic()
    try:
        for number, job in enumerate(plan.jobs, 1):
            say(f"[{number} of {len(plan.jobs)}] {job.name}: {job.config.train.steps:,} steps")
            records.append(_done(plan, job, stage, say, command, quiet))
            if time.monotonic() - written > BETWEEN:
                plan.study.publish(plan, records, out)
                written = time.monotonic()
    finally:
        if records:
            plan.study.publish(plan, records, out)
    return records


def _done(plan: Plan, job: Job, stage: Stage, say: Say, command: str, quiet: bool) -> Record:
    try:
        run = trained(job, command=command, quiet=quiet)
        found = kept(run, plan.study.question(plan, job), lambda: plan.study.judge(plan, job, run, stage))
        return of_run(job, run) | found
    except Exception as error:  # of whatever kind: the other rows go on, and the page says what happened
        if os.environ.get("ADVAE_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        text = str(error) if isinstance(error, AdvaeError) else f"{type(error).__name__}: {error}"
        say(f"{job.name} failed: {text}")
        return of_job(job) | {"error": text}


def trained(job: Job, *, command: str = "", quiet: bool = False) -> Run:
    """The run of a job, finished: found, gone on with, or trained."""
    options: dict[str, Any] = {"device": job.config.device, "data.source": job.config.data.source}
    return completed(
        job.config.to_dict(), options=options, out=job.place(), command=command, quiet=quiet, data=job.data
    )
