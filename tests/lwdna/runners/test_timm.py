"""timm's registry builds networks at found widths, and timm's pieces train them."""

from __future__ import annotations

import types
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import core
from core.errors import UserError
from tests.lwdna.runners import page


@pytest.fixture(scope="module")
def runner(timm: types.ModuleType) -> types.ModuleType:
    import lwdna.runners.timm

    return lwdna.runners.timm


def find(timm: types.ModuleType, name: str, path: Path, **options: Any) -> core.Architecture:
    """Widths at random, so that they differ from the network's own."""
    make = partial(timm.create_model, name, **options)
    image = torch.zeros(1, 3, 64, 64)
    found = core.shrink(make(), image, [], nn.CrossEntropyLoss(), score="random", factory=make)
    found.save(path)
    return found


@pytest.mark.usefixtures("runner")
def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page.write_files("timm", tmp_path)
    page.write_classes(tmp_path)
    monkeypatch.chdir(tmp_path)
    for line in page.commands("timm"):
        assert page.type_command(line, monkeypatch) == 0
    assert capsys.readouterr().out.count(" %\n") == 2
    found = core.Architecture.load("widths.json")
    macs = [cost.macs for cost in found.costs]
    assert 0.8 * macs[1] < macs[0] <= 0.9 * macs[1]
    kept = torch.load("last.pth.tar", weights_only=False)

    assert kept["state_dict"]["conv_stem.weight"].shape[0] == found.widths["conv_stem"]


def test_without_widths_it_is_the_base(timm: types.ModuleType, runner: types.ModuleType) -> None:
    torch.manual_seed(0)
    own = timm.create_model("lcnet_035", num_classes=3)
    torch.manual_seed(0)
    same = timm.create_model("lwdna_lcnet_035", num_classes=3)
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in same.state_dict().items())
    assert timm.data.resolve_model_data_config(same) == timm.data.resolve_model_data_config(own)


@pytest.mark.parametrize(
    "name", ["lcnet_035", "test_convnext"]
)  # a head with a layer of its own, one with a norm
def test_sizes_follow_the_found_widths(
    timm: types.ModuleType, runner: types.ModuleType, tmp_path: Path, name: str
) -> None:
    find(timm, name, tmp_path / "widths.json", num_classes=5)
    net = timm.create_model(f"lwdna_{name}", widths=tmp_path / "widths.json", num_classes=5).eval()
    image = torch.zeros(1, 3, 64, 64)
    assert net.num_features == net.forward_features(image).shape[1]
    assert net.num_features != timm.create_model(name).num_features
    assert net.head_hidden_size == net.get_classifier().in_features
    bare = timm.create_model(f"lwdna_{name}", widths=tmp_path / "widths.json", num_classes=0).eval()
    assert bare(image).shape == (1, net.head_hidden_size)
    net.reset_classifier(7)
    assert net(image).shape == (1, 7)


def test_channels_of_features_follow(
    timm: types.ModuleType, runner: types.ModuleType, tmp_path: Path
) -> None:
    make = partial(timm.create_model, "test_resnet", features_only=True)
    image = torch.zeros(1, 3, 64, 64)
    found = core.shrink(make(), image, [], nn.L1Loss(), score="random", factory=make, outputs="free")
    found.save(tmp_path / "widths.json")
    net = timm.create_model("lwdna_test_resnet", widths=tmp_path / "widths.json", features_only=True)
    assert net.feature_info.channels() == [features.shape[1] for features in net(image)]
    assert net.feature_info.channels() != make().feature_info.channels()


def test_timm_knows_what_it_would_know_of_the_base(timm: types.ModuleType, runner: types.ModuleType) -> None:
    assert "lwdna_inception_v3" in timm.list_models("lwdna_incep*")
    own, found = (timm.get_pretrained_cfg(name) for name in ("inception_v3", "lwdna_inception_v3"))
    assert (found.input_size, found.mean, found.crop_pct) == (own.input_size, own.mean, own.crop_pct)
    assert own.mean != (0.485, 0.456, 0.406)
    assert own.has_weights
    assert not found.has_weights
    assert timm.list_pretrained("lwdna_*") == []


def test_what_is_refused(timm: types.ModuleType, runner: types.ModuleType, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"lwdna_lcnet_035 with found widths starts anew.*leave pretrained out"
    ):
        timm.create_model("lwdna_lcnet_035", pretrained=True, widths="widths.json")
    with pytest.raises(UserError, match=r"widths file 'none\.json' does not exist"):
        timm.create_model("lwdna_lcnet_035", widths="none.json")
    find(timm, "lcnet_035", tmp_path / "widths.json", num_classes=5)
    with pytest.raises(UserError, match="is not a channel group of"):
        timm.create_model("lwdna_test_resnet", widths=tmp_path / "widths.json")
    with pytest.raises(UserError, match="timm has no network 'resnet19'"):
        runner.register("resnet19")


def test_networks_that_are_registered_later(timm: types.ModuleType, runner: types.ModuleType) -> None:
    def lwdna_test_toy(pretrained: bool = False, classes: int = 2, **options: Any) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, classes, 3))

    timm.models.register_model(lwdna_test_toy)
    for _ in range(2):
        runner.register("lwdna_test_toy")
    assert timm.create_model("lwdna_lwdna_test_toy", classes=6)[2].out_channels == 6
