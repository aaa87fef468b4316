"""Commands that are killed, run out of disk space, meet a second process, or lose their folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from robustness_sandbox import HOSTILE_MODULE, Execution, Kill, Sandbox, run_forked, start_forked

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SIGNAL_WEIGHTS = (6, 2, 1, 1)
MAX_KILLS = 6  # of one run
DISK_BYTES = 16 * 2**20
TIME_KEYS = ("seconds", "evaluation_seconds", "training_seconds", "ms_per_step", "time", "date")
VOLATILE_KEYS = frozenset((*TIME_KEYS, "seal", "command", "versions", "file"))  # the seal covers the seconds
UNCOMPARED_FILES = ("env.json", "command.txt", "metrics.csv")
UNCOMPARED_SUFFIXES = (".html", ".md", ".svg", ".nc")
QUIET = ("--quiet",)
ANNEALING = ("--temperatures", "8", "--chains", "2", "--leapfrog-steps", "1", "--iwae-samples", "8")

DATA = {"source": "data.npz", "preprocessing": "dequantize"}
NETWORK = {"name": "mlp", "hidden": [8]}
MODEL: dict[str, Any] = {
    "latent_dim": 2,
    "encoder": NETWORK,
    "posterior": {"name": "normal"},
    "decoder": NETWORK,
    "likelihood": {"name": "normal", "variance": "shared", "squash": "sigmoid"},
    "critic": {"name": "concat", "hidden": [8]},
}
TRAIN = {
    "steps": 24,
    "batch_size": 8,
    "backend": "eager",
    "log_every": 1,
    "validate_every": 3,
    "samples_every": 8,
    "checkpoint_every": 2,
    "checkpoint_keep_every": 6,
}
RECIPES: dict[str, dict[str, Any]] = {
    "vae": {"method": {"name": "vae"}},
    "avb": {"method": {"name": "avb", "contrast": "full"}},
    "patience": {"method": {"name": "vae"}, "train": {**TRAIN, "patience": 4}},
}
MODEL_FILE = """\
import torch
from torch.distributions import Normal

parameters = {"mu": (), "nu": (2,)}


def log_joint(mu, nu):
    return Normal(0.0, 1.0).log_prob(mu) + Normal(mu.unsqueeze(-1), 1.0).log_prob(nu).sum(-1)
"""


def recipe(name: str = "vae") -> dict[str, Any]:
    """Return a tiny recipe on ``data.npz``."""
    return {"data": dict(DATA), "model": json.loads(json.dumps(MODEL)), "train": dict(TRAIN), **RECIPES[name]}


def table() -> dict[str, Any]:
    """Return a table of two tiny recipes."""
    rows = [
        {"label": name, "recipe": recipe(name) | {"recipe": name, "seed": 0}, "published": {"elbo": 1.0}}
        for name in ("vae", "avb")
    ]
    return {
        "title": "Two tiny models",
        "source": "none",
        "columns": {"elbo": {"title": "ELBO", "ours": ["elbo"]}, "rmse": {"title": "RMSE", "ours": ["rmse"]}},
        "rows": rows,
        "evaluation": [{"likelihood": ["elbo", "iwae"], "iwae_samples": 4, "elbo_samples": 2, "limit": 8}],
    }


def write_inputs(folder: Path) -> None:
    """Write data, recipes, a model file and a table."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 4, 4)).astype("u1")
    np.savez(folder / "data.npz", x=images, y=np.arange(60) % 3)
    for name in RECIPES:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe(name), sort_keys=False))
    (folder / "model.py").write_text(MODEL_FILE)
    (folder / "table.yaml").write_text(yaml.safe_dump(table(), sort_keys=False))


@dataclass(frozen=True)
class Subject:
    """A command that writes, and how it goes on after an interruption.

    Attributes:
        verb: its name in tables.
        start: its arguments.
        resume: the arguments that continue; by default the same.
        needs: folders of the reference that it starts from.
        duration, events: seconds and file operations of an unbroken execution.
    """

    verb: str
    start: Sequence[str]
    resume: Sequence[str] = ()
    needs: Sequence[str] = ()
    duration: float = 0.0
    events: int = 0

    def measured(self, execution: Execution) -> Subject:
        """Return the subject with duration and events of an unbroken execution."""
        return replace(self, duration=execution.seconds, events=execution.events)


def subjects() -> dict[str, Subject]:
    """Return all subjects by name."""
    trainings = {
        f"train {name}": Subject(
            "train",
            ("train", "--config", f"{name}.yaml", "--out", "run", "--no-report", *QUIET),
            ("train", "--resume", "run", "--no-report", *QUIET),
        )
        for name in RECIPES
    }
    evaluation = ("evaluate", "run", "--likelihood", "elbo,iwae,ais", "--limit", "6", *ANNEALING)
    inference = ("--family", "full-rank", "--fits", "2", "--steps", "40", "--samples-per-step", "16")
    return {
        **trainings,
        "evaluate": Subject("evaluate", (*evaluation, *QUIET), needs=("train vae",)),
        "infer": Subject(
            "infer",
            ("infer", "model.py", *inference, "--out", "run", *QUIET),
            ("infer", "model.py", "--resume", "run", *QUIET),
        ),
        "reproduce": Subject(
            "reproduce", ("reproduce", "table.yaml", "--runs", "runs", "--out", "results", *QUIET)
        ),
    }


@dataclass
class References:
    """Inputs, and the result of each subject without interruption.

    Attributes:
        folder: where they are: ``inputs`` and a folder for each subject.
        subjects: by name, measured.
    """

    folder: Path
    subjects: dict[str, Subject] = field(default_factory=dict)

    def prepare(self, work: Path, subject: Subject) -> None:
        """Copy what a subject starts from."""
        shutil.copytree(self.folder / "inputs", work, dirs_exist_ok=True)
        for name in subject.needs:
            shutil.copytree(self.folder / name / "run", work / "run")

    def result(self, name: str) -> Path:
        """Return the working folder of an unbroken execution."""
        return self.folder / name


def kill_case(references: References, sandbox: Sandbox, rng: random.Random) -> dict[str, Any]:
    """Kill one subject several times, resume it, and compare its result with that of an unbroken execution."""
    names = list(references.subjects)
    (name,) = rng.choices(names, [4 if n.startswith("train") else 3 if n == "evaluate" else 2 for n in names])
    subject, work = references.subjects[name], sandbox.work
    references.prepare(work, subject)
    record: dict[str, Any] = {"subject": name, "kills": [], "problems": []}
    argv: Sequence[str] = subject.start
    for _ in range(rng.randint(1, MAX_KILLS)):
        kill = random_kill(subject, rng)
        verb = "resume" if argv != subject.start else subject.verb
        execution = run_forked(argv, sandbox, kill=kill)
        if execution.was_killed:
            record["kills"].append({"verb": verb, "signal": kill.signal.name, "moment": str(kill)})
        record["problems"] += [f"{kill}: {p}" for p in problems_after(execution, work)]
        if execution.code == 0:
            break
        argv = next_command(subject, argv, execution, work)
    record["problems"] += finish(subject, argv, sandbox)
    record["problems"] += differences(work, references.result(name))
    return record


def random_kill(subject: Subject, rng: random.Random) -> Kill:
    """Return a signal at a random moment of an execution, or at a random file operation."""
    (signum,) = rng.choices(SIGNALS, SIGNAL_WEIGHTS)
    fraction = rng.random() ** 1.5  # a resumed execution is shorter
    if rng.random() < 0.5:
        return Kill(signum, event=1 + int(fraction * subject.events))
    return Kill(signum, seconds=round(fraction * subject.duration, 3))


def next_command(subject: Subject, argv: Sequence[str], execution: Execution, work: Path) -> Sequence[str]:
    """Return how to go on: to resume, or to start again if there is nothing to resume."""
    refused = execution.code == 2 and not execution.was_killed
    if not subject.resume or not (work / "run" / "config.yaml").exists():
        return subject.start
    return subject.start if refused and argv == subject.resume else subject.resume


def finish(subject: Subject, argv: Sequence[str], sandbox: Sandbox) -> list[str]:
    """Run to the end without interruption, by resuming or else by starting again; return what went wrong."""
    execution = run_forked(argv, sandbox)
    if execution.code == 2 and subject.resume:
        other = subject.start if argv == subject.resume else subject.resume
        execution = run_forked(other, sandbox)
    if execution.code == 0:
        return []
    return [f"not resumable: exit {execution.code}: {execution.stderr.strip()[-500:]}"]


def problems_after(execution: Execution, work: Path) -> list[str]:
    """Return what is wrong after an interruption: its messages, and files that cannot be read."""
    problems = []
    if execution.code is None:
        problems.append("hang")
    if execution.has_traceback:
        problems.append(f"traceback: {execution.stderr.strip()[-500:]}")
    return problems + [f"unreadable: {text}" for text in unreadable(work)]


# --- reading and comparing -----------------------------------------------------------------------------------


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield all files without those with a hidden name or in a hidden folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def unreadable(work: Path) -> list[str]:
    """Return files that cannot be read as a whole, and runs whose model or checkpoints cannot be loaded."""
    errors = []
    for path in visible_files(work):
        try:
            read_whole(path)
        except Exception as error:
            errors.append(f"{path.relative_to(work)}: {type(error).__name__}: {str(error)[:200]}")
    from advae.run import Run
    from advae.training.checkpoint import read_state

    for config in work.rglob("config.yaml"):
        run = Run(config.parent)
        try:
            for name in ("last", "best"):
                if run.checkpoint(name).exists():
                    read_state(run.checkpoint(name))
            for folder in run.path.glob("checkpoints/step-*"):
                read_state(folder)
            if (run.path / "model").exists():
                run.model()
            steps = [row["step"] for row in run.metrics()]
            assert steps == sorted(steps), "metrics are not in order"
        except Exception as error:
            errors.append(f"{config.parent.relative_to(work)}: {type(error).__name__}: {str(error)[:200]}")
    return errors


def read_whole(path: Path) -> Any:
    """Read a file by its suffix.

    Raises:
        Exception: of any type, if it is damaged.
    """
    from PIL import Image
    from safetensors.numpy import load_file

    match path.suffix:
        case ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        case ".jsonl":  # the last line may be incomplete
            lines = path.read_text(encoding="utf-8").split("\n")
            return [json.loads(line) for line in lines[:-1]]
        case ".yaml":
            return yaml.safe_load(path.read_text(encoding="utf-8"))
        case ".safetensors":
            return {name: (v.dtype.str, v.shape, v.tobytes()) for name, v in load_file(path).items()}
        case ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name].tolist() for name in archive.files}
        case ".png":
            with Image.open(path) as image:
                return image.convert("RGBA").tobytes()
        case ".html":
            text = path.read_text(encoding="utf-8")
            assert text.rstrip().endswith("</html>"), "incomplete"
            return text
    return path.read_bytes()


def differences(work: Path, reference: Path) -> list[str]:
    """Return what differs from an unbroken execution, and what was left behind."""
    ours, theirs = files_by_name(work), files_by_name(reference)
    result = [f"differs: {name} is missing" for name in sorted(theirs.keys() - ours.keys())]
    result += [f"left behind: {name}" for name in sorted(ours.keys() - theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        if Path(name).name in UNCOMPARED_FILES or name.endswith(UNCOMPARED_SUFFIXES):
            continue
        if where := first_difference(*(without_times(read_whole(p[name])) for p in (ours, theirs))):
            result.append(f"differs: {name} {where}")
    hidden = {p for p in work.rglob(".*") if p.suffix != ".lock" and p.name != ".lock"}
    return result + [f"left behind: {path.relative_to(work)}" for path in sorted(hidden)]


def first_difference(ours: Any, theirs: Any, where: str = "at") -> str:
    """Return where two values differ, and how; nothing if they are equal."""
    if ours == theirs:
        return ""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        pairs = [(key, ours[key], theirs[key]) for key in ours]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    else:
        return f"{where}: {ours!r:.80} instead of {theirs!r:.80}"
    return next(text for key, a, b in pairs if (text := first_difference(a, b, f"{where}.{key}")))


def files_by_name(folder: Path) -> dict[str, Path]:
    """Return the files that commands wrote, and their inputs, by relative path."""
    files = {str(path.relative_to(folder)): path for path in visible_files(folder)}
    return {n: p for n, p in files.items() if not n.startswith(HOSTILE_MODULE) and "__pycache__" not in n}


def without_times(value: Any) -> Any:
    """Return JSON values without those that depend on the clock; NaN as text."""
    if isinstance(value, Mapping):
        return {k: without_times(v) for k, v in value.items() if k not in VOLATILE_KEYS}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return "NaN" if isinstance(value, float) and value != value else value


# --- full disk -----------------------------------------------------------------------------------------------


def can_mount(folder: Path) -> bool:
    """Return whether this process may mount a tmpfs."""
    try:
        with mounted(folder):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount a small tmpfs on a folder."""
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "advae-robustness", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def full_disk_case(
    references: References, sandbox: Sandbox, rng: random.Random, mount: bool
) -> dict[str, Any]:
    """Run a subject on a disk that becomes full (or with a limit of file sizes), free it, resume and compare."""
    name = rng.choice(list(references.subjects))
    subject, work = references.subjects[name], sandbox.work
    written = sum(p.stat().st_size for p in references.result(name).rglob("*") if p.is_file())
    record: dict[str, Any] = {"subject": name, "problems": []}
    if not mount:
        references.prepare(work, subject)
        execution = run_forked(subject.start, sandbox, max_file_bytes=rng.randint(100, 20_000))
        return record | _after_full_disk(references, name, sandbox, execution)
    with mounted(work):
        references.prepare(work, subject)
        filler, free = work / ".filler", rng.randrange(0, max(2**17, written))
        with filler.open("wb") as file:
            status = os.statvfs(work)
            os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - free))
        execution = run_forked(subject.start, sandbox)
        filler.unlink()
        return record | {"free": free} | _after_full_disk(references, name, sandbox, execution)


def _after_full_disk(
    references: References, name: str, sandbox: Sandbox, execution: Execution
) -> dict[str, Any]:
    subject, work = references.subjects[name], sandbox.work
    problems = problems_after(execution, work)
    is_reported = execution.is_clear_error or execution.code == 0 or "failed: " in execution.stdout
    if not is_reported and not execution.has_traceback:
        problems.append(f"no clear error: exit {execution.code}: {execution.stderr.strip()[-300:]}")
    problems += finish(subject, next_command(subject, subject.start, execution, work), sandbox)
    return {"failed": execution.code != 0, "problems": problems + differences(work, references.result(name))}


# --- two processes, and a folder that disappears --------------------------------------------------------------


def concurrent_case(references: References, sandbox: Sandbox, rng: random.Random) -> dict[str, Any]:
    """Start the same command twice: the result must be that of one."""
    name = rng.choice([n for n, s in references.subjects.items() if s.verb != "evaluate"])
    subject, work = references.subjects[name], sandbox.work
    references.prepare(work, subject)
    first = start_forked(subject.start, sandbox)
    time.sleep(rng.choice((0.0, rng.uniform(0, 0.1), rng.uniform(0, subject.duration))))
    second = start_forked(subject.start, sandbox, label="2")
    executions = [first.wait(), second.wait()]
    codes = sorted(e.code if e.code is not None else -1 for e in executions)
    problems = [p for e in executions for p in problems_after(e, work)]
    if codes[0] != 0:
        problems.append(f"neither finished: {codes}: {executions[0].stderr[-300:]}")
    # a table with a row that failed, as another process was working on its run, ends with exit code 1
    if codes[1] not in (0, 2, *((1,) if name == "reproduce" else ())):
        problems.append(f"second process: {codes}")
    return {"subject": name, "problems": problems + differences(work, references.result(name))}


def deleted_case(references: References, sandbox: Sandbox, rng: random.Random) -> dict[str, Any]:
    """Delete the run directory while a command works on it: an error, and a new start must be possible."""
    name = rng.choice([n for n in references.subjects if n.startswith("train") or n in ("evaluate", "infer")])
    subject, work = references.subjects[name], sandbox.work
    references.prepare(work, subject)
    process = start_forked(subject.start, sandbox)
    time.sleep(rng.uniform(0, subject.duration))
    if (work / "run").exists():
        os.rename(work / "run", sandbox.root / "removed")  # in one step
    execution = process.wait()
    left = [str(path.relative_to(work)) for path in (work / "run").rglob("*")]
    if left and not (work / "run" / "config.yaml").exists():
        problems = [f"left behind: {left}, exit {execution.code}: {execution.stderr[-300:]}"]
    else:
        problems = problems_after(execution, work)
    if execution.code == 0 and not (work / "run" / "config.yaml").exists() and (work / "run").exists():
        problems.append("a partial folder was left, with exit code 0")
    if execution.code not in (0, None) and not execution.is_clear_error and not execution.has_traceback:
        problems.append(f"no clear error: exit {execution.code}: {execution.stderr[-300:]}")
    if execution.code != 0:
        if subject.needs:  # what it works on was deleted, too
            shutil.rmtree(work / "run", ignore_errors=True)
            references.prepare(work, subject)
        problems += finish(subject, next_command(subject, subject.start, execution, work), sandbox)
        problems += differences(work, references.result(name))
    return {"subject": name, "problems": problems}
