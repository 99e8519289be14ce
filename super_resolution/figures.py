"""Side-by-side crops: the truth and what several upscalers make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import uniform_filter

from core.errors import UserError
from core.storage.files import write_with
from super_resolution.data.sets import ImagePair, read_pair
from super_resolution.evaluation import Upscaler, luminance, psnr


def save_comparison(
    pairs: Sequence[ImagePair],
    scale: int,
    upscalers: Mapping[str, Upscaler],
    path: str | Path,
    side: int = 96,
) -> None:
    """Save a figure with one row per image: the truth, then each upscaler's result on the same crop.

    The crop is the one in which the first upscaler (by custom bicubic) is furthest from the truth, so that
    nobody chooses it. Titles give each result's PSNR on Y over the whole image, border = scale.

    Args:
        pairs: the images to show.
        scale: the up-sampling factor.
        upscalers: from a title to an upscaler (`super_resolution.evaluation`).
        path: the picture to write, by custom `*.png`.
        side: side of the crops in HR pixels; smaller images are shown whole.

    Raises:
        UserError: nothing to show, or an image can't be read.
    """
    if not pairs or not upscalers:
        raise UserError("a comparison needs at least one image and one upscaler.")
    columns = 1 + len(upscalers)
    figure = Figure(figsize=(2.4 * columns, 2.6 * len(pairs)), layout="constrained")
    axes = figure.subplots(len(pairs), columns, squeeze=False)
    for row, pair in zip(axes, pairs):
        hr, lr = read_pair(pair, scale)
        results = {title: upscale(lr) for title, upscale in upscalers.items()}
        region = _worst_region(hr, next(iter(results.values())), side)
        _show(row[0], hr[region], f"{pair.name}: HR")
        for axis, (title, sr) in zip(row[1:], results.items()):
            _show(axis, sr[region], f"{title}\n{psnr(sr, hr, scale):.2f} dB")
    write_with(path, lambda temporary: figure.savefig(temporary, dpi=150))


def _worst_region(hr: np.ndarray, sr: np.ndarray, side: int) -> tuple[slice, slice]:
    """The square with the largest mean squared error on Y."""
    error = uniform_filter((luminance(hr) - luminance(sr)) ** 2, side, mode="constant")
    height, width = error.shape
    half = side // 2
    inner = error[half : height - half, half : width - half]
    if inner.size == 0:
        return slice(0, side), slice(0, side)
    top, left = np.unravel_index(int(inner.argmax()), inner.shape)
    return slice(int(top), int(top) + side), slice(int(left), int(left) + side)


def _show(axis: Axes, image: np.ndarray, title: str) -> None:
    """One picture, pixels as squares."""
    axis.imshow(image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(title, fontsize=8)
    axis.axis("off")
