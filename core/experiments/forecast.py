"""How long the trainings of a command take: printed after the first steps and after the first evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from core.training.pace import Pace, duration_text

WORTH_TELLING = 10.0  # seconds


@dataclass
class Forecast:
    """The trainings that a command has to do.

    Attributes:
        trainings: number of unfinished trainings, the present one included.
        jobs: trainings at a time.
        told: how often the forecast was printed.
    """

    trainings: int
    jobs: int = 1
    told: int = 0

    def line(self, pace: Pace, epochs: int) -> str:
        """What to print once a training shows its pace, "" for nothing; all are assumed to be as fast as this one.

        Args:
            pace: of the present training.
            epochs: of each training.
        """
        if self.told > int(pace.evaluated):  # each forecast once, and never a rough one after an exact one
            return ""
        self.told = 1 + int(pace.evaluated)
        seconds = pace.left + (math.ceil(self.trainings / self.jobs) - 1) * pace.whole
        if seconds < WORTH_TELLING:
            return ""
        if pace.evaluated:
            whole = " for all trainings" if self.trainings > 1 else ""
            return f"{duration_text(seconds)} left{whole}, evaluations included"
        each = f"{epochs} epoch{'s' * (epochs != 1)}"
        several = f"{self.trainings} trainings of {each}" if self.trainings > 1 else "this training"
        return f"{duration_text(seconds)} for {several}, without evaluations and searches for widths"

    def teller(self, epochs: int, say: Callable[[str], object]) -> Callable[[Pace], None]:
        """A function that prints the forecast, if there is one, whenever the present training shows its pace."""

        def tell(pace: Pace) -> None:
            if line := self.line(pace, epochs):
                say(line)

        return tell
