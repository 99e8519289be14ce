"""The page on detection and segmentation: its blocks run, and what it says of groups and budgets holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import core
from core.surgery.resize import widen

PAGE = Path(__file__).parents[3] / "docs" / "dense_prediction.md"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the page's blocks define, run on two images of random values."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 128, 128)
    sides = (16, 8, 4)
    classes = [torch.randint(0, 2, (2, 60, side, side)).float() for side in sides]
    offsets = [torch.randn(2, 12, side, side) for side in sides]
    found: dict[str, Any] = {
        "__name__": "dense_prediction",
        "detection_batches": [(images, (classes, offsets))],
        "segmentation_batches": [(images, torch.randint(0, 21, (2, 128, 128)))],
    }
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, str(PAGE), "exec"), found)
    return found


@pytest.mark.parametrize(("network", "outputs"), [("detector", "freeze"), ("segmenter", "single")])
def test_found_networks_are_within_budget_proved_and_have_learned_a_step(
    names: dict[str, Any], network: str, outputs: Any
) -> None:
    net, found, image = names[network], names[f"found_{network}"], names["image"]
    graph = core.trace_channels(net, image, outputs=outputs)
    assert not graph.notes
    assert not graph.inexact
    assert graph.frozen_share() == 0
    proof = graph.verify(net, image)
    assert set(proof.modes) == {"evaluation", "training"}
    assert proof <= 1e-10
    again = core.trace_channels(found, image, outputs=outputs)
    assert 0.79 < again.flops() / graph.flops() <= 0.8
    assert all(parameter.grad is not None for parameter in found.parameters())
    wide = widen(net, graph, 1.5, seed=0)
    assert core.trace_channels(wide, image, outputs=outputs).names == graph.names


def test_the_detectors_shared_channels_are_one_group(names: dict[str, Any]) -> None:
    graph = core.trace_channels(names["detector"], names["image"], outputs="freeze")
    lateral = graph.group("lateral.0")
    assert {f"lateral.{level}.weight" for level in range(3)} == {
        name
        for name, dim in lateral.slots
        if name.startswith("lateral") and name.endswith("weight") and dim == 0
    }
    smooth = graph.group("smooth.0")
    assert {name for name, dim in smooth.slots if dim == 1} == {"scores.0.0.weight", "boxes.0.0.weight"}
    assert not any(name.startswith(("scores.1", "boxes.1")) for name in graph.names)


def test_the_auxiliary_head_is_seen_in_training(names: dict[str, Any]) -> None:
    graph = core.trace_channels(names["segmenter"], names["image"])
    assert "auxiliary.0.0" in graph.names
    assert graph.flops({"auxiliary.0.0": 1}) == graph.flops()
    assert graph.params({"auxiliary.0.0": 1}) < graph.params()
    found = names["found_segmenter"].train()(torch.randn(2, 3, 128, 128))
    assert {name: tuple(item.shape) for name, item in found.items()} == {
        "out": (2, 21, 128, 128),
        "aux": (2, 21, 128, 128),
    }
