"""What a tracker computes for every frame, as a file for other programs; what stays behind is said."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import core
import tracking.dimp.checkpoint
from core.export.command import Request
from core.export.subject import photographs
from core.surgery.depth import shorten
from tracking.dimp.backbones import RESNETS
from tracking.dimp.checkpoint import PUBLISHED, Description, load_network, save_network
from tracking.dimp.crops import normalise
from tracking.dimp.inference import InferenceNetwork
from tracking.dimp.net import DiMPConfig
from tracking.export import central_crop, main, open_export

SIDE = 160
LEFT_OUT = ("layer1.1", "layer2.1", "layer3.1", "layer4.1")
CONFIG = DiMPConfig(classification_channels=12, iou_channels=8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tracker with a found backbone."""
    torch.manual_seed(0)
    found = core.shrink(
        shorten(RESNETS["resnet18-small"](), LEFT_OUT), torch.zeros(1, 3, 64, 64), [], nn.functional.cross_entropy,
        budget=core.Budget(flops=0.7), score="random",
    )  # fmt: skip
    found = replace(found, removed=LEFT_OUT)
    description = Description("resnet18-small", found.to_json(), CONFIG, {"crop_size": SIDE})
    path = tmp_path_factory.mktemp("tracker") / "dimp.safetensors"
    save_network(path, description.build(), description)
    return path


def test_the_graph_computes_what_a_tracker_asks_for(checkpoint: Path) -> None:
    """As `InferenceNetwork`, which a tracker runs, and the operator of scores."""
    subject = open_export(Request(checkpoint, None, (), True))
    images, target = subject.inputs.values()
    assert images.shape == (3, 3, SIDE, SIDE)
    assert float(images.max()) > 200
    assert target.shape == (3, 12, 4, 4)
    with torch.inference_mode():
        scores, features, fine, coarse = subject.graph(images, target)
        net = load_network(checkpoint)[0]
        tracker = InferenceNetwork(net)
        stages = tracker.stages(normalise(images))
        torch.testing.assert_close(features, tracker.classification_features(stages), rtol=0, atol=1e-5)
        for found, own in zip((fine, coarse), tracker.iou_features(stages), strict=True):
            torch.testing.assert_close(found, own, rtol=0, atol=1e-4)
        own = torch.cat(
            [net.classifier.scores(target[row : row + 1], features[row][None, None])[0] for row in range(3)]
        )
    torch.testing.assert_close(scores, own, rtol=0, atol=1e-6)
    assert subject.regular is not None
    with torch.inference_mode():
        assert subject.regular(images, target)[0].shape == scores.shape


def test_filters_know_the_middle(checkpoint: Path) -> None:
    """The filter that is shown was learned of the middle, where its scores are largest."""
    subject = open_export(Request(checkpoint, None, (), True))
    with torch.inference_mode():
        scores = subject.graph(*subject.inputs.values())[0]
    rows, columns = np.unravel_index(scores.flatten(1).argmax(1).numpy(), scores.shape[1:])
    assert np.abs(rows - scores.shape[1] // 2).max() <= 1
    assert np.abs(columns - scores.shape[2] // 2).max() <= 1


def test_both_forms_agree(checkpoint: Path) -> None:
    pixels, normalised = (open_export(Request(checkpoint, None, (), form)) for form in (True, False))
    with torch.inference_mode():
        for found, own in zip(
            pixels.graph(*pixels.inputs.values()), normalised.graph(*normalised.inputs.values()), strict=True
        ):
            torch.testing.assert_close(found, own, rtol=0, atol=0)


@pytest.fixture(scope="module")
def exported(checkpoint: Path, onnxruntime: Any) -> Path:
    out = checkpoint.with_name("frames.onnx")
    assert main([str(checkpoint), str(out), "--turns", "1"]) == 0
    return out


def test_crops_may_change_in_steps_of_a_cell(exported: Path, onnxruntime: Any) -> None:
    session = onnxruntime.InferenceSession(str(exported))
    images, target = np.zeros((2, 3, 64, 128), np.float32), np.zeros((2, 12, 4, 4), np.float32)
    found = session.run(None, {"images": images, "target_filter": target})
    assert [value.shape for value in found] == [(2, 5, 9), (2, 12, 4, 8), (2, 8, 8, 16), (2, 8, 4, 8)]
    assert "any height and width, in steps of 16 from those" in exported.with_suffix(".md").read_text()


def test_the_cards_program_finds_the_middle_again(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = exported.with_suffix(".md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    crop = central_crop(photographs()[2], SIDE).permute(1, 2, 0).numpy().round().astype(np.uint8)
    moved = np.roll(crop, (16, -32), (0, 1))
    for name, image in (("first.png", crop), ("next.png", moved)):
        Image.fromarray(image).save(tmp_path / name)
    monkeypatch.chdir(exported.parent)
    for name, place in (("first.png", "80, 80"), ("next.png", "48, 96")):
        monkeypatch.setattr("sys.argv", ["program", str(tmp_path / "first.png"), str(tmp_path / name)])
        exec(compile(code, "card", "exec"), {})
        assert capsys.readouterr().out == f"the target is at pixel {place} of {SIDE}\n"


def test_the_card_says_what_stays_behind(exported: Path) -> None:
    text = exported.with_suffix(".md").read_text()
    assert text.startswith("# Model card: DiMP with resnet18-small (tracking)")
    assert "They do not learn the target's filter" in text
    assert "- `target_filter`: (N, 12, 4, 4), float32" in text
    assert (
        "- `scores`: (N, H / 16 + 1, W / 16 + 1): the target is where they are largest; cell j lies at pixel 16 j"
        in text
    )
    assert "| regular network, torch |" in text


def test_published_ones_are_exported_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(PUBLISHED, backbone="resnet18-small", config=CONFIG)
    monkeypatch.setattr(tracking.dimp.checkpoint, "PUBLISHED", small)
    weights = small.build().state_dict()
    torch.save({"net": weights}, tmp_path / "dimp50.pth")
    assert main([str(tmp_path / "dimp50.pth"), str(tmp_path / "out.safetensors"), "--turns", "0"]) == 0
    assert "note: The programs compute" in capsys.readouterr().out
    network, description = load_network(tmp_path / "out.safetensors")
    assert description.settings == {"legacy_coordinates": True}
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name])
    assert "`dimp50.pth`, which has no checksum" in (tmp_path / "out.md").read_text()
