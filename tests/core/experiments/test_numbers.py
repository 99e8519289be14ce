"""Results that are infinite or NaN: in statistics, tables, plots, files, and from the training to the report."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from core.experiments.experiment import run_experiment
from core.experiments.marks import say_what_is_not_drawn
from core.experiments.report import results_table
from core.experiments.settings import Settings
from core.experiments.statistics import (
    fine_digits,
    half_interval,
    holm,
    number_text,
    p_text,
    paired_p,
    statistics,
    width_spread,
    with_interval,
)
from core.experiments.task import Metric, Task
from core.report.style import new_figure
from core.training.train import OptimizerConfig, TrainConfig, make_fabric
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from tests.toys import toy_task

INF, NAN = math.inf, math.nan
PSNR = Metric("psnr", "PSNR", higher_is_better=True)


@pytest.mark.parametrize(
    ("values", "mean", "std", "text"),
    [
        ([30.0, 32.0], 31.0, math.sqrt(2), f"31.00 ± {stats.t.ppf(0.975, 1):.2f}"),
        ([30.0], 30.0, 0.0, "30.00"),
        ([INF], INF, NAN, "inf"),
        ([INF, 30.0], INF, NAN, "inf ± undefined"),
        ([INF, INF], INF, NAN, "inf ± undefined"),
        ([-INF, 30.0], -INF, NAN, "-inf ± undefined"),
        ([INF, -INF], NAN, NAN, "undefined"),
        ([NAN, 30.0], NAN, NAN, "undefined"),
        ([NAN], NAN, NAN, "undefined"),
    ],
)
def test_statistics(values: list[float], mean: float, std: float, text: str) -> None:
    found = statistics(values)
    assert found["values"] == pytest.approx(values, nan_ok=True)
    assert found["mean"] == pytest.approx(mean, nan_ok=True)
    assert found["std"] == pytest.approx(std, nan_ok=True)
    assert with_interval(values) == text


def test_there_is_no_test_with_values_that_are_not_finite() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for differences in ([INF, 1.0, 2.0], [NAN, 1.0, 2.0], [INF, INF]):
            assert math.isnan(paired_p(differences))
            half = half_interval(differences)
            assert half is not None
            assert math.isnan(half)
        # 2 and 3 of 41 images: the same difference, but for the last digits.
        errors = [[100 * wrong / 41 for wrong in seed] for seed in ((27, 26), (30, 29))]
        differences = [found - regular for regular, found in errors]
        assert math.isnan(paired_p(differences))
        assert math.isnan(paired_p([0.0, 0.0]))
        assert not math.isnan(paired_p([0.0, 1e-6]))
    assert holm([0.01, NAN, 0.04])[0] == pytest.approx(0.02)
    assert number_text("inf") == "inf"
    assert number_text("nan") == "undefined"


def toy(scores: list[float]) -> Task:
    """A task whose networks reach these scores, one after the other."""
    left = list(scores)
    return toy_task(
        evaluate=lambda model: {"psnr": left.pop(0)},
        metrics=(PSNR,),
        curves=("loss", "psnr", "PSNR"),
        references={"Bicubic": {"psnr": INF}},
    )


def settings(folder: Path, **changes: Any) -> Settings:
    recipe = TrainConfig(epochs=1, batch_size=4, optimizer=OptimizerConfig(lr=0.01))
    shrink = ShrinkConfig(budget=Budget(flops=0.7), floor=0.2, batch_size=4)
    return replace(Settings(recipe, shrink, folder, seeds=2, progress=False), **changes)


@pytest.mark.parametrize("scores", [[INF, 30.0, INF, INF], [-INF, NAN, 31.0, 30.0]])
@pytest.mark.filterwarnings("error:.*(invalid value|divide by zero):RuntimeWarning")
def test_an_experiment_survives_them_and_so_does_its_resume(scores: list[float], tmp_path: Path) -> None:
    said: list[str] = []
    first = run_experiment(toy(scores), settings(tmp_path), make_fabric("cpu"), said.append).result
    text = (tmp_path / "result.json").read_text()
    content = json.loads(text, parse_constant=pytest.fail)
    for method, own in (("baseline", scores[::2]), ("lwdna", scores[1::2])):
        metric = content["methods"][method]["metrics"]["psnr"]
        assert [float(value) for value in metric["values"]] == pytest.approx(own, nan_ok=True)
        assert metric["values"] == [value if math.isfinite(value) else str(value) for value in own]
        assert float(metric["mean"]) == pytest.approx(sum(own) / 2, nan_ok=True)
    strange = sum(not math.isfinite(score) for score in scores)
    report = (tmp_path / "report.md").read_text()
    assert f" {strange} of 4 values {'is' if strange == 1 else 'are'} infinite or not a number" in report
    assert "nan" not in report.lower().replace("not a number", "")
    assert "| n/a |" in report  # the paired test
    assert (tmp_path / "curves.png").exists()
    # What is read back makes the same table; nothing is evaluated again.
    assert first is not None
    assert results_table((PSNR,), content) == results_table((PSNR,), first)
    (tmp_path / "result.json").unlink()
    run_experiment(toy([]), settings(tmp_path), make_fabric("cpu"), said.append)
    assert (tmp_path / "result.json").read_text() == text


def test_plots_say_what_they_do_not_show() -> None:
    _, axis = new_figure(4, 3)
    say_what_is_not_drawn(axis, [1.0, INF, -INF, NAN])
    assert [text.get_text() for text in axis.texts] == [
        "2 values infinite: not drawn\n1 value not a number: not drawn"
    ]
    _, axis = new_figure(4, 3)
    say_what_is_not_drawn(axis, [1.0])
    say_what_is_not_drawn(axis, [])
    assert not axis.texts


def test_the_spread_of_widths_is_that_of_their_logarithms() -> None:
    base = {"a": 10, "b": 20, "c": 40}
    assert width_spread({"a": 5, "b": 10, "c": 20}, base) == 0.0
    assert width_spread({"a": 20, "b": 10}, base) == pytest.approx(math.log(2))  # a block was left out
    assert width_spread({}, base) == 0.0


def test_differences_finer_than_values_show_two_digits_of_their_spread() -> None:
    assert fine_digits([0.0290, 0.0183, 0.0207], 2) == 4
    assert fine_digits([1.0, 3.5], 2) == 2
    for alike in ([1.0], [1.0, 1.0], [math.inf, 1.0], [2.4390243902439046, 2.439024390243903]):
        assert fine_digits(alike, 2) == 2
    assert [p_text(0.00039), p_text(0.00039, digits=4)] == ["<0.001", "0.0004"]
    assert p_text(0.00002, digits=4) == "<0.0001"
