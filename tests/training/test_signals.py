"""SIGINT and SIGTERM during a block."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from advae.training.signals import SignalHandler


@pytest.fixture(autouse=True)
def python_handler() -> Iterator[None]:
    """Python's handler of Ctrl-C: a shell starts background jobs with the signal ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def test_first_signal_is_recorded_and_second_acts_as_usual() -> None:
    with SignalHandler() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_restored_after_an_exception() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), SignalHandler():
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise ZeroDivisionError
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


def test_no_handlers_outside_the_main_thread() -> None:
    handlers = []

    def enter() -> None:
        with SignalHandler():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
