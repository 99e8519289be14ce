"""Backbones of the user's own: what they may be, and what a checkpoint of one says and does not do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import core
from core.command_line.factories import call_factory
from core.errors import UserError
from core.modules import named_tensors
from core.storage.checkpoint import save_weights
from core.surgery.architecture import describe_inputs
from core.surgery.initialise import seeded
from core.surgery.starting import differing
from tests.tracking.dimp.own_backbones import SOURCE
from tracking.dimp import DiMPConfig, DiMPNet
from tracking.dimp.backbones import (
    OwnTrunk,
    ResNetTrunk,
    backbone_trunk,
    load_backbone_weights,
    trunk_architecture,
)
from tracking.dimp.checkpoint import Description, load_network, save_network
from tracking.online.trackers import TrackerSpec

SMALL = DiMPConfig(8, iou_channels=8, optimizer_iterations=1)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "own_backbone.py"
    path.write_text(SOURCE)
    return str(path)


@pytest.mark.parametrize(("factory", "kind"), [("Stages", OwnTrunk), ("Deep", ResNetTrunk)])
def test_both_kinds_make_a_tracker(file: str, factory: str, kind: type) -> None:
    trunk = backbone_trunk(f"{file}:{factory}")
    assert isinstance(trunk, kind)
    assert (trunk.channels, trunk.strides) == ({"layer2": 12, "layer3": 20}, {"layer2": 8, "layer3": 16})
    stages = trunk(torch.zeros(2, 3, 64, 96))
    assert {name: tuple(stage.shape) for name, stage in stages.items()} == {
        "layer2": (2, 12, 8, 12),
        "layer3": (2, 20, 4, 6),
    }
    boxes = torch.tensor([8.0, 8, 40, 40]).expand(1, 2, 4)
    images = torch.rand(1, 2, 3, 64, 64)
    output = DiMPNet(trunk, SMALL).eval()(images, images, boxes, boxes[:, :, None])
    assert output.iou.shape == (1, 2, 1)


@pytest.mark.parametrize("name", ["resnet18", "Stages", "Deep"])
def test_at_regular_widths_it_starts_as_the_regular_one(file: str, name: str) -> None:
    name = name if name == "resnet18" else f"{file}:{name}"
    with seeded(3):
        regular = backbone_trunk(name)
    inputs = torch.zeros(1, 3, 64, 64)
    graph = core.trace_channels(regular, inputs, outputs="free")
    found = core.Architecture(name, graph.widths, describe_inputs(inputs), options=graph.options)
    with seeded(3):
        again = backbone_trunk(name, found)
    assert differing(named_tensors(regular), named_tensors(again)) == []
    assert core.unknown_start(again) == {}


@pytest.mark.parametrize("factory", ["Stages", "Deep"])
def test_its_widths_are_found_and_built(file: str, factory: str) -> None:
    trunk = backbone_trunk(f"{file}:{factory}")
    found = core.shrink(
        trunk,
        torch.zeros(1, 3, 64, 64),
        [],
        lambda stages, target: stages["layer3"].mean(),
        budget=core.Budget(flops=0.8),
        score="random",
        outputs="free",
    )
    built = backbone_trunk(f"{file}:{factory}", found)
    name = "network.three.0" if factory == "Stages" else "layer3.0"
    assert built.channels["layer3"] == found.widths[name]
    assert trunk_architecture(f"{file}:{factory}", found, 64).widths == found.widths


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("Flat", "returns a Tensor: a backbone returns a mapping with the stages 'layer2'"),
        ("Half", "returns a mapping with layer3: a backbone"),
        ("Shallow", r"makes stages of shapes \[\(1, 3, 64, 64\), \(1, 12, 8, 8\)\]"),
        ("broken", "fails on an image of 64 x 64: .*: a backbone returns a mapping"),
    ],
)
def test_what_is_no_backbone_is_refused(file: str, factory: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        backbone_trunk(f"{file}:{factory}")
    assert "\n" not in str(caught.value)


def test_weights_by_its_own_names(file: str, tmp_path: Path) -> None:
    for factory in ("Stages", "Deep"):
        network = call_factory(f"{file}:{factory}")
        save_weights(network, tmp_path / "weights.safetensors")
        trunk = backbone_trunk(f"{file}:{factory}")
        assert load_backbone_weights(trunk, tmp_path / "weights.safetensors") == ()
        ours = trunk.network.three[0] if factory == "Stages" else trunk.layer3[0]
        theirs = network.three[0] if factory == "Stages" else network.layer3[0]
        assert torch.equal(ours.weight, theirs.weight)


def test_a_checkpoint_names_its_code_and_never_imports_it(tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "marking_backbone.py"
    file.write_text(f"open({str(mark)!r}, 'a').write('x')\n{SOURCE}")
    described = Description(f"{file}:Stages", None, SMALL)
    with pytest.raises(UserError, match="is not imported because a file names it"):
        described.build()
    assert not mark.exists()
    network = described.build(f"{file}:Stages")
    save_network(tmp_path / "tracker.safetensors", network, described)
    with pytest.raises(UserError, match=r"tracker.safetensors': .* repeat it with --backbone .*:Stages"):
        load_network(tmp_path / "tracker.safetensors")
    loaded, again = load_network(tmp_path / "tracker.safetensors", f"{file}:Stages")
    assert again == described
    assert torch.equal(
        loaded.feature_extractor.network.three[0].weight, network.feature_extractor.network.three[0].weight
    )
    with pytest.raises(UserError, match="does not fit"):
        load_network(tmp_path / "tracker.safetensors", f"{file}:Deep")
    assert mark.read_text() == "x"


def test_a_tracker_without_a_network_has_no_backbone() -> None:
    with pytest.raises(UserError, match="--backbone is for dimp50"):
        TrackerSpec("ncc", backbone="a.py:b")
