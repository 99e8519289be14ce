"""Runs on images: a folder's, Tiny-ImageNet's, and those that are left out or not there."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from classification.checkpoint import load_network
from classification.config import FOLDER_PROTOCOL
from classification.data import ClassificationData, open_dataset
from classification.data.scan import LeftOut
from classification.run import main

pytestmark = pytest.mark.usefixtures("unarranged")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of parts of two photographs, one of them damaged, and a text."""
    folder = tmp_path / "photos"
    for name in ("china", "flower"):
        (folder / name).mkdir(parents=True)
        photograph = load_sample_image(f"{name}.jpg")
        for number in range(8):
            left = 60 * number
            Image.fromarray(photograph[100:180, left : left + 100]).save(folder / name / f"{number}.jpg")
    (folder / "china" / "7.jpg").write_bytes((folder / "china" / "7.jpg").read_bytes()[:600])
    (folder / "flower" / "list.txt").write_text("text")
    return folder


def test_a_folder_of_images_from_training_to_checkpoint(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--no-progress", "--model", "resnet20"]
    options = ["--val-share", "0.25", "--epochs", "1", "--cfg-options", "data.size=32", "data.workers=0"]
    with pytest.warns(UserWarning, match=r"1 of 16 images left out"):
        assert main([*command, "--dataset", "photos", *options, "--pretrained", "none.pth"]) == 2
    assert not list((tmp_path / "work_dirs").glob("*"))  # nothing is left of a run that is refused
    capsys.readouterr()
    with pytest.warns(UserWarning, match=r"1 of 16 images left out"):
        assert main([*command, "--dataset", "photos", *options]) == 0
    work = tmp_path / "work_dirs" / "classification-resnet20-photos"
    shown = capsys.readouterr().out
    report = (work / "report.md").read_text()
    assert report.startswith("# resnet20 on photos\n")
    for text in (shown, report):
        assert "4 of 16 images are held out, 25% of every class" in text
        assert "1 file or folder was left out: 1 no JPEG" in text
        assert re.search(r"1 unreadable (train|test) image was left out; skipped.txt lists it", text)
    skipped = [line.partition("\t")[0] for line in (work / "skipped.txt").read_text().splitlines()]
    assert skipped == [str(photographs / "flower/list.txt"), str(photographs / "china/7.jpg")]
    kept = json.loads((work / "data.json").read_text())
    assert kept["classes"] == ["china", "flower"]
    assert [Path(name).parent.name for name in kept["held_out"]] == ["china"] * 2 + ["flower"] * 2
    assert json.loads((work / "result.json").read_text())["dataset"] == "photos"
    for method in ("baseline", "lwdna"):
        network, described = load_network(work / f"{method}.safetensors")
        assert (described.dataset, described.classes) == ("photos", ("china", "flower"))
        assert described.input_shape == (3, 32, 32)
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2)

    # Going on from elsewhere trains nothing, and takes no other images.
    monkeypatch.chdir(photographs)
    with pytest.warns(UserWarning, match=r"1 of 16 images left out"):
        assert main(["--no-progress", "--resume", "--work-dir", str(work)]) == 0
    assert (work / "report.md").read_text() == report
    shutil.copy(photographs / "flower/1.jpg", photographs / "flower/2.jpg")
    capsys.readouterr()
    with pytest.warns(UserWarning, match=r"1 of 16 images left out"):
        assert main(["--no-progress", "--resume", "--work-dir", str(work)]) == 2
    assert "began with other images of 'photos': put those back" in capsys.readouterr().err


def test_images_that_were_left_out_stand_in_the_report_and_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(*arguments: Any) -> ClassificationData:
        data = open_dataset(*arguments)
        entries = tuple(LeftOut(f"{number}.png", "no end") for number in range(3))
        return replace(
            data, train=replace(data.train, unreadable=entries), left_out=(LeftOut("._a", "hidden"),)
        )

    monkeypatch.setattr("classification.run.open_dataset", damaged)
    quick = ["--train-limit", "60", "--epochs", "1", "--no-progress", "--cfg-options", "train.batch_size=30"]
    options = ["shrink.batch_size=20", "shrink.batches=1"]
    assert main([*quick, *options, "--work-dir", str(tmp_path / "work")]) == 0
    line = "3 unreadable train images were left out; skipped.txt lists them."
    hidden = "1 file or folder was left out: 1 hidden; skipped.txt lists them."
    out, report = capsys.readouterr().out, (tmp_path / "work" / "report.md").read_text()
    assert (out.count(line), out.count(hidden)) == (1, 1)
    assert line in report
    assert hidden in report
    listed = ["._a\thidden", *(f"{number}.png\tno end" for number in range(3))]
    assert (tmp_path / "work" / "skipped.txt").read_text().splitlines() == listed
    monkeypatch.setattr("classification.run.is_first_process", lambda: False)
    assert main(["--resume", "--work-dir", str(tmp_path / "work"), "--no-progress"]) == 0
    assert line not in capsys.readouterr().out


@pytest.fixture
def small_tiny_imagenet(tmp_path: Path) -> Path:
    """The first ten classes of the real Tiny-ImageNet: 20 training and 5 validation images each, official layout."""
    root = os.environ.get("LWDNA_DATA")
    if not root or not (Path(root) / "tiny-imagenet-200").exists():
        pytest.skip("Tiny-ImageNet is not under $LWDNA_DATA")
    real, small = Path(root) / "tiny-imagenet-200", tmp_path / "data" / "tiny-imagenet-200"
    wnids = (real / "wnids.txt").read_text().split()[:10]
    for wnid in wnids:
        (small / "train" / wnid / "images").mkdir(parents=True)
        for image in sorted((real / "train" / wnid / "images").iterdir())[:20]:
            shutil.copy(image, small / "train" / wnid / "images")
    (small / "val" / "images").mkdir(parents=True)
    lines = (real / "val" / "val_annotations.txt").read_text().splitlines()
    kept = [line for wnid in wnids for line in [row for row in lines if row.split("\t")[1] == wnid][:5]]
    for line in kept:
        shutil.copy(real / "val" / "images" / line.split("\t")[0], small / "val" / "images")
    (small / "val" / "val_annotations.txt").write_text("\n".join(kept) + "\n")
    (small / "wnids.txt").write_text("\n".join(wnids) + "\n")
    shutil.copy(real / "words.txt", small)
    return small.parent


def test_real_tiny_imagenet_end_to_end(small_tiny_imagenet: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    arguments = [
        "--dataset",
        "tiny-imagenet",
        "--data-root",
        str(small_tiny_imagenet),
        "--model",
        "mobilenetv2",
    ]
    arguments += ["--epochs", "1", "--train-limit", "50", "--no-progress", "--work-dir", str(folder)]
    assert main([*arguments, "--cfg-options", "shrink.batch_size=16", "train.batch_size=25"]) == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["methods"]["lwdna"]["flops_ratio"] <= 0.9376 + 1e-9
    assert {"top1_error", "top5_error"} <= result["methods"]["baseline"]["metrics"].keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "cifar11"], "unknown data set 'cifar11': did you mean 'cifar10'"),
        (["--dataset", ""], "an argument is empty"),
        (["--dataset", "./nowhere"], "is not there: --dataset takes a folder"),
        (["--dataset", "digits", "--val-share", "0.3"], "data.val_share is 0.3, but 'digits' has a part"),
        (["--config", str(FOLDER_PROTOCOL)], "unknown data set 'PATH'"),
    ],
)
def test_a_data_set_that_is_none_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--work-dir", str(tmp_path / "work")]) == 2
    assert message in capsys.readouterr().err
