"""report.html of an experiment: its sentences by hand, what it keeps, what it says of runs that kept less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.experiments.experiment import run_experiment
from core.experiments.page import LATENCY_FILE, latencies, stages_of, summary
from core.experiments.series import of_result
from core.experiments.task import Shown
from core.methods.registry import BASELINE
from core.report.page import Section, Text
from core.surgery.architecture import Architecture
from core.training.train import make_fabric
from tests.core.experiments.test_numbers import settings
from tests.toys import toy_task


def result_of(**values: list[float]) -> dict[str, Any]:
    """A result.json with these errors by method, over the seeds 0, 1, ..."""
    return {
        "methods": {
            method: {
                "flops": 90, "params": 80, "flops_ratio": 0.9, "params_ratio": 0.8,
                "metrics": {"error": {"values": errors}},
                "per_seed": [{"seed": seed, "flops": 90, "params": 80} for seed in range(len(errors))],
            }
            for method, errors in values.items()
        }
    }  # fmt: skip


def said(**values: list[float]) -> list[str]:
    result = result_of(**values)
    return summary(toy_task(), result, of_result(result))


def test_three_sentences_say_what_the_numbers_say() -> None:
    first, second, third = said(
        baseline=[5.0, 5.2, 5.1, 5.3], lwdna=[4.0, 4.1, 4.2, 4.3], random=[4.0, 4.2, 4.1, 4.5]
    )
    assert first == (
        "net with LW-DNA's widths takes 90.0 % of the baseline's FLOPs and 80.0 % of its parameters, trained by the "
        "same recipe."
    )
    # Paired differences -1.0, -1.1, -0.9, -1.0 and 0, -0.1, 0.1, -0.2; t = 24.5 and 0.77 with 3 degrees of freedom.
    assert second == (
        "LW-DNA's error is 4.15 ± 0.21, the baseline's 5.15 ± 0.21 (LW-DNA differs by −1.00 ± 0.13 over 4 pairs of "
        "seeds, p <0.001: better)."
    )
    assert third == (
        "Controls of the same cost (p is adjusted for these 2 comparisons, Holm): Random widths 4.20 ± 0.34 (LW-DNA "
        "differs by −0.05 ± 0.21 over 4 pairs of seeds, p = 0.495: may be chance)."
    )


def test_worse_is_said_as_plainly() -> None:
    _, second, third = said(baseline=[1.0, 1.1, 1.0], lwdna=[3.0, 3.1, 3.05])
    assert "(LW-DNA differs by 2.02 ± " in second
    assert second.endswith(": worse).")
    assert "No control was trained" in third


def test_one_seed_claims_nothing() -> None:
    _, second, third = said(baseline=[5.0], lwdna=[1.0], uniform=[2.0])
    assert "LW-DNA differs by −4.00; one seed: no interval, no claim" in second
    assert "Uniform widths 2.00 (LW-DNA differs by −1.00; one seed: no interval, no claim)." in third


def test_what_no_test_can_judge_is_not_judged() -> None:
    _, second, _ = said(baseline=[5.0, 6.0], lwdna=[4.0, 5.0])
    assert "no test can judge this" in second
    _, second, _ = said(baseline=[5.0, float("inf")], lwdna=[4.0, 5.0])
    assert "no test can judge this" in second


def test_without_one_side_there_is_nothing_to_compare() -> None:
    (only,) = said(baseline=[5.0])
    assert only.startswith("No training of LW-DNA has finished")
    (only,) = said(lwdna=[5.0])
    assert only.startswith("No training of Baseline has finished")


def test_stages_are_beginnings_of_names() -> None:
    names = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "fc"]
    assert stages_of(names) == ["conv1", "layer1", "layer1", "layer2", "fc"]
    assert stages_of(["net.a.0", "net.b.0", "net.c.1"]) == ["net.a", "net.b", "net.c"]
    many = [f"body.{block}.{conv}" for block in range(30) for conv in range(2)]
    assert set(stages_of(many)) == {"body"}  # thirty stages are too many for a picture
    assert stages_of([""]) == [""]


def test_times_are_measured_once_and_again_for_other_networks(tmp_path: Path) -> None:
    task, path, cpu = toy_task(), tmp_path / LATENCY_FILE, torch.device("cpu")
    networks: dict[str, nn.Module] = {BASELINE: task.build(), "lwdna": task.build()}
    first = latencies(networks, task.example_inputs, path, cpu)
    assert first.seconds.keys() == networks.keys()
    assert all(value > 0 for value in first.seconds.values())
    assert latencies(networks, task.example_inputs, path, cpu) == first
    path.write_text("{damaged")
    assert latencies(networks, task.example_inputs, path, cpu).networks == first.networks
    wider: dict[str, nn.Module] = {**networks, "lwdna": nn.Sequential(nn.Conv2d(1, 4, 3))}
    assert latencies(wider, task.example_inputs, path, cpu).networks != first.networks


def test_a_run_leaves_a_page_with_its_tasks_sections(tmp_path: Path) -> None:
    task = toy_task(
        finish=lambda own, runs: Shown(("a line",), (Section("Mine", (Text(["<b>of the task"]),)),))
    )
    run_experiment(task, settings(tmp_path, controls=("uniform",)), make_fabric("cpu"), lambda line: None)
    text = (tmp_path / "report.html").read_text()
    for title in ("Result", "Widths per layer", "Cost", "Training", "Mine", "To do it again"):
        assert f">{title}</h2>" in text
    assert "&lt;b&gt;of the task" in text
    assert "a line" in (tmp_path / "report.md").read_text()
    assert "floor not stored" not in text
    assert (tmp_path / "channels.svg").exists()
    assert (tmp_path / "curves.svg").exists()
    assert f"--config {tmp_path}/config.py --seeds 2 --controls uniform --work-dir AGAIN" in text
    groups = json.loads((tmp_path / "widths.json").read_text())["found_by"]["groups"]
    found = Architecture.load(tmp_path / "widths.json")
    assert groups.keys() == found.widths.keys()
    assert all(groups[name]["floor"] <= width for name, width in found.widths.items())
    # Widths of a release that kept neither floors nor scores.
    for path in [tmp_path / "widths.json", *(tmp_path / "widths").glob("*.json")]:
        value = json.loads(path.read_text())
        value["found_by"].pop("groups", None)
        path.write_text(json.dumps(value))
    run_experiment(
        task, settings(tmp_path, controls=("uniform",), stages=("compare",)), make_fabric("cpu"), print
    )
    old = (tmp_path / "report.html").read_text()
    assert "floor not stored, score not stored" in old
    assert "Floors and scores of single groups are not in this run" in old


def test_what_cannot_be_measured_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr("core.experiments.page.count_each", refuses)
    monkeypatch.setattr("core.experiments.page.latency", refuses)
    run_experiment(toy_task(), settings(tmp_path, seeds=1), make_fabric("cpu"), lambda line: None)
    text = (tmp_path / "report.html").read_text()
    assert "Milliseconds of a forward pass could not be measured: no such kernel<" in text
    assert "FLOPs of single layers could not be counted: no such kernel<" in text
    assert not (tmp_path / LATENCY_FILE).exists()


@pytest.mark.parametrize("epochs", [1, 2])
def test_few_epochs_are_no_curve(tmp_path: Path, epochs: int) -> None:
    from dataclasses import replace

    from core.experiments.curve_plots import curves_figure
    from core.experiments.settings import Run
    from core.training.run_files import EpochRecord

    history = tuple(EpochRecord(epoch + 1, 0.1, 2.0, {}, {"error": 3.0}, 1.0, 8) for epoch in range(epochs))
    runs = [Run(method, 0, history, None) for method in ("baseline", "lwdna")]
    axis = curves_figure(toy_task(), runs).axes[0]
    assert not [line for line in axis.lines if len(line.get_xdata()) > 1]  # type: ignore[arg-type]
    assert "too few for curves" in axis.get_title(loc="left").replace("\n", " ")
    longer = [replace(run, history=(*history, *history, *history)[:3]) for run in runs]
    assert [line for line in curves_figure(toy_task(), longer).axes[0].lines if len(line.get_xdata()) == 3]  # type: ignore[arg-type]
