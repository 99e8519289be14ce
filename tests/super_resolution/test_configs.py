"""The committed super-resolution configs: every section is valid, and every budget can be met."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import shared_configs
from core import Architecture, BudgetError, shrink
from core.command_line.config import load_config
from core.experiments.store import key_of
from core.graph.channels import trace_channels
from super_resolution.config import RunConfig, find_config, with_ties
from super_resolution.data import TRAINING_SETS, CacheConfig, open_benchmarks, open_training_loader
from super_resolution.images import write_image
from super_resolution.models import build
from super_resolution.task import subject

FOLDER = Path(shared_configs.__file__).parent / "super_resolution"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.py"))


def load(name: str) -> RunConfig:
    return with_ties(load_config(FOLDER / name, RunConfig))


def test_there_is_a_config_for_each_published_network_and_a_reduced_one() -> None:
    assert {
        "edsr_div2k.py",
        "srresnet_div2k.py",
        "edsr_reduced_bsds500.py",
        "edsr_reduced_skimage.py",
        "srresnet_reduced_bsds500.py",
        "srresnet_reduced_skimage.py",
    } <= set(CONFIGS)


@pytest.mark.parametrize(
    ("model", "dataset", "name"),
    [
        (None, None, "edsr_reduced_skimage.py"),
        (None, "div2k", "edsr_div2k.py"),
        ("edsr", "bsds500", "edsr_reduced_bsds500.py"),
        ("edsr_baseline", None, "edsr_reduced_skimage.py"),
        ("srresnet", None, "srresnet_reduced_skimage.py"),
        ("srresnet", "skimage", "srresnet_reduced_skimage.py"),
        ("srresnet", "bsds500", "srresnet_reduced_bsds500.py"),
        ("srresnet", "df2k", "srresnet_div2k.py"),
    ],
)
def test_the_protocol_suits_network_and_data(model: str | None, dataset: str | None, name: str) -> None:
    path = find_config(model, dataset)
    assert path == FOLDER / name
    config = load(name)
    assert name.startswith(f"{config.model}_")
    assert (config.dataset, "skimage" in config.data.benchmarks) == {
        "skimage": ("skimage", True),
        "bsds500": ("bsds500", False),
        "div2k": ("div2k", False),
    }[path.stem.split("_")[-1]]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_section_is_valid(name: str) -> None:
    config = load(name)
    assert config.dataset in TRAINING_SETS
    sets, missing = open_benchmarks(config.data.benchmarks, Path("nowhere"), 4)
    assert len(sets) + len(missing) == len(config.data.benchmarks)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_its_crops_suit_every_scale(name: str, scale: int, photo: np.ndarray, tmp_path: Path) -> None:
    data = replace(load(name).data, crops_per_epoch=2, held_out=0, cache=CacheConfig(tmp_path / "cache"))
    write_image(tmp_path / "photos/a.png", photo[:208, :200])
    loader = open_training_loader(str(tmp_path / "photos"), tmp_path, scale, data, batch_size=2, seed=0)
    ((lr, hr),) = loader.epoch(0)
    assert data.patch - scale < hr.shape[2] == scale * lr.shape[2] <= data.patch
    assert scale == 3 or hr.shape[2] == data.patch  # the published protocols' crops


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


def find(config: RunConfig, **changes: Any) -> Architecture:
    """A protocol's search; random scores, for they need no training data."""
    settings = replace(config.shrink, score="random", **changes)
    return shrink(
        build(config.model, 4, **config.options),
        torch.zeros(1, 3, 24, 24),
        (),
        torch.nn.functional.l1_loss,
        widen=settings.widen,
        budget=settings.budget,
        score=settings.score,
        floor=settings.floor,
        ceiling=settings.ceiling,
        round_to=settings.round_to,
        ties=settings.ties,
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_the_budget_can_be_met_by_widths_that_kernels_like(name: str) -> None:
    config = load(name)
    found = find(config)
    wanted = config.shrink.budget.flops
    assert wanted is not None
    reached = found.costs[0].paper / found.costs[1].paper
    assert wanted - 0.04 < reached <= wanted
    assert config.shrink.round_to in (4, 16)
    assert all(width % config.shrink.round_to == 0 for width in found.widths.values())


@pytest.mark.parametrize("name", ["edsr_div2k.py", "srresnet_div2k.py"])
def test_the_upsamplers_have_the_trunks_width_as_in_the_paper(name: str) -> None:
    config = load(name)
    found = find(config)
    assert not [group for group in found.widths if group.startswith("upsample")]
    network = found.build(build(config.model, 4, **config.options))
    for layer in network.upsample:
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.out_channels == 4 * found.widths["conv_first"]


@pytest.mark.parametrize("model", ["edsr", "srresnet", "msrresnet"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_upsampler_is_tied(model: str, scale: int) -> None:
    options = {"n_blocks": 2, "n_feats": 8}
    tied = with_ties(RunConfig(model=model, scale=scale, options=options, tie_upsampler=True)).shrink.ties
    groups = trace_channels(build(model, scale, **options), torch.zeros(1, 3, 8, 8), ties=tied).groups
    outer = {"conv_hr"} if model == "msrresnet" else set()
    assert {group.name for group in groups} == {"conv_first", "body.0.conv1", "body.1.conv1"} | outer


def test_the_floor_of_classification_would_not_leave_room_for_edsr() -> None:
    with pytest.raises(BudgetError):
        find(load("edsr_div2k.py"), floor=0.4, round_to=1)


def test_trials_are_told_apart_by_what_decides_a_result() -> None:
    config = RunConfig()
    key = key_of(subject(config))
    others = [
        replace(config, model="srresnet"),
        replace(config, scale=2),
        replace(config, options={"n_blocks": 1}),
        replace(config, dataset="div2k"),
        replace(config, data=replace(config.data, patch=96)),
        replace(config, data=replace(config.data, benchmarks=("Set5",))),
    ]
    assert len({key, *(key_of(subject(other)) for other in others)}) == 7
    assert key == key_of(subject(replace(config, data=replace(config.data, cache="elsewhere"))))
