"""Standard streams that are closed, full, or no longer read."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

STANDARD_OUTPUT = "standard output"  # the file name in an error


def guard_standard_streams() -> None:
    """Replace the streams of this process, before it opens any file.

    What cannot be written to standard error is lost, so that no training ends with the terminal or pipe that shows its
    progress. For standard output it is an error. A closed descriptor is opened, so that no file gets its number and
    then the messages of libraries. In files and pipes text is UTF-8, as in all files of advae; a terminal that cannot
    show a character shows another.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            mode = os.O_WRONLY if descriptor == 2 else os.O_RDONLY  # writing to 1 stays an error
            os.set_inheritable(os.open(os.devnull, mode), True)
    sys.stdout = _GuardedStream(sys.stdout, 1, STANDARD_OUTPUT)
    sys.stderr = _GuardedStream(sys.stderr, 2, "")


class _GuardedStream(io.TextIOWrapper):
    """Text written to a descriptor until writing fails, then discarded.

    Args:
        stream: the stream of the descriptor; None if that was closed.
        descriptor: 1 or 2.
        name: the file name in the error that a failure raises; empty if it raises none.
    """

    def __init__(self, stream: TextIO | None, descriptor: int, name: str) -> None:
        is_terminal = stream is not None and stream.isatty()
        raw = io.FileIO(descriptor, "wb", closefd=False)
        buffer = io.BufferedWriter(raw) if stream is None else stream.buffer
        super().__init__(
            buffer,
            encoding=stream.encoding if stream is not None and is_terminal else "utf-8",
            errors="replace" if is_terminal else "backslashreplace",
            line_buffering=is_terminal or not name,
        )
        self._error_name = name

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        if self._error_name:
            raise OSError(error.errno, error.strerror, self._error_name) from None
