"""Pricing and identification on networks that take seconds."""

from __future__ import annotations

import json
import os
import signal
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import benchmarks.micro
from benchmarks.micro import (
    CLOSED,
    COUNTED,
    DRAWN,
    Spent,
    identification_page,
    identify,
    in_own_process,
    main,
    photographs,
    train_step,
)
from core.errors import UserError

FEW = ["pricing", "--networks", "srresnet", "--candidates", "50", "--built", "2", "--turns", "1"]
SMALL = Namespace(model="resnet20", image=32, widen=2.0, score_batch=4, train_batch=8, micro_batch=4,
                  threads=torch.get_num_threads())  # fmt: skip


def test_both_sides_run_and_report_time_and_memory() -> None:
    found, step = identify(SMALL), train_step(SMALL)
    assert list(found.stages) == ["trace and widen", "trace widened", "score", "search"]
    assert list(step.stages) == ["training step"]
    for cost in (found, step):
        assert all(seconds > 0 for seconds in cost.stages.values())
        assert 0.05 < cost.peak_gib < 64


def test_the_ratio_is_identification_over_one_step() -> None:
    found, step = Spent({"score": 3.0, "search": 1.0}, 1.0), Spent({"training step": 2.0}, 2.0)
    made = identification_page(SMALL, found, step)
    assert "| identification in training steps | 2.00 | (allowed: 5) |" in made.text
    assert "| training step of 8 images, in 2 accumulated batches of 4 | 2.00 s | 2.0 GiB |" in made.text
    assert made.value["sizes"] == vars(SMALL)
    assert made.value["training_steps"] == 2


def test_photographs_are_normalised_and_differ() -> None:
    images = photographs(6, 20)
    assert images.shape == (6, 3, 20, 20)
    assert images.mean((0, 2, 3)).abs().max() < 1e-4
    assert torch.equal(images, photographs(6, 20))
    assert not torch.equal(images[0], images[4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--train-batch", "10", "--micro-batch", "4"],
            "--train-batch 10 is not a multiple of --micro-batch 4",
        ),
        (["--score-batch", "0"], "--score-batch 0: expected 1 or more"),
        (["--widen", "0.5"], "--widen 0.5: expected 1 or more"),
    ],
)
def test_sizes_that_measure_nothing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["identification", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def _die(options: Namespace) -> Spent:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def test_a_killed_process_is_one_line_that_names_the_remedy() -> None:
    with pytest.raises(UserError, match=r"'_die' was killed, .*--score-batch \(now 4\)"):
        in_own_process(_die, SMALL)


def test_the_page_holds_rates_of_every_way(tmp_path: Path) -> None:
    assert main([*FEW, "--output", str(tmp_path / "page")]) == 0
    (network,) = json.loads((tmp_path / "page.json").read_text())["networks"]
    assert network["drawn_over_budget"] == 0
    assert 0.99 < network["drawn_least"] <= 1
    rates = network["per_second"]
    assert rates[CLOSED] > rates[DRAWN] > rates[COUNTED] > 0
    text = (tmp_path / "page.md").read_text()
    assert "| SRResNet x4 |" in text
    assert "Made by `python -m benchmarks.micro pricing --networks srresnet --candidates 50" in text


def test_prices_that_differ_are_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks.micro, "count", lambda model, inputs: 1)
    assert main(FEW) == 2
    assert "SRResNet x4: the closed form prices" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--networks", "srresnett"], ["--built", "0"]], ids=str)
def test_wrong_prices_to_ask_for_are_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FEW, *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_entry_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["prices"])
    assert stopped.value.code == 2
    assert "invalid choice: 'prices'" in capsys.readouterr().err
