"""Progress never ends the work that it shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import pytest

from advae import progress
from advae.progress import Progress, print_line


@contextmanager
def broken_pipe() -> Iterator[TextIO]:
    """A pipe whose reader is gone, as of ``2>&1 | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    with suppress(BrokenPipeError), os.fdopen(writer, "w", buffering=1) as stream:
        yield stream


@contextmanager
def full_file() -> Iterator[TextIO]:
    """A file on a full disk, as of ``2> log``."""
    with suppress(OSError), Path("/dev/full").open("w", buffering=1) as stream:
        yield stream


@contextmanager
def closed_stream() -> Iterator[TextIO]:
    with Path(os.devnull).open("w") as stream:
        pass
    yield stream


@contextmanager
def no_stream() -> Iterator[None]:
    """As of ``2>&-``."""
    yield None


@pytest.mark.parametrize("stream", [broken_pipe, full_file, closed_stream, no_stream])
def test_work_goes_on_where_nothing_can_be_shown(
    stream: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if stream is full_file and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    is_completed = False
    with stream() as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        with Progress(3) as bar:
            for step in range(1, 4):
                bar.update(step, {"kl": 1.0})
        print_line("text")
        is_completed = True
    assert is_completed and capsys.readouterr().out == ""


def test_bar_of_a_terminal_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar's writes fail from some moment on."""

    class Terminal:
        """A terminal; None is open, an error is raised by every write."""

        error: OSError | None = None
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            self.flush()
            return len(text)

        def flush(self) -> None:
            if self.error:
                raise self.error

    for closed_at in range(4):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        terminal.error = OSError(5, "Input/output error") if closed_at == 0 else None
        with Progress(3) as bar:
            for step in range(1, 4):
                terminal.error = OSError(5, "Input/output error") if step >= closed_at else None
                bar.update(step, {"kl": 1.0})
        assert bar.step == 3
