"""Graceful interruption by SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal)."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A signal stopped training after a checkpoint was saved.

    Attributes:
        exit_code: of the command: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


class SignalHandler:
    """Context in which the first SIGINT, SIGTERM or SIGHUP is only recorded, in :attr:`signum`.

    SIGHUP stays ignored if it is, as under ``nohup``. The previous handlers are restored at the first signal, so that a
    second one acts as usual, and at the end of the block. Outside the main thread, where Python allows no handlers, the
    context does nothing.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> SignalHandler:
        if threading.current_thread() is threading.main_thread():
            sighup = getattr(signal, "SIGHUP", None)  # not on Windows
            if sighup is not None and signal.getsignal(sighup) is not signal.SIG_IGN:
                self._previous_handlers[sighup] = signal.signal(sighup, self._record)
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[signum] = signal.signal(signum, self._record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _record(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous_handlers.items():
            signal.signal(signum, handler)
        self._previous_handlers = {}
