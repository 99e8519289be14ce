"""Ctrl-C and SIGTERM at a moment that suits: held back during a training step, obeyed after it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Tells whether the user or the system asked the process to stop. Made by `watch_for_interruption`."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._deferred = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: raise at once, or only take a note if within `deferred` for the first time."""
        if self._deferred and self.requested is None:
            self.requested = signal.Signals(number)
        else:
            raise KeyboardInterrupt(signal.Signals(number).name)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block the first signal is only noted in `requested`; a second one raises at once."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False


@contextmanager
def watch_for_interruption() -> Iterator[Interruption]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt that can be deferred, until the block is left.

    Outside the main thread Python allows no handlers: signals are then left as they are.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    old = {number: signal.signal(number, interruption.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
