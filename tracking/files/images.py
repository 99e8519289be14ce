"""Reading frames, and bringing any frame into the one form that trackers take."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from core.errors import UserError
from core.storage.truncation import JPEG, find_truncation

REMEDY = "get the frame again (python -m tracking.check_dataset)"


def read_image(path: str | Path) -> np.ndarray:
    """An image file as `(height, width, 3)` uint8 RGB.

    JPEGs are decoded by jpeg4py where libjpeg-turbo is installed, all else by OpenCV; the content decides, not the
    suffix. Grey images are repeated over three channels, 16 bits are cut down to 8, alpha is dropped. A camera's
    orientation tag is ignored: annotations count pixels as they are stored.

    Raises:
        UserError: it is not there, cut short, or cannot be decoded; the message names the path.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the image cannot be read: {error.strerror}: {REMEDY}") from error
    damage = find_truncation(content)
    if damage is not None:
        raise UserError(f"{path}: not a readable image: {damage}: {REMEDY}")
    image = None
    if content.startswith(JPEG) and turbojpeg_is_usable():
        image = _decode_jpeg(content)
    if image is None:
        image = _decode(content)
    if image is None:
        raise UserError(f"{path}: not a readable image: no decoder knows it: {REMEDY}")
    return image


@cache
def turbojpeg_is_usable() -> bool:
    """Whether jpeg4py finds the library that it binds."""
    try:
        import jpeg4py

        class Probe(jpeg4py.JPEG):
            decompressor = None  # the destructor wants it even where the constructor has failed

        Probe(np.zeros(0, np.uint8))  # loads the library
    except (ImportError, OSError):
        return False
    return True


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    """None where libjpeg-turbo does not convert what is in the file to RGB (CMYK): OpenCV does."""
    import jpeg4py

    try:
        return jpeg4py.JPEG(np.frombuffer(content, np.uint8)).decode()
    except jpeg4py.JPEGRuntimeError:
        return None


def _decode(content: bytes) -> np.ndarray | None:
    # Without the second flag OpenCV turns the image as its tag says.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # a header that promises an absurd size
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def as_rgb(frame: np.ndarray) -> np.ndarray:
    """A frame as `(height, width, 3)` RGB, uint8 or, from 16 bits, float32 in 0..255.

    Args:
        frame: uint8 or uint16 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); alpha is dropped.

    Raises:
        UserError: any other type or shape, or no pixels.
    """
    frame = np.asarray(frame)
    if frame.ndim == 2:
        frame = frame[..., None]
    if frame.dtype not in (np.uint8, np.uint16) or frame.ndim != 3 or frame.shape[2] not in (1, 3, 4):
        raise UserError(
            f"a frame of shape {frame.shape} and type {frame.dtype}: expected uint8 or uint16, grey, RGB or RGBA"
        )
    if not frame.size:
        raise UserError(f"a frame of shape {frame.shape} has no pixels")
    if frame.shape[2] == 1:
        frame = np.repeat(frame, 3, axis=2)
    frame = frame[..., :3]
    return frame / np.float32(257) if frame.dtype == np.uint16 else frame
