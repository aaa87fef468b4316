"""SIGINT, SIGTERM and SIGHUP during a block."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from advae.training.signals import SignalHandler


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Python's handlers: shells start background jobs, and nohup starts programs, with a signal ignored."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    yield
    for signum, handler in previous.items():
        signal.signal(signum, handler)


def test_first_signal_is_recorded_and_second_acts_as_usual() -> None:
    with SignalHandler() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_closed_terminal_is_recorded_unless_it_is_to_be_ignored() -> None:
    with SignalHandler() as signals:
        signal.raise_signal(signal.SIGHUP)
        assert signals.signum == signal.SIGHUP
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    with SignalHandler() as signals:
        signal.raise_signal(signal.SIGHUP)
        assert signals.signum is None


def test_handlers_are_restored_after_an_exception() -> None:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(signum) for signum in signals]
    with pytest.raises(ZeroDivisionError), SignalHandler():
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise ZeroDivisionError
    assert [signal.getsignal(signum) for signum in signals] == before


def test_no_handlers_outside_the_main_thread() -> None:
    handlers = []

    def enter() -> None:
        with SignalHandler():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
