"""Signals save a checkpoint, after SIGKILL the last one is readable, and closed streams do not stop training."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from advae.run import Run
from advae.training.checkpoint import load_ema_tensors

pytestmark = pytest.mark.integration

SRC = Path(__file__).resolve().parents[2] / "src"
ENDLESS = (
    "--train.steps",
    "1000000",
    "--train.backend",  # a run of this length would first be compiled
    "eager",
    "--train.checkpoint_every",
    "2",
    "--train.validate_every",
    "5",
    "--no-report",
)
FIRST_BEST = 5  # the step of the first validation, from which on there is a best checkpoint
HANG_TIMEOUT = 600.0  # seconds; only a process that hangs reaches it, however busy the machine is


def start_training(*argv: object) -> subprocess.Popen[str]:
    """Start ``advae train …`` in a separate process."""
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "advae", "train", *map(str, argv)]
    return subprocess.Popen(
        program,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restore_signals,
    )


def restore_signals() -> None:
    """Undo that ``nohup``, or a shell in the background, ignores them for all child processes."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_for_step(process: subprocess.Popen[str], run: Path, after: int = 0) -> None:
    """Wait for a checkpoint of a step later than ``after``."""
    until = time.monotonic() + HANG_TIMEOUT
    while time.monotonic() < until and process.poll() is None:
        if last_step(run) > after:
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"no checkpoint after step {after}: {process.communicate()[1]}")


def last_step(run: Path) -> int:
    """Return the step of the last checkpoint; 0 without one, or while it is being replaced."""
    try:
        return int(json.loads((run / "checkpoints" / "last" / "state.json").read_text())["step"])
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
    ids=["term", "int", "hup"],
)
def test_a_signal_saves_a_checkpoint_and_prints_how_to_resume(
    number: signal.Signals, code: int, tmp_path: Path, advae: Any, small: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    process = start_training("vae-digits", "--out", out, *small, *ENDLESS)
    wait_for_step(process, out)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=HANG_TIMEOUT)
    assert (process.returncode, stdout) == (code, "")
    assert number.name in stderr
    assert f"advae train --resume {out}" in stderr
    assert "Traceback" not in stderr
    step = last_step(out)
    assert advae("train", "--resume", out, "--train.steps", step + 3, "--no-report", "--quiet").code == 0
    assert last_step(out) == step + 3
    assert Run.open(out).model().info["step"] == step + 3


def test_sigkill_leaves_the_last_checkpoint_readable(
    tmp_path: Path, advae: Any, small: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    argv: tuple[object, ...] = ("vae-digits", "--out", out, *small, *ENDLESS)
    step = 0
    for number in range(2):  # a run from its start, and a resumed one
        process = start_training(*argv)
        wait_for_step(process, out, max(step, FIRST_BEST))
        time.sleep(random.Random(number).uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=HANG_TIMEOUT)
        run = Run.open(out)
        for name in ("last", "best"):
            assert load_ema_tensors(run.checkpoint(name))  # read whole, and its checksum is right
        state = json.loads((run.checkpoint() / "state.json").read_text())
        assert state["step"] > step
        step = state["step"]
        assert run.model().sample(2).isfinite().all()
        assert run.metrics()[0]["step"] == FIRST_BEST
        argv = ("--resume", out, "--no-report")
    assert advae("train", "--resume", out, "--train.steps", step + 3, "--no-report", "--quiet").code == 0
    assert last_step(out) == step + 3


@pytest.mark.parametrize(
    ("redirection", "codes"),
    [
        ("2>&1 >/dev/null | head -n 1 >/dev/null", {0}),
        ("2>&1 | true", {0, 141}),
        ("2>/dev/full", {0}),
        ("2>&-", {0}),
        (">&-", {0, 2}),
        (">&- 2>&-", {0, 2}),
        (">/dev/full 2>&1", {0, 2}),
    ],
)
def test_training_is_completed_whatever_the_streams(
    redirection: str, codes: set[int], tmp_path: Path, small: tuple[str, ...]
) -> None:
    """Progress, warnings and the result cannot be written; only the result is worth an error, after training."""
    out = tmp_path / "run"
    options = " ".join((*small, "--train.steps 20 --train.checkpoint_every 7 --no-report"))
    options = options.replace("[16]", "'[16]'")
    command = (
        f"set -o pipefail; {sys.executable} -m advae train vae-digits --out {out} {options} {redirection}"
    )
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    code = subprocess.run(
        ["bash", "-c", command], env=environment, check=False, timeout=HANG_TIMEOUT
    ).returncode
    assert last_step(out) == 20 and Run.open(out).model().info["step"] == 20
    assert [row["step"] for row in Run.open(out).metrics() if row["split"] == "train"] == [5, 10, 15, 20]
    assert code in codes
