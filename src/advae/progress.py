"""What a person sees while training: a bar on a terminal, plain lines in a pipe, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

SECONDS_BETWEEN_LINES = 5.0
SHOWN = ("reconstruction", "kl", "error", "bound")

Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opened with what is being done and of how many ticks it is; it gives what is told of ticks as they pass."""


class Progress:
    """Steps done, rate, time left and a few figures.

    Args:
        total: steps in all.
        start: steps done before.
        quiet: show nothing.
        label: what is being done.
        passing: one of several stages: nothing stays of its bar, nor is said if it takes no time to speak of.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        quiet: bool = False,
        label: str = "training",
        passing: bool = False,
    ) -> None:
        self.total, self.start, self.step, self.quiet, self.label = total, start, start, quiet, label
        self.passing = passing
        self._said: int | None = None
        self.terminal = sys.stderr.isatty() and not quiet
        self._began = self._line = time.monotonic()
        self._text = ""

    def __enter__(self) -> Progress:
        if self.terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(self.label),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
                transient=self.passing,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                "", total=self.total, completed=self.start, pace="– steps/s", figures=""
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.terminal:
            self._bar.stop()
        elif not self.quiet and kind is None and not (self.passing and self._said in (None, self.step)):
            self._print()

    @property
    def rate(self) -> float:
        """Steps a second since the start."""
        return (self.step - self.start) / max(1e-9, time.monotonic() - self._began)

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Show that ``step`` steps are done, with the newest figures."""
        self.step = step
        shown = [f"{key} {metrics[key]:.4g}" for key in SHOWN if key in metrics]
        if shown:
            self._text = "  ".join(shown)
        if self.terminal:
            self._bar.update(self._task, completed=step, pace=pace(self.rate), figures=self._text)
        elif not self.quiet and time.monotonic() - self._line > SECONDS_BETWEEN_LINES:
            self._print()

    def _print(self) -> None:
        self._line, self._said = time.monotonic(), self.step
        left = (self.total - self.step) / max(1e-9, self.rate)
        minutes, seconds = divmod(round(left), 60)
        what = f"{self.label}: " if self.passing else ""
        print(
            f"{what}step {self.step}/{self.total}  {pace(self.rate)}  {minutes}:{seconds:02d} left  {self._text}",
            file=sys.stderr,
            flush=True,
        )


def pace(rate: float) -> str:
    """A rate for people; below one step a second as the time of a step.

    >>> pace(256.3), pace(3.14), pace(0.25)
    ('256 steps/s', '3.1 steps/s', '4.0 s/step')
    """
    if 0 < rate < 1:
        return f"{1 / rate:.1f} s/step"
    return f"{rate:.0f} steps/s" if rate >= 10 else f"{rate:.1f} steps/s"


def stages(quiet: bool) -> Stage:
    """A bar for each stage of what comes beside training, such as an evaluation's."""

    @contextmanager
    def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
        with Progress(total, quiet=quiet, label=label, passing=True) as progress:
            yield lambda n: progress.update(progress.step + n, {})

    return stage
