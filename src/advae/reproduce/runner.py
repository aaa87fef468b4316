"""Runs of a plan: each is trained, evaluated and recorded, and the page is written after each.

Interrupted at any point, the same call reuses what is done, resumes what was begun, and gives the same values.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from advae.errors import AdvaeError, WriteError, first_line
from advae.progress import StageProgress
from advae.reproduce.evaluate_job import get_or_evaluate
from advae.reproduce.markdown_report import write_report
from advae.reproduce.plan import Job, Log, Plan, Record
from advae.reproduce.results import describe_job, describe_run
from advae.run import Run
from advae.training.train import train_or_resume

SECONDS_BETWEEN_PAGES = 10.0  # runs that are already finished take no time


def run_plan(
    plan: Plan,
    out: Path,
    stage: StageProgress,
    log: Log,
    *,
    command: str = "",
    quiet: bool = False,
    debug: bool = False,
) -> Sequence[Record]:
    """Train, evaluate and record every run of a plan; a run that fails is recorded with its error.

    Args:
        plan: what to do.
        out: folder of the results.
        stage: shows progress of evaluations.
        log: prints what is being done.
        command: recorded in the runs.
        quiet: show no progress of training.
        debug: print the traceback of a run that fails.

    Returns:
        A record for each run.

    Raises:
        KeyboardInterrupt: a signal came; finished work is kept, and the page is written.
        WriteError: the disk is full or broken; finished work is kept.
    """
    records = list[Record]()
    last_page = time.monotonic()
    try:
        for number, job in enumerate(plan.jobs, 1):
            log(f"[{number} of {len(plan.jobs)}] {job}: {job.config.train.steps:,} steps")
            records.append(_run_job(plan, job, stage, log, command, quiet, debug))
            if time.monotonic() - last_page > SECONDS_BETWEEN_PAGES:
                write_report(plan, records, out)
                last_page = time.monotonic()
        write_report(plan, records, out)
    except KeyboardInterrupt:
        if records:
            write_report(plan, records, out)
        raise
    except WriteError as error:
        make_room = (error.fix or "").partition(";")[0]  # training's fix goes on with how to resume one run
        fix = f"{make_room}; then repeat the command: it continues"
        raise WriteError(
            "Reproduction stopped: a file cannot be written.", given=error.given, fix=fix
        ) from error
    return records


def _run_job(
    plan: Plan, job: Job, stage: StageProgress, log: Log, command: str, quiet: bool, debug: bool
) -> Record:
    try:
        run = train_job(job, command=command, quiet=quiet)
        return describe_job(job) | describe_run(run) | get_or_evaluate(plan, job, run, stage)
    except WriteError:  # the other rows could not be written either
        raise
    except Exception as error:  # of any type: the other rows are run, and the page shows the error
        if debug:
            traceback.print_exc()
        text = str(error) if isinstance(error, AdvaeError) else first_line(error)
        log(f"{job} failed: {text}")
        return describe_job(job) | {"error": text}


def train_job(job: Job, *, command: str = "", quiet: bool = False) -> Run:
    """Return the finished run of a job: an existing one, one that is resumed, or a new one."""
    options = {"device": job.config.device, "data.source": job.config.data.source}
    tree, out = job.config.to_dict(), job.run_folder()
    return train_or_resume(tree, options=options, out=out, command=command, quiet=quiet, data=job.data)
