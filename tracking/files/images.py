"""Reads frames, and converts any frame to the one form that trackers take."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.errors import UserError
from core.storage.images import BadImage, eight_bits, read_image, split_alpha, three_channels


def read_frame(path: str | Path) -> np.ndarray:
    """An image file as `(height, width, 3)` uint8 RGB.

    Grey is repeated over three channels, 16 bits are rounded to 8, alpha is dropped. A camera's orientation tag is
    ignored: annotations count pixels as they are stored.

    Raises:
        BadImage: see `core.storage.images.read_image`.
    """
    try:
        image = read_image(path, upright=False, first=True)
    except BadImage as error:
        raise BadImage(f"{error}: get the frame again (python -m tracking.check_dataset)") from error
    return np.ascontiguousarray(three_channels(eight_bits(split_alpha(image)[0])))


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
