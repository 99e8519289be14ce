"""What an experiment refuses in the first second instead of after the baseline's training."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from classification.models import build
from core.errors import UserError
from core.experiments.checks import check_trials
from core.experiments.experiment import check, engine_of
from core.experiments.settings import Settings
from core.experiments.task import Task
from core.graph.complexity import count
from core.training.train import TrainConfig, make_fabric
from core.widths.budget import Budget, BudgetError
from core.widths.config import ShrinkConfig
from core.widths.scores import SCORES
from core.widths.shrinkage import CLEARLY
from tests.toys import toy_task


@pytest.fixture
def task() -> Task:
    return toy_task()


@pytest.mark.parametrize("latency", [None, "1us"])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"flops": 0.1}, BudgetError, "flops .* cannot be reached"),
        ({"params": 0.01}, BudgetError, "params .* cannot be reached"),
        ({"flops": 0.9, "floor": 1.2}, UserError, "floor of group '0' is 1.2"),
        ({"flops": 0.9, "ceiling": -0.5}, UserError, "ceiling of group '0' is -0.5"),
        ({"flops": 0.9, "round_to": 0}, UserError, "round_to=0"),
        ({"flops": 0.9, "floor": {"layer1.*": 0.3}}, UserError, r"floor: no channel group fits 'layer1\.\*'"),
        ({"flops": 0.9, "ceiling": {"*": 1.0, "1": 1.0}}, UserError, "ceiling: no channel group fits '1'"),
        ({"flops": 0.9, "vanish": 0.4, "floor": {"5": 0.3}}, UserError, "floor: no channel group fits '5'"),
        ({"flops": 0.9, "freeze": ("00",)}, UserError, "freeze: no module of the model is called '00'"),
        ({"flops": 0.9, "widen": 0.5}, UserError, "0.5"),
    ],
)
def test_a_latency_in_the_budget_hides_no_other_mistake(
    changes: dict[str, Any], error: type[Exception], message: str, latency: str | None, task: Task
) -> None:
    limits = {kind: changes[kind] for kind in ("flops", "params") if kind in changes}
    others = {key: value for key, value in changes.items() if key not in limits}
    check(task, ShrinkConfig(budget=Budget(flops=0.9, latency=latency), floor=0.2))
    with pytest.raises(error, match=message):
        check(task, ShrinkConfig(**{"budget": Budget(**limits, latency=latency), "floor": 0.2, **others}))


@pytest.mark.parametrize(("limit", "refused"), [(0.5, False), (0.158, False), (0.156, True)])
def test_a_latency_that_the_narrowest_network_does_not_keep_is_found_before_anything_trains(
    limit: float, refused: bool, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that counts multiply-accumulates: floors of 0.2 of twice the widths leave 2,712 of 16,452."""

    def counted(models: Any, inputs: Any, *, device: Any) -> list[float]:
        models = models if isinstance(models, list) else [models]
        return [1e-6 * count(model, inputs, "macs") for model in models]

    monkeypatch.setattr("core.widths.shrinkage.latency", counted)
    config = ShrinkConfig(budget=Budget(latency=limit), floor=0.2)
    assert 0.156 * CLEARLY < 2712 / 16452 < 0.158 * CLEARLY
    with pytest.raises(BudgetError, match=r"a latency of .* cannot be reached") if refused else nullcontext():
        check(task, config, torch.device("cpu"))
    check(task, config)  # without a device no clock is looked at
    check(task, replace(config, vanish=0.5), torch.device("cpu"))  # which blocks go is up to the scores


def test_a_latency_alone_is_checked_without_being_measured(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("core.widths.shrinkage.latency", never)
    check(task, ShrinkConfig(budget=Budget(latency=0.5)))
    with pytest.raises(UserError, match="round_to"):
        check(task, ShrinkConfig(budget=Budget(latency=0.5), round_to=-1))


@pytest.mark.parametrize("score", [name for name, score in SCORES.items() if score.gates_only])
def test_scores_of_plain_gates_are_refused_with_hypernetworks(score: str, task: Task, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"'{score}' is defined for plain gates"):
        ShrinkConfig(score=score, latents="hypernetwork")
    for latents, refused in (("hypernetwork", True), ("gate", False)):
        options = {"train": TrainConfig(), "shrink": ShrinkConfig(latents=latents), "work_dir": tmp_path}
        settings = Settings(**options, controls=("random", score))
        engine = engine_of(task, settings, make_fabric("cpu"))
        if refused:
            with pytest.raises(UserError, match=f"method '{score}': .*'{score}' is defined for plain gates"):
                check_trials(engine, settings.trials())
        else:
            assert len(check_trials(engine, settings.trials())) == 4


def test_what_a_control_cannot_honour_is_refused(task: Task, tmp_path: Path) -> None:
    config = ShrinkConfig(allocation="per-flop", floor=0.2)

    def checked(*controls: str) -> None:
        settings = Settings(TrainConfig(), config, tmp_path, controls=controls)
        check_trials(engine_of(task, settings, make_fabric("cpu")), settings.trials())

    checked("random", "accumulated")
    with pytest.raises(UserError, match="method 'late-wide' allocates no channels by their scores"):
        checked("random", "late-wide")


def test_where_blocks_may_vanish_their_floors_do_not_count(task: Task) -> None:
    """Floors alone leave ResNet20 77.7 % of its FLOPs at least; which blocks go is up to the scores."""
    deep = replace(task, build=lambda: build("resnet20", 3, dataset="digits"))
    config = ShrinkConfig(budget=Budget(flops=0.75), floor=0.45, batches=1, batch_size=4)
    with pytest.raises(BudgetError, match=r"between [\d,]+ \(0\.7"):
        check(deep, config)
    for latency in (None, "1us"):
        vanishing = replace(config, vanish=0.45, budget=Budget(flops=0.75, latency=latency))
        check(deep, vanishing)
        with pytest.raises(BudgetError):
            check(deep, replace(vanishing, budget=Budget(flops=0.05, latency=latency)))
