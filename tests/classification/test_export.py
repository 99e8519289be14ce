"""Exported classifiers say what `classification.predict` says, from the same files, without our code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

import core
from classification.checkpoint import Description, save_network
from classification.export import PixelClassifier, main, open_export, usage
from classification.inputs import read_input
from classification.models import build
from classification.predict import open_classifier
from core.export.command import Request
from core.export.subject import photographs
from core.storage.description import Origin
from core.surgery.depth import shorten
from tests.classification.trained import held_out_digits, write_digits

pytestmark = pytest.mark.usefixtures("unarranged")
DIGITS = tuple(map(str, range(10)))
LEFT_OUT = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (1, 2))
ORIGIN = Origin("digits", "gradient", 0, {})


def seen(network: nn.Module, batch: torch.Tensor) -> nn.Module:
    """The network with the statistics of a batch, so that images get different answers."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics are this batch's
    with torch.no_grad():
        network.train()(batch)
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        last.bias.sub_(network.eval()(batch).mean(0))
    return network


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet20 of found widths without six of its blocks, which has seen the digits."""
    torch.manual_seed(0)
    inputs = torch.from_numpy(held_out_digits()[0][:64, None]).float() / 16
    regular = partial(build, "resnet20", 10, dataset="digits")
    network = regular()
    loss, budget = nn.functional.cross_entropy, core.Budget(flops=0.7)
    found = core.shrink(shorten(network, LEFT_OUT), inputs[:1], [], loss, budget=budget, score="random")
    found = replace(found, removed=LEFT_OUT)
    about = Description(
        "resnet20", "digits", DIGITS, (1, 8, 8), (4.9,), (6.0,), found.to_json(), view="fit", white=16
    )
    path = tmp_path_factory.mktemp("digits") / "lwdna.safetensors"
    save_network(path, seen(found.build(network, factory=regular), (inputs * 16 - 4.9) / 6), about, ORIGIN)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path, onnxruntime: Any) -> Path:
    """Its ONNX file and card."""
    out = checkpoint.with_name("digits.onnx")
    assert main([str(checkpoint), str(out), "--turns", "1"]) == 0
    return out


def code_of(card: Path) -> str:
    """The program that a card shows."""
    return re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)[0]


def answers(
    code: str, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """The classes that a program prints for an image."""
    monkeypatch.setattr("sys.argv", ["program", str(image)])
    capsys.readouterr()
    exec(compile(code, "card", "exec"), {})
    return [line.rpartition(" ")[0] for line in capsys.readouterr().out.splitlines()]


def test_the_cards_program_says_what_predict_says(
    checkpoint: Path,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(exported.parent)
    code = code_of(exported.with_suffix(".md"))
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 22
    own = write_digits(tmp_path / "own", held_out_digits()[0][:6])
    large = write_digits(tmp_path / "large", held_out_digits()[0][6:9], enlarge=5)
    files = [*own, *large, *photographs()]
    classifier = open_classifier(checkpoint, device="cpu")
    said = [[name for name, _ in prediction.classes] for prediction in classifier.predict(files)]
    assert len({tuple(row) for row in said}) > 3
    assert [answers(code, file, monkeypatch, capsys) for file in files] == said


def test_the_file_computes_what_predict_does(
    checkpoint: Path, exported: Path, tmp_path: Path, onnxruntime: Any
) -> None:
    classifier = open_classifier(checkpoint, device="cpu")
    files = write_digits(tmp_path, held_out_digits()[0][:20])
    pixels = np.stack([read_input(file, classifier.description) for file in files])
    session = onnxruntime.InferenceSession(str(exported))
    [logits] = session.run(None, {"images": pixels})
    shares = torch.from_numpy(logits).softmax(1)
    for row, prediction in zip(shares, classifier.predict(files), strict=True):
        best = row.topk(5)
        assert [DIGITS[index] for index in best.indices] == [name for name, _ in prediction.classes]
        assert best.values.tolist() == pytest.approx([share for _, share in prediction.classes], abs=1e-5)
    told = json.loads(session.get_modelmeta().custom_metadata_map["classification"])
    assert told["classes"] == list(DIGITS)


def test_the_card_compares_with_the_regular_network(exported: Path) -> None:
    text = exported.with_suffix(".md").read_text()
    assert text.startswith("# Model card: resnet20 (classification)")
    assert "Its widths were found by `gradient`: 6 groups with" in text
    assert f"without the blocks {', '.join(LEFT_OUT)}." in text
    assert "| regular network | 2.5330 M |" in text
    assert "| regular network, torch |" in text
    assert "| digits.onnx, onnxruntime " in text


def test_the_graph_normalises_as_predict_does(checkpoint: Path) -> None:
    pixels = open_export(Request(checkpoint, None, (), True))
    normalised = open_export(Request(checkpoint, None, (), False))
    assert pixels.inputs["images"].dtype == torch.uint8
    assert isinstance(pixels.graph, PixelClassifier)
    with torch.no_grad():
        own = pixels.graph(pixels.inputs["images"])
        torch.testing.assert_close(own, normalised.graph(normalised.inputs["images"]), rtol=0, atol=0)
    assert pixels.regular is not None
    assert sum(p.numel() for p in pixels.regular.parameters()) > sum(
        p.numel() for p in pixels.graph.parameters()
    )
    assert "(pixel - [4.9]) / [6.0] per channel" in normalised.about["images"]


def test_images_of_ones_own_are_compared(checkpoint: Path, tmp_path: Path) -> None:
    [file] = write_digits(tmp_path, held_out_digits()[0][:1])
    images = open_export(Request(checkpoint, None, (file,), True)).inputs["images"]
    assert images.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(images[0, 0], held_out_digits()[0][0])


class Ended(Exception):
    """The program has its input."""


@pytest.mark.parametrize("pixels", [True, False])
@pytest.mark.parametrize(
    "more",
    [
        {"view": "photograph", "input_shape": (3, 40, 40)},
        {"view": "crop", "input_shape": (3, 64, 64)},
        {"view": "fit", "input_shape": (3, 32, 48)},
        {"view": "fit", "input_shape": (3, 16, 12), "downsample": 2},
        {"view": "fit", "input_shape": (1, 4, 4), "downsample": 2, "white": 16},
        {"dataset": "imagenet", "input_shape": (3, 48, 48)},
    ],
    ids=lambda more: "-".join(map(str, more.values())),
)
def test_programs_prepare_images_as_we_do(
    more: dict[str, Any], pixels: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, for photographs in both directions, one of them turned by a camera's tag."""
    channels = more["input_shape"][0]
    mean, std = (99.5, 101.25, 97.75)[:channels], (52.5, 51.25, 50.5)[:channels]
    usual: dict[str, Any] = {"model": "resnet20", "dataset": "mine", "classes": ("a", "b"), "white": 255}
    description = Description(**{**usual, "mean": mean, "std": std, **more})
    fed: list[np.ndarray] = []

    class Session:
        def __init__(self, path: str) -> None:
            assert path == "net.onnx"

        def get_modelmeta(self) -> Any:
            told = json.dumps({"classes": ["a", "b"], "mean": mean, "std": std})
            return type("Meta", (), {"custom_metadata_map": {"classification": told}})

        def run(self, names: None, feed: dict[str, np.ndarray]) -> None:
            fed.append(feed["images"])
            raise Ended

    monkeypatch.setitem(
        __import__("sys").modules, "onnxruntime", type("onnxruntime", (), {"InferenceSession": Session})
    )
    code = compile(usage("net.onnx", description, pixels), "card", "exec")
    photo = Image.open(photographs()[1]).convert("RGB")
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.png", exif=exif)
    photo.resize((37, 51)).save(tmp_path / "small.png")
    grey = np.asarray(photo.getchannel("G")).astype(np.uint16) * 251  # not what 8 bits become
    Image.fromarray(grey).save(tmp_path / "sixteen.png")
    photo.putalpha(photo.getchannel("G"))
    photo.save(tmp_path / "alpha.png")
    assert ImageOps.exif_transpose(Image.open(tmp_path / "turned.png")).size == photo.size[::-1]
    for file in (
        *photographs(),
        *(tmp_path / f"{name}.png" for name in ("turned", "small", "alpha", "sixteen")),
    ):
        monkeypatch.setattr("sys.argv", ["program", str(file)])
        with pytest.raises(Ended):
            exec(code, {})
        own = read_input(file, description)[None].astype(np.float32 if not pixels else np.uint8)
        if pixels:
            assert fed[-1].dtype == np.uint8
            np.testing.assert_array_equal(fed[-1], own)
        else:
            shape = (1, channels, 1, 1)
            expected = (own - np.float32(mean).reshape(shape)) / np.float32(std).reshape(shape)
            assert fed[-1].dtype == np.float32
            np.testing.assert_allclose(fed[-1], expected, rtol=0, atol=1e-6)


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2, 1)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.conv(x).relu().mean((2, 3)))
"""


def test_a_network_of_ones_own_is_named_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "mine.py"
    source.write_text(OWN)
    names: dict[str, Any] = {}
    exec(OWN, names)
    checkpoint = tmp_path / "mine.safetensors"
    mean, std = (120.0,) * 3, (60.0,) * 3
    about = Description(
        f"{source}:Net", "pets", ("cat", "dog"), (3, 24, 24), mean, std, view="photograph", white=255
    )
    save_network(checkpoint, names["Net"](), about)
    words = [str(checkpoint), str(tmp_path / "out.safetensors"), "--turns", "0"]
    assert main(words) == 2
    assert "not imported because a file names it" in capsys.readouterr().err
    assert main([*words, "--model", f"{source}:Net"]) == 0
    assert capsys.readouterr().out.startswith(f"{checkpoint}: mine-Net (classification)\n")
    assert f"{source}:Net (code: named here, not imported" in (tmp_path / "out.md").read_text()
