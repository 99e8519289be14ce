"""The training-loop benchmark: both loops do the same job, and the traffic that a step needs is counted by hand."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.training_loop import bare_loop, digits, fit_loop, main, prepare, step_traffic

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
    main(
        [
            "--turns",
            "1",
            "--warmup",
            "0",
            "--batches",
            "2",
            "--batch-size",
            "16",
            "--out",
            str(tmp_path / "loop"),
        ]
    )
    assert "Speed of fit relative to the bare loop" in capsys.readouterr().out
    stored = json.loads((tmp_path / "loop.json").read_text())
    assert set(stored["loops"]) == {"bare loop", "fit"}
    assert 0 < stored["ratios"]["processor time"][0] < 2
