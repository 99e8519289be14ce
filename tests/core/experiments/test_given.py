"""Widths that are given instead of being found."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import core
from classification.models import build
from classification.run import main
from core.errors import UserError
from core.experiments.given import SHIPPED, at_given_budget, given_widths, shipped_names, widths_file
from core.surgery.architecture import ArchitectureError
from core.widths.config import ShrinkConfig

pytestmark = pytest.mark.usefixtures("unarranged")
DIGIT, PHOTO = torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 32, 32)
FAST = ["--train-limit", "100", "--epochs", "1", "--no-progress"]


@pytest.fixture(scope="module")
def found() -> core.Architecture:
    """Uniform widths of a RegNet, whose grouped convolutions have more groups when they are wider."""
    network = build("regnetx_200mf", dataset="cifar10")
    return core.shrink(network, PHOTO, [], None, score="uniform", widen=2.0, budget=core.Budget(flops=1.3))


def test_a_file_or_a_name_that_ships(found: core.Architecture, tmp_path: Path) -> None:
    found.save(tmp_path / "widths.json")
    assert widths_file(tmp_path / "widths.json") == tmp_path / "widths.json"
    for name in shipped_names():
        assert widths_file(name) == SHIPPED / f"{name}.json"
    with pytest.raises(UserError, match="does not exist"):
        widths_file(tmp_path / "width.json")
    with pytest.raises(UserError, match="'resnet5-gradient' is no widths file, and none of that name ships"):
        widths_file("resnet5-gradient")


def test_they_are_priced_on_what_the_task_shows(found: core.Architecture, tmp_path: Path) -> None:
    found.save(tmp_path / "widths.json")
    make = partial(build, "regnetx_200mf", dataset="cifar10")
    same = given_widths(tmp_path / "widths.json", make, PHOTO)
    assert same is not None
    assert same.to_json() == found.to_json()
    larger = torch.zeros(1, 3, 64, 64)
    priced = given_widths(tmp_path / "widths.json", make, larger)
    assert priced is not None
    assert priced.costs[0] == core.trace_channels(found.build(make()), larger).price()
    assert priced.costs[1] == core.trace_channels(make(), larger).price()
    assert given_widths(None, make, PHOTO) is None


def test_blocks_that_were_left_out() -> None:
    network = build("resnet20", dataset="cifar10")
    found = core.shrink(network, PHOTO, [], None, score="uniform", budget=core.Budget(flops=0.9))
    short = core.Architecture(
        "resnet20", {name: width for name, width in found.widths.items() if not name.startswith("layer1.1")},
        found.inputs, removed=("layer1.1",),
    )  # fmt: skip
    priced = short.priced(network, PHOTO)
    assert priced.costs[0] == core.trace_channels(short.build(network), PHOTO).price()
    assert priced.baseline_widths == core.trace_channels(network, PHOTO).widths


def test_widths_of_another_network_are_refused(found: core.Architecture) -> None:
    with pytest.raises(ArchitectureError, match=r"does not fit|is not a channel group"):
        found.priced(build("resnet20", dataset="cifar10"), PHOTO)
    name = next(iter(found.widths))
    other = replace(found, baseline_widths={**found.baseline_widths, name: 7})
    with pytest.raises(ArchitectureError, match=f"group '{name}' has 7 channels"):
        other.priced(build("regnetx_200mf", dataset="cifar10"), PHOTO)


def test_controls_cost_the_same(found: core.Architecture) -> None:
    assert at_given_budget(ShrinkConfig(), found).budget.flops == found.costs[0].paper
    assert at_given_budget(ShrinkConfig(), None) == ShrinkConfig()


def test_an_experiment_on_given_widths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = build("resnet20", dataset="digits")
    given = core.shrink(network, DIGIT, [], None, score="uniform", budget=core.Budget(flops=0.7))
    given.save(tmp_path / "widths.json")
    options = [*FAST, "--work-dir", str(tmp_path / "run"), "--widths", str(tmp_path / "widths.json")]
    assert main([*options, "--method", "fisher"]) == 2
    assert "leave one of both out" in capsys.readouterr().err
    assert main([*options, "--controls", "random"]) == 0
    methods = json.loads((tmp_path / "run" / "result.json").read_text())["methods"]
    assert methods["lwdna"]["widths"] == given.widths
    assert methods["lwdna"]["flops"] == given.costs[0].paper
    assert 0.95 < methods["random"]["flops"] / given.costs[0].paper <= 1
    # Other widths are another experiment.
    replace(given, widths={**given.widths, "conv1": 9}).save(tmp_path / "widths.json")
    assert main([*options, "--resume", "--controls", "random"]) == 2
    assert "is of another" in capsys.readouterr().err
