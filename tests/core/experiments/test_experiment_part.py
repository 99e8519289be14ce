"""Experiments that search a part of a network: its widths alone change, and the whole network's loss judges them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.experiments.experiment import check, run_experiment
from core.experiments.settings import Settings
from core.experiments.task import Task
from core.experiments.trainings import network
from core.methods.subject import Part, Pretrained, find_architecture
from core.surgery.architecture import Architecture
from core.surgery.initialise import seeded
from core.training.train import OptimizerConfig, TrainConfig, make_fabric
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from tests.toys import Batches, toy_task

pytestmark = pytest.mark.usefixtures("unarranged")
HEAD_WIDTH = 6


class Whole(nn.Module):
    """A trunk, and a head that is as wide as it has to be."""

    def __init__(self, trunk: nn.Sequential) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Sequential(nn.Conv2d(trunk[-1].out_channels, HEAD_WIDTH, 1), nn.ReLU())
        self.last = nn.Linear(HEAD_WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.trunk(x)).mean((2, 3)))


def trunk() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3))


def part_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    with seeded(1):
        head = nn.Linear(outputs.shape[1], 3)
    return nn.functional.cross_entropy(head(outputs.mean((2, 3))), targets)


def insert(found: Architecture, seed: int) -> nn.Module:
    with seeded(seed):
        return Whole(found.build(trunk()))


@pytest.fixture
def task() -> Task:
    return toy_task(
        model_name="whole",
        build=lambda: Whole(trunk()),
        train_loader=lambda batch_size, seed: Batches(batch_size, 4),
        part=Part(
            "trunk",
            trunk,
            torch.zeros(1, 1, 8, 8),
            lambda inputs, targets: (inputs, targets),
            part_loss,
            insert,
            Whole,
        ),
    )


def config(**changes: Any) -> ShrinkConfig:
    return replace(ShrinkConfig(budget=Budget(flops=0.7), floor=0.2, batch_size=6), **changes)


def test_only_the_part_changes(task: Task) -> None:
    found = find_architecture(task, config(), seed=3)
    assert list(found.widths) == ["0", "2"]  # the part's output is free as well
    assert found.costs[0].paper <= 0.7 * found.costs[1].paper
    model = network(task, found, seed=3)
    assert isinstance(model, Whole)
    assert model.trunk[0].out_channels == found.widths["0"]
    assert model.head[0].in_channels == found.widths["2"]
    assert model.head[0].out_channels == HEAD_WIDTH
    check(task, config())


def test_its_scores_come_from_its_own_loss(task: Task) -> None:
    def blind(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs[:, :3].square().mean()  # later channels do not matter

    blinded = replace(task, part=replace(task.part, loss_fn=blind))
    found = find_architecture(blinded, config(floor=0.01), seed=0)
    assert found.widths["2"] == 3
    assert found.widths != find_architecture(task, config(floor=0.01), seed=0).widths


def test_given_widths_are_taken_and_controls_are_found(task: Task, tmp_path: Path) -> None:
    given = replace(find_architecture(task, config(score="random"), seed=9), found_by={})
    settings = Settings(
        train=TrainConfig(epochs=1, batch_size=6, optimizer=OptimizerConfig(lr=0.01)),
        shrink=config(budget=Budget(flops=given.costs[0].paper)),
        work_dir=tmp_path,
        controls=("uniform",),
        progress=False,
    )
    said: list[str] = []
    result = run_experiment(replace(task, given=given), settings, make_fabric("cpu"), said.append).result
    assert result is not None
    assert result["methods"]["lwdna"]["widths"] == given.widths
    assert result["methods"]["uniform"]["widths"] != given.widths
    assert result["methods"]["uniform"]["flops"] <= result["methods"]["lwdna"]["flops"]
    assert any("given widths at" in line for line in said)
    assert (tmp_path / "channels.png").is_file()
    assert "parameters are the trunk's" in (tmp_path / "report.md").read_text()


def test_the_part_begins_with_its_trained_weights(task: Task, tmp_path: Path) -> None:
    with seeded(7):
        trained = trunk()

    def built() -> nn.Module:
        fresh = trunk()
        fresh.load_state_dict(trained.state_dict())
        return fresh

    started = replace(task, pretrained=Pretrained("file", "sum", built))
    found = find_architecture(started, config(widen=1.0, keep_weights=True), seed=3)
    whole = network(started, None, 3, "pretrained")
    small = network(started, found, 3, "pretrained")
    assert isinstance(whole, Whole)
    assert isinstance(small, Whole)
    assert torch.equal(whole.trunk[0].weight, trained[0].weight)
    first, last = (list(found.kept[name]) for name in ("0", "2"))
    assert len(first) < 8
    assert torch.equal(small.trunk[2].weight, trained[2].weight[last][:, first])
    assert small.head[0].in_channels == len(last)
    assert torch.equal(whole.last.weight, network(started, None, 3, "pretrained").last.weight)
    assert not torch.equal(whole.last.weight, network(started, None, 4, "pretrained").last.weight)
    # Fine-tuned and recorded; a tracker without trained heads has nothing to be evaluated before.
    settings = Settings(
        train=TrainConfig(epochs=1, batch_size=6, optimizer=OptimizerConfig(lr=0.01)),
        shrink=config(widen=1.0, keep_weights=True),
        work_dir=tmp_path,
        start="pretrained",
        progress=False,
    )
    result = run_experiment(started, settings, make_fabric("cpu"), lambda line: None).result
    assert result is not None
    assert list(result["methods"]) == ["baseline", "lwdna", "lwdna-scratch"]
    record = json.loads((tmp_path / "records/lwdna-seed0.json").read_text())
    assert record["weights"]["pretrained"] == "file"
    assert record["metrics_at_start"] is None
