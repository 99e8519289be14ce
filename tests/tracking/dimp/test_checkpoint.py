"""Trackers' checkpoints: ours describe themselves, published ones are read without running them."""

from __future__ import annotations

import os
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import core
from core.errors import MissingData, UserError
from core.storage.checkpoint import save_weights
from core.surgery.architecture import ArchitectureError, describe_inputs
from tracking.convert import main as convert
from tracking.dimp import DiMPConfig, DiMPNet, checkpoint
from tracking.dimp.backbones import (
    RESNETS,
    ResNetTrunk,
    backbone_trunk,
    load_backbone_weights,
    trunk_architecture,
)
from tracking.dimp.checkpoint import (
    Description,
    load_network,
    pickled_classes,
    read_description,
    read_published,
    save_network,
)

SMALL = DiMPConfig(classification_channels=16, iou_channels=16)


def small(widths: core.Architecture | None = None) -> DiMPNet:
    torch.manual_seed(0)
    return DiMPNet(backbone_trunk("resnet18-small", widths), SMALL)


@pytest.fixture(scope="module")
def found() -> core.Architecture:
    """Widths of the small ResNet, found by chance."""
    return core.shrink(
        RESNETS["resnet18-small"](),
        torch.zeros(1, 3, 64, 64),
        [],
        nn.functional.cross_entropy,
        budget=core.Budget(flops=0.8),
        score="random",
    )


@pytest.fixture
def training_code(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stand-ins of the classes that published checkpoints name, importable while a checkpoint is written."""
    for name in ("ltr", "ltr.admin", "ltr.admin.settings"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = sys.modules["ltr.admin.settings"]
    module.Settings = type("Settings", (), {"__module__": "ltr.admin.settings", "__qualname__": "Settings"})
    return module


def published(module: types.ModuleType, weights: dict[str, Tensor]) -> dict[str, Any]:
    settings = module.Settings()
    settings.batch_size, settings.nested = 10, module.Settings()
    return {"epoch": 50, "net_type": "DiMPnet", "net": OrderedDict(weights), "settings": settings}


def official_weights(backbone: str, config: DiMPConfig) -> dict[str, Tensor]:
    """What a published checkpoint holds: the tracker, and the parts of the ResNet that it leaves out."""
    torch.manual_seed(1)
    resnet = RESNETS[backbone]()
    everything = {f"feature_extractor.{name}": value for name, value in resnet.state_dict().items()}
    heads = DiMPNet(ResNetTrunk(resnet), config).state_dict()
    return {**everything, **{k: v for k, v in heads.items() if not k.startswith("feature_extractor.")}}


@pytest.mark.parametrize("widths", [False, True])
def test_ours_come_back_as_they_were(tmp_path: Path, found: core.Architecture, widths: bool) -> None:
    network = small(found if widths else None)
    description = Description(
        "resnet18-small", found.to_json() if widths else None, SMALL, {"image_sample_size": 144}
    )
    save_network(tmp_path / "net.safetensors", network, description)
    assert read_description(tmp_path / "net.safetensors") == description
    loaded, read = load_network(tmp_path / "net.safetensors")
    assert read == description
    assert not loaded.training
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.fixture
def small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published checkpoints hold a small tracker, so that tests are quick."""
    description = Description("resnet18-small", None, SMALL, checkpoint.PUBLISHED.settings)
    monkeypatch.setattr(checkpoint, "PUBLISHED", description)


def test_dimp50_is_what_published_ones_are(tmp_path: Path, training_code: types.ModuleType) -> None:
    weights = official_weights("resnet50", DiMPConfig())
    torch.save(published(training_code, weights), tmp_path / "dimp50.pth")
    loaded, _ = load_network(tmp_path / "dimp50.pth")
    name = "feature_extractor.layer3.5.conv3.weight"
    assert torch.equal(loaded.state_dict()[name], weights[name])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.usefixtures("small_ones")
def test_published_ones_convert_without_their_code(
    tmp_path: Path,
    training_code: types.ModuleType,
    capsys: pytest.CaptureFixture[str],
    legacy: bool,
) -> None:
    weights = official_weights("resnet18-small", SMALL)
    path = tmp_path / "dimp50.pth"
    torch.save(published(training_code, weights), path, _use_new_zipfile_serialization=not legacy)
    del sys.modules["ltr.admin.settings"]  # reading must not need it
    assert "ltr.admin.settings.Settings" in pickled_classes(path)
    assert convert([str(path), str(tmp_path / "out.safetensors")]) == 0
    assert "none left over" in capsys.readouterr().out
    loaded, description = load_network(tmp_path / "out.safetensors")
    assert description.settings == {"legacy_coordinates": True}
    state = loaded.state_dict()
    assert not any(".layer4." in name or ".fc." in name for name in state)
    assert all(torch.equal(value, weights[name]) for name, value in state.items())


class Hostile:
    """Runs a command when it is unpickled without care."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickles_are_refused(tmp_path: Path, legacy: bool) -> None:
    path, witness = tmp_path / "bad.pth", tmp_path / "witness"
    torch.save({"net": Hostile(witness)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match="was refused"):
        read_published(path)
    assert not witness.exists()


@pytest.mark.usefixtures("small_ones")
def test_bad_files_are_named(tmp_path: Path, training_code: types.ModuleType) -> None:
    with pytest.raises(MissingData, match="no such file"):
        load_network(tmp_path / "none.pth")
    path = tmp_path / "dimp50.pth"
    torch.save(published(training_code, {"classifier.weight": torch.zeros(2)}), path)
    with pytest.raises(UserError, match="does not fit DiMPNet"):
        load_network(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="no weights under 'net'"):
        load_network(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"truncated or no torch checkpoint|was refused"):
        load_network(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 1000)
    with pytest.raises(UserError, match="compressed"):
        load_network(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\0" * 1000)
    whole = path.read_bytes()
    directory = whole.index(b"PK\1\2")
    path.write_bytes(whole[:directory] + b"PK\7\7" + whole[directory + 4 :])  # still found to be a zip
    with pytest.raises(UserError, match=r"dimp50\.pth' is truncated or no torch checkpoint: Bad magic"):
        load_network(path)
    save_weights(small(), tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="does not say which network of dimp"):
        load_network(tmp_path / "bare.safetensors")
    assert convert([str(tmp_path / "bare.safetensors"), str(tmp_path / "out.pth")]) == 2


def test_only_five_convolutions_read_the_backbones_widths(found: core.Architecture) -> None:
    regular, other = small().state_dict(), small(found).state_dict()
    changed = {
        name
        for name, value in regular.items()
        if not name.startswith("feature_extractor.") and value.shape != other[name].shape
    }
    assert changed <= {
        "classifier.feature_extractor.0.weight",
        "bb_regressor.conv3_1r.0.weight",
        "bb_regressor.conv3_1t.0.weight",
        "bb_regressor.conv4_1r.0.weight",
        "bb_regressor.conv4_1t.0.weight",
    }
    assert len(changed) == 5


def test_a_resnet50_of_found_widths_is_a_backbone(tmp_path: Path) -> None:
    resnet = RESNETS["resnet50"]()
    widths = core.trace_channels(resnet, torch.zeros(1, 3, 224, 224)).widths
    odd = {name: max(1, width - number % 7) for number, (name, width) in enumerate(widths.items())}
    inputs = describe_inputs(torch.zeros(1, 3, 224, 224))
    core.Architecture("resnet50", odd, inputs).save(tmp_path / "widths.json")
    trunk = backbone_trunk("resnet50", tmp_path / "widths.json")
    assert trunk.channels == {"layer2": odd["layer2.0.conv3"], "layer3": odd["layer3.0.conv3"]}
    assert trunk.strides == {"layer2": 8, "layer3": 16}


def test_a_trunk_has_widths_of_its_own(found: core.Architecture) -> None:
    alone = trunk_architecture("resnet18-small", found, 144)
    assert not any(group.startswith("layer4") for group in alone.widths)
    whole, trunk = backbone_trunk("resnet18-small", found), backbone_trunk("resnet18-small", alone)
    assert {n: v.shape for n, v in whole.state_dict().items()} == {
        n: v.shape for n, v in trunk.state_dict().items()
    }
    assert trunk.channels == {
        "layer2": alone.widths["layer2.0.conv2"],
        "layer3": alone.widths["layer3.0.conv2"],
    }
    assert alone.costs[0].params == sum(parameter.numel() for parameter in trunk.parameters())
    assert trunk_architecture("resnet18-small", alone, 144) == alone
    with pytest.raises(ArchitectureError):
        trunk_architecture("resnet50", alone, 144)


def test_a_trunk_lacks_the_blocks_that_the_classifier_lacks() -> None:
    batches = [(torch.rand(2, 3, 64, 64), torch.tensor([0, 1]))]
    found = core.shrink(RESNETS["resnet18-small"](), torch.zeros(1, 3, 64, 64), batches, F.cross_entropy,
                        score="uniform", budget=core.Budget(flops=0.8), vanish=1.0)  # fmt: skip
    assert "layer4.1" in found.removed
    alone = trunk_architecture("resnet18-small", found, 144)
    assert set(alone.removed) == set(found.removed) - {"layer4.1"}
    assert alone.removed
    whole, trunk = backbone_trunk("resnet18-small", found), backbone_trunk("resnet18-small", alone)
    shapes = {name: value.shape for name, value in trunk.state_dict().items()}
    assert {name: value.shape for name, value in whole.state_dict().items()} == shapes
    assert not any(name.startswith(tuple(f"{block}." for block in alone.removed)) for name in shapes)
    assert alone.costs[0].params == sum(parameter.numel() for parameter in trunk.parameters())
    assert trunk_architecture("resnet18-small", alone, 144) == alone


def test_widths_of_a_wider_network_of_the_same_form_are_refused() -> None:
    """All groups have the same names, and as absolute numbers the widths could be built."""
    inputs = torch.zeros(1, 3, 64, 64)
    widths = core.trace_channels(RESNETS["resnet18"](), inputs).widths
    wide = core.Architecture("resnet18", widths, describe_inputs(inputs), baseline_widths=widths)
    with pytest.raises(ArchitectureError, match="'conv1' has 64 channels, but ResNetTrunk has 16"):
        trunk_architecture("resnet18-small", wide, 64)
    assert trunk_architecture("resnet18", wide, 64).widths["conv1"] == 64


def test_backbones_are_checked() -> None:
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        backbone_trunk("resnet5")
    with pytest.raises(UserError, match="has no 'conv1'"):
        ResNetTrunk(nn.Sequential())
    shallow = RESNETS["resnet18-small"]()
    shallow.maxpool = nn.Identity()
    with pytest.raises(UserError, match="strides"):
        DiMPNet(ResNetTrunk(shallow), SMALL)


def test_a_classifiers_weights_fill_a_trunk(tmp_path: Path) -> None:
    resnet = RESNETS["resnet18-small"]()
    save_weights(resnet, tmp_path / "classifier.safetensors")
    trunk = backbone_trunk("resnet18-small")
    assert load_backbone_weights(trunk, tmp_path / "classifier.safetensors") == ()
    assert torch.equal(trunk.layer3[1].conv2.weight, resnet.layer3[1].conv2.weight)
    resnet.conv1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
    save_weights(resnet, tmp_path / "tiny.safetensors")
    (note,) = load_backbone_weights(trunk, tmp_path / "tiny.safetensors")
    assert "'conv1.weight' starts fresh" in note
    save_weights(RESNETS["resnet18"](), tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match="of another shape"):
        load_backbone_weights(trunk, tmp_path / "wide.safetensors")


def test_the_checkpoint_that_is_read_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"weights")
    assert convert([str(path), str(path)]) == 2
    assert "is the checkpoint that is read" in capsys.readouterr().err
    assert path.read_bytes() == b"weights"
