"""Reading frames, and bringing any frame into the one form that trackers take."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from core.errors import UserError

JPEG_SUFFIXES = (".jpg", ".jpeg")


def read_image(path: str | Path) -> np.ndarray:
    """An image file as `(height, width, 3)` uint8 RGB.

    JPEGs are decoded by jpeg4py where libjpeg-turbo is installed, all else by OpenCV. Grey images are repeated over
    three channels, 16 bits are cut down to 8, alpha is dropped. A camera's orientation tag is ignored: annotations
    count pixels as they are stored.

    Raises:
        UserError: it is not there or cannot be decoded; the message names the path.
    """
    path = Path(path)
    if path.suffix.lower() in JPEG_SUFFIXES and turbojpeg_is_usable():
        image = _decode_jpeg(path)
        if image is not None:
            return image
    # Without that flag OpenCV turns the image as the tag says.
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise UserError(
            f"{path}: not a readable image: get the frame again (python -m tracking.check_dataset)"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@cache
def turbojpeg_is_usable() -> bool:
    """Whether jpeg4py finds the library that it binds."""
    try:
        import jpeg4py

        jpeg4py.JPEG(np.zeros(0, np.uint8))  # loads the library
    except (ImportError, OSError):
        return False
    return True


def _decode_jpeg(path: Path) -> np.ndarray | None:
    """None where libjpeg-turbo does not convert what is in the file to RGB (CMYK, or no JPEG): OpenCV may."""
    import jpeg4py

    try:
        return jpeg4py.JPEG(str(path)).decode()
    except (OSError, jpeg4py.JPEGRuntimeError):
        return None


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
