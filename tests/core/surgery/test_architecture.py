"""The widths file: round trips, plain networks out of it, and errors that name the file and the group."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import core
from classification.models import build as build_classifier
from core.errors import UserError
from core.surgery.architecture import (
    SCHEMA_VERSION,
    Architecture,
    ArchitectureError,
    describe_inputs,
    example_inputs,
)
from core.widths.budget import Budget
from core.widths.shrinkage import shrink
from super_resolution.models import build as build_upscaler
from tests.toys import TOYS, Net

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def found() -> tuple[Net, Any, Architecture]:
    """A toy with grouped convolutions, and what was found for it."""
    net, inputs = TOYS["grouped"].build(), TOYS["grouped"].inputs()
    batches = [(inputs, torch.randn(net(*inputs).shape))]
    arch = shrink(
        net, inputs, batches, F.mse_loss, budget=Budget(flops=0.9, params="90%"), floor={"*": 0.2}, name="toy"
    )
    return net, inputs, arch


@pytest.fixture
def file(found: tuple[Net, Any, Architecture], tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "widths.json"
    found[2].save(path)
    return path


def test_what_is_saved_is_loaded(found: tuple[Net, Any, Architecture], file: Path) -> None:
    arch = Architecture.load(file)
    assert arch == found[2]
    assert json.loads(file.read_text())["schema_version"] == SCHEMA_VERSION
    assert arch.found_by["budget"] == {"flops": 0.9, "params": "90%", "convention": "both"}
    assert [path.name for path in file.parent.iterdir()] == ["widths.json"]  # no temporary file is left


def test_options_of_the_trace_survive(tmp_path: Path) -> None:
    net = Net(
        TOYS["u_net"].parts(), lambda n, x: (y := n.a(x), n.c(torch.cat([y, y], 1)), n.up(n.b(x[:, :1] + y)))
    )
    inputs = TOYS["u_net"].inputs()
    options: dict[str, Any] = {"freeze": ("up",), "taps": ("a",), "ties": (("a", "a"),), "outputs": "freeze"}
    with pytest.raises(UserError, match="no free channel group"):
        shrink(net, inputs, [], F.mse_loss, score="random", **options)
    arch = shrink(net, inputs, [], F.mse_loss, score="random", **{**options, "outputs": "free"})
    arch.save(tmp_path / "w.json")
    again = Architecture.load(tmp_path / "w.json")
    assert again.options == arch.options
    assert Architecture.from_json(arch.to_json()).options == arch.options  # without a file in between
    assert again.graph(net).width_of("a", again.widths) == again.widths["a"]


def test_a_file_written_by_hand_is_enough(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    path = tmp_path / "w.json"
    path.write_text(
        '{"model": "mine", "inputs": {"shape": [1, 3, 9, 9], "dtype": "float32"}, "widths": {"0": 5}}'
    )
    built = Architecture.load(path).build(net, seed=0)
    assert built[0].weight.shape == (5, 3, 3, 3)
    assert built(torch.zeros(1, 3, 9, 9)).shape == (1, 4, 5, 5)
    assert "5" in Architecture.load(path).describe()


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "shufflenetv2_x1_0", "edsr"])
def test_built_networks_pickle_script_export_and_exchange_weights(name: str) -> None:
    torch.manual_seed(0)
    if name == "edsr":
        net, image = build_upscaler("edsr", scale=2, n_feats=16, n_blocks=2), torch.rand(1, 3, 8, 8)
    else:
        net, image = build_classifier(name, 10, dataset="digits"), torch.rand(2, 1, 16, 16)
    arch = shrink(net, image, [], F.mse_loss, score="random", floor=0.3, seed=2)
    built, other = arch.build(net, seed=0).eval(), arch.build(net, seed=1).eval()
    assert type(built) is type(net)
    assert all(
        type(module).__module__.startswith(
            ("torch.nn", "core.networks", "classification", "super_resolution")
        )
        for module in built.modules()
    )
    assert not any("lwdna" in key or "latent" in key for module in built.modules() for key in module.__dict__)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in built.modules())
    with torch.no_grad():
        expected = built(image)
        assert not torch.equal(other(image), expected)
        other.load_state_dict(built.state_dict())
        assert torch.equal(other(image), expected)
        assert torch.equal(pickle.loads(pickle.dumps(built))(image), expected)
        torch.testing.assert_close(torch.jit.script(built)(image), expected)
        exported = torch.export.export(built, (image,), strict=False).module()
        torch.testing.assert_close(exported(image), expected)


def test_a_build_is_a_function_of_the_seed_and_leaves_the_model_alone(
    found: tuple[Net, Any, Architecture],
) -> None:
    net, _, arch = found
    state = copy.deepcopy(net.state_dict())
    first, again, other = (arch.build(net, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.a.weight, other.a.weight)
    assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items())
    assert first.training


def test_a_file_written_by_hand_tells_no_cost(tmp_path: Path) -> None:
    arch = Architecture(
        "toy", {"a": 4}, {"shape": [1, 3, 8, 8], "dtype": "float32"}, baseline_widths={"a": 8}
    )
    arch.save(tmp_path / "w.json")
    assert json.loads((tmp_path / "w.json").read_text())["baseline"] == {"widths": {"a": 8}}
    assert Architecture.load(tmp_path / "w.json") == arch
    assert (arch.cost, arch.baseline) == (None, None)
    with pytest.raises(ArchitectureError, match="does not tell what the network and its baseline cost"):
        _ = arch.costs


def test_building_needs_neither_gates_nor_scores(tmp_path: Path) -> None:
    """A fresh process that loads a file, builds and runs imports nothing of the search."""
    net = build_classifier("resnet20", 10, dataset="digits")
    shrink(net, torch.zeros(1, 1, 8, 8), [], F.mse_loss, score="uniform").save(tmp_path / "w.json")
    code = f"""
import sys, torch
from classification.models import build
from core.surgery.architecture import Architecture
net = Architecture.load({str(tmp_path / "w.json")!r}).build(build("resnet20", 10, dataset="digits"), seed=0)
net(torch.zeros(2, 1, 8, 8))
torch.save(net.state_dict(), {str(tmp_path / "net.pt")!r})
search = ["core.surgery.gates", "core.surgery.hypernetwork", "core.training.train"]
search += ["core.widths.scores", "core.widths.selection", "core.widths.shrinkage"]
print([name for name in search if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
    built = Architecture.load(tmp_path / "w.json").build(net)
    built.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))


# ---- files that are damaged or do not fit ------------------------------------------------------------------------


def test_every_truncation_is_found(file: Path) -> None:
    text = file.read_text().rstrip()
    for length in range(0, len(text), 7):
        file.write_text(text[:length])
        with pytest.raises(ArchitectureError, match=r"widths\.json"):
            Architecture.load(file)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    content = copy.deepcopy(content)
    if not path:
        return value
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return content


@pytest.mark.parametrize("wrong", [None, True, -1, 0, 2.5, "x", [], {}, [1], {"x": 1}, 10**30], ids=repr)
def test_wrong_values_anywhere_are_a_clear_error_or_harmless(
    found: tuple[Net, Any, Architecture], file: Path, wrong: Any
) -> None:
    net, inputs, _ = found
    content = json.loads(file.read_text())
    messages: list[str] = []
    for path in places(content):
        file.write_text(json.dumps(replaced(content, path, wrong)))
        try:
            arch = Architecture.load(file)
            built = arch.build(net, seed=0)
            text = arch.describe()
        except UserError as error:
            messages.append(str(error))
            continue
        # Notes about the search may say anything; what the network is made of may not.
        assert path[0] not in ("widths", "conv_groups") or (path, wrong) == (("conv_groups",), {})
        assert built(*inputs).shape == net(*inputs).shape
        assert text
    assert messages
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, r"widths.json' has schema version 2, this release reads 1: update"),
        ({"schema_version": "1"}, "schema version '1'"),
        ({"color": "red"}, r"widths.json': unknown key 'color'"),
        ({"widths": {"a": "12"}}, r"widths.json': widths of group 'a' is '12'"),
        ({"widths": {"a": 12.0}}, "widths of group 'a' is 12.0"),
        ({"widths": {"a": True}}, "widths of group 'a' is True"),
        ({"widths": {"a": 0}}, "widths of group 'a' is 0"),
        ({"widths": [12]}, r"widths.json': widths must be dict\[str, Any\], got list"),
        ({"conv_groups": {"b": -1}}, "conv_groups of group 'b' is -1"),
        ({"inputs": {"shape": "x"}}, r"widths.json': 'inputs' is damaged"),
        ({"inputs": {"shape": [1, 3], "dtype": "float33"}}, "'inputs' is damaged"),
        ({"options": {"freeze": [], "depth": 3}}, r"widths.json': unknown key 'options.depth'"),
        ({"found_by": 3}, "found_by must be dict"),
    ],
)
def test_damaged_files_name_file_and_group(file: Path, change: dict[str, Any], message: str) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ArchitectureError, match=message):
        Architecture.load(file)


@pytest.mark.parametrize("key", ["model", "inputs", "widths"])
def test_missing_keys_are_named(file: Path, key: str) -> None:
    content = json.loads(file.read_text())
    del content[key]
    file.write_text(json.dumps(content))
    with pytest.raises(ArchitectureError, match=f"widths.json': '{key}' is required and not given"):
        Architecture.load(file)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{", "\x00", '{"widths": NaN}'])
def test_what_is_no_widths_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(ArchitectureError, match=r"w\.json"):
        Architecture.load(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match=r"nothing\.json' cannot be read"):
        Architecture.load(tmp_path / "nothing.json")
    with pytest.raises(ArchitectureError, match="it is a folder"):
        Architecture.load(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArchitectureError, match=r"bytes\.json' is not valid JSON \(it is no text in utf-16"):
        Architecture.load(tmp_path / "bytes.json")


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"a": 8, "z": 3}, "group 'z' of the widths file is not a channel group of Net"),
        ({}, "group 'a' of Net is missing in the widths file"),
        ({"a": 9}, "group 'a': width 9 is not a positive multiple of 4"),
    ],
)
def test_files_that_do_not_fit_name_the_group(
    found: tuple[Net, Any, Architecture], file: Path, widths: dict[str, int], message: str
) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {"widths": widths}))
    with pytest.raises(ArchitectureError, match=message) as error:
        Architecture.load(file).build(found[0])
    assert "\n" not in str(error.value)


def test_another_model_is_refused(found: tuple[Net, Any, Architecture]) -> None:
    with pytest.raises(ArchitectureError, match="made for 'toy'"):
        found[2].build(TOYS["dense_block"].build())
    with pytest.raises(ArchitectureError, match="conv_groups: 'b' is not a grouped convolution"):
        found[2].build(TOYS["plain"].build())


# ---- people ------------------------------------------------------------------------------------------------------


def test_description_and_difference() -> None:
    net, inputs = TOYS["dense_block"].build(), TOYS["dense_block"].inputs()
    low, high = (
        shrink(net, inputs, [], F.mse_loss, score="uniform", budget=Budget(flops=budget), floor=0.1)
        for budget in (0.5, 1.0)
    )
    text = low.describe()
    for name, width in low.widths.items():
        assert name in text
        assert str(width) in text
    assert f"{low.costs[0].params:,}" in text
    assert low.diff(low) == "no difference in widths"
    first = next(iter(low.widths))
    one_off = Architecture(low.model, low.widths | {first: low.widths[first] + 1}, low.conv_groups)
    for there in (high, one_off):
        difference = low.diff(there)
        for name in low.widths:
            changed = low.widths[name] != there.widths[name]
            rows = [line.split() for line in difference.splitlines() if line.split()[:1] == [name]]
            assert len(rows) == changed, difference
            for row in rows:
                assert {str(low.widths[name]), str(there.widths[name])} <= set(row)
    other = Architecture("m", {"x": 3}, {})
    assert "x" in low.diff(other)


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(1, 3, 4, 4),
        (torch.zeros(2, 1), torch.zeros(3, dtype=torch.int64)),
        {"x": torch.zeros(1), "y": [torch.zeros(2)]},
    ],
)
def test_example_inputs_as_json(inputs: Any) -> None:
    again = example_inputs(json.loads(json.dumps(describe_inputs(inputs))))
    flat, expected = core.graph.labels.tensors_in(again), core.graph.labels.tensors_in(inputs)
    assert [(t.shape, t.dtype) for t in flat] == [(t.shape, t.dtype) for t in expected]
    assert isinstance(again, type(inputs)) or isinstance(inputs, list)


def test_inputs_that_no_file_can_hold() -> None:
    with pytest.raises(UserError, match="hold a bytes"):
        describe_inputs((torch.zeros(1), b"0.5"))
