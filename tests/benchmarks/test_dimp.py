"""The benchmark's other ways do the same job, and its report says what was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import dimp
from core.timing import Outcome, Timing
from tracking.datasets.demo_rendering import SCENES
from tracking.dimp.filter_optimizer import FilterOptimizer
from tracking.dimp.roi import pool_boxes
from tracking.dimp.tracker import STAGES


def test_plain_descent_is_the_same_descent() -> None:
    torch.manual_seed(0)
    optimiser = FilterOptimizer(4, 16)
    features, boxes = 0.1 * torch.randn(5, 8, 9, 9), torch.tensor([50.0, 55, 30, 28]) + torch.randn(5, 4)
    shares, weight = torch.rand(5) / 5, torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        ours, _ = optimiser(weight, features[None], boxes[None], shares[None], iterations=3)
        plain = dimp.plain_descent(optimiser, weight, features, boxes, shares, 3)
    assert (ours[-1] - weight).abs().max() > 0.01
    assert torch.allclose(ours[-1], plain, atol=1e-5)


def test_sampling_comes_close_to_the_mean_over_a_bin() -> None:
    """On a plane it is the mean."""
    rows, columns = torch.meshgrid(torch.arange(18.0), torch.arange(20.0), indexing="ij")
    plane = torch.stack([rows, columns, rows + 2 * columns])[None]
    boxes = torch.tensor([[20.0, 30, 60, 40], [17.5, 22.25, 31, 77]])
    exact = pool_boxes(plane, boxes[None], 3, 1 / 8)[0]
    assert torch.allclose(dimp.grid_sample_pool(plane, boxes, 3, 1 / 8), exact, atol=1e-4)


def timing(*cpu: float) -> Timing:
    return Timing(tuple(2 * seconds for seconds in cpu), cpu)


def test_report_names_hits_and_misses() -> None:
    frames = 20
    stages = SimpleNamespace(runs=[dict.fromkeys(STAGES, 0.2), dict.fromkeys(STAGES, 0.4)])
    outcomes = {
        dimp.TRACKER: Outcome(timing(8.8, 10.0), frames),
        dimp.BARE: Outcome(timing(8.0, 8.0), frames),
        dimp.PREPARED: Outcome(timing(7.0, 7.0), frames),
        dimp.FIRST: Outcome(timing(4.4, 4.4), 1),
    }
    text, value = dimp.whole_report(outcomes, stages, frames)  # type: ignore[arg-type]
    assert value["ratios"]["frame"] == pytest.approx((1.1 + 1.25) / 2)
    assert value["ratios"]["first_frame"] == pytest.approx(11)
    assert "takes 1.18 times the CPU time of its bare convolutions, which misses the target of 1.15" in text
    assert "11.0 bare frames, which misses the target of less than 10" in text
    assert "| crop | 15.0 | 10.0 |" in text
    outcomes[dimp.TRACKER] = Outcome(timing(8.8, 8.8), frames)
    assert (
        "1.10 times the CPU time of its bare convolutions, which meets"
        in dimp.whole_report(
            outcomes,
            stages,  # type: ignore[arg-type]
            frames,
        )[0]
    )


def test_parts_report() -> None:
    parts = {"pooling": {"exact": Outcome(timing(0.002), None), "sampled": Outcome(timing(0.005), None)}}
    text, value = dimp.part_report(parts)  # type: ignore[arg-type]
    assert "| pooling | 2.0 (exact) | 5.0 (sampled) | 2.5 |" in text
    assert value["pooling"]["ratio"] == pytest.approx(2.5)


@pytest.fixture
def short_video(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The video has three frames."""
    monkeypatch.setenv("LWDNA_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setitem(SCENES, "test", tuple(dataclasses.replace(s, frames=3) for s in SCENES["test"][:1]))


def test_frames_go_there_and_back(short_video: None) -> None:
    frames, box = dimp.frames_of(6)
    assert (frames[3] == frames[1]).all()
    assert (frames[4] == frames[0]).all()
    assert (frames[5] == frames[1]).all()
    assert box[2] == pytest.approx(44, abs=1)


@pytest.mark.parametrize("option", ["--turns", "--threads", "--endurance"])
@pytest.mark.parametrize("number", ["0", "-1"])
def test_numbers_that_measure_nothing(option: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dimp.main([option, number]) == 2
    assert capsys.readouterr().err == f"error: {option} {number}: expected 1 or more\n"


def test_frames_without_an_improvement_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert dimp.main(["--frames", "30"]) == 2
    assert "--frames 30: expected a multiple of 20" in capsys.readouterr().err


@pytest.mark.parametrize("frames", [3, 23])
def test_endurance_writes_its_moments(
    short_video: None, frames: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    command = ["--endurance", str(frames), "--threads", str(threads), "--output", str(tmp_path / "memory")]
    assert dimp.main(command) == 0
    value = json.loads((tmp_path / "memory.json").read_text())
    assert value["command"] == f"python -m benchmarks.dimp {' '.join(command)}"
    moments = [int(moment) for moment in value["resident_mib"]]
    assert len(moments) == min(frames, 10)
    assert moments[-1] == frames
    assert min(value["resident_mib"].values()) > 50
    text = (tmp_path / "memory.md").read_text()
    assert value["command"] in text
    assert f"| {frames} | {value['resident_mib'][str(frames)]:.1f} |" in text
    assert "| frames | resident memory, MiB |" in capsys.readouterr().out
