"""Robustness: kills, full disks, and malformed recipes, data and run directories.

Commands run in forks of a warm process, and a sample of them as processes of their own. Each case is a function of its
number: a failing one is repeated alone with ``--replay SECTION:NUMBER``.

    python benchmarks/robustness.py --kills 500 --cases 1000 --jobs 2

writes results/robustness.md and results/robustness.json; the exit code is 1 if any case failed. ``--seconds`` bounds
the time, ``--seed`` is the number of the first case, and ``--out FOLDER`` writes elsewhere.

- *kills*: SIGKILL, SIGTERM, SIGINT and SIGHUP at random moments, half of them at a random file operation. After each,
  every file must be readable as a whole or be ignored. After up to six kills the command is run to its end; weights,
  metrics, estimates and names of files must then equal those without interruption.
- *full disk*: the same on a small tmpfs that becomes full (without root: with a limit of file sizes).
- *two at once*, *deleted*: a second process with the same folder; a folder that is deleted during the work.
- *recipes*, *data*, *runs*: one malformed input, one command. It must succeed, or end with exit code 2 and a message.
  It must not execute code, touch files outside its folder, use more than 1 GiB or more than 60 seconds.
- *processes*: some of the above without forks, and closed or full standard streams.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}

import torch
import yaml
from robustness_inputs import (
    OPERATIONS,
    POSTERIOR_OPERATIONS,
    Bombs,
    Operation,
    choose_operation,
    damage_run,
    make_data,
    make_recipe,
)
from robustness_kills import (
    Kill,
    References,
    Subject,
    can_mount,
    concurrent_case,
    deleted_case,
    full_disk_case,
    kill_case,
    recipe,
    subjects,
    unreadable,
    write_inputs,
)
from robustness_processes import process_case
from robustness_sandbox import BAD_OUTCOMES, OUTCOMES, Execution, Sandbox, classify, run_forked, snapshot

RESULTS = Path(__file__).parents[1] / "results"
INPUTS = {"recipes": 0.3, "data": 0.4, "runs": 0.3}  # shares of --cases
DISTURBANCES = {"full disk": 0.08, "two at once": 0.04, "deleted": 0.04}  # cases per kill
KILLS_PER_CASE = 3  # expected
PREPROCESSING = ("dequantize", "standardize", "gray", "binarize-dynamic", "binarize-static")
WARM_UP = ("train vae", "evaluate", "infer", "reproduce")
BLANK_IMAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
CASE_SECONDS = 600.0  # at most, for all commands of a case


class Suite:
    """What all cases need: inputs, references, and runs to damage."""

    def __init__(self, folder: Path, verbs: Sequence[str] = ()) -> None:
        os.environ["HF_HOME"] = str(folder / "cache")
        self.folder, self.verbs = folder, verbs
        self.references = References(folder / "references")
        self.mount = can_mount(folder / "disk")
        self.expected: dict[Operation, Any] = {}

    def build(self, with_bombs: bool = True) -> None:
        """Write inputs, run each subject without interruption, and warm up the process."""
        inputs = self.references.folder / "inputs"
        inputs.mkdir(parents=True)
        write_inputs(inputs)
        (self.folder / "bombs").mkdir()
        self.bombs = Bombs(self.folder / "bombs", is_large=with_bombs)
        chosen = {n: s for n, s in subjects().items() if not self.verbs or {n, s.verb} & {*self.verbs}}
        for name in WARM_UP:  # imports everything
            if name in chosen:
                self._run_reference(name, chosen[name])
        for name, subject in chosen.items():  # in a warm process
            self._run_reference(name, subject)
        self._make_damaged_run()

    def _run_reference(self, name: str, subject: Subject) -> None:
        sandbox = Sandbox(self.folder / f"reference-{name}")
        self.references.prepare(sandbox.work, subject)
        execution = run_forked(subject.start, sandbox, timeout=CASE_SECONDS)
        print(f"{name}: {execution.seconds:.1f} s, {execution.events} file operations", flush=True)
        if execution.code != 0:
            raise RuntimeError(f"advae {' '.join(subject.start)}: {execution.code}\n{execution.stderr}")
        for module in (sandbox.root / "modules").read_text().split():
            with suppress(Exception):
                importlib.import_module(module)
        self.references.subjects[name] = subject.measured(execution)
        shutil.rmtree(self.references.folder / name, ignore_errors=True)
        shutil.move(sandbox.work, self.references.folder / name)
        sandbox.remove()
        shorten_work()

    def _make_damaged_run(self) -> None:
        """Make a run that has everything: an evaluation, and partial results of another."""
        if (subject := self.references.subjects.get("evaluate")) is None:
            shutil.copytree(self.references.folder / "train vae" / "run", self.folder / "run")
            return
        sandbox = Sandbox(self.folder / "whole-run")
        self.references.prepare(sandbox.work, subject)
        run_forked(subject.start, sandbox)
        for event in range(20, subject.events, 10):
            partial = (*subject.start, "--seed", "1")
            run_forked(partial, sandbox, kill=Kill(signal.SIGKILL, event=event))
            stored = {path.suffix for path in (sandbox.work / "run" / "eval" / "unfinished").rglob("*.*")}
            if {".done", ".state"} <= stored:
                break
        shutil.move(sandbox.work / "run", self.folder / "run")
        sandbox.remove()
        for operation in OPERATIONS:
            if operation.result is not None:
                self.expected[operation] = self._result_of(operation)

    def _result_of(self, operation: Operation) -> Any:
        sandbox = Sandbox(self.folder / "operation")
        shutil.copytree(self.references.folder / "inputs", sandbox.work, dirs_exist_ok=True)
        shutil.copytree(self.folder / "run", sandbox.work / "run")
        execution = run_forked(operation.argv, sandbox, timeout=CASE_SECONDS)
        assert operation.result is not None and execution.code == 0, execution.stderr
        result = operation.result(sandbox.work, execution.stdout)
        sandbox.remove()
        return result

    def case(self, section: str, number: int) -> dict[str, Any]:
        """Run one case and return its record."""
        rng, sandbox = random.Random(f"{section}:{number}"), Sandbox(self.folder / f"{section}-{number}")
        start = time.monotonic()
        try:
            record = self._case(section, sandbox, rng, number)
        except Exception:  # of the benchmark itself
            record = {"problems": [f"benchmark: {traceback.format_exc()}"]}
        finally:
            sandbox.remove()
        return {"case": f"{section}:{number}", "took": round(time.monotonic() - start, 2)} | record

    def _case(self, section: str, sandbox: Sandbox, rng: random.Random, number: int) -> dict[str, Any]:
        match section:
            case "kills":
                return kill_case(self.references, sandbox, rng)
            case "full disk":
                return full_disk_case(self.references, sandbox, rng, self.mount)
            case "two at once":
                return concurrent_case(self.references, sandbox, rng)
            case "deleted":
                return deleted_case(self.references, sandbox, rng)
            case "processes":
                return process_case(self, sandbox, rng, number)
            case "recipes":
                argv, done = self.recipe_input(sandbox, rng)
                return judge(argv, done, sandbox, memory_errors=False, outside_reads=False)
            case "data":
                argv, done, facts = self.data_input(sandbox, rng)
                return judge(
                    argv,
                    done,
                    sandbox,
                    is_wrong=lambda execution: contradicts(execution, facts),
                    outside_reads=False,
                )
        return self.run_case(sandbox, rng)

    def recipe_input(self, sandbox: Sandbox, rng: random.Random) -> tuple[list[str], str]:
        """Write a malformed recipe; return a command that reads it and what was done."""
        shutil.copy(self.references.folder / "inputs" / "data.npz", sandbox.work)
        argv, done = make_recipe(sandbox, recipe(rng.choice(("vae", "avb"))), rng)
        mode = rng.choice((["--dry-run"], ["--dry-run"], ["--print-config"]))
        return ["train", *argv, *mode], done

    def data_input(self, sandbox: Sandbox, rng: random.Random) -> tuple[list[str], str, dict[str, Any]]:
        """Write malformed data; return a command that reads them, what was done, and what is known of them."""
        source, done, facts = make_data(sandbox, self.bombs, rng)
        tree = recipe()
        tree["data"]["preprocessing"] = rng.choice(PREPROCESSING)
        tree["data"]["storage"] = rng.choice(("auto", "auto", "stream"))
        tree["data"]["workers"] = 0
        if tree["data"]["preprocessing"] in ("gray", "binarize-dynamic", "binarize-static"):
            tree["model"]["likelihood"] = {"name": "bernoulli"}
        (sandbox.work / "recipe.yaml").write_text(yaml.safe_dump(tree))
        argv = ["train", "--config", "recipe.yaml", f"--data.source={source}".replace("\0", "")]
        if rng.random() < 0.25:
            argv += rng.choice(
                (["--data.image_size", "8"], ["--data.channels", "1"], ["--data.channels", "3"])
            )
        if rng.random() < 0.3 and not facts:
            return [*argv, "--train.steps", "2", "--no-report", "--out", "run"], done, facts
        return [*argv, "--dry-run", "--json"], done, facts

    def run_case(self, sandbox: Sandbox, rng: random.Random) -> dict[str, Any]:
        """Damage a run directory and use it; undo the damage and check that the rest is still readable."""
        is_posterior = rng.random() < 0.2 and "infer" in self.references.subjects
        origin = self.references.folder / "infer" / "run" if is_posterior else self.folder / "run"
        shutil.copytree(self.references.folder / "inputs", sandbox.work, dirs_exist_ok=True)
        run, intact = sandbox.work / "run", sandbox.root / "intact"
        operation = choose_operation(POSTERIOR_OPERATIONS if is_posterior else OPERATIONS, rng)
        shutil.copytree(origin, run)
        shutil.copytree(origin, intact)
        done, names, is_binary = damage_run(run, sandbox, rng)

        def is_wrong(execution: Execution) -> bool:
            if not is_binary or operation.result is None or operation not in self.expected:
                return False
            return bool(operation.result(sandbox.work, execution.stdout) != self.expected[operation])

        def is_unreadable() -> bool:
            for name in names:
                restore(run / name, intact / name)
            return bool(unreadable(sandbox.work))

        return judge(operation.argv, done, sandbox, is_wrong=is_wrong, is_unreadable=is_unreadable)


def restore(path: Path, original: Path) -> None:
    """Replace a file or folder by the original."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
    if original.is_dir():
        shutil.copytree(original, path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(original, path)


def judge(
    argv: Sequence[str],
    done: str,
    sandbox: Sandbox,
    *,
    memory_errors: bool = True,
    outside_reads: bool = True,
    is_wrong: Callable[[Execution], bool] = lambda execution: False,
    is_unreadable: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run a command on a malformed input and return its record with its outcome."""
    before = snapshot(sandbox.outside)
    execution = run_forked(argv, sandbox)
    outcome = classify(
        execution,
        sandbox,
        before,
        memory_errors=memory_errors,
        outside_reads=outside_reads,
        is_wrong=execution.code == 0 and is_wrong(execution),
        is_unreadable=execution.code != 0 and is_unreadable(),
    )
    record: dict[str, Any] = {"outcome": outcome, "input": done, "command": " ".join(argv)[:300]}
    if outcome in BAD_OUTCOMES:
        tail = execution.stderr.strip()[-1500:]
        record["details"] = {"exit": execution.code, "stderr": tail, "memory": execution.memory}
        record["details"]["outside"] = execution.outside[:5]
    return record


def contradicts(execution: Execution, facts: dict[str, Any]) -> bool:
    """Return whether data were read otherwise than they are: another shape, or another number of examples."""
    if not facts:
        return False
    data = json.loads(execution.stdout)["data"]
    return data["shape"] != facts["shape"] or sum(data["sizes"].values()) != facts["count"]


def shorten_work() -> None:
    """Save more often than usual, so that short executions are killed while they save; do less work in between."""
    for module, name, value in (
        ("advae.evaluation.resumable", "SECONDS_BETWEEN_SAVES", 0.0),
        ("advae.inference.variational_inference", "CHECKPOINT_INTERVAL", 5),
        ("advae.inference.variational_inference", "NUM_BASELINE_STEPS", 20),
        ("advae.evaluation.likelihood.annealing", "PILOT_TEMPERATURES", 4),
        ("advae.report.html", "to_png", lambda *args, **options: BLANK_IMAGE),
    ):
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"
        setattr(importlib.import_module(module), name, value)
    evidence = importlib.import_module("advae.inference.evidence")
    object.__setattr__(evidence.DEFAULT_AIS, "temperatures", 8)


# --- cases in forked processes -------------------------------------------------------------------------------


def run_cases(
    suite: Suite, queue: Iterator[tuple[str, int]], jobs: int, deadline: float
) -> Iterator[dict[str, Any]]:
    """Run each case in a forked process, ``jobs`` at a time, and yield the records as they come."""
    running: dict[int, tuple[int, str, float]] = {}
    try:
        while True:
            while len(running) < jobs and time.monotonic() < deadline:
                if (case := next(queue, None)) is None:
                    break
                reader, pid = fork_case(suite, *case)
                running[reader] = (pid, f"{case[0]}:{case[1]}", time.monotonic())
            if not running:
                return
            ready, _, _ = select.select(list(running), [], [], 1.0)
            late = [r for r, (_, _, start) in running.items() if time.monotonic() - start > CASE_SECONDS]
            for reader in {*ready, *late}:
                pid, name, _ = running.pop(reader)
                text = read_all(reader) if reader in ready else b""
                kill_group(pid)
                yield json.loads(text) if text else {"case": name, "problems": ["benchmark: no record"]}
    finally:
        for reader, (pid, _, _) in running.items():
            os.close(reader)
            kill_group(pid)


def fork_case(suite: Suite, section: str, number: int) -> tuple[int, int]:
    """Start a case; return the pipe with its record, and the process."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                pipe.write(json.dumps(suite.case(section, number), default=str))
        finally:
            os._exit(0)
    os.close(writer)
    return reader, pid


def read_all(reader: int) -> bytes:
    with os.fdopen(reader, "rb") as pipe:
        return pipe.read()


def kill_group(pid: int) -> None:
    """End what is left of a case: its process and the commands in its group; collect the process."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def schedule(args: argparse.Namespace, num_kills: Callable[[], int]) -> Iterator[tuple[str, int]]:
    """Yield cases of all sections in turns, so that any bound of time covers all; kills until there are enough."""
    counts = {name: round(share * args.cases) for name, share in INPUTS.items()}
    counts |= {name: round(share * args.kills) for name, share in DISTURBANCES.items()}
    counts["processes"] = args.processes
    counts["kills"] = max(1, args.kills // KILLS_PER_CASE) if args.kills else 0
    order = sorted((i / count, name, i) for name, count in counts.items() for i in range(count))
    for _, name, number in order:
        if name != "kills" or num_kills() < args.kills:
            yield name, args.seed + number
    number = counts["kills"]
    while num_kills() < args.kills:
        yield "kills", args.seed + number
        number += 1


# --- results -------------------------------------------------------------------------------------------------


def is_bad(record: dict[str, Any]) -> bool:
    """Return whether a case failed."""
    return bool(record.get("problems")) or record.get("outcome") in BAD_OUTCOMES


def describe_bad(record: dict[str, Any]) -> str:
    """Return a failing case as text."""
    head = f"{record['case']}  {record.get('outcome') or record.get('subject', '')}  {record.get('input', '')[:150]}"
    if record.get("problems"):
        return "\n    ".join([head, *record["problems"]])
    details = record["details"]
    lines = [head, record["command"], f"exit {details['exit']}, {details['memory'] / 2**20:.0f} MiB"]
    lines += details["outside"] + details["stderr"].splitlines()[-6:]
    return "\n    ".join(map(str, lines))


def count_kills(records: Sequence[dict[str, Any]]) -> int:
    return sum(len(record.get("kills", ())) for record in records)


def page(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["# Robustness", "", *(__doc__ or "").split("\n\n", 2)[2].strip().splitlines(), ""]
    lines += [
        f"{result['machine']}. Commit {result['commit']}, {result['date']}.",
        f"`{result['command']}`",
        "",
    ]
    lines += ["## Kills", "", *markdown_table(kill_columns(), kill_rows(result["kills"])), ""]
    rows = [[name, str(row["cases"]), str(row["failed"])] for name, row in result["disturbances"].items()]
    lines += [f"Kills cover {result['kill cases']} chains of interruptions; each ends with a comparison.", ""]
    lines += [
        "## Other disturbances",
        "",
        result["disk"],
        "",
        *markdown_table(("kind", "cases", "failed"), rows),
        "",
    ]
    inputs = result["inputs"]
    rows = [
        [name, str(sum(row.values())), *(str(row.get(o, 0)) for o in OUTCOMES)]
        for name, row in inputs.items()
    ]
    total = ["all", str(sum(sum(row.values()) for row in inputs.values()))]
    rows.append([*total, *(str(sum(row.get(o, 0) for row in inputs.values())) for o in OUTCOMES)])
    lines += ["## Malformed inputs", "", *markdown_table(("input", "cases", *OUTCOMES), rows), ""]
    if result["failures"]:
        lines += ["## Failures", ""]
        lines += [
            f"- `--replay {r['case'].replace(' ', '-')}`: {first_problem(r)}" for r in result["failures"]
        ]
    return "\n".join(lines).rstrip() + "\n"


def first_problem(record: dict[str, Any]) -> str:
    text = record["problems"][0] if record.get("problems") else f"{record['outcome']}: {record['input']}"
    return " ".join(text.split())[:160]


def kill_columns() -> tuple[str, ...]:
    return ("command", "kills", "SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")


def kill_rows(kills: dict[str, dict[str, int]]) -> list[list[str]]:
    signals = kill_columns()[2:]
    rows = [[verb, str(sum(n.values())), *(str(n.get(s, 0)) for s in signals)] for verb, n in kills.items()]
    sums = [sum(n.get(s, 0) for n in kills.values()) for s in signals]
    return [*rows, ["all", str(sum(sums)), *map(str, sums)]]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def summarize(records: Sequence[dict[str, Any]], suite: Suite, seconds: float) -> dict[str, Any]:
    """Return counts of all sections, and the failing cases."""
    sections: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        sections[record["case"].split(":")[0]].append(record)
    kills: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        for kill in record.get("kills", ()):
            kills[kill["verb"]][kill["signal"]] += 1
    disturbances = {
        name: {"cases": len(sections[name]), "failed": sum(map(is_bad, sections[name]))}
        for name in ("kills", *DISTURBANCES, "processes")
        if sections[name]
    }
    method = f"on a tmpfs of {2**4} MiB" if suite.mount else "with a limit of file sizes (no right to mount)"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS, capture_output=True, text=True
    )
    return {
        "machine": f"{cpu_model()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}, torch {torch.__version__}",
        "commit": commit.stdout.strip() or "unknown",
        "date": str(date.today()),
        "command": " ".join(["python", "benchmarks/robustness.py", *sys.argv[1:]]),
        "seconds": round(seconds),
        "kills": {verb: dict(kills[verb]) for verb in sorted(kills)},
        "kill cases": len(sections["kills"]),
        "disturbances": disturbances,
        "disk": f"Full disks were made {method}.",
        "inputs": {
            name: dict(Counter(r.get("outcome", "traceback") for r in sections[name])) for name in INPUTS
        },
        "failures": [record for record in records if is_bad(record)],
    }


def cpu_model() -> str:
    """Return the name of the processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown processor"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--cases", type=int, default=1000, help="malformed inputs")
    parser.add_argument("--processes", type=int, default=20, help="cases without forks")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no case after this time")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case of each section")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--verbs", help="to disturb: train,evaluate,infer,reproduce by default")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    parser.add_argument(
        "--replay", nargs="+", metavar="SECTION:NUMBER", help="run these cases only; write nothing"
    )
    parser.add_argument("--verbose", action="store_true", help="print every case")
    return parser.parse_args()


def main() -> int:
    """Run the cases, print and write the results."""
    args = parse_arguments()
    torch.set_num_threads(1)
    # nohup, and shells in the background, ignore them for all child processes.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(
        dir=args.work, prefix="advae-robustness-", ignore_cleanup_errors=True
    ) as folder:
        suite = Suite(Path(folder).resolve(), args.verbs.split(",") if args.verbs else ())
        suite.build(with_bombs=args.cases >= 100 or bool(args.replay))
        start = time.monotonic()
        queue = schedule(args, lambda: count_kills(records))
        if args.replay:
            names = [name.replace("-", " ").split(":") for name in args.replay]
            queue = iter([(section, int(number)) for section, number in names])
        for record in run_cases(suite, queue, args.jobs, start + args.seconds):
            records.append(record)
            if is_bad(record):
                print(describe_bad(record), flush=True)
            elif args.verbose or args.replay:
                print(json.dumps(record), flush=True)
        result = summarize(records, suite, time.monotonic() - start)
    if not args.replay:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "robustness.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "robustness.md").write_text(page(result))
        print(page(result).split("\n\n", 3)[-1])
    counts = f"{len(records)} cases, {count_kills(records)} kills, {len(result['failures'])} failed"
    print(f"{counts}, {result['seconds']} s")
    return int(bool(result["failures"]))


if __name__ == "__main__":
    sys.exit(main())
