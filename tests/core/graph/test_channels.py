"""The graph as an object: widths in and out, JSON, descriptions, and `python -m core.channels`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import core
from core.channels import main
from core.errors import UserError
from core.graph.channels import ChannelGraph, trace_channels
from tests.toys import TOYS


@pytest.fixture
def graph() -> ChannelGraph:
    toy = TOYS["pixel_shuffle"]
    return trace_channels(toy.build(), toy.inputs())


def test_the_promised_names() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    graph = core.trace_channels(net, torch.zeros(1, 3, 8, 8))
    assert [type(group) for group in graph.groups] == [core.ChannelGroup]
    assert graph.widths == {"0": 8}
    assert graph.flops() == 9 * (3 * 8 * 36 + 8 * 4 * 16)
    assert graph.flops({"0": 5}) == 9 * (3 * 5 * 36 + 5 * 4 * 16)
    assert graph.params({"0": 5}) == 9 * (3 * 5 + 5 * 4) + 5 + 4


def test_a_group_says_what_it_owns(graph: ChannelGraph) -> None:
    (group,) = graph.groups
    assert (group.name, group.size, group.step, group.width) == ("a", 4, 4, 16)
    assert dict(group.slots) == {("a.weight", 0): 4, ("a.bias", 0): 4, ("c.weight", 1): 1}


def test_flat_tensors_and_counts_go_by_group() -> None:
    toy = TOYS["grouped_uneven"]
    graph = core.trace_channels(toy.build(), toy.inputs())
    assert graph.names == list(graph.widths) == [group.name for group in graph.groups]
    parts = graph.split(torch.arange(graph.choices))
    assert {name: len(part) for name, part in parts.items()} == {g.name: g.size for g in graph.groups}
    assert torch.cat(list(parts.values())).tolist() == list(range(sum(group.size for group in graph.groups)))
    assert graph.widths_at(graph.sizes) == graph.widths
    assert graph.widths_at([1] * len(graph.groups)) == {group.name: group.step for group in graph.groups}
    assert graph.elements(graph.widths_at(graph.sizes - 1)).tolist() == (graph.sizes - 1).tolist()


@pytest.mark.parametrize("width", [0, -4, 6, 8.0, True, "8", None])
def test_impossible_widths_are_refused_with_the_group_and_the_step(
    graph: ChannelGraph, width: object
) -> None:
    with pytest.raises(UserError, match=r"group 'a': width .* is not a positive multiple of 4"):
        graph.flops({"a": width})  # type: ignore[dict-item]


def test_unknown_groups_are_refused_with_a_suggestion() -> None:
    toy = TOYS["squeeze_excite"]
    graph = trace_channels(toy.build(), toy.inputs())
    with pytest.raises(UserError, match=r"no channel group is called 'dwn'; did you mean 'down'\?"):
        graph.params({"dwn": 4})
    with pytest.raises(UserError, match="no channel group"):
        graph.group("c")


def test_width_of_layers_needs_no_tap(graph: ChannelGraph) -> None:
    assert graph.width_of("a") == 16
    assert graph.width_of("a", {"a": 8}) == 8
    assert graph.width_of("c") == 4


def test_the_plan_is_json(graph: ChannelGraph) -> None:
    plan = json.loads(json.dumps(graph.to_json()))
    assert plan["groups"] == [
        {"name": "a", "width": 16, "step": 4, "slots": {"a.weight:0": 4, "a.bias:0": 4, "c.weight:1": 1}}
    ]
    assert plan["flops"] == {"macs": graph.flops(), "paper": graph.flops(convention="paper")}
    assert plan["params"] == graph.params()


def test_the_description_holds_every_group_and_cost() -> None:
    toy = TOYS["fourier"]
    with pytest.warns(core.FrozenChannelsWarning):
        graph = trace_channels(toy.build(), toy.inputs())
    text = graph.describe()
    for part in (
        "a",
        "8",
        f"{graph.flops():,} MACs",
        f"{graph.params():,} parameters",
        "frozen: ",
        "fft_rfft2",
    ):
        assert part in text


def test_groups_that_are_not_exact_are_marked_in_plan_and_description() -> None:
    toy = TOYS["one_mean_of_two"]
    graph = trace_channels(toy.build(), toy.inputs())
    assert [item.get("exact", True) for item in graph.to_json()["groups"]] == [False, False, True]
    header, _, *rows = graph.describe().splitlines()
    assert header.split()[-1] == "exact"
    assert [row.split()[-1] for row in rows[:3]] == ["no", "no", "yes"]


def test_command_line_prints_the_plan_and_the_proof(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classification.models:resnet20", "--input", "1,3,32,32", "--verify"]) == 0
    out = capsys.readouterr().out
    assert "12 free groups" in out
    assert "layer1.0.conv1" in out
    error = float(out.rpartition("largest relative difference ")[2])
    assert 0 <= error <= 1e-10


def test_command_line_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "classification.models:resnet20",
        "--input",
        "1,3,32,32",
        "--json",
        "--freeze",
        "layer3.*",
        "--taps",
        "layer1",
    ]
    assert main(argv) == 0
    names = [group["name"] for group in json.loads(capsys.readouterr().out)["groups"]]
    assert "layer1.0.conv1" in names
    assert not any(name.startswith("layer3") for name in names)


def test_command_line_takes_a_users_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my_net.py"
    file.write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 2, 3))\n"
    )
    assert main([f"{file}:net", "--input", "1,1,8,8"]) == 0
    assert "1 free groups" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["classification.models:resnet21"], "no function or class called 'resnet21'"),
        (["no_such_package:net"], "'no_such_package' is not installed"),
        (["classification.models"], "write package.module:factory"),
        (["classification.models:resnet20", "--input", "1,3,x"], "input shape '1,3,x'"),
        (["classification.models:resnet20", "--input", "1,3,32,32", "--freeze", "nope"], "'nope'"),
        (["classification.models:resnet20", "--input", "1,5,32,32"], "5 channels"),
    ],
)
def test_command_line_errors_are_one_line_and_status_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_the_module_runs_as_a_program_without_complaints() -> None:
    argv = [sys.executable, "-m", "core.channels", "classification.models:resnet20", "--input", "1,3,32,32"]
    root = Path(__file__).parents[3]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "12 free groups" in done.stdout


@pytest.mark.parametrize("layer", ["a", "up", "last"])
def test_a_weight_that_is_frozen_by_its_name_keeps_both_of_its_widths(layer: str) -> None:
    net = nn.Sequential()
    net.a, net.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3)
    net.up, net.flat, net.last = nn.ConvTranspose2d(10, 6, 2), nn.Flatten(2), nn.Linear(27 * 27, 5)
    image = torch.zeros(1, 3, 30, 30)
    everything = trace_channels(net, image).names
    by_weight = trace_channels(net, image, freeze=(f"{layer}.weight",)).names
    assert by_weight == trace_channels(net, image, freeze=(layer,)).names
    if layer != "last":  # its outputs are the network's, and its inputs are pixels
        assert len(by_weight) < len(everything)
