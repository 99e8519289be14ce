"""Experiments that begin with trained weights: what starts from what, and what records are kept under."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from core.errors import MissingData, UserError
from core.experiments.checks import check_trials
from core.experiments.engine import Engine
from core.experiments.experiment import engine_of, run_experiment
from core.experiments.plan import Trial, new_plan, with_weights
from core.experiments.pretrained import PretrainedConfig, open_pretrained, shrink_of
from core.experiments.settings import Settings
from core.experiments.task import Task
from core.experiments.trainings import network
from core.methods.registry import BASELINE
from core.methods.subject import find_architecture
from core.storage.checkpoint import load_weights, save_weights
from core.surgery.architecture import Architecture, ArchitectureError
from core.surgery.initialise import seeded
from core.training.train import OptimizerConfig, TrainConfig, make_fabric
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from tests.toys import toy_task

pytestmark = pytest.mark.usefixtures("unarranged")
SHRINK = ShrinkConfig(
    widen=1.0, keep_weights=True, budget=Budget(flops=0.7), floor=0.2, batches=1, batch_size=6
)


def trained(path: Path, seed: int = 7, outputs: int = 3) -> Path:
    with seeded(seed):
        model = toy_task().build()
        if outputs != 3:
            model[-1] = nn.Linear(12, outputs)
    save_weights(model, path)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return trained(tmp_path / "trained.safetensors")


def task_of(path: Path) -> Task:
    task = toy_task()
    return replace(task, pretrained=open_pretrained(str(path), task.build))


def settings(folder: Path, **changes: object) -> Settings:
    recipe = TrainConfig(epochs=1, batch_size=6, optimizer=OptimizerConfig(lr=0.01))
    given = Settings(train=recipe, shrink=SHRINK, work_dir=folder, progress=False, start="pretrained")
    return replace(given, **changes)  # type: ignore[arg-type]


def engine(path: Path | None, folder: Path, **changes: object) -> Engine:
    task = toy_task() if path is None else task_of(path)
    return engine_of(task, settings(folder, **changes), make_fabric("cpu"))


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(value, theirs[key]) for key, value in mine.items()
    )


def test_networks_start_with_the_weights_that_they_share(weights: Path) -> None:
    task = task_of(weights)
    baseline = network(task, None, 0, "pretrained")
    with seeded(7):
        assert same(baseline, toy_task().build())
    found = find_architecture(task, SHRINK, seed=0)
    kept = network(task, found, 0, "pretrained")
    rows, columns = list(found.kept["2"]), list(found.kept["0"])
    assert torch.equal(kept[2].weight, baseline[2].weight[rows][:, columns])
    assert torch.equal(kept[6].weight, baseline[6].weight[:, rows])
    assert not torch.equal(network(task, found, 0)[2].weight, kept[2].weight)
    assert network(task, found, 0)[2].weight.shape == kept[2].weight.shape


def test_widths_come_from_the_weights(weights: Path, tmp_path: Path) -> None:
    other = trained(tmp_path / "other.safetensors", 8)
    found = [find_architecture(task_of(path), SHRINK, seed=0).kept for path in (weights, other)]
    assert found[0] != found[1]


def test_an_experiment_has_the_found_network_from_scratch_as_a_control(weights: Path, tmp_path: Path) -> None:
    asked = settings(tmp_path / "w", controls=("uniform",))
    result = run_experiment(task_of(weights), asked, make_fabric("cpu"), lambda line: None).result
    assert result is not None
    assert list(result["methods"]) == ["baseline", "lwdna", "lwdna-scratch", "uniform"]
    assert result["methods"]["lwdna"]["widths"] == result["methods"]["lwdna-scratch"]["widths"]
    assert sorted(path.stem for path in (tmp_path / "w" / "widths").iterdir()) == [
        "lwdna-seed0",
        "uniform-seed0",
    ]
    records = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "w" / "records").iterdir()}
    starts = {name: record["weights"]["start"] for name, record in records.items()}
    assert starts == {
        "baseline-seed0": "pretrained",
        "lwdna-seed0": "pretrained",
        "lwdna-scratch-seed0": "scratch",
        "uniform-seed0": "pretrained",
    }
    checksum = task_of(weights).pretrained.checksum  # type: ignore[union-attr]
    assert {record["weights"]["checksum"] for record in records.values()} == {checksum}
    assert result["weights"]["pretrained"] == str(weights)
    told = {name: "metrics_at_start" in entry for name, entry in result["methods"].items()}
    assert told == {"baseline": True, "lwdna": True, "lwdna-scratch": False, "uniform": True}
    report = (tmp_path / "w" / "report.md").read_text()
    assert "LW-DNA from scratch" in report
    assert "error before fine-tuning: Baseline 1.00; LW-DNA 1.00; Uniform widths 1.00." in report
    assert f"Trained weights '{weights}' (SHA-256 of what is used: {checksum[:12]})" in report
    done = engine_of(task_of(weights), asked, make_fabric("cpu"))
    assert check_trials(done, asked.trials()) == []  # nothing is done twice


def test_keys_hold_the_start_and_the_checksum(weights: Path, tmp_path: Path) -> None:
    other = trained(tmp_path / "other.safetensors", 8)
    trials = [Trial(name, SHRINK, 0) for name in (BASELINE, "lwdna", "lwdna-scratch")]
    keys = [[engine(path, tmp_path).record_key(trial) for trial in trials] for path in (weights, other)]
    assert len({*keys[0], *keys[1]}) == 6
    scratch = [engine(weights, tmp_path, start="scratch").record_key(trial) for trial in trials]
    assert scratch[0] == engine(None, tmp_path, start="scratch").record_key(
        trials[0]
    )  # nothing of the weights in it
    assert not {*scratch[:2]} & {*keys[0]}
    assert scratch[2] == keys[0][2]  # the control starts from scratch here and there
    searches = {engine(path, tmp_path).search_key(trials[1]) for path in (weights, other)}
    assert len(searches) == 2
    assert engine(weights, tmp_path).search_key(trials[2].finder) in searches


def test_another_file_under_the_same_name_is_refused(weights: Path, tmp_path: Path) -> None:
    plan = with_weights(new_plan("toy", 0, None, [], None), "abc", "w.pth", tmp_path)
    assert plan.pretrained == "abc"
    assert with_weights(plan, "abc", "w.pth", tmp_path) == plan
    with pytest.raises(
        UserError, match=r"the weights in 'w.pth' are others than those that the run .* began with"
    ):
        with_weights(plan, "abd", "w.pth", tmp_path)
    asked = settings(tmp_path / "w", stages=("baseline",))
    run_experiment(task_of(weights), asked, make_fabric("cpu"), lambda line: None)
    trained(weights, 8)
    with pytest.raises(UserError, match="of another network, data set, recipe, search or start"):
        check_trials(engine_of(task_of(weights), asked, make_fabric("cpu")), asked.trials())


def test_the_checksum_is_of_the_weights_alone(weights: Path, tmp_path: Path) -> None:
    with seeded(7):
        state = toy_task().build().state_dict()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3},
        tmp_path / "w.pth",
    )
    first, second = (task_of(path).pretrained for path in (weights, tmp_path / "w.pth"))
    assert first is not None
    assert second is not None
    assert first.checksum == second.checksum


def test_a_head_of_another_size_starts_fresh_by_the_seed(tmp_path: Path) -> None:
    path = trained(tmp_path / "w.safetensors", outputs=5)
    task = task_of(path)
    assert task.pretrained is not None
    assert task.pretrained.notes == (
        f"'{path}': its head '6' has 5 outputs, this network's 3: the head starts fresh.",
    )
    one, other, again = (network(task, None, seed, "pretrained") for seed in (0, 1, 0))
    assert torch.equal(one[0].weight, other[0].weight)
    assert not torch.equal(one[6].weight, other[6].weight)
    assert same(one, again)
    found = find_architecture(task, SHRINK, seed=0)
    assert torch.equal(
        network(task, found, 0, "pretrained")[6].weight, one[6].weight[:, list(found.kept["2"])]
    )


def test_weights_that_cannot_be_used_are_refused(weights: Path, tmp_path: Path) -> None:
    build = toy_task().build
    assert open_pretrained(None, build) is None
    with pytest.raises(MissingData, match=r"'none.pth': there is no such file"):
        open_pretrained("none.pth", build)
    narrow = nn.Sequential(*build()[:2], nn.Conv2d(8, 5, 3), *build()[3:6], nn.Linear(5, 3))
    with pytest.raises(UserError, match=r"does not fit Sequential with 6 tensors: 3 of another shape"):
        open_pretrained(str(weights), lambda: narrow)
    broken = build()
    load_weights(broken, weights)
    broken[2].weight.data[0, 0] = torch.nan
    save_weights(broken, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match=r"nan.safetensors': '2.weight' holds values that are not finite"):
        open_pretrained(str(tmp_path / "nan.safetensors"), build)


def test_settings_that_do_not_go_together(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--start pretrained needs weights"):
        PretrainedConfig(start="pretrained")
    with pytest.raises(UserError, match="unknown start 'fresh': allowed: scratch, pretrained"):
        PretrainedConfig(start="fresh")  # type: ignore[arg-type]
    monkeypatch.chdir(weights.parent)
    assert PretrainedConfig(pretrained=weights.name).pretrained == str(weights)
    assert PretrainedConfig(pretrained="timm:resnet18").pretrained == "timm:resnet18"
    usual = ShrinkConfig()
    assert shrink_of(None, usual, 3.0, {}) is usual
    kept = shrink_of("f", usual, None, {})
    assert (kept.widen, kept.keep_weights) == (1.0, True)
    assert shrink_of("f", kept, 1.0, {"shrink.widen": "1"}) == kept
    for widen, options in ((2.0, {}), (None, {"shrink.widen": "1.5"})):
        with pytest.raises(UserError, match=r"widening by .*: trained weights have no channels beyond"):
            shrink_of("f", usual, widen, options)
    with pytest.raises(UserError, match=r"shrink.keep_weights needs trained weights"):
        shrink_of(None, kept, None, {})
    with pytest.raises(
        UserError, match=r"shrink.keep_weights needs trained weights, which nothing names here"
    ):
        toy_task().searched(keep_weights=True)


@pytest.mark.parametrize("method", ["dhp", "synflow-search", "accumulated", "hypernetwork-gradient"])
def test_methods_with_weights_of_their_own_are_refused(weights: Path, tmp_path: Path, method: str) -> None:
    asked = settings(tmp_path, controls=(method,))
    with pytest.raises(UserError, match=f"method '{method}'.*weights"):
        check_trials(engine_of(task_of(weights), asked, make_fabric("cpu")), asked.trials())


def test_widths_of_another_search_cannot_be_fine_tuned(weights: Path) -> None:
    task = task_of(weights)
    found: Architecture = find_architecture(toy_task(), replace(SHRINK, keep_weights=False), seed=0)
    with pytest.raises(ArchitectureError, match="does not say which channels are kept"):
        network(task, found, 0, "pretrained")
