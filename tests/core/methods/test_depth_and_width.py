"""Depth and width in one objective: against all subsets of blocks, and at the ends of what depth is worth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from classification.models import build
from core.methods.depth_and_width import deepen_or_widen, objective, stages_of, weights, worths
from core.widths.budget import Budget, BudgetError
from core.widths.config import ShrinkConfig
from core.widths.selection import SearchResult
from core.widths.shrinkage import search_space
from core.widths.space import Space, open_space

CONFIG = ShrinkConfig(score="diminishing-returns", allocation="per-flop", floor=0.2, budget=Budget(flops=0.9))


def opened(model: nn.Module, removed: Sequence[str] = ()) -> Space:
    return open_space(model, torch.zeros(1, 3, 32, 32), CONFIG, seed=0, removed=removed)


def found(space: Space, scores: dict[str, torch.Tensor]) -> SearchResult:
    return search_space(space, scores, CONFIG, space.baseline)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return build("resnet20", 10, dataset="cifar")


def test_stages_are_blocks_that_one_trunk_passes_through(resnet: nn.Module) -> None:
    stages = stages_of(opened(resnet))
    assert stages.blocks == (
        ("layer1.0", "layer1.1", "layer1.2"), ("layer2.1", "layer2.2"), ("layer3.1", "layer3.2"),
    )  # fmt: skip
    assert stages.inner["layer2.1"] == ["layer2.1.conv1"]


def test_a_block_that_goes_takes_no_weight_with_it(resnet: nn.Module) -> None:
    stages = stages_of(opened(resnet))
    for removed in ([], ["layer1.2"], ["layer1.1", "layer1.2", "layer3.2"]):
        weight = weights(stages, opened(resnet, removed).graph, removed)
        assert sum(weight.values()) == pytest.approx(len(opened(resnet).graph.groups))
        assert set(weight) == set(opened(resnet, removed).graph.names)


@pytest.mark.parametrize("depth", [0.0, 1.0, 3.0])
def test_no_subset_of_blocks_has_a_larger_objective(depth: float, resnet: nn.Module) -> None:
    full = opened(resnet)
    space, result, value = deepen_or_widen(full, depth, lambda removed: opened(resnet, removed), found)
    stages = stages_of(full)
    best = -math.inf
    for left in itertools.product(*(range(1, len(stage) + 1) for stage in stages.blocks)):
        kept = {block for stage, count in zip(stages.blocks, left, strict=True) for block in stage[:count]}
        removed = [block for block in stages.inner if block not in kept]
        other = opened(resnet, removed)
        weight = weights(stages, other.graph, removed)
        try:
            widths = found(other, worths(other.graph, weight)).widths
        except BudgetError:  # too little is left to fill the budget
            continue
        best = max(best, objective(stages, widths, weight, removed, depth))
    assert value == best
    assert result.cost.paper <= 0.9 * full.baseline.paper
    assert set(result.widths) == set(space.graph.names)


def test_depth_that_is_worth_much_stays_and_the_widths_are_those_of_diminishing_returns(
    resnet: nn.Module,
) -> None:
    full = opened(resnet)
    space, result, _ = deepen_or_widen(full, 100.0, lambda removed: opened(resnet, removed), found)
    assert space.removed == ()
    assert result.widths == found(full, worths(full.graph, dict.fromkeys(full.graph.names, 1.0))).widths
    shallow = deepen_or_widen(full, 0.0, lambda removed: opened(resnet, removed), found)[0]
    assert shallow.removed != ()
