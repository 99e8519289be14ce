"""docs/runners.md as a folder of files and the commands to type there."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from core.storage.data import data_root
from super_resolution.resize import matlab_bicubic

ROOT = Path(__file__).parents[3]
CLASSES = 3


def section(title: str) -> str:
    """The part of the page under a heading."""
    text = (ROOT / "docs/runners.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def write_files(title: str, folder: Path) -> None:
    """Every block that starts with its name, `# train.yml`, as that file."""
    shared = str(ROOT / "shared_configs/classification")
    blocks = re.findall(r"```(?:python|yaml)\n# ([\w.]+)\n(.*?)```", section(title), re.DOTALL)
    assert blocks
    for name, text in blocks:
        (folder / name).write_text(text.replace("SHARED", shared), encoding="utf-8")
        sys.modules.pop(Path(name).stem, None)  # one of that name that another test has imported


def commands(title: str) -> list[str]:
    """What there is to type, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", section(title), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def type_command(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `python FILE ...` or `python -m MODULE ...` in this process; its exit status."""
    python, *words = shlex.split(line)
    assert python == "python"
    if words[0] == "-m":
        monkeypatch.setattr(sys, "argv", words[1:])
        return importlib.import_module(words[1]).main() or 0
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(words[0], run_name="__main__")
    return 0


def photographs() -> list[np.ndarray]:
    """Real photographs of three classes, 12 each in turn: Tiny-ImageNet's where it is at hand, else scikit-image's."""
    root = data_root() / "tiny-imagenet-200/train"
    if root.is_dir():
        folders = sorted(root.iterdir())[:CLASSES]
        files = [sorted((folder / "images").iterdir())[:12] for folder in folders]
        return [
            np.asarray(Image.open(file).convert("RGB")) for row in zip(*files, strict=True) for file in row
        ]
    found = []
    for name in ("astronaut.png", "chelsea.png", "coffee.png"):
        image = np.asarray(Image.open(Path(skimage.data_dir) / name).convert("RGB"))
        found.append([image[64:128, 20 * k : 20 * k + 64] for k in range(12)])
    return [image for row in zip(*found, strict=True) for image in row]


def write_classes(folder: Path) -> None:
    """photos/{train,val}/CLASS/*.png, 8 and 4 of each class."""
    for index, image in enumerate(photographs()):
        number, kind = divmod(index, CLASSES)
        place = folder / "photos" / ("train" if number < 8 else "val") / "abc"[kind]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")


def write_pairs(folder: Path) -> None:
    """photos/{train,val}/{HR,LR}/*.png: 8 and 2 crops of 48 x 48 and their halves."""
    for index, image in enumerate(photographs()[:10]):
        high = np.ascontiguousarray(image[8:56, 8:56])
        for kind, pixels in (("HR", high), ("LR", matlab_bicubic(high, 0.5))):
            place = folder / "photos" / ("train" if index < 8 else "val") / kind
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{index}.png")
