"""Networks of the user's own in super-resolution: `--model path/to/file.py:factory`, from the search to `upscale`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import UserError
from super_resolution.checkpoint import (
    Description,
    build_network,
    load_network,
    read_description,
    save_network,
)
from super_resolution.config import RunConfig, with_own_options, with_ties
from super_resolution.convert import main as convert
from super_resolution.images import read_upright, write_image
from super_resolution.models import build
from super_resolution.models.own import check_own_network, own_channels
from super_resolution.run import main
from super_resolution.tiling import input_channels, super_resolve
from super_resolution.upscale import main as upscale

pytestmark = pytest.mark.usefixtures("unarranged")
SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, scale, width=16, channels=3):
        super().__init__()
        self.tail = nn.Conv2d(width, channels * scale**2, 3, padding=1)  # defined before it is used
        self.head = nn.Conv2d(channels, width, 3, padding=1)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x):
        return self.shuffle(self.tail(torch.relu(self.body(torch.relu(self.head(x))))))

def make(scale, width=16):
    return Net(scale, width)

def fixed():
    return Net(2)

def grey(scale=4):
    return Net(scale, 16, 1)

def four(scale=4):
    return Net(scale, 16, 4)

def pair(scale=4):
    class Pair(Net):
        def forward(self, x):
            return super().forward(x), x
    return Pair(scale)
"""
SHORT = [
    "--epochs",
    "1",
    "--no-progress",
    "--scale",
    "2",
    "--cfg-options",
    "data.crops_per_epoch=16",
    "data.patch=32",
    "shrink.round_to=1",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mynet.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    """A folder with the network's file, two photographs and a whole experiment at x2, in its default place."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mynet.py").write_text(SOURCE)
    write_image(folder / "photos/a.png", photo[:64, :80])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        benchmarks = f"data.benchmarks=({str(folder / 'photos')!r},)"
        assert main(["--model", "mynet.py:make", *SHORT, benchmarks]) == 0
    return folder


def test_a_run_is_titled_by_file_and_factory(ran: Path) -> None:
    folder = ran / "work_dirs/super_resolution-mynet-make-x2-skimage"
    assert "mynet-make" in (folder / "report.md").read_text().splitlines()[0]
    result = json.loads((folder / "result.json").read_text())
    assert set(result["methods"]["lwdna"]["widths"]) == {"head", "body"}
    described = read_description(folder / "lwdna.safetensors")
    assert (described.model, described.scale, described.options) == ("mynet.py:make", 2, {})
    assert described.architecture["widths"] == result["methods"]["lwdna"]["widths"]


def test_its_checkpoint_upscales_with_its_code_alone(
    ran: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ran)
    checkpoint = ran / "work_dirs/super_resolution-mynet-make-x2-skimage/lwdna.safetensors"
    write_image(ran / "in.png", photo[:9, :11])
    command = ["in.png", "out.png", "--checkpoint", str(checkpoint)]
    assert upscale(command) == 2
    assert "repeat it with --model mynet.py:make" in capsys.readouterr().err
    assert not (ran / "out.png").exists()
    assert upscale([*command, "--model", "mynet.py:make"]) == 0
    network, _ = load_network(checkpoint, model="mynet.py:make")
    np.testing.assert_array_equal(read_upright(ran / "out.png"), super_resolve(network, photo[:9, :11], 2))
    assert upscale([*command, "--model", "mynet.py:grey"]) == 2  # the same names, other shapes
    assert "error: " in capsys.readouterr().err
    assert upscale([*command, "--model", "edsr"]) == 2
    assert "leave --model edsr out" in capsys.readouterr().err


def test_code_never_runs_from_a_checkpoint(file: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    file.write_text(f"open({str(mark)!r}, 'w')\n{SOURCE}")
    described = Description(f"{file}:fixed", 2, {})
    with pytest.raises(UserError, match="is not imported because a file names it"):
        build_network(described)
    assert not mark.exists()
    assert build_network(described, f"{file}:fixed").tail.out_channels == 12
    assert mark.exists()


def test_the_factory_gets_the_scale_where_it_takes_one(file: Path) -> None:
    assert build(f"{file}:make", 3, width=5).tail.weight.shape[:2] == (27, 5)
    assert build(f"{file}:fixed", 3).tail.weight.shape[:2] == (12, 16)
    with pytest.raises(UserError, match="cannot be called with scale, depth: got an unexpected"):
        build(f"{file}:make", 3, depth=5)


@pytest.mark.parametrize(
    ("factory", "scale", "message"),
    [
        ("fixed", 3, r"into shape \(1, 3, 64, 96\), not \(1, 3, 96, 144\): .* name its scale with --scale"),
        ("pair", 2, "into a tuple, not"),
        ("four", 2, "takes neither RGB nor grey images"),
    ],
)
def test_what_is_no_upscaler_is_refused(file: Path, factory: str, scale: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        own_channels(f"{file}:{factory}", scale, {})


def test_the_image_is_not_the_first_convolutions(file: Path) -> None:
    assert input_channels(build(f"{file}:make", 2)) == 3
    assert own_channels(f"{file}:grey", 3, {}) == 1
    network = build(f"{file}:make", 2).train()
    assert check_own_network(network, "net", 2) == 3
    assert network.training


def test_a_grey_network_is_trained_on_luma(file: Path, tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "photos/a.png", photo[:64, :80])
    benchmarks = f"data.benchmarks=({str(tmp_path / 'photos')!r},)"
    folder = tmp_path / "work"
    line = ["--model", f"{file}:grey", "--name", "my grey net", "--work-dir", str(folder)]
    assert main([*line, *SHORT, benchmarks]) == 0
    loaded, _ = load_network(folder / "baseline.safetensors", model=f"{file}:grey")
    assert loaded.head.in_channels == 1
    assert "my grey net" in (folder / "report.md").read_text().splitlines()[0]
    assert "name = 'my grey net'" in (folder / "config.py").read_text()


def test_the_protocols_options_are_not_those_of_ones_own_network(file: Path) -> None:
    config = RunConfig(f"{file}:make", options={"n_blocks": 4, "width": 8}, tie_upsampler=True)
    own = with_own_options(config, config.model, ["options.width=8"])
    assert (own.options, own.tie_upsampler) == ({"width": 8}, False)
    assert with_own_options(config, config.model, [], tie=True).tie_upsampler
    with pytest.raises(UserError, match="got an unexpected keyword argument 'n_blocks'"):
        with_ties(replace(config, tie_upsampler=True))


def test_weights_of_ones_own_are_converted(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = build(f"{file}:make", 3)
    torch.save({"params": network.state_dict()}, tmp_path / "in.pth")
    command = [str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors"), "--model", f"{file}:make"]
    assert convert(command) == 2
    assert "--model takes --scale" in capsys.readouterr().err
    assert convert([*command, "--scale", "3"]) == 0
    assert capsys.readouterr().out.startswith("mynet-make x3\n6 tensors taken over, ")
    loaded, described = load_network(tmp_path / "out.safetensors", model=f"{file}:make")
    assert described == Description(f"{file}:make", 3, {})
    assert torch.equal(loaded.body.weight, network.body.weight)


def test_a_built_in_network_stays_what_it_is(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "edsr.safetensors"
    options = {"n_blocks": 1, "n_feats": 4}
    save_network(path, build("edsr", 2, **options), Description("edsr", 2, options))
    assert load_network(path, model="edsr")[1].model == "edsr"
    with pytest.raises(UserError, match=r"belongs to 'edsr': leave --model .*make out"):
        load_network(path, model=f"{file}:make")
