"""Commands in forked processes with limits, watched for what they must not do.

A command runs ``advae.cli.main`` in a fork of a process that has imported everything, so that it starts at once. An
audit hook in it records opened, changed and imported files, and can send a signal at the n-th file operation.
"""

from __future__ import annotations

import hashlib
import os
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 60.0
MEMORY_BOUND = 2**30  # bytes of resident memory beyond those of the parent
ADDRESS_SPACE = 3 * 2**30  # bytes beyond those of the parent; larger allocations fail
CANARY_CODE = "open({canary!r}, 'w').close()\n"
HOSTILE_MODULE = "hostile_module"
HOSTILE_CLASSES = "import torch\nclass Net(torch.nn.Linear):\n    pass\n"
FILE_EVENTS = frozenset(
    (
        "open",
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.chmod",
        "os.truncate",
        "os.symlink",
        "os.link",
    )
)
BAD_OUTCOMES = (
    *("executed code", "touched outside", "unreadable run", "hang", "memory", "traceback", "wrong value"),
)
OUTCOMES = ("fine", "clear error", *BAD_OUTCOMES)


@dataclass(frozen=True)
class Kill:
    """A signal at a moment.

    Attributes:
        seconds: after the start.
        event: before this file operation in the sandbox, counted from 1; of forked commands only.
        file: that exists.
    """

    signal: signal.Signals
    seconds: float | None = None
    event: int | None = None
    file: Path | None = None

    def __str__(self) -> str:
        when = f"at file operation {self.event}" if self.event else f"after {self.seconds} s"
        return f"{self.signal.name} {when}"


@dataclass(frozen=True)
class Execution:
    """How a command ended.

    Attributes:
        code: exit code; negative for a signal; None after the time limit.
        was_killed: whether the signal of a :class:`Kill` was sent while it ran.
        memory: peak of resident memory beyond the parent's, in bytes.
        outside: files outside the sandbox's working folder that were opened or changed.
        imported: hostile modules that were imported.
        events: number of file operations in the sandbox.
    """

    argv: tuple[str, ...]
    code: int | None
    stdout: str
    stderr: str
    seconds: float
    was_killed: bool = False
    memory: int = 0
    outside: tuple[str, ...] = ()
    imported: tuple[str, ...] = ()
    events: int = 0

    @property
    def has_traceback(self) -> bool:
        """Whether it ended by an unforeseen exception or a crash."""
        is_unforeseen = "Traceback (most recent call last)" in self.stderr or "--debug" in self.stderr
        is_crash = self.code is not None and self.code < 0 and not self.was_killed
        return is_unforeseen or is_crash

    @property
    def is_clear_error(self) -> bool:
        """Whether it ended with exit code 2 (or 1, for numbers that are not finite) and a message."""
        return self.code in (1, 2) and "advae: " in self.stderr and not self.has_traceback


@dataclass
class Sandbox:
    """A folder for one case: ``work``, where commands run, and ``outside``, which they must not touch."""

    root: Path
    work: Path = field(init=False)
    outside: Path = field(init=False)
    canary: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self.work, self.outside, self.canary = (self.root / n for n in ("work", "outside", "canary"))
        self.work.mkdir(parents=True)
        self.outside.mkdir()
        (self.outside / "precious.txt").write_text("precious")
        (self.outside / "elbo.npz").write_bytes(b"precious")
        (self.outside / "folder").mkdir()
        (self.outside / "folder" / "precious.json").write_text("{}")
        code = CANARY_CODE.format(canary=str(self.canary)) + HOSTILE_CLASSES
        (self.work / f"{HOSTILE_MODULE}.py").write_text(code)

    @property
    def code(self) -> str:
        """Python code that leaves a trace if it is executed."""
        return CANARY_CODE.format(canary=str(self.canary))

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.root, ignore_errors=True)


def snapshot(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return kind, permissions, time of change and content of everything in a folder, by relative path."""
    entries: dict[str, tuple[Any, ...]] = {}
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            status = path.lstat()
            is_file = stat.S_ISREG(status.st_mode)
            content = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else ""
            time_of_change = status.st_mtime_ns if is_file else 0
            entries[os.path.relpath(path, folder)] = (status.st_mode, time_of_change, content)
    return entries


@dataclass(frozen=True)
class Forked:
    """A command that runs in a forked process."""

    pid: int
    argv: tuple[str, ...]
    logs: dict[str, Path]
    base_memory: int
    start: float
    kill: Kill | None

    def wait(self, timeout: float = TIMEOUT_SECONDS) -> Execution:
        """Wait for the end; the process is killed after ``timeout`` seconds."""
        was_sent, status, usage = _wait(self.pid, self.kill, timeout)
        texts = {name: path.read_bytes().decode(errors="replace") for name, path in self.logs.items()}
        entries = [line.split(" ", 1) for line in texts["audit"].splitlines()]
        by_kind = {kind: [e[1] for e in entries if e[0] == kind] for kind in ("kill", "outside", "import")}
        return Execution(
            self.argv,
            status,
            texts["stdout"],
            texts["stderr"],
            time.monotonic() - self.start,
            was_killed=was_sent or bool(by_kind["kill"]),
            memory=max(0, usage.ru_maxrss * 1024 - self.base_memory),
            outside=tuple(dict.fromkeys(by_kind["outside"])),
            imported=tuple(dict.fromkeys(by_kind["import"])),
            events=sum(entry[0] == "event" for entry in entries),
        )


def start_forked(
    argv: Sequence[str],
    sandbox: Sandbox,
    *,
    kill: Kill | None = None,
    max_file_bytes: int | None = None,
    label: str = "",
) -> Forked:
    """Start ``advae ARGV`` in a forked process.

    Args:
        argv: arguments after ``advae``.
        sandbox: where it runs.
        kill: a signal to send.
        max_file_bytes: the largest file that it can write, to imitate a full disk.
        label: of its logs, for several processes in a sandbox.
    """
    logs = {name: sandbox.root / f"{name}{label}" for name in ("stdout", "stderr", "audit", "modules")}
    for path in logs.values():
        path.write_bytes(b"")
    base, start = _resident_bytes(), time.monotonic()
    pid = os.fork()
    if pid == 0:
        _run_child(list(argv), sandbox, logs, kill, max_file_bytes)
    return Forked(pid, tuple(argv), logs, base, start, kill)


def run_forked(
    argv: Sequence[str], sandbox: Sandbox, *, timeout: float = TIMEOUT_SECONDS, **options: Any
) -> Execution:
    """Run ``advae ARGV`` in a forked process to its end; options as of :func:`start_forked`."""
    return start_forked(argv, sandbox, **options).wait(timeout)


def run_process(
    command: Sequence[str], sandbox: Sandbox, *, kill: Kill | None = None, timeout: float = TIMEOUT_SECONDS
) -> Execution:
    """Run a command in a new process, as a shell would, and wait for its end."""
    start = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out, err = sandbox.root / "stdout", sandbox.root / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            cwd=sandbox.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
        was_sent, status, _ = _wait(process.pid, kill, timeout)
        process.returncode = status
    texts = (path.read_bytes().decode(errors="replace") for path in (out, err))
    return Execution(tuple(command), status, *texts, time.monotonic() - start, was_killed=was_sent)


def _wait(pid: int, kill: Kill | None, timeout: float) -> tuple[bool, int | None, Any]:
    """Wait for a process, send it a signal where asked; return whether it was sent, exit code and resources."""
    poll = select.poll()
    handle = os.pidfd_open(pid)
    poll.register(handle, select.POLLIN)
    was_sent, timed_out = False, False
    try:
        if kill is not None and kill.seconds is not None and not poll.poll(kill.seconds * 1000):
            was_sent = True
            os.kill(pid, kill.signal)
        if kill is not None and kill.file is not None:
            deadline = time.monotonic() + timeout
            while not (kill.file.exists() or poll.poll(20) or time.monotonic() > deadline):
                pass
            was_sent = not poll.poll(0)
            if was_sent:
                os.kill(pid, kill.signal)
        if not poll.poll(timeout * 1000):
            timed_out = True
    finally:
        if not poll.poll(0):
            os.kill(pid, signal.SIGKILL)
        os.close(handle)
        _, status, usage = os.wait4(pid, 0)
    return was_sent, None if timed_out else os.waitstatus_to_exitcode(status), usage


def _run_child(
    argv: list[str], sandbox: Sandbox, logs: dict[str, Path], kill: Kill | None, max_file_bytes: int | None
) -> None:
    """Run the command in this process, which ends."""
    code: Any = 70
    try:
        flags = os.O_WRONLY | os.O_CREAT
        for number, name in ((1, "stdout"), (2, "stderr"), (9, "audit"), (10, "modules")):
            os.dup2(os.open(logs[name], flags), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False, encoding="utf-8") for n in (1, 2))  # noqa: SIM115
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
        os.chdir(sandbox.work)
        sys.path.insert(0, str(sandbox.work))  # as python -m does
        sys.argv = ["advae", *argv]
        _limit(resource.RLIMIT_AS, _virtual_bytes() + ADDRESS_SPACE)
        _limit(resource.RLIMIT_CORE, 0)
        if max_file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            _limit(resource.RLIMIT_FSIZE, max_file_bytes)
        from advae.cli import main

        sys.addaudithook(_audit_hook(sandbox, kill))
        code = main()
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        is_own_start = isinstance(error, KeyboardInterrupt) and "advae/cli" not in traceback.format_exc()
        if not is_own_start:  # a signal before the command began
            os.write(2, traceback.format_exc().encode(errors="replace"))
        code = 1
    finally:  # whatever happens, the code of the parent must not go on here
        with suppress(BaseException):
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os.write(10, "\n".join(sorted(sys.modules)).encode())
        os._exit(code if isinstance(code, int) else int(code is not None))


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _audit_hook(sandbox: Sandbox, kill: Kill | None) -> Callable[[str, tuple[Any, ...]], None]:
    root, work, outside = (os.fsencode(p) for p in (sandbox.root, sandbox.work, sandbox.outside))
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "import" and args[0] == HOSTILE_MODULE:
            os.write(9, f"import {args[0]}\n".encode())
        if event not in FILE_EVENTS:
            return
        for path in args[: 2 if event == "os.rename" else 1]:
            if not isinstance(path, str | bytes | os.PathLike):
                continue
            name = os.path.join(work, os.fsencode(path))
            if not name.startswith(root):
                continue
            parent = os.path.realpath(os.path.dirname(name) if event != "open" else name)
            if parent.startswith(outside):
                os.write(9, b"outside " + event.encode() + b" " + name.replace(b"\n", b"?") + b"\n")
            count += 1
            os.write(9, b"event .\n")
            if kill is not None and kill.event == count:
                os.write(9, b"kill .\n")
                os.kill(os.getpid(), kill.signal)

    return hook


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def classify(
    execution: Execution,
    sandbox: Sandbox,
    outside_before: dict[str, tuple[Any, ...]],
    *,
    is_unreadable: bool = False,
    is_wrong: bool = False,
    memory_errors: bool = True,
    outside_reads: bool = True,
) -> str:
    """Return the outcome of a command, the worst first.

    Args:
        execution: the command.
        sandbox: where it ran.
        outside_before: :func:`snapshot` of ``outside`` before.
        is_unreadable: whether a run directory cannot be read any more.
        is_wrong: whether the result differs from the known one.
        memory_errors: whether running out of memory counts; not for recipes, which can describe any network.
        outside_reads: whether opening a file outside counts; not for inputs that the user names, which may be links.
    """
    asks_for_too_much = memory_errors and "Out of memory" in execution.stderr
    checks = {
        "executed code": sandbox.canary.exists() or bool(execution.imported),
        "touched outside": (outside_reads and bool(execution.outside))
        or snapshot(sandbox.outside) != outside_before,
        "unreadable run": is_unreadable,
        "hang": execution.code is None,
        "memory": execution.memory > MEMORY_BOUND or asks_for_too_much,
        "traceback": execution.has_traceback or not (execution.code == 0 or execution.is_clear_error),
        "wrong value": is_wrong and execution.code == 0,
        "clear error": execution.code != 0,
    }
    return next((outcome for outcome, holds in checks.items() if holds), "fine")
