"""The super-resolution benchmark's machinery on a network that takes seconds."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import skimage
import torch
from skimage import io

from benchmarks import super_resolution as benchmark
from benchmarks.measure import Timing
from core import Architecture
from super_resolution.data import open_training_set


def test_ratios_are_taken_turn_by_turn() -> None:
    timings = {"a": Timing((1.0, 3.0, 8.0), (1.0, 1.0, 1.0)), "b": Timing((2.0, 4.0, 8.0), (4.0, 2.0, 1.0))}
    found = benchmark.ratios(timings, "a", "b")
    assert found["wall"] == {"median": 0.75, "min": 0.5, "max": 1.0}
    assert found["cpu"] == {"median": 0.5, "min": 0.25, "max": 1.0}


@pytest.mark.parametrize(
    ("elapsed", "cpu", "verdict"), [(0.64, 0.66, "within / over"), (0.66, 0.5, "over / within")]
)
def test_a_found_network_is_held_against_its_own_flops(elapsed: float, cpu: float, verdict: str) -> None:
    inputs = {"shape": [1, 3, 8, 8], "dtype": "float32"}
    found = Architecture("EDSR", {"body.0.conv1": 64}, inputs)
    timings = {benchmark.BASELINE: Timing((1.0,), (1.0,)), "found": Timing((elapsed,), (cpu,))}
    promised = {benchmark.BASELINE: 1.0, "found": 0.6}
    text = "\n".join(benchmark.inference_text({1: timings}, promised, {"found": found}))
    assert f"| 1 | 0.600 | {elapsed:.3f} s | {cpu:.3f} s |" in text
    assert text.count("within") + text.count("over") == 2
    assert verdict in text
    assert "- found: body.0.conv1 64" in text


def test_misses_are_named_by_clock_and_threads() -> None:
    timings = {
        benchmark.BASELINE: Timing((1.0,), (1.0,)),
        "a": Timing((0.64,), (0.66,)),
        "b": Timing((0.66,), (0.7,)),
    }
    promised = {benchmark.BASELINE: 1.0, "a": 0.6, "b": 0.6}
    assert benchmark.verdict({2: timings}, promised, ["a", "b"]).splitlines() == [
        "- elapsed time, 2 threads: over the limit: b; within it: a.",
        "- CPU time, 2 threads: over the limit: a, b; within it: none.",
    ]


def test_wrong_usage_is_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--turns", "0"]) == 2
    assert capsys.readouterr().err == "error: --turns, --threads and --round-to are at least 1\n"


@pytest.mark.skipif(
    importlib.util.find_spec("basicsr") is None, reason="the extra 'basicsr' is not installed"
)
def test_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {
        "BLOCKS": 2,
        "FEATS": 8,
        "FRAME": (1, 3, 12, 16),
        "CONVOLUTIONS": (8, 12),
        "BATCH": 4,
        "PATCH": 32,
    }
    for name, value in (small | {"BATCHES": 2}).items():
        monkeypatch.setattr(benchmark, name, value)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        photo = io.imread(Path(skimage.data_dir) / "chelsea.png")[50 * index :][:96, :120]
        io.imsave(tmp_path / "photos" / f"{index}.png", photo)
    images = open_training_set(str(tmp_path / "photos"), tmp_path, benchmark.SCALE)
    monkeypatch.setattr(benchmark, "training_images", lambda root: images)
    stem = tmp_path / "speed"
    assert benchmark.main(["--turns", "2", "--round-to", "1", "4", "--output", str(stem)]) == 0
    assert capsys.readouterr().out.strip() == stem.with_suffix(".md").read_text().strip()
    result = json.loads(stem.with_suffix(".json").read_text())
    assert set(result["inference"]) == {"1"}
    times = result["inference"]["1"]
    assert list(times) == ["EDSR", "BasicSR's EDSR", "found, any width", "found, multiples of 4"]
    assert all(len(timing["runs"]) == 2 for timing in times.values())
    assert times["EDSR"]["ratio"]["wall"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert result["flops_ratio"]["found, any width"] <= benchmark.BUDGET
    assert result["flops_ratio"]["EDSR"] == 1
    assert all(width % 4 == 0 for width in result["widths"]["found, multiples of 4"].values())
    assert torch.get_num_threads() == 1
