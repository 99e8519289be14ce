"""Every named method gives widths within one budget; what decides them is told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from classification.config import RunConfig, find_config
from classification.data import open_dataset
from classification.task import make_task
from core.command_line.config import load_config
from core.errors import MissingData, UserError
from core.methods.candidates import ProxyConfig
from core.methods.dhp import DhpConfig
from core.methods.method import Request, SearchConfig
from core.methods.registry import METHODS, find
from core.methods.subject import Part
from core.training.train import make_fabric

QUICK = SearchConfig(dhp=DhpConfig(strength=1.0, max_epochs=1, check_every=1, embedding=2), proxy=ProxyConfig(4, 2),
                     accumulate_epochs=1)  # fmt: skip


@pytest.fixture(scope="module")
def request_for_digits(tmp_path_factory: pytest.TempPathFactory) -> Request:
    options = ["data.train_limit=100", "train.batch_size=25", "shrink.batch_size=25", "train.epochs=2"]
    config = load_config(find_config(None, "digits", False), RunConfig, options)
    fabric = make_fabric("cpu")
    task = make_task(config, open_dataset("digits", ".", config.data), torch.device("cpu"))
    return Request(task, config.shrink, config.train, QUICK, fabric, tmp_path_factory.mktemp("methods"))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_meets_the_budget_and_no_channel_is_to_spare(
    name: str, request_for_digits: Request
) -> None:
    request = replace(request_for_digits, work_dir=request_for_digits.work_dir / name)
    try:
        METHODS[name].check_installed()
    except MissingData as error:
        pytest.skip(str(error))
    found = find(name, request)
    architecture = found.architecture
    base = architecture.costs[1].paper
    assert (0.88 if name == "gradient-rounded" else 0.89) * base < architecture.costs[0].paper <= 0.9 * base
    step = 8 if name == "gradient-rounded" else 1  # floors are rounded down to what widths are multiples of
    for group, width in architecture.widths.items():
        assert width >= int(0.8 * architecture.baseline_widths[group] / step) * step
    network = architecture.build(request.subject.build())
    assert sum(parameter.numel() for parameter in network.parameters()) == architecture.costs[0].params
    free = ("random", "random-scores", "uniform", "shallow-uniform", "magnitude", "hypernetwork-magnitude",
            "synflow-search", "diminishing-returns", "receptive-field-uniform",
            "receptive-field-diminishing-returns", "depth-and-width", "torch-pruning-norm")  # fmt: skip
    assert (found.epochs == 0) == (name in free or name.endswith("-wide"))
    assert bool(architecture.removed) == any(word in name for word in ("depth", "shallow", "receptive"))


ONE_EACH = ["gradient", "uniform", "accumulated", "synflow-search", "late-wide", "dhp"]


@pytest.mark.parametrize("name", ONE_EACH)
def test_every_kind_of_method_obeys_floors_by_pattern(name: str, request_for_digits: Request) -> None:
    work_dir = request_for_digits.work_dir / f"patterns-{name}"
    floor = {"*": 0.1, "layer1.0.conv1": 0.9}
    shrink = replace(request_for_digits.shrink, floor=floor)
    found = find(name, replace(request_for_digits, shrink=shrink, work_dir=work_dir)).architecture
    assert found.widths["layer1.0.conv1"] >= int(0.9 * 2 * found.baseline_widths["layer1.0.conv1"])
    assert found.found_by["floor"] == floor


@pytest.mark.parametrize("what", ["floor", "ceiling"])
@pytest.mark.parametrize("name", ONE_EACH)
def test_a_pattern_that_fits_no_group_stops_every_kind_of_method_at_once(
    name: str, what: str, request_for_digits: Request
) -> None:
    work_dir = request_for_digits.work_dir / f"misspelt-{name}-{what}"
    wrong: dict[str, Any] = {what: {"*": 0.5, "layr1.*": 0.3}}
    request = replace(
        request_for_digits, shrink=replace(request_for_digits.shrink, **wrong), work_dir=work_dir
    )
    with pytest.raises(
        UserError, match=rf"^{what}: no channel group fits 'layr1\.\*', did you mean 'layer1\.\*'"
    ):
        find(name, request)
    assert not work_dir.exists()  # nothing was trained


def test_blocks_vanish_below_their_own_floors(request_for_digits: Request) -> None:
    def left_out(**changes: Any) -> tuple[str, ...]:
        shrink = replace(request_for_digits.shrink, **changes)
        return find("gradient-depth", replace(request_for_digits, shrink=shrink)).architecture.removed

    one = left_out(floor=0.4)
    assert one == left_out(floor={"*": 0.4}) == left_out(floor={"*": 0.4}, vanish=0.4)
    held = one[0]
    kept = left_out(
        floor={"*": 0.4, f"{held}.*": 0.0}
    )  # nothing holds this block up, so nothing lets it fall
    assert kept
    assert held not in kept


def test_the_order_of_patterns_decides_a_result(request_for_digits: Request) -> None:
    first, second = {"*": 0.4, "layer1.*": 0.3}, {"layer1.*": 0.3, "*": 0.4}
    decided = [
        METHODS["gradient"].decided_by(
            replace(request_for_digits, shrink=replace(request_for_digits.shrink, floor=floor))
        )
        for floor in (first, second)
    ]
    assert decided[0] != decided[1]


def test_costs_of_the_search_are_counted(request_for_digits: Request) -> None:
    # Two batches of 25 of 100 images on the widened network, whose FLOPs are four times the baseline's.
    found = find("gradient", request_for_digits)
    assert (found.epochs, found.baseline_epochs) == (0.5, 2.0)
    # Twice, where blocks vanish; the second time without them.
    deep = find("gradient-depth", request_for_digits)
    short = deep.architecture.graph(request_for_digits.subject.build()).price().paper
    share = short / deep.architecture.costs[1].paper
    assert 0.2 < share < 0.9
    assert (deep.epochs, deep.baseline_epochs) == (1.0, 2.0 + 2.0 * share)
    accumulated = find(
        "accumulated", replace(request_for_digits, work_dir=request_for_digits.work_dir / "cost")
    )
    assert (accumulated.epochs, accumulated.baseline_epochs) == (1, 1)


def test_methods_that_cannot_leave_blocks_out_say_so(request_for_digits: Request) -> None:
    deep = replace(request_for_digits, shrink=replace(request_for_digits.shrink, vanish=0.4))
    for name in ("dhp", "accumulated", "synflow-search", "late-wide"):
        with pytest.raises(
            UserError, match=f"method '{name}' cannot leave blocks out: set shrink.vanish to 0"
        ):
            find(name, deep)
    assert find("gradient", deep).architecture == find("gradient-depth", request_for_digits).architecture
    lower = replace(request_for_digits, shrink=replace(request_for_digits.shrink, floor=0.2))
    assert find("gradient-depth", lower).architecture.found_by["vanish"] == 0.2  # blocks under *their* floor


def test_what_decides_a_result_is_told_apart(request_for_digits: Request) -> None:
    request = request_for_digits

    def decided(name: str, other: Request) -> object:
        return METHODS[name].decided_by(other)

    longer = replace(request, train=replace(request.train, epochs=9))
    stronger = replace(request, search=replace(QUICK, dhp=replace(QUICK.dhp, strength=2.0)))
    seeded = replace(request, train=replace(request.train, seed=1))
    assert decided("gradient", request) == decided("gradient", longer) == decided("gradient", stronger)
    assert decided("gradient", request) != decided("gradient", seeded)
    assert decided("gradient", request) != decided("gradient-per-flop", request)
    assert decided("dhp", request) not in (decided("dhp", longer), decided("dhp", stronger))


def test_a_part_of_a_network_can_be_scored_and_tilted_but_not_trained_alone(
    request_for_digits: Request,
) -> None:
    task = request_for_digits.subject

    def trunk() -> nn.Module:
        net = task.build()
        return nn.Sequential(net.conv1, net.bn1, net.relu, net.layer1, net.layer2)

    part = Part(
        "trunk",
        trunk,
        task.example_inputs,
        lambda x, y: (x, y),
        lambda out, y: out.square().mean(),
        lambda a, s: trunk(),
        lambda part: part,
    )
    request = replace(request_for_digits, subject=replace(task, part=part))
    for name in ("gradient", "uniform", "late-wide"):
        architecture = find(name, request).architecture
        assert set(architecture.widths) == {
            "0",
            "4.0.conv2",
            *(f"{s}.{b}.conv1" for s in (3, 4) for b in range(3)),
        }
        assert architecture.costs[0].paper <= 0.9 * architecture.costs[1].paper
    for name in ("dhp", "accumulated", "zico-search"):
        with pytest.raises(UserError, match="cannot search a part of it, such as the backbone of resnet20"):
            find(name, request)


def test_an_unknown_method_is_named(request_for_digits: Request) -> None:
    with pytest.raises(UserError, match="unknown method 'luck': allowed: gradient"):
        find("luck", request_for_digits)
