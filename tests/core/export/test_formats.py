"""Files that other programs read: what they compute, which sizes they take, and what is left where one is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import core.export.formats
from core.errors import NonFiniteOutput, UserError
from core.export.formats import TOLERANCE, ExportDiffers, check_path, export, open_onnx
from core.storage.checkpoint import read_metadata
from core.storage.description import read_contents
from tests.core.export.toys import Enlarged, Flat, Lying, Pooled, Rounded, Squares, images, subject
from tests.core.storage.test_files import no_more_than


def run(path: Path, inputs: torch.Tensor) -> torch.Tensor:
    """As others would."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"images": inputs.numpy()})[0])
    return torch.export.load(path).module()(inputs)


@pytest.mark.parametrize(
    ("network", "step", "ending"), [(Pooled(), 1, ".pt2"), (Pooled(), 1, ".onnx"), (Squares(), 4, ".onnx")]
)
def test_any_batch_and_size(
    tmp_path: Path, request: pytest.FixtureRequest, network: nn.Module, step: int, ending: str
) -> None:
    if ending == ".onnx":
        request.getfixturevalue("onnxruntime")
    path = tmp_path / f"net{ending}"
    written = export(subject(network), path)
    assert (written.step, written.reason) == (step, "")
    assert written.shapes[2] == (2, 3, 16 + step, 24 + 2 * step)
    assert 0 <= written.difference < 1e-5
    for count, height, width in ((1, 16, 24), (5, 16, 24), (1, 40, 32), (2, 12, 16)):
        inputs = images(count, height, width)
        torch.testing.assert_close(run(path, inputs), network(inputs), rtol=0, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_fixed_sizes_are_said(tmp_path: Path) -> None:
    network = Flat()
    written = export(subject(network), tmp_path / "net.pt2")
    assert written.step is None
    assert written.reason == "the network takes only images of 16 x 24"
    torch.testing.assert_close(run(written.path, images(5)), network(images(5)), rtol=0, atol=1e-5)


def test_what_a_form_cannot_leave_free_is_fixed_and_said(tmp_path: Path, onnxruntime: Any) -> None:
    free = export(subject(Enlarged()), tmp_path / "net.pt2")
    fixed = export(subject(Enlarged()), tmp_path / "net.onnx")
    assert (free.step, fixed.step) == (1, None)
    assert fixed.reason.startswith("with free height and width: torch.onnx: Error when translating node")
    assert "convolution" in fixed.reason


def test_what_differs_is_not_kept(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"net{ending}"
    path.write_text("an older export")
    with pytest.raises(
        ExportDiffers, match=rf"net{ending}' is not written: under .* it differs from the module by 1\.0e-02"
    ):
        export(subject(Lying()), path)
    assert path.read_text() == "an older export"
    assert list(tmp_path.iterdir()) == [path]


def test_the_difference_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TOLERANCE == 1e-4
    monkeypatch.setattr(core.export.formats, "TOLERANCE", 0.02)
    assert export(subject(Lying()), tmp_path / "net.pt2").difference == pytest.approx(0.01, rel=1e-3)


def test_whole_numbers_round_alike(tmp_path: Path, onnxruntime: Any) -> None:
    network = Squares()
    rounded = subject(Rounded(network), exact=Rounded(network, rounded=False).eval())
    written = export(rounded, tmp_path / "net.onnx")
    found, own = run(written.path, images()), rounded.graph(images())
    assert found.dtype == own.dtype == torch.uint8
    assert (found.int() - own.int()).abs().max() <= 1
    assert (found != own).float().mean() < 1e-3
    assert 0 < own.float().mean() < 255


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, onnxruntime: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("forms")
    about = subject(Pooled(), header={**subject(Pooled()).header, "crc32": "12", "library": "old"})
    return {
        ending: export(about, folder / f"net{ending}").path for ending in [".pt2", ".onnx", ".safetensors"]
    }


def test_a_file_says_what_it_is(paths: dict[str, Path], onnxruntime: Any) -> None:
    session = onnxruntime.InferenceSession(str(paths[".onnx"]))
    told = session.get_modelmeta().custom_metadata_map
    extra = {"toys": "", "origin": ""}
    torch.export.load(paths[".pt2"], extra_files=extra)
    for found in (told, extra, read_metadata(paths[".safetensors"])):
        assert json.loads(found["toys"])["model"] == "mine.py:net"
        assert json.loads(found["origin"])["dataset"] == "photographs"
    assert "crc32" not in told  # it is another file's
    assert [item.name for item in session.get_inputs()] == ["images"]
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert [item.name for item in session.get_outputs()] == ["out"]


def test_weights_come_back(tmp_path: Path) -> None:
    network = Pooled()
    written = export(subject(network), tmp_path / "net.safetensors")
    assert written.difference == 0
    found = safetensors.torch.load_file(written.path)
    assert found.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(found[name], value)
    assert read_contents(written.path).checked


def test_weights_that_do_not_come_back_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.export.formats, "load_weights", lambda module, path: None)  # all stay zero
    with pytest.raises(ExportDiffers):
        export(subject(Pooled()), tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_networks_that_make_no_numbers_are_not_written(tmp_path: Path) -> None:
    network = Pooled()
    with torch.no_grad():
        network.last.weight.fill_(float("inf"))
    for ending in (".pt2", ".safetensors"):
        with pytest.raises(NonFiniteOutput):
            export(subject(network), tmp_path / f"net{ending}")
    assert not list(tmp_path.iterdir())


class Unseen(Pooled):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if float(images.sum()) > 0:  # which a program cannot follow
            return super().forward(images)
        return images.new_zeros(len(images), 5)


def test_what_cannot_be_exported_is_an_error_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^Unseen cannot be written as '.*net\.pt2': [^\n]+$"):
        export(subject(Unseen()), tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_no_process(
    paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = torch.export.load(paths[".pt2"])
    monkeypatch.setattr(core.export.formats, "_program", lambda made, free: program)
    path = tmp_path / "net.pt2"
    with pytest.raises(OSError, match=rf"File too large: '{re.escape(str(path))}'"), no_more_than(500):
        export(subject(Pooled()), path)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.export.formats, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(
        UserError, match=r"needs onnxscript, not installed here: pip install 'lwdna\[export\]'$"
    ):
        check_path(Path("net.onnx"))
    check_path(Path("net.pt2"))


@pytest.mark.parametrize("name", ["net.onx", "net", "net.ONNX"])
def test_other_endings_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"allowed: \.onnx, \.pt2, \.safetensors"):
        check_path(Path(name))


def test_a_network_too_large_for_onnx_is_told_before(
    tmp_path: Path, onnxruntime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.export.formats, "LARGEST_ONNX", 100)
    with pytest.raises(UserError, match=r"too many for an \.onnx: write a \.pt2"):
        export(subject(Pooled()), tmp_path / "net.onnx")


def test_a_damaged_onnx_file_is_an_error(paths: dict[str, Path], tmp_path: Path) -> None:
    runner = open_onnx(paths[".onnx"])
    with pytest.raises(RuntimeError, match=r"^onnxruntime: "):
        runner({"images": torch.from_numpy(np.zeros((1, 2, 16, 24), np.float32))})
    path = tmp_path / "net.onnx"
    path.write_bytes(paths[".onnx"].read_bytes()[:200])
    with pytest.raises(RuntimeError, match=r"^onnxruntime: "):
        open_onnx(path)
