"""What a command says of how long it takes."""

from __future__ import annotations

from core.experiments.forecast import Forecast
from core.training.pace import Pace

STEPS, EPOCH = Pace(550, 600, evaluated=False), Pace(800, 900, evaluated=True)


def test_all_trainings_count_and_each_pace_is_told_once() -> None:
    forecast = Forecast(6)
    text = "about 59 min for 6 trainings of 10 epochs, without evaluations and searches for widths"
    assert forecast.line(STEPS, 10) == text
    assert forecast.line(STEPS, 10) == ""
    assert forecast.line(EPOCH, 10) == "about 88 min left for all trainings, evaluations included"
    assert forecast.line(STEPS, 10) == forecast.line(EPOCH, 10) == ""


def test_jobs_share_the_trainings() -> None:
    assert Forecast(6, jobs=2).line(STEPS, 10).startswith("about 29 min for 6 trainings")
    assert "for 6 trainings of 1 epoch," in Forecast(6, jobs=2).line(STEPS, 1)
    assert Forecast(5, jobs=2).line(STEPS, 10).startswith("about 29 min for 5 trainings")


def test_the_last_training_counts_alone() -> None:
    assert Forecast(1).line(STEPS, 10).startswith("about 9 min for this training")


def test_seconds_are_not_worth_a_line() -> None:
    assert Forecast(1).line(Pace(9, 9, evaluated=False), 10) == ""
