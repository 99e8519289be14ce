"""How long the trainings of a command take: said after the first steps, and once more after the first evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from core.training.pace import Pace, duration_text

WORTH_TELLING = 10.0  # seconds


@dataclass
class Forecast:
    """What there is to train.

    Attributes:
        trainings: that are not done, the one under way among them.
        jobs: at a time.
        told: how often it was said.
    """

    trainings: int
    jobs: int = 1
    told: int = 0

    def line(self, pace: Pace, epochs: int) -> str:
        """What to say once a training shows its pace, "" for nothing; all are taken to be as quick as this one.

        Args:
            pace: of the training under way.
            epochs: of each.
        """
        if self.told > int(pace.evaluated):  # each once, and nothing less exact after the more exact one
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
        """Says so, where there is something to say, whenever the training under way shows its pace."""

        def tell(pace: Pace) -> None:
            if line := self.line(pace, epochs):
                say(line)

        return tell
