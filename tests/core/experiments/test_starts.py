"""Baseline and found network start by one initialiser, and what is not known of it stops an experiment."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.errors import UserError
from core.experiments.checks import check_trials
from core.experiments.experiment import engine_of, run_experiment
from core.experiments.settings import Settings, TeacherConfig
from core.experiments.store import WorkDirectory
from core.experiments.task import Metric, Task
from core.experiments.trainings import network, teacher_network
from core.graph.channels import trace_channels
from core.methods.subject import fresh_baseline
from core.modules import named_tensors
from core.surgery.architecture import Architecture, describe_inputs
from core.surgery.starting import differing
from core.training.train import OptimizerConfig, TrainConfig, make_fabric
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig

pytestmark = pytest.mark.usefixtures("unarranged")
SHRINK = ShrinkConfig(budget=Budget(flops=0.9), floor=0.2, batches=1, batch_size=4, score="random")


class Batches:
    """One batch that depends on nothing."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def __len__(self) -> int:
        return 1

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        yield torch.rand(self.batch_size, 1, 8, 8, generator=generator), torch.arange(self.batch_size) % 3

    def shard(self, rank: int, world: int) -> Batches:
        raise AssertionError("one process")


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 12, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))  # fmt: skip


def known() -> nn.Module:
    """The spread is an attribute's: neither torch's default nor an `init_weights()`."""
    net = layers()
    for layer in (net[0], net[2]):
        fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
        layer.weight.data.normal_(0, math.sqrt(2 / fan_out))
    return net


def unclear() -> nn.Module:
    """1/√16 of the inputs, or the constant 0.25: nothing tells."""
    net = layers()
    nn.init.normal_(net[2].weight, std=1 / math.sqrt(16))
    return net


def task(build: Callable[[], nn.Module]) -> Task:
    return Task(
        name="toy",
        dataset="noise",
        model_name="net",
        build=build,
        example_inputs=torch.zeros(1, 1, 8, 8),
        train_loader=lambda batch_size, seed: Batches(batch_size),
        loss_fn=nn.functional.cross_entropy,
        evaluate=lambda model: {"error": 1.0},
        metrics=(Metric("error", "error", higher_is_better=False),),
        curves=("loss", "error", "error"),
    )


def settings(folder: Path, **changes: object) -> Settings:
    train = TrainConfig(epochs=1, batch_size=4, optimizer=OptimizerConfig(lr=0.01))
    return replace(Settings(train, SHRINK, folder, progress=False), **changes)


def regular(build: Callable[[], nn.Module]) -> Architecture:
    graph = trace_channels(build(), torch.zeros(1, 1, 8, 8))
    return Architecture("net", graph.widths, describe_inputs(torch.zeros(1, 1, 8, 8)))


@pytest.mark.parametrize("build", [known, unclear])
def test_at_regular_widths_both_are_the_factorys_own(build: Callable[[], nn.Module]) -> None:
    own = fresh_baseline(task(build), 3)
    baseline, found = (network(task(build), widths, 3) for widths in (None, regular(build)))
    assert differing(named_tensors(own), named_tensors(baseline)) == []
    assert differing(named_tensors(own), named_tensors(found)) == []


def test_a_teacher_starts_as_its_factory_would() -> None:
    teacher, _ = teacher_network(task(known), TeacherConfig(widen=2.0), SHRINK, seed=0)
    assert teacher[0].weight.shape[0] == 32
    assert teacher[2].weight.std().item() == pytest.approx(math.sqrt(2 / 24), rel=5 / math.sqrt(2 * 768))


def test_an_unknown_start_is_refused_at_once(tmp_path: Path) -> None:
    asked = settings(tmp_path)
    check_trials(engine_of(task(known), asked, make_fabric("cpu")), asked.trials())
    engine = engine_of(task(unclear), asked, make_fabric("cpu"))
    with pytest.raises(
        UserError, match=r"1 tensors of net may start otherwise .*'2\.weight': .*--allow-unknown"
    ):
        check_trials(engine, asked.trials())
    assert not list(tmp_path.iterdir())
    check_trials(replace(engine, allow_unknown_start=True), asked.trials())


def test_an_unknown_start_that_is_allowed_stands_in_the_report(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = run_experiment(task(unclear), settings(tmp_path), make_fabric("cpu"), said.append)
    assert [(failure.trial.method, failure.usage) for failure in outcome.failed] == [("lwdna", True)]
    allowed = settings(tmp_path, allow_unknown_start=True)
    outcome = run_experiment(task(unclear), allowed, make_fabric("cpu"), said.append)
    line = "lwdna, seed 0: 1 tensors may start otherwise than the baseline's: 2.weight"
    assert not outcome.failed
    assert any(line in news for news in said)
    assert outcome.result is not None
    assert outcome.result["unknown_start"] == [f"{line}."]
    assert json.loads((tmp_path / "result.json").read_text())["unknown_start"] == [f"{line}."]
    assert f"{line}." in (tmp_path / "report.md").read_text()


def test_records_of_an_earlier_release_are_not_mixed_with_todays(tmp_path: Path) -> None:
    asked = settings(tmp_path)
    engine = engine_of(task(known), asked, make_fabric("cpu"))
    run_experiment(task(known), asked, make_fabric("cpu"), lambda line: None)
    trial = asked.trials()[1]
    assert engine.load(trial) is not None
    path = WorkDirectory(tmp_path, 0).record_file(trial.method, trial.seed)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "subject": {**record["subject"], "schema": 1}}))
    with pytest.raises(
        UserError, match="is of an earlier release, whose found networks started by other rules"
    ):
        engine.load(trial)
    assert replace(engine, schema=1).record_key(trial) != engine.record_key(trial)
