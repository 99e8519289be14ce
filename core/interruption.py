"""Signals that ask a command to end, at a moment that suits: held back during a training step, obeyed after it.

Ctrl-C comes from a person who wants it to end. SIGTERM, SIGUSR1 and SIGUSR2 come from a system (a scheduler, a
shutdown) that wants it to go on elsewhere or later. The exit status says which it was (`core.command_line.exits`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# What schedulers send to all processes of a job before its time is up; Windows has neither.
SENT_TO_ALL = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
SIGNALS = [signal.SIGINT, signal.SIGTERM, *SENT_TO_ALL]


class Preempted(KeyboardInterrupt):
    """The system asked the process to end, by SIGTERM, SIGUSR1 or SIGUSR2: the message names the signal."""


def interruption_by(number: int) -> KeyboardInterrupt:
    """What a signal raises: `Preempted`, or KeyboardInterrupt for Ctrl-C."""
    name = signal.Signals(number).name
    return KeyboardInterrupt(name) if number == signal.SIGINT else Preempted(name)


class Interruption:
    """Tells whether the user or the system asked the process to stop. Made by `watch_for_interruption`."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._deferred = False
        self._process = os.getpid()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: raise at once, but only note the first signal within `deferred`."""
        if os.getpid() != self._process:
            _in_child(number)
        elif self._deferred and self.requested is None:
            self.requested = signal.Signals(number)
        else:
            raise interruption_by(number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block the first signal is only noted in `requested`; a second one raises at once."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False


def _in_child(number: int) -> None:
    """A forked worker inherits the handler: signals act as if it had none, but it ignores SIGUSR1 and SIGUSR2.

    These would end it, and schedulers send them to all processes of a job: the first process decides what to do.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextmanager
def watch_for_interruption() -> Iterator[Interruption]:
    """Turn SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 into exceptions that can be deferred, until the block is left.

    They are KeyboardInterrupt, or `Preempted`, which is one. Outside the main thread Python allows no handlers: signals
    are then left as they are.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    old = {number: signal.signal(number, interruption.handle) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
