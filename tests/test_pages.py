"""The Python of pages runs as it stands there, from the first block to the last."""

from __future__ import annotations

import re
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import core
from core.graph.complexity import count

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


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
