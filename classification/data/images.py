"""Reading image files for classification: always three channels, and damaged files are found and named."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import cv2
import mmcv
import numpy as np

from core.errors import UserError
from core.truncation import JPEG, find_truncation


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


def _decode(content: bytes) -> np.ndarray | None:
    if content.startswith(JPEG) and turbojpeg_is_usable():
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
