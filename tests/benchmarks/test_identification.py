"""The identification benchmark's machinery on a network that takes seconds."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from benchmarks.identification import (
    Cost,
    Sizes,
    identify,
    in_own_process,
    main,
    photographs,
    tables,
    train_step,
)
from core.errors import UserError

SMALL = Sizes("resnet20", 32, 2.0, 4, 8, 4, torch.get_num_threads())


def test_both_sides_run_and_report_time_and_memory() -> None:
    found, step = identify(SMALL), train_step(SMALL)
    assert list(found.stages) == ["trace and widen", "trace widened", "score", "search"]
    assert list(step.stages) == ["training step"]
    for cost in (found, step):
        assert all(seconds > 0 for seconds in cost.stages.values())
        assert 0.05 < cost.peak_gib < 64


def test_the_ratio_is_identification_over_one_step() -> None:
    found, step = Cost({"score": 3.0, "search": 1.0}, 1.0), Cost({"training step": 2.0}, 2.0)
    cells = tables(SMALL, found, step)[1]
    assert cells[-1][:2] == ["identification in training steps", "2.00"]
    assert cells[-2][0] == "training step of 8 images, in 2 accumulated batches of 4"


def test_photographs_are_normalised_and_differ() -> None:
    images = photographs(6, 20, seed=1)
    assert images.shape == (6, 3, 20, 20)
    assert images.mean((0, 2, 3)).abs().max() < 1e-4
    assert torch.equal(images, photographs(6, 20, seed=1))
    assert not torch.equal(images[0], images[4])


def test_batches_that_do_not_divide_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--train-batch", "10", "--micro-batch", "4"]) == 2
    assert "not a multiple" in capsys.readouterr().err


def _die(sizes: Sizes) -> Cost:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def test_a_killed_process_is_one_line_that_names_the_remedy() -> None:
    with pytest.raises(UserError, match=r"'_die' was killed, .*--score-batch \(now 4\)"):
        in_own_process(_die, SMALL)
