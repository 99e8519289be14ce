"""The shim makes basicsr importable, and leaves a whole torchvision alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


def run(script: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter, in which `path` comes first."""
    first = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path else ""
    return subprocess.run([sys.executable, "-c", first + script], capture_output=True, text=True, check=False)


def test_basicsr_imports_and_works_after_it() -> None:
    if importlib.util.find_spec("basicsr") is None or importlib.util.find_spec("torchvision") is None:
        pytest.skip("the extra 'basicsr' is not installed")
    done = run(
        """
from super_resolution.torchvision_shim import make_importable
make_importable()
make_importable()
import torch, torchvision.ops
from basicsr.archs.edsr_arch import EDSR
from basicsr.data.paired_image_dataset import PairedImageDataset
print(EDSR(3, 3, num_feat=4, num_block=1, upscale=2)(torch.zeros(1, 3, 4, 5)).shape)
print(torchvision.ops.box_iou(torch.tensor([[0., 0., 2., 2.]]), torch.tensor([[0., 0., 2., 1.]])).item())
"""
    )
    assert done.stdout.split("\n")[:2] == ["torch.Size([1, 3, 8, 10])", "0.5"], done.stderr


def fake_torchvision(folder: Path, content: str, functional: str = "functional_tensor") -> Path:
    """A stand-in package `torchvision` with transforms."""
    (folder / "torchvision/transforms").mkdir(parents=True)
    (folder / "torchvision/__init__.py").write_text(content)
    (folder / "torchvision/transforms/__init__.py").write_text("")
    (folder / f"torchvision/transforms/{functional}.py").write_text("")
    return folder


def test_a_whole_torchvision_is_left_alone(tmp_path: Path) -> None:
    done = run(
        """
import sys, torch
from super_resolution.torchvision_shim import make_importable
make_importable()
print(hasattr(torch.ops.torchvision, "nms"), "torchvision.transforms.functional_tensor" in sys.modules)
""",
        fake_torchvision(tmp_path, ""),
    )
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_a_renamed_module_is_found_under_its_old_name(tmp_path: Path) -> None:
    done = run(
        """
from super_resolution.torchvision_shim import make_importable
make_importable()
import torchvision.transforms.functional_tensor as old
print(old.__name__)
""",
        fake_torchvision(tmp_path, "", functional="_functional_tensor"),
    )
    assert done.stdout.split() == ["torchvision.transforms._functional_tensor"], done.stderr


def test_other_failures_are_not_hidden(tmp_path: Path) -> None:
    done = run(
        "from super_resolution.torchvision_shim import make_importable; make_importable()",
        fake_torchvision(tmp_path, "raise RuntimeError('another fault')"),
    )
    assert done.returncode == 1
    assert "another fault" in done.stderr
