"""How long a training takes: exact where steps and evaluations take constant times."""

from __future__ import annotations

import pytest

from core.training.pace import Pace, PaceMeter, duration_text


class Training:
    """One whose first step takes 50 s, every other step 2 s and every evaluation 30 s, on a clock of its own."""

    def __init__(self, epochs: int, batches: int, eval_every: int) -> None:
        self.told: list[tuple[float, Pace]] = []
        self.now = 1000.0
        self.epochs, self.batches, self.eval_every = epochs, batches, eval_every
        self.meter = PaceMeter(epochs, batches, eval_every, self.note, lambda: self.now)

    def note(self, pace: Pace) -> None:
        self.told.append((self.now, pace))

    def run(self, epoch: int = 0, batch: int = 0) -> float:
        """From there to the end; returns when it ended."""
        first = True
        for number in range(epoch, self.epochs):
            self.meter.start_epoch()
            for done in range(batch if number == epoch else 0, self.batches):
                self.now += 50 if first else 2
                first = False
                self.meter.advance(number, done + 1)
            due = (number + 1) % self.eval_every == 0 or number + 1 == self.epochs
            self.now += 30 if due else 0
            self.meter.end_epoch(number, 30 if due else 0, due)
        return self.now


@pytest.mark.parametrize(("epochs", "eval_every", "evaluations"), [(3, 1, 3), (5, 2, 3), (4, 10, 1)])
def test_the_pace_is_told_after_the_first_steps_and_after_the_first_evaluation(
    epochs: int, eval_every: int, evaluations: int
) -> None:
    training = Training(epochs, 40, eval_every)
    end = training.run()
    (early, steps), (late, whole) = training.told
    assert early == 1000 + 50 + 2 + 2  # the first step only warms up; three seconds later it is known
    assert steps == Pace(left=2 * (40 * epochs - 3), whole=2 * 40 * epochs, evaluated=False)
    assert end - early == steps.left + 30 * evaluations  # what it says that it does not count
    assert whole == Pace(end - late, 2 * 40 * epochs + 30 * evaluations, evaluated=True)


def test_a_resumed_training_counts_from_where_it_stands() -> None:
    training = Training(3, 40, 1)
    end = training.run(1, 25)
    (early, steps), (late, whole) = training.told
    assert steps.left == end - early - 2 * 30
    assert (whole.left, whole.whole) == (end - late, 240 + 90)


def test_one_step_is_no_pace() -> None:
    training = Training(1, 1, 1)
    training.run()
    assert training.told == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "about 5 s"), (42, "about 40 s"), (54, "about 55 s"), (55, "about 1 min"), (14 * 60 + 20, "about 14 min"),
        (99.4 * 60, "about 99 min"), (3600 * 3.33, "about 3 h 20 min"), (3600 * 4.99, "about 5 h"),
        (3600 * 53, "about 2 days 5 h"), (86400 * 3, "about 3 days"),
    ],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
