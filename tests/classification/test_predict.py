"""Classes of image files: the same as of the data set's own images, and what becomes of those that cannot be read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from classification.checkpoint import Description, save_network
from classification.data import DataConfig, open_dataset
from classification.data.images import read_rgb
from classification.data.views import central_view
from classification.inputs import fitted, read_input, to_input
from classification.models import build
from classification.predict import main, open_classifier
from core.errors import UserError
from tests.classification.trained import held_out_digits, train, write_digits

pytestmark = pytest.mark.usefixtures("unarranged")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run") / "work")


def described(dataset: str, shape: tuple[int, ...], **more: object) -> Description:
    return Description("resnet20", dataset, ("a", "b"), shape, (0.0,) * shape[0], (1.0,) * shape[0], **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("enlarge", [1, 4])
def test_files_become_the_data_sets_own_pixels(tmp_path: Path, enlarge: int) -> None:
    """Enlarged by whole pixels and shrunk again an image is blurred a little where edges are, and flat areas stay."""
    images, _ = held_out_digits()
    description = described("digits", (1, 8, 8), white=16)
    for image, file in zip(images[:40], write_digits(tmp_path, images[:40], enlarge), strict=True):
        found = read_input(file, description)
        assert found.shape == (1, 8, 8)
        if enlarge == 1:
            np.testing.assert_array_equal(found[0], image)
        else:
            assert np.abs(found[0] - image).mean() < 2
    flat = np.full((8 * enlarge, 8 * enlarge, 3), 255, np.uint8)
    assert (to_input(flat, description) == 16).all()
    assert (to_input(flat, described("digits", (1, 8, 8))) == 16).all()  # files of older releases do not tell


def test_images_of_any_form_are_fitted() -> None:
    ramp = np.tile(np.arange(90, dtype=np.uint8)[None, :, None], (30, 1, 3))
    view = fitted(ramp, 30, 30)
    np.testing.assert_array_equal(view, ramp[:, 30:60])  # the sides fit already: the central part
    assert fitted(ramp, 10, 10).shape == (10, 10, 3)
    assert abs(int(fitted(ramp, 10, 10)[5, 5, 0]) - 45) <= 2
    assert fitted(ramp[:3, :1], 64, 64).shape == (64, 64, 3)
    assert fitted(ramp, 31, 17).shape == (31, 17, 3)
    assert fitted(ramp[:, :7], 32, 32).shape == (32, 32, 3)


def test_imagenets_view_is_that_of_its_evaluation() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 411, 3), dtype=np.uint8)
    description = described("imagenet", (3, 224, 224))
    np.testing.assert_array_equal(to_input(image, description), central_view(image).transpose(2, 0, 1))


def test_averages_are_those_of_the_data_set() -> None:
    data = open_dataset("digits", ".", DataConfig(downsample=2))
    description = described("digits", (1, 4, 4), white=16, downsample=2)
    images, _ = held_out_digits()
    for own, image in zip(data.test.images[data.test.rows][:40].numpy(), images, strict=False):
        pixels = np.rint(image * 255 / 16).astype(np.uint8)[..., None].repeat(3, 2)
        np.testing.assert_array_equal(to_input(pixels, description), own)


def test_an_unknown_conversion_is_refused() -> None:
    with pytest.raises(UserError, match="'warp', which this release does not know"):
        to_input(np.zeros((8, 8, 3), np.uint8), described("digits", (1, 8, 8), view="warp"))


def test_predictions_are_the_networks(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, _ = held_out_digits()
    files = write_digits(tmp_path / "in", images[:30])
    out = tmp_path / "out.json"
    assert main([str(tmp_path / "in"), "--checkpoint", str(work / "lwdna.safetensors"), "--out", str(out),
                 "--batch-size", "7"]) == 0  # fmt: skip
    entries = json.loads(out.read_text())["images"]
    assert [entry["file"] for entry in entries] == [str(file) for file in files]
    classifier = open_classifier(work / "lwdna.safetensors", device="cpu")
    mean, std = classifier.description.mean[0], classifier.description.std[0]
    with torch.no_grad():
        logits = classifier.network(torch.from_numpy((images[:30, None] - mean) / std).float())
    for entry, row in zip(entries, logits.softmax(1), strict=True):
        share, order = row.sort(descending=True)
        assert [item["class"] for item in entry["classes"]] == [str(int(label)) for label in order[:5]]
        assert [item["probability"] for item in entry["classes"]] == pytest.approx(
            share[:5].tolist(), abs=1e-5
        )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{files[0]}: {entries[0]['classes'][0]['class']} ")
    assert lines[-1] == f"written: {out}"


def test_unreadable_images_are_named_and_counted(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    files = write_digits(folder, held_out_digits()[0][:4])
    files[1].write_bytes(files[1].read_bytes()[:40])
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (folder / "notes.txt").write_text("not an image")
    (folder / "deeper").mkdir()
    files[3].rename(folder / "deeper" / "IMAGE")
    out = tmp_path / "out.csv"
    command = ["--checkpoint", str(work / "baseline.safetensors")]
    assert main([str(folder), *command, "--out", str(out)]) == 1
    told = capsys.readouterr()
    assert len([line for line in told.out.splitlines() if "%" in line]) == 3
    assert "2 of 5 images could not be read" in told.err
    for name in ("001.png", "broken.jpg"):
        assert f"not classified: image '{folder / name}' cannot be read" in told.err
    assert "1 file or folder was left out: 1 no JPEG" in told.err
    assert "notes.txt" in told.err
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 5 + 2
    assert {row["file"] for row in rows if row["error"]} == {str(files[1]), str(folder / "broken.jpg")}
    assert {row["file"] for row in rows if row["rank"] == "1"} == {
        str(files[0]), str(files[2]), str(folder / "deeper" / "IMAGE")
    }  # fmt: skip


def test_where_no_image_can_be_read_nothing_is_written(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out.json"
    command = ["--checkpoint", str(work / "lwdna.safetensors"), "--out", str(out)]
    for sources, message in (
        (["in"], "none of 1 images could be read"),
        (["empty"], "no image in"),
        (["nowhere"], "nowhere' not found"),
    ):
        assert main([*(str(tmp_path / source) for source in sources), *command]) == 2
        assert message in capsys.readouterr().err
    assert not out.exists()


def test_wrong_usage_is_told_before_the_work(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (image,) = write_digits(tmp_path, held_out_digits()[0][:1])
    checkpoint = str(work / "lwdna.safetensors")
    for out, message in (("out.txt", "allowed endings are .json, .csv"), ("out.csv", "is the checkpoint")):
        path = tmp_path / out
        if out == "out.csv":
            path.symlink_to(checkpoint)
        assert main([str(image), "--checkpoint", checkpoint, "--out", str(path)]) == 2
        assert message in capsys.readouterr().err
    content = bytearray((work / "lwdna.safetensors").read_bytes())
    content[-5] ^= 4
    (tmp_path / "flipped.safetensors").write_bytes(content)
    assert main([str(image), "--checkpoint", str(tmp_path / "flipped.safetensors")]) == 2
    assert "flipped.safetensors' is damaged" in capsys.readouterr().err


def test_a_network_of_ones_own_has_to_be_named_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "mine.py"
    own.write_text(
        "from torch import nn\n"
        "def net(width=5):\n"
        "    return nn.Sequential(nn.Conv2d(1, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))\n"
        "def other():\n"
        "    return net(6)\n"
    )
    from core.command_line.factories import call_factory

    classes = ("cat", "dog")  # three outputs: one is no class
    description = Description(f"{own}:net", "digits", classes, (1, 8, 8), (4.8,), (6.0,), white=16)
    network = call_factory(f"{own}:net")
    with torch.no_grad():
        network[3].bias.copy_(torch.tensor([0.0, 10.0, 20.0]))
    path = tmp_path / "own.safetensors"
    save_network(path, network, description)
    (image,) = write_digits(tmp_path, held_out_digits()[0][:1])
    assert main([str(image), "--checkpoint", str(path)]) == 2
    assert f"repeat it with --model {own}:net" in capsys.readouterr().err
    assert main([str(image), "--checkpoint", str(path), "--model", f"{own}:net"]) == 0
    assert ": output 2 100.0 %; dog 0.0 %; cat" in capsys.readouterr().out
    assert main([str(image), "--checkpoint", str(path), "--model", f"{own}:other"]) == 2
    assert "own.safetensors' does not fit" in capsys.readouterr().err


def test_outputs_that_are_not_finite_are_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = build("resnet20", 10, dataset="digits")
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    path = tmp_path / "broken.safetensors"
    save_network(
        path, network, Description("resnet20", "digits", tuple("0123456789"), (1, 8, 8), (4.8,), (6.0,))
    )
    (image,) = write_digits(tmp_path, held_out_digits()[0][:1])
    assert main([str(image), "--checkpoint", str(path)]) == 1
    assert "NaN or infinite" in capsys.readouterr().err


def test_a_real_photograph(tmp_path: Path) -> None:
    import skimage

    image = read_rgb(Path(skimage.data_dir) / "astronaut.png")
    for shape in ((3, 32, 32), (3, 64, 64)):
        found = to_input(image, described("cifar10", shape))
        with Image.fromarray(image).resize(shape[:0:-1], Image.Resampling.BILINEAR) as wanted:
            np.testing.assert_array_equal(found, np.asarray(wanted).transpose(2, 0, 1))
