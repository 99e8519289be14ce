"""The Python of the pages that no other test runs, from the first block of a page to the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import core
from core.graph.complexity import count
from super_resolution import checkpoint as upscalers
from super_resolution.images import write_image
from super_resolution.models import build
from tests.docs.fences import ROOT, Fence, all_fences, fences
from tracking.dimp.checkpoint import Description, save_network
from tracking.dimp.net import DiMPConfig

# Page -> the test that runs its Python.
RUN_BY = {
    "README.md": "tests/test_pages.py",
    "choosing_a_budget.md": "tests/docs/test_python.py",
    "coming_from.md": "tests/docs/test_python.py",
    "dense_prediction.md": "tests/core/widths/test_dense_prediction.py",
    "networks.md": "tests/test_pages.py",
    "pretrained.md": "tests/test_pages.py",
    "runners.md": "tests/lwdna/runners/page.py",
    "starts.md": "tests/test_pages.py",
    "super_resolution.md": "tests/docs/test_python.py",
    "torchvision.md": "tests/test_pages.py",
    "tracking_evaluation.md": "tests/docs/test_python.py",
    "tracking_online.md": "tests/docs/test_python.py",
    "your_network.md": "tests/docs/test_python.py",
}


def python_of(page: str) -> list[Fence]:
    """The blocks of a page that are not marked."""
    return [f for f in fences(ROOT / "docs" / page) if f.language == "python" and not f.reason]


def run(page: str, names: dict[str, Any]) -> dict[str, Any]:
    for fence in python_of(page):
        exec(fence.text, names)
    return names


def test_every_page_with_code_is_run_somewhere() -> None:
    code = {fence.page for fence in all_fences() if fence.language in ("python", "yaml") and not fence.reason}
    assert code == set(RUN_BY)
    for page, test in RUN_BY.items():
        assert page in (ROOT / test).read_text(encoding="utf-8"), test


def test_your_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = run("your_network.md", {"__name__": "page"})
    said = capsys.readouterr().out
    assert names["graph"].widths == {"0.0": 16, "1.one.0": 16, "2.one.0": 16}
    assert str(names["graph"].widths) in said
    assert str(names["graph"].widths) in (ROOT / "docs/your_network.md").read_text()
    assert 0.88 * names["arch"].baseline.macs < names["arch"].cost.macs <= 0.9 * names["arch"].baseline.macs
    assert count(names["net"], names["example"]) == names["arch"].cost.macs


def test_choosing_a_budget(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("choosing_a_budget.md", {})
    assert names["budget"] == core.Budget(flops=0.9, params="20M")
    assert "'latency': '12ms'" in capsys.readouterr().out


class Trained(nn.Module):
    """A small network with a last layer of the name that the page gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.linear = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.second(self.first(x).relu()).relu().mean((2, 3)))


def test_coming_from() -> None:
    pytest.importorskip("torch_pruning", reason="it comes with the extra 'peers'")
    torch.manual_seed(0)
    theirs, *ours = python_of("coming_from.md")
    batches = [(torch.randn(4, 3, 32, 32), torch.arange(4))]
    names: dict[str, Any] = {
        "trained": Trained, "torch": torch, "batches": batches, "loss_fn": nn.functional.cross_entropy
    }  # fmt: skip
    exec(theirs.text, names)
    assert names["model"].first.out_channels < 16
    for fence in ours:
        exec(fence.text, names)
    assert names["small"].first.out_channels < 16
    assert names["model"].first.out_channels == 16
    assert 0.5 < names["arch"].cost.macs / names["arch"].baseline.macs <= 0.6


def test_super_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    low = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
    write_image(tmp_path / "low.png", low)
    described = upscalers.Description("edsr", 2, {"n_blocks": 1, "n_feats": 4})
    upscalers.save_network(tmp_path / "lwdna.safetensors", build("edsr", 2, n_blocks=1, n_feats=4), described)
    names = run("super_resolution.md", {"low": low})
    assert names["high"].shape == (16, 18, 3)
    assert (tmp_path / "high.png").exists()


def test_tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    described = Description(
        "resnet18-small", None, DiMPConfig(classification_channels=8, iou_channels=8), {"crop_size": 64}
    )
    save_network(tmp_path / "tracker.safetensors", described.build(), described)
    frame = np.random.default_rng(0).integers(0, 255, (180, 260, 3), dtype=np.uint8)
    names = run("tracking_online.md", {"first_frame": frame, "next_frame": frame})
    assert len(names["box"]) == 4
    own = run("tracking_evaluation.md", {"x": 1, "y": 2, "width": 3, "height": 4})["MyTracker"]()
    own.init(frame, names["box"])
    assert own.update(frame) == (1, 2, 3, 4)
