"""Progress bars: on a terminal a bar, in a pipe plain lines, if quiet nothing.

Work never ends because its progress cannot be shown: a closed terminal or pipe, or a full disk, only ends the display.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Any

from advae.formatting import format_duration

SECONDS_BETWEEN_LINES = 5.0
MIN_SECONDS_OF_ESTIMATE, MIN_STEPS_OF_ESTIMATE = (
    1.0,
    2,
)  # after the first step, which is slower than the others
SHOWN_METRICS = ("reconstruction", "kl", "error", "elbo")

StageProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Called with a label and a number of ticks; the function that it yields reports ticks as they are done."""


class Progress:
    """Steps done, speed, time left and some metrics.

    Args:
        total: number of steps.
        start: steps done before.
        quiet: show nothing.
        label: what is being done.
        transient: one of several stages: its bar disappears at the end, and a fast stage prints no line.
        delay: seconds before the bar appears, for work that is usually fast.
        estimate: print the estimated duration, once, when a few steps were timed.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        quiet: bool = False,
        label: str = "training",
        transient: bool = False,
        delay: float = 0.0,
        estimate: bool = False,
    ) -> None:
        self.total, self.start, self.step, self.quiet, self.label = total, start, start, quiet, label
        self.transient, self.delay = transient, delay
        self._needs_estimate, self._first_step_time = estimate, 0.0
        self.terminal = not quiet and _is_terminal()
        self._printed_step: int | None = None
        self._start_time = self._print_time = time.monotonic()
        self._metrics = ""
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self.delay == 0:
            self._start_bar()
        return self

    def _start_bar(self) -> None:
        if self.terminal and self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar

            bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=Console(stderr=True),
                transient=self.transient,
            )
            try:
                bar.start()
                self._task = bar.add_task(
                    self.label, total=self.total, completed=self.start, speed="– steps/s", metrics=""
                )
                self._bar = bar
            except OSError:  # the terminal was closed
                self.terminal, self.quiet = False, True
                with suppress(OSError):
                    bar.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with suppress(OSError):  # the terminal was closed
                self._bar.stop()
        elif not (self.quiet or self.terminal) and kind is None:
            if not (self.transient and self._printed_step in (None, self.step)):
                self._print()

    @contextmanager
    def preparing(self, what: str) -> Iterator[None]:
        """Show what is done before the first step, while time elapses; it does not count for the speed."""
        self._describe(f"{what} …")
        yield
        self._describe(self.label)
        self._start_time = self._print_time = time.monotonic()

    def _describe(self, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=text)

    @property
    def steps_per_second(self) -> float:
        """Mean speed since the start."""
        return (self.step - self.start) / max(1e-9, time.monotonic() - self._start_time)

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Show that ``step`` steps are done, with the latest metrics."""
        self.step = step
        self._estimate()
        texts = [f"{key} {metrics[key]:.4g}" for key in SHOWN_METRICS if key in metrics]
        if texts:
            self._metrics = "  ".join(texts)
        if time.monotonic() - self._start_time > self.delay:
            self._start_bar()
        if self._bar is not None:
            speed = format_speed(self.steps_per_second)
            self._bar.update(self._task, completed=step, speed=speed, metrics=self._metrics)
        elif (
            not (self.quiet or self.terminal) and time.monotonic() - self._print_time > SECONDS_BETWEEN_LINES
        ):
            self._print()

    def _estimate(self) -> None:
        """Print the estimated duration once enough steps were timed."""
        if not self._needs_estimate or self.quiet:
            return
        steps, now = self.step - self.start - 1, time.monotonic()
        if steps <= 0:
            self._first_step_time = now
        elif steps >= MIN_STEPS_OF_ESTIMATE and now - self._first_step_time >= MIN_SECONDS_OF_ESTIMATE:
            self._needs_estimate = False
            speed = steps / (now - self._first_step_time)
            print_line(f"{self.label}: about {format_estimate(self.total - self.start, speed)}")

    def _print(self) -> None:
        self._print_time, self._printed_step = time.monotonic(), self.step
        speed = self.steps_per_second
        minutes, seconds = divmod(round((self.total - self.step) / max(1e-9, speed)), 60)
        label = f"{self.label}: " if self.transient else ""
        print_line(
            f"{label}step {self.step}/{self.total}  {format_speed(speed)}  {minutes}:{seconds:02d} left"
            f"  {self._metrics}"
        )


def _is_terminal() -> bool:
    with suppress(OSError, ValueError):  # ValueError: the stream was closed
        return sys.stderr is not None and sys.stderr.isatty()
    return False


def print_line(line: str) -> None:
    """Print a line on stderr; nothing if it is closed, or if its pipe or file does not take it."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def format_speed(steps_per_second: float) -> str:
    """Return a speed as text; below one step per second as seconds per step.

    >>> format_speed(256.3), format_speed(3.14), format_speed(0.25)
    ('256 steps/s', '3.1 steps/s', '4.0 s/step')
    """
    if 0 < steps_per_second < 1:
        return f"{1 / steps_per_second:.1f} s/step"
    return f"{steps_per_second:.0f} steps/s" if steps_per_second >= 10 else f"{steps_per_second:.1f} steps/s"


def format_estimate(steps: int, steps_per_second: float) -> str:
    """Return the estimated duration of steps, and how it is computed.

    >>> format_estimate(6000, 20.0)
    '5 min 0 s: 6,000 steps at 20 steps/s'
    """
    return f"{format_duration(steps / steps_per_second)}: {steps:,} steps at {format_speed(steps_per_second)}"


def stage_progress(quiet: bool) -> StageProgress:
    """Return a function that shows one bar per stage of a task with several stages, such as an evaluation."""

    @contextmanager
    def show_stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
        with Progress(total, quiet=quiet, label=label, transient=True) as progress:
            yield lambda ticks: progress.update(progress.step + ticks, {})

    return show_stage
