"""Reading image files for classification: always three channels, and damaged files are found and named."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

import cv2
import mmcv
import numpy as np

from core.errors import UserError

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# In entropy-coded data 0xFF is followed by 0x00 (a stuffed zero), by a restart marker or by fill bytes.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE = 0xD9


class BadImage(UserError):
    """An image file that is truncated or that no decoder reads; the message names the path and the damage."""


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file.

    Grey images are repeated over three channels, CMYK is converted, an alpha channel is dropped. EXIF
    orientation is ignored, as in the pipelines that published ImageNet figures come from.

    Args:
        path: a JPEG, PNG or any other file that OpenCV reads; the content decides, not the suffix (ImageNet
            holds a PNG that is named .JPEG).

    Returns:
        The pixels, `(height, width, 3)`, uint8, RGB.

    Raises:
        BadImage: the file is missing, empty, truncated, or no image. Truncated JPEGs are found by their
            missing end-of-image marker: some decoders fill the missing part with grey and say nothing.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadImage(f"image '{path}' cannot be read: {error.strerror}") from error
    damage = find_truncation(content)
    if damage is not None:
        raise BadImage(f"image '{path}' cannot be read: {damage}")
    image = _decode(content)
    if image is None:
        raise BadImage(f"image '{path}' cannot be read: no decoder recognises its {len(content)} bytes")
    return image


def find_truncation(content: bytes) -> str | None:
    """Say in words how a JPEG or PNG file is cut short, or None where it is whole or of another format."""
    if not content:
        return "the file is empty"
    if content.startswith(_JPEG):
        return None if _jpeg_is_whole(content) else "truncated JPEG (no end-of-image marker)"
    if content.startswith(_PNG):
        return None if _PNG_END in content else "truncated PNG (no IEND chunk)"
    return None


def _jpeg_is_whole(content: bytes) -> bool:
    """Walk the marker segments: a search for the end marker would find an embedded thumbnail's."""
    position = 2
    while match := _NEXT_MARKER.search(content, position):
        position = match.end()
        if content[position - 1] == _END_OF_IMAGE:
            return True
        position += int.from_bytes(content[position : position + 2], "big")
    return False


def _decode(content: bytes) -> np.ndarray | None:
    if content.startswith(_JPEG) and turbojpeg_is_usable():
        try:
            return mmcv.imfrombytes(content, flag="color", channel_order="rgb", backend="turbojpeg")
        except OSError:
            pass  # CMYK: libjpeg-turbo offers no conversion to RGB, OpenCV does
    try:
        image = mmcv.imfrombytes(content, flag="color_ignore_orientation", backend="cv2")
    except cv2.error:
        return None  # raised where the header promises an image of absurd size
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@cache
def turbojpeg_is_usable() -> bool:
    """True where PyTurboJPEG and the libturbojpeg it wants are installed: mmcv's fastest JPEG backend."""
    if importlib.util.find_spec("turbojpeg") is None:
        return False
    default = mmcv.image.io.imread_backend
    try:
        mmcv.use_backend("turbojpeg")  # the only way to make mmcv create its decoder
    except (ImportError, OSError, RuntimeError):
        return False
    finally:
        mmcv.use_backend(default)
    return True
