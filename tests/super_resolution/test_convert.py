"""`python -m super_resolution.convert`: from BasicSR's checkpoints to files that upscale reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

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
    assert said[2] == f"written: {target}"
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
