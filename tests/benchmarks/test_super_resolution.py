"""The super-resolution benchmark's machinery on a network that takes seconds."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import skimage
import torch
from skimage import io
from torch import nn

from benchmarks import super_resolution as benchmark
from benchmarks import super_resolution_report as report
from benchmarks.super_resolution_report import Contender
from core import Architecture
from core.graph.complexity import Cost
from core.timing import Timing
from super_resolution.data import open_training_set


def found(name: str, promised: float) -> Contender:
    """A found network at a share of its baseline's multiply-accumulates."""
    costs = {"cost": Cost(round(promised * 1000), 0, 0), "baseline": Cost(1000, 0, 0)}
    inputs = {"shape": [1, 3, 8, 8], "dtype": "float32"}
    architecture = Architecture("EDSR", {"body.0.conv1": 64}, inputs, **costs)
    return Contender(name, nn.Identity(), "EDSR", True, architecture)


def test_ratios_are_taken_turn_by_turn() -> None:
    timings = {"a": Timing((1.0, 3.0, 8.0), (1.0, 1.0, 1.0)), "b": Timing((2.0, 4.0, 8.0), (4.0, 2.0, 1.0))}
    ratio = report.ratios(timings, "a", "b")
    assert ratio["wall"] == {"median": 0.75, "min": 0.5, "max": 1.0, "fastest": 0.5}
    assert ratio["cpu"] == {"median": 0.5, "min": 0.25, "max": 1.0, "fastest": 1.0}


@pytest.mark.parametrize(
    ("elapsed", "cpu", "verdict"), [(0.64, 0.66, "within / over"), (0.66, 0.5, "over / within")]
)
def test_a_found_network_is_held_against_its_own_flops(elapsed: float, cpu: float, verdict: str) -> None:
    networks = [Contender("EDSR", nn.Identity(), "EDSR", True), found("LW-DNA", 0.6)]
    timings = {"EDSR": Timing((1.0,), (1.0,)), "LW-DNA": Timing((elapsed,), (cpu,))}
    text = "\n".join(report.inference_text("one frame", networks, {1: timings}))
    assert f"| LW-DNA | 1 | 0.600 | {elapsed:.3f} s | {cpu:.3f} s |" in text
    assert f"| {verdict} |" in text
    assert "- LW-DNA: body.0.conv1 64" in text


def test_misses_are_named_by_clock_and_threads() -> None:
    timings = {
        "EDSR": Timing((1.0,), (1.0,)),
        "a": Timing((0.64,), (0.66,)),
        "b": Timing((0.66,), (0.7,)),
    }
    networks = [Contender("EDSR", nn.Identity(), "EDSR", True), found("a", 0.6), found("b", 0.6)]
    assert report.verdict(networks, {2: timings}).splitlines() == [
        "- elapsed time, 2 threads: over the limit: b. Within it: a.",
        "- CPU time, 2 threads: over the limit: a; b. Within it: none.",
    ]


def test_the_other_packages_network_is_compared_in_both_layouts_and_as_shipped() -> None:
    times = {"EDSR": 1.0, "EDSR, default": 1.5, "BasicSR's": 0.8, "BasicSR's, default": 2.0}
    measure = {"BasicSR's": "EDSR", "BasicSR's, default": "EDSR, default"}
    networks = [
        Contender(name, nn.Identity(), measure.get(name, name), "default" not in name) for name in times
    ]
    timings = {name: Timing((time,), (2 * time,)) for name, time in times.items()}
    lines = [line for line in report.verdict(networks, {1: timings}).splitlines() if "BasicSR's" in line]
    compared = (
        "both channels last 1.250 (1.250–1.250), slower; "
        "both in the default layout 0.750 (0.750–0.750), not slower; "
        "each as shipped 0.500 (0.500–0.500), not slower."
    )
    assert lines == [
        f"- {clock} time, 1 thread, ours over BasicSR's with the same weights: {compared}"
        for clock in ("elapsed", "CPU")
    ]


@pytest.mark.parametrize(("rival", "verdict"), [(4.9, "not kept"), (5.1, "is kept")])
def test_loading_is_held_against_five_times(rival: float, verdict: str) -> None:
    timings = {"pixel cache": Timing((1.0,), (1.0,)), "BasicSR": Timing((rival,), (1.0,))}
    assert verdict in "\n".join(report.loading_text("batches", timings))


def test_wrong_usage_is_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--turns", "0"]) == 2
    assert capsys.readouterr().err == "error: --turns 0: expected 1 or more\n"


@pytest.mark.skipif(
    importlib.util.find_spec("basicsr") is None, reason="the extra 'basicsr' is not installed"
)
def test_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = tmp_path / "small.py"
    shrink = "dict(budget=dict(flops=0.6), score='gradient', floor=0.2, round_to=4, batch_size=4)"
    protocol.write_text(f"model = 'edsr'\noptions = dict(n_blocks=2, n_feats=8)\nshrink = {shrink}\n")
    small = {"PROTOCOLS": {"EDSR": protocol}, "FRAME": (1, 3, 12, 16), "SEARCH_PATCH": 32, "PATCH": 32}
    small |= {"CONVOLUTIONS": (8, 12), "BATCH": 4, "BATCHES": 2}
    for name, value in small.items():
        monkeypatch.setattr(benchmark, name, value)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        photo = io.imread(Path(skimage.data_dir) / "chelsea.png")[50 * index :][:96, :120]
        io.imsave(tmp_path / "photos" / f"{index}.png", photo)
    images = open_training_set(str(tmp_path / "photos"), tmp_path, benchmark.SCALE)
    monkeypatch.setattr(benchmark, "training_images", lambda root: images)
    stem = tmp_path / "speed"
    assert benchmark.main(["--turns", "2", "--output", str(stem)]) == 0
    printed = capsys.readouterr().out.partition("\nwritten: ")[0]
    assert printed.strip() in stem.with_suffix(".md").read_text()
    result = json.loads(stem.with_suffix(".json").read_text())
    times, networks = result["inference"]["1"], result["networks"]
    assert list(result["inference"]) == ["1"]
    names = [
        "EDSR",
        "LW-DNA of EDSR",
        "LW-DNA of EDSR, any width",
        "BasicSR's EDSR",
        "BasicSR's EDSR, default layout",
        "EDSR, default layout",
        "LW-DNA of EDSR, default layout",
    ]
    assert list(times) == list(networks) == names
    assert all(len(timing["runs"]) == 2 for timing in times.values())
    assert times["EDSR"]["ratio"]["wall"] == {"median": 1.0, "min": 1.0, "max": 1.0, "fastest": 1.0}
    assert networks["LW-DNA of EDSR, default layout"]["against"] == "EDSR, default layout"
    assert networks["LW-DNA of EDSR, any width"]["flops_ratio"] <= 0.6
    assert networks["EDSR"]["flops_ratio"] == 1
    assert all(width % 4 == 0 for width in networks["LW-DNA of EDSR"]["widths"].values())
    assert set(result["convolutions"]) == {"channels last", "default"}
    assert torch.get_num_threads() == 1

    assert benchmark.main(["--turns", "1", "--found-only", "--output", str(stem)]) == 0
    result = json.loads(stem.with_suffix(".json").read_text())
    assert list(result["inference"]["1"]) == ["EDSR", "LW-DNA of EDSR"]
    assert "## " not in stem.with_suffix(".md").read_text().replace("## Inference", "")
