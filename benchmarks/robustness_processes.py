"""Commands as processes of their own, as a shell starts them."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Any

from robustness_kills import differences, problems_after, random_kill
from robustness_sandbox import Execution, Kill, Sandbox, run_process

if TYPE_CHECKING:
    from robustness import Suite

START_SECONDS = 8.0  # until training begins, roughly; kills are spread over it and the training
ADVAE = (sys.executable, "-m", "advae")
TRAIN = ("train", "--config", "vae.yaml", "--out", "run", "--no-report")
SCRIPT = Path(sys.executable).with_name("advae")
PACKAGE = "import torch\n\n\nclass Net(torch.nn.Module):\n    pass\n"


def process_case(suite: Suite, sandbox: Sandbox, rng: random.Random, number: int) -> dict[str, Any]:
    """Run one of the special cases, a kill, or a malformed input."""
    suite.references.prepare(sandbox.work, suite.references.subjects["train vae"])
    special = list(SPECIAL)
    if number < len(special):
        problems = SPECIAL[special[number]](suite, sandbox)
        return {"subject": special[number], "problems": problems}
    return _kill(suite, sandbox, rng) if number % 2 else _malformed(suite, sandbox, rng)


def _shell(sandbox: Sandbox, redirection: str, *argv: str) -> Execution:
    return run_process(["bash", "-c", f"{join([*ADVAE, *argv])} {redirection}"], sandbox)


def _without_traceback(execution: Execution) -> list[str]:
    text = execution.stdout + execution.stderr
    bad = "Traceback" in text or "Exception ignored" in text or execution.code is None
    return [f"exit {execution.code}: {text.strip()[-600:]}"] if bad else []


def _full_stdout(suite: Suite, sandbox: Sandbox) -> list[str]:
    execution = _shell(sandbox, "> /dev/full", "recipes")
    silent = [] if execution.code and execution.stderr else [f"exit {execution.code} without a message"]
    return _without_traceback(execution) + silent


def _closed_stdout(suite: Suite, sandbox: Sandbox) -> list[str]:
    return _without_traceback(_shell(sandbox, ">&-", "recipes"))


def _trains(redirection: str) -> Callable[[Suite, Sandbox], list[str]]:
    """Return a check that training with this redirection of its messages ends as usual."""

    def check(suite: Suite, sandbox: Sandbox) -> list[str]:
        execution = _shell(sandbox, redirection, *TRAIN)
        failed = [] if execution.code == 0 else [f"exit {execution.code}: {execution.stdout[-300:]}"]
        return (
            failed
            + _without_traceback(execution)
            + differences(sandbox.work, suite.references.result("train vae"))
        )

    return check


def _shadowed_modules(suite: Suite, sandbox: Sandbox) -> list[str]:
    """Modules in the current directory must not replace installed ones, with --allow PACKAGE of a package there."""
    for name in ("numpy", "torch", "json", "yaml", "sklearn", "datasets", "advae"):
        (sandbox.work / f"{name}.py").write_text(sandbox.code)
    (sandbox.work / "mynets").mkdir()
    (sandbox.work / "mynets" / "__init__.py").write_text(PACKAGE)
    command = [str(SCRIPT), "train", "--config", "vae.yaml", "--dry-run", "--allow", "mynets"]
    execution = run_process(command, sandbox)
    executed = ["a module of the current directory was executed"] if sandbox.canary.exists() else []
    failed = [] if execution.code == 0 else [f"exit {execution.code}: {execution.stderr[-300:]}"]
    return executed + failed


def _ascii_locale(suite: Suite, sandbox: Sandbox) -> list[str]:
    recipe = sandbox.work / "vae.yaml"
    recipe.write_text(recipe.read_text() + "description: é 😀\n", encoding="utf-8")
    command = f"LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {join([*ADVAE, *TRAIN[:3], '--dry-run'])}"
    execution = run_process(["bash", "-c", command], sandbox)
    return [] if execution.code == 0 else [f"exit {execution.code}: {execution.stderr[-300:]}"]


def _hangup(suite: Suite, sandbox: Sandbox) -> list[str]:
    """A hangup in the middle of a long training must leave its checkpoint and exit code."""
    argv = [*ADVAE, *TRAIN, "--train.steps", "100000", "--train.checkpoint_every", "100000"]
    execution = run_process(
        argv, sandbox, kill=Kill(signal.SIGHUP, file=sandbox.work / "run" / "metrics.jsonl")
    )
    # before the first step the signal acts as usual, and the run begins again
    expected = (
        []
        if execution.code in (128 + signal.SIGHUP, -signal.SIGHUP)
        else [f"exit {execution.code}: {execution.stderr[-300:]}"]
    )
    return expected + problems_after(execution, sandbox.work)


def _quoted_resume(suite: Suite, sandbox: Sandbox) -> list[str]:
    """A folder with an odd name, which is resumed as the message says."""
    name = "a run; with 'quotes' é"
    argv = f"{join([*ADVAE, *TRAIN[:3], '--no-report', '--quiet', '--out'])} {quote(name)}"
    execution = run_process(["bash", "-c", argv], sandbox)
    again = run_process([*ADVAE, "train", "--resume", name, "--train.steps", "30", "--no-report"], sandbox)
    return [f"exit {e.code}: {e.stderr[-300:]}" for e in (execution, again) if e.code != 0]


SPECIAL: dict[str, Callable[[Any, Sandbox], list[str]]] = {
    "recipes > /dev/full": _full_stdout,
    "recipes >&-": _closed_stdout,
    "train 2> /dev/full": _trains("2> /dev/full"),
    "train 2>&-": _trains("2>&-"),
    "train 2>&1 | head -1": _trains("2> >(head -c 1 > /dev/null)"),
    "train > /dev/null 2>&1 < /dev/null": _trains("> /dev/null 2>&1"),
    "--allow with modules in the current directory": _shadowed_modules,
    "ASCII locale": _ascii_locale,
    "SIGHUP": _hangup,
    "odd folder": _quoted_resume,
}


def _kill(suite: Suite, sandbox: Sandbox, rng: random.Random) -> dict[str, Any]:
    subject = suite.references.subjects["train vae"]
    signum = random_kill(subject, rng).signal
    kill = Kill(signum, seconds=round(rng.uniform(0, START_SECONDS + 1), 3))
    execution = run_process([*ADVAE, *subject.start], sandbox, kill=kill)
    kills = [{"verb": "train", "signal": signum.name, "moment": str(kill)}] if execution.was_killed else []
    problems = problems_after(execution, sandbox.work)
    if (sandbox.work / "run" / "config.yaml").exists() and execution.code != 0:
        execution = run_process([*ADVAE, *subject.resume], sandbox)
    if execution.code != 0:
        execution = run_process([*ADVAE, *subject.start], sandbox)
    if execution.code != 0:
        problems.append(f"not resumable: exit {execution.code}: {execution.stderr[-300:]}")
    problems += differences(sandbox.work, suite.references.result("train vae"))
    return {"subject": f"process, {kill}", "kills": kills, "problems": problems}


def _malformed(suite: Suite, sandbox: Sandbox, rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.5:
        argv, done = suite.recipe_input(sandbox, rng)
    else:
        argv, done, _ = suite.data_input(sandbox, rng)
    execution = run_process([*ADVAE, *argv], sandbox)
    executed = ["code was executed"] if sandbox.canary.exists() else []
    unclear = execution.code != 0 and not execution.is_clear_error
    problems = executed + ([f"{done}: exit {execution.code}: {execution.stderr[-600:]}"] if unclear else [])
    return {"subject": f"process, {done}", "problems": problems}
