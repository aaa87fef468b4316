"""Crash safety: SIGKILL at random moments of a training run, then verify all files and resume.

A run that saves a checkpoint at every step, and so spends much of its time writing, is started, killed at a random
moment, verified and resumed, repeatedly. Verified are the checkpoints ``last`` and ``best`` (checksums and tensors),
``model/`` (loaded and sampled from), config.yaml, env.json and metrics.jsonl. The run must then continue from the step
that it had reached.

    python benchmarks/crash_safety.py --kills 20 --seed 0

prints one line per kill; the exit code is 1 if anything could not be read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advae.errors import first_line
from advae.io import read_json
from advae.run import Run
from advae.training.checkpoint import load_ema_tensors

CHECKPOINT_TIMEOUT = 120.0  # seconds
MAX_DELAY = 1.5  # seconds from a new checkpoint to the kill
OPTIONS = (
    *("--train.steps", "100000000", "--train.backend", "eager", "--train.checkpoint_every", "1"),
    *("--train.validate_every", "2", "--train.log_every", "1", "--train.samples_every", "5"),
    *("--no-report", "--quiet"),
)


def main() -> int:
    """Kill, verify and resume; print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="asvae-digits")
    parser.add_argument("--out", type=Path, help="a new folder for the run; a temporary one by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failures = kill_repeatedly(args.out or Path(folder) / "run", args.recipe, args.kills, args.seed)
    print(f"\n{args.kills} kills, {failures} after which something could not be read")
    return 1 if failures else 0


def kill_repeatedly(out: Path, recipe: str, count: int, seed: int) -> int:
    """Return the number of kills after which something could not be read."""
    delays, step, failures = random.Random(seed), 0, 0
    print(
        f"{'kill':>4}  {'delay':>7}  {'last':>6}  {'best':>6}  {'model':>6}  {'lines':>6}  {'temp':>4}  result"
    )
    argv = [recipe, "--out", str(out), "--seed", str(seed), *OPTIONS]
    for number in range(1, count + 1):
        delay = delays.uniform(0, MAX_DELAY)
        kill_after_checkpoint(start_training(argv), out, step, delay)
        files = verify(Run.open(out))
        is_good = all(isinstance(value, int) for value in files.values()) and files["last"] > step
        failures += not is_good
        cells = "  ".join(f"{value!s:>6.6}" for value in list(files.values())[:4])
        result = "ok" if is_good else "; ".join(v for v in files.values() if isinstance(v, str))
        print(f"{number:>4}  {delay:>5.2f} s  {cells}  {files['temporary']:>4}  {result}", flush=True)
        step = files["last"] if isinstance(files["last"], int) else step
        argv = ["--resume", str(out), "--no-report", "--quiet"]
    return failures


def start_training(argv: list[str]) -> subprocess.Popen[bytes]:
    """Start ``advae train …``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "advae", "train", *argv]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def kill_after_checkpoint(process: subprocess.Popen[bytes], out: Path, step: int, delay: float) -> None:
    """Wait for a checkpoint after ``step``, then ``delay`` seconds, then send SIGKILL.

    Raises:
        RuntimeError: the process wrote no such checkpoint.
    """
    deadline = time.monotonic() + CHECKPOINT_TIMEOUT
    while not (last_step(out) > step and (out / "checkpoints" / "best").exists()):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"no checkpoint after step {step}: {process.communicate()[1].decode()}")
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.communicate()


def last_step(out: Path) -> int:
    """Return the last checkpoint's step while the run is writing; 0 if it is just being replaced."""
    try:
        return int(json.loads((out / "checkpoints" / "last" / "state.json").read_text())["step"])
    except FileNotFoundError:
        return 0


def verify(run: Run) -> dict[str, Any]:
    """Return the steps of last, best and model, and the numbers of metric lines and temporary files; or errors."""
    temporary = [p for p in (*run.path.glob(".*"), *run.path.glob("checkpoints/.*")) if p.name != ".lock"]
    return {
        "last": value_or_error(lambda: checkpoint_step(run, "last")),
        "best": value_or_error(lambda: checkpoint_step(run, "best")),
        "model": value_or_error(lambda: model_step(run)),
        "lines": value_or_error(lambda: count_metric_lines(run)),
        "temporary": len(temporary),
    }


def value_or_error(function: Callable[[], int]) -> int | str:
    """Return a function's value, or its error as text."""
    try:
        return function()
    except Exception as error:
        return first_line(error)


def checkpoint_step(run: Run, name: str) -> int:
    """Return the step of a checkpoint, after checking checksum and tensors."""
    tensors, step = load_ema_tensors(run.checkpoint(name))
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert step == read_json(run.checkpoint(name) / "state.json")["step"]
    return step


def model_step(run: Run) -> int:
    """Return the step of the model, after sampling from it."""
    assert run.config["recipe"] and run.env["data"]["checksum"]
    model = run.model()
    assert model.sample(1, seed=0).isfinite().all()
    return int(model.info["step"])


def count_metric_lines(run: Run) -> int:
    """Return the number of metric lines, which must be in order."""
    steps = [row["step"] for row in run.metrics()]
    assert steps == sorted(steps)
    return len(steps)


if __name__ == "__main__":
    sys.exit(main())
