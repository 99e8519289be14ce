"""How long a training takes, estimated from its first steps on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

MEASURED_STEPS = 20
MEASURED_SECONDS = 3.0  # whichever comes first, after a first step that also warms up


@dataclass(frozen=True)
class Pace:
    """How long a training takes at the measured speed.

    Attributes:
        left: seconds that are left.
        whole: seconds from its start to its end.
        evaluated: whether these include evaluations, whose time is known after the first one.
    """

    left: float
    whole: float
    evaluated: bool


class PaceMeter:
    """Measures a training while it runs.

    Args:
        epochs: of the training.
        batches: per epoch.
        eval_every: epochs between evaluations; one follows the last epoch.
        tell: called twice at most: after the first steps, and after the first evaluation.
        clock: the present time in seconds.
    """

    def __init__(
        self,
        epochs: int,
        batches: int,
        eval_every: int,
        tell: Callable[[Pace], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._epochs, self._batches, self._eval_every = epochs, batches, eval_every
        self._tell, self._clock = tell, clock
        self._first: tuple[float, int] | None = None  # when a batch of this epoch was done, and its number
        self._per_batch: float | None = None
        self._evaluation: float | None = None
        self._told = False

    def start_epoch(self) -> None:
        """Leave the time between epochs out of the steps."""
        self._first = None

    def advance(self, epoch: int, batch: int) -> None:
        """Note that `batch` batches of epoch `epoch` (from 0) are done."""
        now = self._clock()
        if self._first is None:
            self._first = now, batch
            return
        seconds, batches = now - self._first[0], batch - self._first[1]
        self._per_batch = seconds / batches
        if not self._told and (seconds >= MEASURED_SECONDS or batches >= MEASURED_STEPS):
            self._told = True
            self._say(epoch, batch)

    def end_epoch(self, epoch: int, seconds: float, evaluated: bool) -> None:
        """Note that epoch `epoch` is done; what followed took `seconds`, with an evaluation if it was `evaluated`."""
        if evaluated:
            first = self._evaluation is None
            self._evaluation = seconds
            if first:
                self._say(epoch + 1, 0)

    def left(self, epoch: int, batch: int) -> float | None:
        """Seconds from `batch` of epoch `epoch` to the training's end; None until the speed is known."""
        if self._per_batch is None:
            return None
        evaluations = sum(self._due(number) for number in range(epoch, self._epochs))
        batches = (self._epochs - epoch) * self._batches - batch
        return batches * self._per_batch + evaluations * (self._evaluation or 0.0)

    def _due(self, epoch: int) -> bool:
        return (epoch + 1) % self._eval_every == 0 or epoch + 1 == self._epochs

    def _say(self, epoch: int, batch: int) -> None:
        left, whole = self.left(epoch, batch), self.left(0, 0)
        if self._tell is not None and left is not None and whole is not None:
            self._tell(Pace(left, whole, self._evaluation is not None))


def duration_text(seconds: float) -> str:
    """'about 40 s', 'about 14 min', 'about 3 h 20 min', 'about 2 days 5 h'."""
    if seconds < 55:
        return f"about {max(5 * round(seconds / 5), 5)} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"about {minutes} min"
    if minutes < 48 * 60:
        hours, rest = divmod(10 * round(minutes / 10), 60)
        return f"about {hours} h {rest} min" if rest else f"about {hours} h"
    days, hours = divmod(round(minutes / 60), 24)
    return f"about {days} days {hours} h" if hours else f"about {days} days"
