"""Torch-Pruning within a trained network: the channels that it leaves are those that are kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.methods.method import Request, SearchConfig
from core.methods.peers import PEERS
from core.methods.subject import Pretrained
from core.surgery.initialise import seeded
from core.training.train import TrainConfig, make_fabric
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from tests.toys import toy_task

SHRINK = ShrinkConfig(
    widen=1.0, keep_weights=True, budget=Budget(flops=0.5), floor=0.2, batches=1, batch_size=6
)


class Residual(nn.Module):
    """Two layers that share a group, a layer between them, and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12))
        self.inner = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.back = nn.Sequential(nn.Conv2d(16, 12, 3, padding=1), nn.BatchNorm2d(12))
        self.last = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        return self.last((x + self.back(self.inner(x).relu())).relu().mean((2, 3)))


class Upward(nn.Module):
    """A transposed convolution, whose weight has its outputs second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 20, 3, padding=1), nn.BatchNorm2d(20))
        self.up = nn.Sequential(nn.ConvTranspose2d(20, 12, 2, stride=2), nn.BatchNorm2d(12))
        self.last = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.up(self.first(x).relu()).relu().mean((2, 3)))


def model(build: type[nn.Module] = Residual) -> nn.Module:
    with seeded(5):
        net = build()
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.2, 2)
                nn.init.normal_(part.running_mean)
    return net


@pytest.mark.parametrize("build", [Residual, Upward])
@pytest.mark.parametrize("name", ["torch-pruning", "torch-pruning-norm"])
def test_the_cut_network_is_the_librarys(
    name: str, build: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("torch_pruning")
    pruned: list[nn.Module] = []
    step = library.pruner.MetaPruner.step

    def kept(self: Any, interactive: bool = False) -> Iterator[Any]:
        pruned.append(self.DG.model)
        return step(self, interactive)

    monkeypatch.setattr(library.pruner.MetaPruner, "step", kept)
    task = replace(toy_task(build=build), pretrained=Pretrained("memory", "0", partial(model, build)))
    request = Request(task, SHRINK, TrainConfig(batch_size=6), SearchConfig(), make_fabric("cpu"), Path())
    found = PEERS[name].find(request).architecture
    assert found.costs[0].macs <= 0.5 * found.costs[1].macs
    ours = found.cut(
        model(build)
    ).train()  # the library's copy has seen batches: its running statistics have moved on
    x = torch.rand(2, 1, 8, 8)
    same = [
        theirs
        for theirs in map(copy.deepcopy, pruned)
        if all(a.shape == b.shape for a, b in zip(theirs.state_dict().values(), ours.state_dict().values()))
    ]
    assert same
    outputs = [theirs.train()(x) for theirs in same]
    assert any(torch.equal(output, ours(x)) for output in outputs)


def test_floors_that_the_library_misses_are_filled_by_magnitude() -> None:
    pytest.importorskip("torch_pruning")
    task = replace(toy_task(build=Residual), pretrained=Pretrained("memory", "0", model))
    shrink = replace(SHRINK, round_to=4)
    request = Request(task, shrink, TrainConfig(batch_size=6), SearchConfig(), make_fabric("cpu"), Path())
    found = PEERS["torch-pruning-norm"].find(request).architecture
    assert all(width % 4 == 0 for width in found.widths.values())
    assert {name: len(kept) for name, kept in found.kept.items()} == found.widths
    found.cut(model())(torch.rand(2, 1, 8, 8))
