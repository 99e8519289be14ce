"""Loading and training: all ways do the same job, and the traffic that a step needs is counted by hand."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

from benchmarks.loops import OURS, bare_loop, check_sums, fit_loop, prepare, step_traffic
from benchmarks.micro import main

OPTIONS = Namespace(device="cpu", batch_size=32, batches=2, precision="32-true", channels_last=False, compile=False,
                    dataset="digits", model="resnet20", data_root=None)  # fmt: skip


def test_both_loops_take_the_same_steps() -> None:
    states = []
    for loop in (bare_loop, fit_loop):
        torch.manual_seed(0)
        subject = prepare(OPTIONS)
        loop(subject)()
        states.append({name: value.clone() for name, value in subject.model.state_dict().items()})
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6)
    torch.manual_seed(0)
    start = prepare(OPTIONS).model.state_dict()
    assert not torch.equal(start["fc.weight"], states[0]["fc.weight"])


def test_traffic_of_one_step_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    )
    image = torch.zeros(1, 3, 4, 4)
    sizes = [(48, 128), (128, 128), (128, 128), (128, 5)]  # values read and written by each counted layer
    assert step_traffic(net, image, 2) == 2 * sum(3 * read + 2 * written for read, written in sizes)
    assert net.training


def test_the_command_prints_the_ratio_and_writes_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--turns", "1", "--warmup", "0", "--batches", "2", "--batch-size", "16"]
    assert main(["training_loop", *quick, "--output", str(tmp_path / "loop")]) == 0
    assert "Speed of fit relative to the bare loop" in capsys.readouterr().out
    stored = json.loads((tmp_path / "loop.json").read_text())
    assert set(stored["loops"]) == {"bare loop", "fit"}
    assert 0 < stored["ratios"]["processor time"][0] < 2
    page = (tmp_path / "loop.md").read_text()
    assert page.startswith("# What the training loop costs: resnet20 on digits\n")
    assert "Made by `python -m benchmarks.micro training_loop --turns 1 --warmup 0" in page
    assert "| bare loop |" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training_loop", "--model", "resnet21"], "error: unknown network 'resnet21'"),
        (["training_loop", "--batches", "23"], "error: --batches 23 of 64: digits has"),
        (["training_loop", "--dataset", "tiny-imagenet", "--data-root", "/nowhere"], "error: Tiny-ImageNet"),
        (["data_loading", "--data-root", "/nowhere"], "error: Tiny-ImageNet"),
        (["data_loading", "--images", "63"], "error: --images 63: use at least 64"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert len(error.strip().splitlines()) == 1


def test_ways_that_read_other_images_are_no_result() -> None:
    ours = (64, 100, 3.0)
    check_sums({OURS: ours, "other": ours, "with crops": (64, 100, 4.0)})
    for sums, message in (((63, 100, 3.0), "not the images of"), ((64, 100, 4.0), "made other inputs")):
        with pytest.raises(RuntimeError, match=message):
            check_sums({OURS: ours, "other": sums})


def test_all_ways_of_loading_make_the_same_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWDNA_CACHE", str(tmp_path / "cache"))
    folder, photograph = tmp_path / "tiny-imagenet-200", data.astronaut()
    for label in ("n01", "n02"):
        (folder / "train" / label / "images").mkdir(parents=True)
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("n02\nn01\n")
    (folder / "words.txt").write_text("n01\tone\nn02\ttwo\n")
    for number in range(64):
        crop = photograph[6 * number :, number:][:64, :64]
        place = folder / "train" / f"n0{1 + number % 2}" / "images" / f"{number}.JPEG"
        Image.fromarray(crop).save(place)
        if number < 2:
            Image.fromarray(crop).save(folder / "val" / "images" / f"{number}.JPEG")
    lines = [f"{number}.JPEG\tn0{1 + number}\t0\t0\t1\t1\n" for number in range(2)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    quick = ["--images", "64", "--turns", "1", "--workers", "1", "--data-root", str(tmp_path)]
    assert main(["data_loading", *quick, "--output", str(tmp_path / "loading")]) == 0
    ways = json.loads((tmp_path / "loading.json").read_text())["ways"]
    assert len(ways) == 5
    assert all(way["cpu_median"] > 0 for way in ways.values())
