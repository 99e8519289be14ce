"""A training of an experiment that diverges: named, gone on from at a lower rate, and told in the report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.errors import UserError
from core.experiments.experiment import run_experiment
from core.experiments.settings import Settings
from core.experiments.task import Task
from core.training.train import OptimizerConfig, TrainConfig, make_fabric
from tests.core.experiments.test_experiment_part import Whole, config, trunk
from tests.toys import Batches, toy_task

pytestmark = pytest.mark.usefixtures("unarranged")


@dataclass(frozen=True)
class Fragile(Batches):
    """Targets that only a low learning rate survives, for one seed."""

    factor: float = 1.0

    def epoch(self, epoch: int, start: int = 0) -> Any:
        for number, (inputs, targets) in enumerate(super().epoch(epoch, start), start):
            yield inputs, (targets, self.factor if (epoch, number) == (1, 2) else 1.0)


def fragile_task(spoilt: set[int]) -> Task:
    """The trainings of some seeds diverge."""
    return toy_task(
        model_name="whole",
        build=lambda: Whole(trunk()),
        train_loader=lambda size, seed: Fragile(size, 4, factor=torch.nan if seed in spoilt else 1.0),
        loss_fn=loss,
    )


def loss(outputs: Tensor, targets: tuple[Tensor, float]) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets[0]) * targets[1]


def test_a_diverged_training_is_named_and_goes_on_at_a_lower_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = {1}
    task = fragile_task(spoilt)
    recipe = TrainConfig(
        epochs=2, batch_size=6, optimizer=OptimizerConfig(lr=0.01), checkpoint_every_steps=1, ema_decay=0.5
    )
    settings = Settings(recipe, config(), tmp_path, seeds=2, progress=False)
    fabric = make_fabric("cpu")
    outcome = run_experiment(task, settings, fabric, lambda line: None)
    assert outcome.result is not None
    assert [(failure.trial.method, failure.trial.seed) for failure in outcome.failed] == [
        ("baseline", 1),
        ("lwdna", 1),
    ]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith(
        "failed: baseline, seed 1: TrainingDiverged: training diverged: loss nan at step 7 "
    )
    failed = outcome.result["failed"]
    assert [(entry["method"], entry["seed"]) for entry in failed] == [("baseline", 1), ("lwdna", 1)]
    assert failed[0]["error"].startswith("TrainingDiverged: training diverged")
    assert outcome.result["seeds"] == [0, 1]
    assert outcome.result["methods"]["lwdna"]["metrics"]["error"]["values"] == [1.0]
    report = (tmp_path / "report.md").read_text()
    assert "2 trials failed and are left out" in report
    assert "Difference to the baseline" not in report  # no seed has both twice
    # A comparison alone knows what failed.
    compared = run_experiment(task, replace(settings, stages=("compare",)), fabric, lambda line: None)
    assert compared.result is not None
    assert compared.result["failed"] == failed
    finished = (tmp_path / "runs" / "baseline-seed0" / "model.safetensors").read_bytes()

    spoilt.clear()
    said_now: list[str] = []
    result = run_experiment(task, replace(settings, lowered_lr=0.002), fabric, said_now.append).result
    assert result is not None
    assert result["failed"] == []
    assert not any("seed 0: training" in line for line in said_now)  # what was done is not tried again
    assert not (tmp_path / "failed.json").exists()
    assert (tmp_path / "runs" / "baseline-seed0" / "model.safetensors").read_bytes() == finished
    change = "baseline, seed 1: diverged at step 7 (epoch 2) at learning rate 0.01: loss nan; from step 5 on at 0.002."
    assert result["recipe_changes"] == [change, change.replace("baseline", "lwdna")]
    assert result["methods"]["lwdna"]["raw_metrics"]["error"]["values"] == [1.0, 1.0]
    report = (tmp_path / "report.md").read_text()
    assert "the same recipe but for the learning rates below, the same seeds" in report
    assert f"Not all networks had the same recipe: {change}" in report
    assert (
        "Scores are of running averages of the weights; of the weights themselves: Baseline error 1.00"
        in report
    )


def test_runs_that_were_not_scored_alike_are_not_compared(tmp_path: Path) -> None:
    """A log whose last line lacks scores is no reason for a traceback, and no row."""
    task = fragile_task(set())
    recipe = TrainConfig(epochs=1, batch_size=6, optimizer=OptimizerConfig(lr=0.01))
    settings = Settings(recipe, config(), tmp_path, stages=("baseline", "shrink", "train"), progress=False)
    run_experiment(task, settings, make_fabric("cpu"), lambda line: None)
    log = tmp_path / "runs" / "lwdna-seed0" / "log.jsonl"
    log.write_text(log.read_text().replace('{"error": 1.0}', "{}"))
    with pytest.raises(UserError, match=r"'lwdna', seed 0, and 'baseline', seed 0, were not scored alike"):
        run_experiment(task, replace(settings, stages=("compare",)), make_fabric("cpu"), lambda line: None)
