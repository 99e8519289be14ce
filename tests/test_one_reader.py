"""What the three tasks make of real files, against OpenCV and Pillow called directly; and that nobody else decodes."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from PIL import Image

from classification.data.images import read_rgb
from super_resolution.images import read_photo
from tracking.files.images import read_frame

ROOT = Path(__file__).parents[1]
PATTERNS = {
    "ImageNet": "imagenet-sample/*/*.JPEG",
    "Tiny-ImageNet": "tiny-imagenet-200/train/n0144353*/images/*.JPEG",
    "OTB": "otb/*/img/00[0-4]*.jpg",
    "LaSOT": "lasot/*/*/img/0000000*.jpg",
    "BSDS500": "BSDS500_train/**/*.jpg",
}


def files_of(name: str) -> list[Path]:
    root = os.environ.get("LWDNA_DATA")
    if root is None:
        pytest.skip("needs real data: set LWDNA_DATA to its root")
    found = sorted(Path(root).glob(PATTERNS[name]))
    if not found:
        pytest.skip(f"no {name} under '{root}'; set $LWDNA_DATA")
    return found


def check(path: Path) -> None:
    """JPEG decoders of different releases may differ by a level; within one environment they are the same library."""
    colour = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[
        ..., ::-1
    ]
    with Image.open(path) as file:
        has_alpha = file.mode in ("LA", "RGBA")
        grey = file.mode in ("L", "LA")
        stored = np.asarray(file.convert("RGB"))
        wanted = (
            stored
            if not has_alpha
            else np.asarray(
                Image.alpha_composite(Image.new("RGBA", file.size, "white"), file.convert("RGBA")).convert(
                    "RGB"
                )
            )
        )
    np.testing.assert_array_equal(read_frame(path), colour, err_msg=str(path))
    np.testing.assert_array_equal(read_photo(path), stored[..., 0] if grey else stored, err_msg=str(path))
    found = read_rgb(path)
    if has_alpha:  # Pillow mixes in integers
        assert np.abs(found.astype(int) - wanted).max() <= 1, path
    else:
        np.testing.assert_array_equal(found, colour, err_msg=str(path))


@pytest.mark.parametrize("name", PATTERNS)
def test_files_of_benchmarks_have_the_decoders_pixels(name: str) -> None:
    for path in files_of(name):
        check(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_photographs_have_the_decoders_pixels(suffix: str) -> None:
    paths = sorted(Path(skimage.data_dir).glob(f"*.{suffix}"))
    assert paths
    for path in paths:
        check(path)


DECODERS = {"imdecode", "imread", "imreadmulti", "imfrombytes", "JPEG"}


def test_image_files_are_decoded_in_one_place() -> None:
    """Of all packages that ship: OpenCV's, mmcv's, jpeg4py's and Pillow's readers are called by the reader alone."""
    decoding = set()
    for package in ("core", "classification", "super_resolution", "tracking", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and (
                    node.attr in DECODERS or ast.unparse(node) == "Image.open"
                ):
                    decoding.add(path.relative_to(ROOT).as_posix())
    assert decoding == {"core/storage/images.py"}
