"""Image files as classification reads them: always three channels of 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.storage.images import eight_bits, read_image, split_alpha, three_channels


def read_rgb(path: str | Path, *, upright: bool = False) -> np.ndarray:
    """Read an image file as `(height, width, 3)`, uint8, RGB.

    Grey is repeated over three channels, 16 bits are scaled to 8, and transparent pixels become white. Of several pages
    or frames the first is read.

    Args:
        path: the file.
        upright: turn the image as the camera's tag says; ImageNet is read without, as in the pipelines behind published
            figures.

    Raises:
        BadImage: see `core.storage.images.read_image`.
    """
    colour, alpha = split_alpha(read_image(path, upright=upright, first=True))
    return three_channels(eight_bits(colour) if alpha is None else _on_white(colour, alpha))


def _on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Straight alpha over white: `(H, W)` or `(H, W, 3)`, uint8 or uint16 -> the same shape, uint8."""
    full = np.float32(np.iinfo(colour.dtype).max)
    shown = (alpha if colour.ndim == 2 else alpha[..., None]) / full
    return np.rint(255 * (colour / full * shown + (1 - shown))).astype(np.uint8)
