"""The committed super-resolution configs: every section is valid, and every budget can be met."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import shared_configs
from core import Budget, BudgetError, shrink, trace_channels
from core.config import load_config
from core.recipe import TrainConfig
from super_resolution.data import TRAINING_SETS, DataConfig, open_benchmarks
from super_resolution.models import build

FOLDER = Path(shared_configs.__file__).parent / "super_resolution"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.py"))


@dataclass(frozen=True)
class Config:
    """The keys that a super-resolution config has."""

    model: str
    dataset: str
    data: DataConfig
    train: TrainConfig
    shrink: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    tie_upsampler: bool = False


def load(name: str) -> Config:
    return load_config(FOLDER / name, Config)


def test_there_is_a_config_for_each_published_network_and_a_reduced_one() -> None:
    assert {
        "edsr_div2k.py",
        "srresnet_div2k.py",
        "edsr_reduced_bsds500.py",
        "edsr_reduced_skimage.py",
    } <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_section_is_valid(name: str) -> None:
    config = load(name)
    assert config.dataset in TRAINING_SETS
    assert all(config.data.patch % scale == 0 for scale in (2, 4))
    sets, missing = open_benchmarks(config.data.benchmarks, Path("nowhere"), 4)
    assert len(sets) + len(missing) == len(config.data.benchmarks)


@pytest.mark.parametrize(
    ("name", "patch", "params"), [("edsr_div2k.py", 192, 3696667), ("srresnet_div2k.py", 96, None)]
)
def test_the_published_protocol(name: str, patch: int, params: int | None) -> None:
    config = load(name)
    train = config.train
    assert (config.data.patch, train.batch_size, train.epochs, train.ema_decay) == (patch, 16, 300, None)
    assert (train.optimizer.name, train.optimizer.lr, train.optimizer.weight_decay) == ("adam", 1e-4, 0)
    assert (train.schedule.name, train.schedule.milestones, train.schedule.gamma) == ("step", (200,), 0.1)
    assert config.data.crops_per_epoch is not None
    assert config.data.crops_per_epoch // train.batch_size == 2013  # DHP's iterations per epoch
    with torch.device("meta"):
        network = build(config.model, 4, **config.options)
    if params is not None:
        assert sum(p.numel() for p in network.parameters()) == params


def found_flops(config: Config, **changes: Any) -> float:
    """FLOPs of the found network as a fraction of the baseline's; random scores, for they need no training
    data."""
    network = build(config.model, 4, **config.options)
    inputs = torch.zeros(1, 3, 24, 24)
    settings = {k: v for k, v in config.shrink.items() if k not in ("batches", "batch_size")} | {
        "score": "random"
    }
    settings["budget"] = Budget(**settings["budget"])
    found = shrink(network, inputs, (), torch.nn.functional.l1_loss, seed=0, **(settings | changes))
    graph = trace_channels(network, inputs)
    return graph.flops(found.widths) / graph.flops()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_budget_can_be_met(name: str) -> None:
    config = load(name)
    wanted = config.shrink["budget"]["flops"]
    assert wanted - 0.02 < found_flops(config) <= wanted


def test_the_floor_of_classification_would_not_leave_room_for_edsr() -> None:
    with pytest.raises(BudgetError):
        found_flops(load("edsr_div2k.py"), floor=0.4)
