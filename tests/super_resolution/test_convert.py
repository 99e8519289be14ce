"""`python -m super_resolution.convert`: from BasicSR's checkpoints to files that upscale reads."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import core
from super_resolution.checkpoint import load_network, read_description
from super_resolution.convert import main
from super_resolution.images import read_upright, write_image
from super_resolution.models import build
from super_resolution.upscale import main as upscale


def write_checkpoint(network: nn.Module, path: Path, **others: object) -> Path:
    """As BasicSR writes them."""
    torch.save({"params": network.state_dict(), **others}, path)
    return path


@pytest.mark.parametrize(
    ("name", "line", "added"),
    [
        ("edsr", "edsr x2, n_blocks=2, n_feats=8, res_scale=1.0", 4),
        ("msrresnet", "msrresnet x2, n_blocks=2, n_feats=8", 0),
    ],
)
def test_a_checkpoint_of_basicsr_gives_its_images(
    basicsr: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    photo: np.ndarray,
    name: str,
    line: str,
    added: int,
) -> None:
    torch.manual_seed(0)
    archs = basicsr.archs
    make = archs.edsr_arch.EDSR if name == "edsr" else archs.srresnet_arch.MSRResNet
    theirs = make(3, 3, num_feat=8, num_block=2, upscale=2).eval()
    source = write_checkpoint(theirs, tmp_path / "net_g_latest.pth")
    target = tmp_path / "ours.safetensors"
    assert main([str(source), str(target)]) == 0
    said = capsys.readouterr().out.splitlines()
    parameters = sum(p.numel() for p in theirs.parameters())
    assert said[0] == line
    assert said[1].startswith(f"{len(theirs.state_dict())} tensors taken over, {parameters:,} parameters")
    assert said[1].count("_mean.") == added
    assumed = ["res_scale=1.0, img_range=255, rgb_mean=0.4488,0.4371,0.404 ("] if name == "edsr" else []
    assert all(text in line for text, line in zip(assumed, said[2:], strict=False))
    assert said[2 + len(assumed) :] == [f"written: {target}"]
    ours, description = load_network(target)
    images = torch.from_numpy(photo[:20, :30].transpose(2, 0, 1)[None] / np.float32(255))
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=2e-6)
    assert (description.model, description.scale, description.architecture) == (name, 2, None)
    write_image(tmp_path / "in.png", photo[:20, :30])
    assert upscale([str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--checkpoint", str(target)]) == 0
    rounded = (expected[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    # Half a grey level apart in floating point may round either way.
    assert np.abs(read_upright(tmp_path / "out.png").astype(int) - rounded).max() <= 1


def test_res_scale_is_written_down(basicsr: ModuleType, tmp_path: Path) -> None:
    theirs = basicsr.archs.edsr_arch.EDSR(3, 3, num_feat=4, num_block=1, upscale=3)
    source = write_checkpoint(theirs, tmp_path / "in.pth")
    target = tmp_path / "out.safetensors"
    assert main([str(source), str(target), "--res-scale", "0.1"]) == 0
    assert read_description(target).options == {"n_blocks": 1, "n_feats": 4, "res_scale": 0.1}


IMAGES = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))


def same_images(theirs: nn.Module, converted: Path, scale: float = 1.0) -> None:
    """`scale`: the range of their images."""
    ours, _ = load_network(converted)
    with torch.no_grad():
        expected = theirs.eval()(IMAGES * scale) / scale
        torch.testing.assert_close(ours(IMAGES), expected, rtol=1e-5, atol=3e-6)


def write_options(path: Path, **network: object) -> Path:
    content = {"name": "x", "model_type": "SRModel", "scale": 2, "network_g": network}
    path.write_text(yaml.safe_dump(content))
    return path


EDSR_2 = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2, "upscale": 2}
RANGE = {"img_range": 1.0, "rgb_mean": [0.5, 0.4, 0.3], "res_scale": 0.5}


@pytest.mark.parametrize("where", ["arguments", "options", "beside", "mixed"])
def test_range_and_mean_colour_are_honoured(
    basicsr: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    """Without them a conversion takes BasicSR's defaults, which give other images, and says so."""
    sizes = {name: value for name, value in EDSR_2.items() if name != "type"}
    theirs = basicsr.archs.edsr_arch.EDSR(**sizes, **RANGE)
    (tmp_path / "experiment/models").mkdir(parents=True)
    source = write_checkpoint(theirs, tmp_path / "experiment/models/net_g_latest.pth")
    target = tmp_path / "ours.safetensors"
    told = ["--img-range", "1", "--rgb-mean", "0.5,0.4,0.3", "--res-scale", "0.5"]
    if where == "options":
        told = ["--opt", str(write_options(tmp_path / "train.yml", **EDSR_2, **RANGE))]
    if where == "beside":
        told = []
        write_options(tmp_path / "experiment/train.yml", **EDSR_2, **RANGE)
    if where == "mixed":
        told = told[2:]
        write_options(tmp_path / "experiment/train.yml", **EDSR_2, img_range=1)
    assert main([str(source), str(target), *told]) == 0
    said = capsys.readouterr().out
    assert ("train.yml'" in said) == (where != "arguments")
    assert "assumed" not in said
    same_images(theirs, target)
    assert main([str(write_checkpoint(theirs, tmp_path / "alone.pth")), str(target)]) == 0
    assert "assumed" in capsys.readouterr().out
    with pytest.raises(AssertionError):
        same_images(theirs, target)


@pytest.mark.parametrize("name", ["EDSR", "MSRResNet"])
def test_found_widths_that_basicsr_trained(
    basicsr: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    archs = basicsr.archs
    make = archs.edsr_arch.EDSR if name == "EDSR" else archs.srresnet_arch.MSRResNet
    sizes = {key: value for key, value in EDSR_2.items() if key != "type"}
    base = make(**sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", core.FrozenChannelsWarning)
        inputs = torch.zeros(1, 3, 8, 8)
        found = core.shrink(base, inputs, [], nn.L1Loss(), score="random", budget=core.Budget(flops=0.8))
        theirs = found.build(base, factory=lambda: make(**sizes))
    (tmp_path / "experiment/models").mkdir(parents=True)
    found.save(tmp_path / "experiment/widths.json")
    source = write_checkpoint(theirs, tmp_path / "experiment/models/net_g_10.pth")
    options = tmp_path / "experiment/found.yml"
    write_options(options, type="LWDNANet", base={**EDSR_2, "type": name}, widths="widths.json")
    assert main([str(source), str(tmp_path / "ours.safetensors")]) == 0
    said = capsys.readouterr().out
    assert f"found widths: {', '.join(map(str, found.widths.values()))}\n" in said
    same_images(theirs, tmp_path / "ours.safetensors")
    architecture = read_description(tmp_path / "ours.safetensors").architecture
    assert architecture is not None
    assert architecture["widths"] == found.widths
    (tmp_path / "experiment/widths.json").unlink()
    assert main([str(source), str(tmp_path / "again.safetensors")]) == 2
    assert (
        "names the widths file 'widths.json', which is neither here nor beside it" in capsys.readouterr().err
    )


class TheirBlock(nn.Module):
    def __init__(self, channels: int, factor: float) -> None:
        super().__init__()
        layers = nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU(True), nn.Conv2d(channels, channels, 3, 1, 1)
        self.body = nn.Sequential(*layers)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x + self.factor * self.body(x)


class EdsrPytorch(nn.Module):
    """EDSR under the names of its authors' code, written from the paper: images of [0, range] go in and come out."""

    def __init__(
        self, scale: int, image_range: float, colour: tuple[float, ...], factor: float = 1.0, feats: int = 8
    ) -> None:
        super().__init__()
        shift = image_range * torch.tensor(colour)
        for name, sign in (("sub_mean", -1), ("add_mean", 1)):
            layer = nn.Conv2d(3, 3, 1).requires_grad_(False)
            layer.weight.copy_(torch.eye(3)[..., None, None])
            assert layer.bias is not None
            layer.bias.copy_(sign * shift)
            setattr(self, name, layer)
        self.head = nn.Sequential(nn.Conv2d(3, feats, 3, 1, 1))
        blocks = [TheirBlock(feats, factor) for _ in range(2)]
        self.body = nn.Sequential(*blocks, nn.Conv2d(feats, feats, 3, 1, 1))
        steps: list[nn.Module] = []
        for factor_of_step in (2, 2) if scale == 4 else (scale,):
            steps += [nn.Conv2d(feats, feats * factor_of_step**2, 3, 1, 1), nn.PixelShuffle(factor_of_step)]
        self.tail = nn.Sequential(nn.Sequential(*steps), nn.Conv2d(feats, 3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.sub_mean(x))
        return self.add_mean(self.tail(x + self.body(x)))


DIV2K = (0.4488, 0.4371, 0.4040)


@pytest.mark.parametrize(
    ("scale", "image_range", "colour", "told", "options"),
    [
        (2, 255, DIV2K, [], {"res_scale": 1.0}),
        (3, 255, DIV2K, ["--res-scale", "0.3"], {"res_scale": 0.3}),
        (4, 1, DIV2K, [], {"res_scale": 1.0, "image_range": 1.0}),  # the two shifts tell it
        (2, 2, (0.5, 0.5, 0.25), ["--img-range", "2"], {"image_range": 2.0, "mean": [0.5, 0.5, 0.25]}),
        (2, 2, (0.5, 0.5, 0.25), ["--rgb-mean", ".5,.5,.25"], {"image_range": 2.0, "mean": [0.5, 0.5, 0.25]}),
    ],
)
def test_edsr_pytorchs_names(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    scale: int,
    image_range: float,
    colour: tuple[float, ...],
    told: list[str],
    options: dict[str, object],
) -> None:
    theirs = EdsrPytorch(scale, image_range, colour, factor=0.3 if "--res-scale" in told else 1.0)
    torch.save(theirs.state_dict(), tmp_path / "model_best.pt")
    target = tmp_path / "ours.safetensors"
    assert main([str(tmp_path / "model_best.pt"), str(target), *told]) == 0
    said = capsys.readouterr().out
    assert f"edsr x{scale}, n_blocks=2, n_feats=8" in said
    assert ("assumed" in said) == ("--res-scale" not in told)
    assert "img_range" not in said.partition("assumed")[2].partition("(")[0]
    described = read_description(target).options
    assert {key: described[key] for key in options} == options
    same_images(theirs, target, image_range)


@pytest.mark.parametrize(
    ("change", "told", "message"),
    [
        ({}, [], "which are not DIV2K's colour at any range: give --img-range"),
        ({}, ["--rgb-mean", "0.1,0.1,0.2"], "which are not those that were given"),
        ({}, ["--rgb-mean", "0.5,0.5"], "it has three values between 0 and 1"),
        ({}, ["--rgb-mean", "grey"], "write three numbers between 0 and 1"),
        ({}, ["--img-range", "-1"], "it is above 0"),
        ({"sub_mean.weight": 2 * torch.eye(3)[..., None, None]}, [], "are not those of EDSR-PyTorch's EDSR"),
        ({"add_mean.bias": torch.zeros(3)}, [], "are not those of EDSR-PyTorch's EDSR"),
        (
            {"body.1.body.3.weight": torch.ones(2)},
            ["--img-range", "2"],
            "'body.1.body.3.weight' has no partner",
        ),
        (
            {},
            ["--opt", "OPTIONS"],
            "an option file is BasicSR's, but the checkpoint has EDSR-PyTorch's names",
        ),
    ],
)
def test_what_contradicts_edsr_pytorchs_weights_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Tensor],
    told: list[str],
    message: str,
) -> None:
    weights = EdsrPytorch(2, 2, (0.5, 0.5, 0.25)).state_dict()
    torch.save({**weights, **change}, tmp_path / "in.pt")
    options = str(write_options(tmp_path / "train.yml", **EDSR_2))
    words = [options if word == "OPTIONS" else word for word in told]
    assert main([str(tmp_path / "in.pt"), str(tmp_path / "out.safetensors"), *words]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({**EDSR_2, "num_block": 3}, "'body.2.conv1.weight' is missing"),
        ({**EDSR_2, "type": "RRDBNet"}, "its network_g is 'RRDBNet'; EDSR and MSRResNet can be converted"),
        ({**EDSR_2, "img_rang": 1}, "EDSR of network_g has no option 'img_rang': did you mean 'img_range'"),
        ({**EDSR_2, "num_in_ch": 1}, "num_in_ch: 1 of network_g"),
        ({**EDSR_2, "rgb_mean": "grey"}, "res_scale, img_range or rgb_mean of network_g"),
        ({"type": "MSRResNet", "img_range": 1}, "MSRResNet of network_g has no option 'img_range'"),
        ({"type": "LWDNANet", "widths": "w.json"}, "its network_g is 'None'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], network: dict[str, object], message: str
) -> None:
    weights = {
        k: v for k, v in build("edsr", 2, n_blocks=2, n_feats=8).state_dict().items() if "mean" not in k
    }
    torch.save(weights, tmp_path / "in.pth")
    options = write_options(tmp_path / "train.yml", **network)
    assert main([str(tmp_path / "in.pth"), str(tmp_path / "o.safetensors"), "--opt", str(options)]) == 2
    assert message in capsys.readouterr().err


def test_several_option_files_beside_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").mkdir()
    weights = {
        k: v for k, v in build("edsr", 2, n_blocks=2, n_feats=8).state_dict().items() if "mean" not in k
    }
    torch.save(weights, tmp_path / "models/in.pth")
    write_options(tmp_path / "a.yml", **EDSR_2)
    write_options(tmp_path / "b.yml", **EDSR_2)
    command = [str(tmp_path / "models/in.pth"), str(tmp_path / "out.safetensors")]
    assert main(command) == 0
    write_options(tmp_path / "b.yml", **EDSR_2, img_range=1)
    assert main(command) == 2
    assert "several option files beside it, of different networks (a.yml, b.yml)" in capsys.readouterr().err


def test_constants_are_edsrs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_checkpoint(build("msrresnet", 2, n_blocks=1, n_feats=4), tmp_path / "in.pth")
    assert main([str(source), str(tmp_path / "out.safetensors"), "--img-range", "1"]) == 2
    assert "the checkpoint is MSRResNet's, which has no res_scale" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "target", "message"),
    [
        (
            {"conv_last.bias": None},
            "out.safetensors",
            "in.pth': BasicSR checkpoint, read as edsr x4: 'conv_last.bias' is missing",
        ),
        ({"extra.weight": torch.ones(2)}, "out.safetensors", "'extra.weight' has no partner"),
        (
            {"conv_first.weight": None},
            "out.safetensors",
            "in.pth': the checkpoint is not BasicSR's EDSR or MSRResNet",
        ),
        ({}, "out.pth", "out.pth': checkpoints are written as .safetensors"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, torch.Tensor | None],
    target: str,
    message: str,
) -> None:
    network = build("edsr", 4, n_blocks=1, n_feats=4)
    weights = {name: value for name, value in network.state_dict().items() if "mean" not in name}
    weights = {name: value for name, value in {**weights, **change}.items() if value is not None}
    torch.save({"params": weights}, tmp_path / "in.pth")
    assert main([str(tmp_path / "in.pth"), str(tmp_path / target)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


def test_a_missing_file_is_exit_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "super_resolution.convert", "none.pth", str(tmp_path / "o.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: 'none.pth' not found: there is no such file; check the path\n"


def test_the_checkpoint_that_is_read_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_checkpoint(build("edsr", 2, n_blocks=1, n_feats=4), tmp_path / "in.pth")
    (tmp_path / "out.safetensors").symlink_to(source)
    before = source.read_bytes()
    assert main([str(source), str(tmp_path / "out.safetensors")]) == 2
    assert "is the checkpoint that is read" in capsys.readouterr().err
    assert source.read_bytes() == before
