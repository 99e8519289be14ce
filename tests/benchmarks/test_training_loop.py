"""The training-loop benchmark: both loops do the same job, and the traffic that a step needs is counted by hand."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import data_loading
from benchmarks.training_loop import bare_loop, digits, fit_loop, main, prepare, step_traffic
from core.timing import Outcome, Timing

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


def test_digits_begin_anew_where_they_end() -> None:
    batches = digits(600, 4)
    assert [tuple(images.shape) for images, _ in batches] == [(600, 1, 8, 8)] * 4
    assert torch.equal(batches[3][0][:100], batches[0][0][3:103])


def test_the_command_prints_the_ratio_and_writes_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--turns", "1", "--warmup", "0", "--batches", "2", "--batch-size", "16"]
    assert main([*quick, "--output", str(tmp_path / "loop")]) == 0
    assert "Speed of fit relative to the bare loop" in capsys.readouterr().out
    stored = json.loads((tmp_path / "loop.json").read_text())
    assert set(stored["loops"]) == {"bare loop", "fit"}
    assert 0 < stored["ratios"]["processor time"][0] < 2
    page = (tmp_path / "loop.md").read_text()
    assert page.startswith("# What the training loop costs: resnet20 on digits\n")
    assert "Made by `python -m benchmarks.training_loop --turns 1 --warmup 0" in page
    assert "| bare loop |" in page


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (main, ["--model", "resnet21"], "error: unknown network 'resnet21'"),
        (main, ["--dataset", "tiny-imagenet", "--data-root", "/nowhere"], "error: Tiny-ImageNet"),
        (data_loading.main, ["--data-root", "/nowhere"], "error: Tiny-ImageNet"),
        (data_loading.main, ["--images", "63"], "error: --images 63: use at least 64"),
    ],
)
def test_mistakes_are_one_line(
    command: Callable[[list[str]], int],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert len(error.strip().splitlines()) == 1


def test_ways_that_read_other_images_are_no_result() -> None:
    timing = Timing((1.0,), (1.0,))
    ours = Outcome(timing, data_loading.Sums(64, 100, 3.0))
    assert data_loading.checked({data_loading.OURS: ours, "other": ours}, 64) == {
        data_loading.OURS: timing,
        "other": timing,
    }
    for sums, message in (((63, 100, 3.0), "not the images of"), ((64, 100, 4.0), "made other inputs")):
        with pytest.raises(RuntimeError, match=message):
            data_loading.checked(
                {data_loading.OURS: ours, "other": Outcome(timing, data_loading.Sums(*sums))}, 64
            )
