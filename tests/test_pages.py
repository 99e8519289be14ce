"""The Python of pages runs as it stands there, from the first block to the last."""

from __future__ import annotations

import re
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import core
from core.graph.complexity import count
from core.surgery.architecture import describe_inputs

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


class Small(nn.Module):
    """An image of any size, and what else a page gives to a network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, 4), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(
        self, image: Tensor, mask: Tensor | None = None, scale: int = 1, levels: Sequence[Tensor] = ()
    ) -> Tensor:
        images = [image if mask is None else image * mask, *levels]
        return self.head(scale * sum(self.body(self.stem(x).relu()).mean((2, 3)) for x in images))


def test_own_networks_and_their_inputs(torchvision: types.ModuleType) -> None:
    inputs, detection = blocks("networks.md")
    torch.manual_seed(0)
    levels = {name: torch.rand(1, 3, 16, 16) for name in "ab"}
    names: dict[str, Any] = {"core": core, "model": Small(), "image": torch.rand(1, 3, 32, 32), **levels}
    for line in inputs.splitlines():
        exec(f"graph = {line}", names)
        assert names["graph"].widths == {"stem": 8, "body": 6}
        assert names["graph"].notes == ()
    parts = torchvision.models.detection
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, 2))
    backbone.out_channels = 8
    anchors = parts.anchor_utils.AnchorGenerator(((16,),), ((1.0,),))
    names["detector"] = parts.RetinaNet(
        backbone, num_classes=2, min_size=64, max_size=64, anchor_generator=anchors
    )
    names |= {"image_a": torch.rand(3, 64, 64), "image_b": torch.rand(3, 64, 48)}
    names["objects"] = [(torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([1]))] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which torchvision's operators are missing here
        exec(detection, names)
    found = names["arch"]
    assert found.costs[0].macs < found.costs[1].macs


def test_a_found_network_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image = torch.rand(1, 3, 32, 32)
    core.Architecture("lwdna", {"stem": 5, "body": 4}, describe_inputs((image,))).save("widths.json")
    names: dict[str, Any] = {"core": core, "make": Small}
    (block,) = blocks("starts.md")
    exec(block, names)
    assert names["net"].stem.weight.shape == (5, 3, 3, 3)
    assert core.unknown_start(names["net"]) == {}


def test_the_readmes_own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("../README.md")
    torch.manual_seed(0)
    batches = [(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))]
    names: dict[str, Any] = {"MyNetwork": Small, "batches": batches, "loss_fn": nn.functional.cross_entropy}
    exec(block, names)
    assert names["arch"].cost.macs <= 0.9 * names["arch"].baseline.macs
    names["net"](batches[0][0]).sum().backward()


def test_detection_and_segmentation(
    torchvision: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    detection, segmentation = blocks("torchvision.md")[:3], blocks("torchvision.md")[3:]
    assert len(segmentation) == 1
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", core.FrozenChannelsWarning)
        for block in detection:
            exec(block, names)
        found, lean = names["found"], names["lean"]
        assert 0.78 * found.costs[1].macs < found.costs[0].macs <= 0.8 * found.costs[1].macs
        assert found.describe() in capsys.readouterr().out
        assert all(parameter.grad is not None for parameter in lean.parameters())
        assert all(bool(torch.isfinite(loss)) for loss in names["losses"].values())
        graph = core.trace_channels(lean, names["images"][:1], outputs="freeze")
        # The pyramid and the heads that all its levels share are among the free groups.
        assert {"backbone.fpn.inner_blocks.2.0", "head.regression_head.conv.3.0"} <= set(graph.names)
        exec(segmentation[0], names)
    assert (
        0.78 * names["found"].costs[1].macs
        < names["found"].costs[0].macs
        <= 0.8 * names["found"].costs[1].macs
    )
    assert {"aux_classifier.0", "classifier.1"} <= set(names["found"].widths)
    assert bool(torch.isfinite(names["loss"]))


def test_trained_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it writes a file
    names: dict[str, Any] = {}
    for block in blocks("pretrained.md"):
        exec(block, names)
    small, trained = (count(names[name], names["example"]) for name in ("small", "trained"))
    assert small <= 0.5 * trained
