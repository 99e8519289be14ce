"""The sweeps on a network that takes seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import ablations
from benchmarks.ablations import SWEEPS, at_budget, at_widening, main
from core.widths.config import ShrinkConfig

FAST = ["--train-limit", "60", "--epochs", "1", "--seeds", "1", "--no-progress", "--device", "cpu",
        "--cfg-options", "train.batch_size=30", "shrink.batch_size=10"]  # fmt: skip


def test_floors_follow_the_budget_and_the_widening() -> None:
    config = ShrinkConfig()
    assert at_budget(config, 1.0).floor == pytest.approx(0.4)
    assert at_budget(config, 0.25).floor == pytest.approx(0.2)
    assert at_budget(config, 0.25).budget.flops == 0.25
    assert at_widening(config, 1.0).floor == pytest.approx(0.8)
    assert at_widening(config, 3.0).floor == pytest.approx(0.8 / 3)


def test_the_sweeps_cover_what_was_asked_for() -> None:
    assert (SWEEPS["budgets"].values[0], SWEEPS["budgets"].values[-1]) == (0.25, 1.0)
    assert SWEEPS["widen"].values == (1.0, 1.5, 2.0, 3.0)
    assert (SWEEPS["floors"].values[0], SWEEPS["floors"].values[-1]) == (0.0, 0.6)
    assert (SWEEPS["batches"].values[0], SWEEPS["batches"].values[-1]) == (1, 64)


def test_two_sweeps_give_tables_figures_and_what_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {
        "budgets": replace(SWEEPS["budgets"], values=(0.5, 0.9), methods=("gradient", "uniform")),
        "floors": replace(SWEEPS["floors"], values=(0.2, 0.6), methods=("gradient",)),
    }
    monkeypatch.setattr(ablations, "SWEEPS", short)
    output = tmp_path / "ablations"
    arguments = [*FAST, "--work-dir", str(tmp_path / "work"), "--output", str(output)]
    assert main(["budgets", "floors", *arguments]) == 0
    text = output.with_suffix(".md").read_text()
    assert "| budgets 0.5: uniform | 1 |" in text
    assert "- floors 0.6: a budget of" in text
    stored = json.loads(output.with_suffix(".json").read_text())
    assert [len(stored[name]) for name in ("baseline", "budgets", "floors")] == [1, 4, 1]
    for record in stored["budgets"]:
        budget, ratio = record["shrink"]["budget"]["flops"], record["cost"]["flops"]["paper"]
        assert ratio <= budget * stored["baseline"][0]["cost"]["flops"]["paper"]
    for picture in (output.with_suffix(".png"), output.with_name("ablations-flops.png")):
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    weights = list((tmp_path / "work").glob("runs/*/model.safetensors"))
    assert main(["budgets", "--report-only", *arguments]) == 0
    assert list((tmp_path / "work").glob("runs/*/model.safetensors")) == weights


def test_an_unknown_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["colours", *FAST, "--work-dir", str(tmp_path)]) == 2
    assert (
        "unknown sweep 'colours': did you mean 'floors'? allowed: budgets, widen" in capsys.readouterr().err
    )


@pytest.mark.parametrize("option", ["--dhp-strength", "--dhp-epochs", "--candidates", "--accumulate-epochs"])
def test_options_that_no_sweep_looks_at_are_not_taken(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["batches", option, "3"])
    assert stopped.value.code == 2
    assert f"unrecognized arguments: {option} 3" in capsys.readouterr().err
