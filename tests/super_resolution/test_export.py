"""Exported networks enlarge as `super_resolution.upscale` does, at any size, without our code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.export.command import Request
from core.export.formats import export
from core.export.subject import cases
from super_resolution.checkpoint import Description, save_network
from super_resolution.export import main, open_export
from super_resolution.models import build
from super_resolution.upscale import main as upscale

OPTIONS = {"n_blocks": 1, "n_feats": 4}


def saved(path: Path, model: str = "edsr", scale: int = 2, **options: Any) -> Path:
    """A network whose pictures are neither black nor white everywhere."""
    torch.manual_seed(0)
    network = build(model, scale, **options)
    channels = 1 if model in ("dncnn", "unet") else 3
    save_network(path, network, Description(model, scale, options, None, (channels, None, None)))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("checkpoint") / "edsr.safetensors", **OPTIONS)


@pytest.fixture
def picture(photo: np.ndarray, tmp_path: Path) -> Path:
    Image.fromarray(photo[60:131, 100:183]).save(tmp_path / "low.png")
    return tmp_path / "low.png"


def run_card(card: Path, words: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that a card shows, in the card's folder."""
    code = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)[0]
    monkeypatch.chdir(card.parent)
    monkeypatch.setattr("sys.argv", ["program", *map(str, words)])
    exec(compile(code, "card", "exec"), {})


def test_the_cards_program_enlarges_as_upscale_does(
    checkpoint: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnxruntime: Any
) -> None:
    assert main([str(checkpoint), str(tmp_path / "net.onnx"), "--turns", "0"]) == 0
    run_card(tmp_path / "net.md", [picture, tmp_path / "high.png"], monkeypatch)
    assert (
        upscale([str(picture), str(tmp_path / "ours.png"), "--checkpoint", str(checkpoint), "--tile", "0"])
        == 0
    )
    found, own = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("high.png", "ours.png"))
    assert found.shape == own.shape == (142, 166, 3)
    assert np.abs(found - own).max() <= 1
    assert (found != own).mean() < 1e-3
    assert own.std() > 5
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    assert session.get_inputs()[0].type == session.get_outputs()[0].type == "tensor(uint8)"
    assert session.get_outputs()[0].shape == ["batch", 3, "2*height", "2*width"]


def test_values_between_zero_and_one_are_neither_rounded_nor_clipped(
    checkpoint: Path, tmp_path: Path
) -> None:
    subject = open_export(Request(checkpoint, None, (), False))
    assert subject.graph is subject.network
    assert subject.exact is None
    images = subject.inputs["images"]
    assert images.shape == (3, 3, 48, 64)
    assert 0 <= float(images.min()) < 0.2
    assert 0.8 < float(images.max()) <= 1
    file = export(subject, tmp_path / "net.pt2")
    assert file.step == 1
    [expected] = cases(subject)[0].expected
    torch.testing.assert_close(file.run(subject.inputs)[0], expected, rtol=0, atol=1e-5)


def test_pixels_are_those_of_the_values(checkpoint: Path) -> None:
    values, pixels = (open_export(Request(checkpoint, None, (), form)) for form in (False, True))
    assert pixels.inputs["images"].dtype == torch.uint8
    torch.testing.assert_close(pixels.inputs["images"] / 255, values.inputs["images"])
    assert pixels.exact is not None
    with torch.no_grad():
        exact = pixels.exact(pixels.inputs["images"])
        torch.testing.assert_close(
            exact, values.graph(values.inputs["images"]).clamp(0, 1) * 255, rtol=0, atol=1e-3
        )
        assert torch.equal(pixels.graph(pixels.inputs["images"]), exact.round().to(torch.uint8))


@pytest.mark.parametrize(("model", "scale"), [("srresnet", 3), ("msrresnet", 4), ("dncnn", 1), ("unet", 1)])
def test_every_network_can_be_a_program(tmp_path: Path, model: str, scale: int) -> None:
    options = {"srresnet": {"n_blocks": 1, "n_feats": 8}, "msrresnet": {"n_blocks": 1, "n_feats": 8},
               "dncnn": {}, "unet": {"n_feats": 2, "depth": 3}}[model]  # fmt: skip
    path = saved(tmp_path / "net.safetensors", model, scale, **options)
    subject = open_export(Request(path, None, (), True))
    file = export(subject, tmp_path / "net.pt2")
    assert file.step == 1
    channels = subject.inputs["images"].shape[1]
    [enlarged] = file.run({"images": torch.zeros(1, channels, 33, 20, dtype=torch.uint8)})
    assert enlarged.shape == (1, channels, 33 * scale, 20 * scale)


@pytest.mark.parametrize("pixels", [True, False])
def test_programs_for_grey_networks(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, pixels: bool
) -> None:
    """On a grey picture they do what `upscale` does."""
    path = saved(tmp_path / "dncnn.safetensors", "unet", 1, n_feats=2, depth=2)
    subject = open_export(Request(path, None, (), pixels))
    grey = tmp_path / "grey.png"
    Image.open(picture).convert("L").save(grey)

    class Session:
        def __init__(self, file: str) -> None:
            assert file == "net.onnx"

        def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            with torch.no_grad():
                return [subject.graph(torch.from_numpy(feed["images"].copy())).numpy()]

    monkeypatch.setitem(sys.modules, "onnxruntime", type("onnxruntime", (), {"InferenceSession": Session}))
    card = tmp_path / "net.md"
    card.write_text(f"```python\n{subject.usage('net.onnx')}\n```")
    run_card(card, [grey, tmp_path / "out.png"], monkeypatch)
    assert upscale([str(grey), str(tmp_path / "ours.png"), "--checkpoint", str(path), "--tile", "0"]) == 0
    found, own = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("out.png", "ours.png"))
    assert found.shape == own.shape == (71, 83)
    assert np.abs(found - own).max() <= 1


def test_small_pictures_of_ones_own(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 90), 77, np.uint8)).save(tmp_path / "grey.png")
    images = open_export(Request(checkpoint, None, (tmp_path / "grey.png",), True)).inputs["images"]
    assert images.shape == (2, 3, 20, 64)
    assert bool((images == 77).all())
