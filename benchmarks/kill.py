"""SIGKILL at random moments of a training run, and after each: can everything be read, and does it go on?

A run that saves a checkpoint at every step, and so spends much of its time writing, is started, killed at a
random moment, looked at, and resumed, again and again. Looked at are the checkpoints ``last`` and ``best``
(checksums and tensors), ``model/`` (loaded, sampled from), config.yaml, env.json and metrics.jsonl. The run
must then go on from the step it had reached.

    python benchmarks/kill.py --kills 20 --seed 0

prints a line a kill; exit code 1 if anything could not be read.
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

from advae.io import read_json
from advae.run import Run
from advae.training.checkpoint import load_ema_tensors

PATIENCE = 120.0  # seconds for a process to reach a new checkpoint
LONGEST = 1.5  # seconds from a new checkpoint to the kill, at most
OPTIONS = (
    *(
        "--train.steps",
        "100000000",
        "--train.backend",
        "eager",
        "--train.checkpoint_every",
        "1",
        "--train.validate_every",
        "2",
    ),
    *("--train.log_every", "1", "--train.samples_every", "5", "--no-report", "--quiet"),
)


def main() -> int:
    """Kill, look, resume; print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="asvae-digits")
    parser.add_argument("--out", type=Path, help="a new folder for the run; by default a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failed = kills(args.out or Path(folder) / "run", args.recipe, args.kills, args.seed)
    print(f"\n{args.kills} kills, {failed} after which something could not be read")
    return 1 if failed else 0


def kills(out: Path, recipe: str, count: int, seed: int) -> int:
    """Do it; how many kills left something unreadable."""
    draw, step, failed = random.Random(seed), 0, 0
    print(
        f"{'kill':>4}  {'after':>7}  {'last':>6}  {'best':>6}  {'model':>6}  {'lines':>6}  {'left':>4}  verdict"
    )
    argv = [recipe, "--out", str(out), "--seed", str(seed), *OPTIONS]
    for number in range(1, count + 1):
        process = start(argv)
        waited = kill(process, out, step, draw.uniform(0, LONGEST))
        found = look(Run.open(out))
        good = all(isinstance(value, int) for value in found.values()) and found["last"] > step
        failed += not good
        cells = "  ".join(f"{value!s:>6.6}" for value in list(found.values())[:4])
        verdict = "all read" if good else "; ".join(v for v in found.values() if isinstance(v, str))
        print(f"{number:>4}  {waited:>5.2f} s  {cells}  {found['left']:>4}  {verdict}", flush=True)
        step = found["last"] if isinstance(found["last"], int) else step
        argv = ["--resume", str(out), "--no-report", "--quiet"]
    return failed


def start(argv: list[str]) -> subprocess.Popen[bytes]:
    """``advae train …``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "advae", "train", *argv]
    return subprocess.Popen(program, env=environment, stderr=subprocess.PIPE)


def kill(process: subprocess.Popen[bytes], out: Path, step: int, delay: float) -> float:
    """Wait until the run has gone beyond ``step``, then ``delay`` seconds, then SIGKILL.

    Raises:
        RuntimeError: it did not go on.
    """
    until = time.monotonic() + PATIENCE
    while not (reached(out) > step and (out / "checkpoints" / "best").exists()):
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise RuntimeError(f"the run did not go beyond step {step}: {process.communicate()[1].decode()}")
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.communicate()
    return delay


def reached(out: Path) -> int:
    """The last checkpoint's step, as far as it can be seen while the run is writing."""
    try:
        return int(json.loads((out / "checkpoints" / "last" / "state.json").read_text())["step"])
    except FileNotFoundError:
        return 0


def look(run: Run) -> dict[str, Any]:
    """Steps of last, best and model, lines of metrics, remains of unfinished writing; or what went wrong."""
    return {
        "last": attempt(lambda: checkpoint_step(run, "last")),
        "best": attempt(lambda: checkpoint_step(run, "best")),
        "model": attempt(lambda: model_step(run)),
        "lines": attempt(lambda: metric_lines(run)),
        "left": len([*run.path.glob(".*"), *run.path.glob("checkpoints/.*")]),
    }


def attempt(read: Callable[[], int]) -> int | str:
    """What ``read`` finds, or its error."""
    try:
        return read()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def checkpoint_step(run: Run, name: str) -> int:
    """The step of a checkpoint whose tensors are all there, with the right checksum."""
    folder = run.checkpoint(name)
    assert all(tensor.isfinite().all() for tensor in load_ema_tensors(folder)[0].values())
    return int(read_json(folder / "state.json")["step"])


def model_step(run: Run) -> int:
    """The step of the model, once it has given a sample."""
    assert run.config["recipe"]
    assert run.env["data"]["checksum"]
    model = run.model()
    assert model.sample(1, seed=0).isfinite().all()
    return int(model.info["step"])


def metric_lines(run: Run) -> int:
    """How many lines of metrics there are; they must be in order."""
    steps = [row["step"] for row in run.metrics()]
    assert steps == sorted(steps)
    return len(steps)


if __name__ == "__main__":
    sys.exit(main())
