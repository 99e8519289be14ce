"""Side-by-side crops: the truth and the results of several upscalers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import uniform_filter

from core.errors import UserError
from core.report.page import Picture, Section, Slider, Text, png
from core.report.style import save_figure, styled
from super_resolution.data.sets import ImagePair, read_pair
from super_resolution.evaluation import Upscaler, luminance, psnr


@dataclass(frozen=True)
class Compared:
    """The same crop of an image: the truth and the results of upscalers.

    Attributes:
        name: of the image.
        crops: title -> pixels, uint8; "HR" is the truth.
        psnr: title -> PSNR in dB on Y of the whole image, border = scale; the truth has none.
    """

    name: str
    crops: Mapping[str, np.ndarray]
    psnr: Mapping[str, float]


def compare_crops(
    pairs: Sequence[ImagePair], scale: int, upscalers: Mapping[str, Upscaler], side: int = 96
) -> list[Compared]:
    """Crops of images, each at the place where the first upscaler (bicubic) is furthest from the truth.

    Args:
        pairs: the images to show.
        scale: the up-sampling factor.
        upscalers: from a title to an upscaler (`super_resolution.evaluation`).
        side: side of the crops in HR pixels; smaller images are shown whole.

    Raises:
        UserError: nothing to show, or an image can't be read.
    """
    if not pairs or not upscalers:
        raise UserError("a comparison needs at least one image and one upscaler.")
    found = []
    for pair in pairs:
        hr, lr = read_pair(pair, scale)
        results = {title: upscale(lr) for title, upscale in upscalers.items()}
        region = _worst_region(hr, next(iter(results.values())), side)
        crops = {"HR": hr[region], **{title: sr[region] for title, sr in results.items()}}
        found.append(
            Compared(pair.name, crops, {title: psnr(sr, hr, scale) for title, sr in results.items()})
        )
    return found


@styled
def save_comparison(compared: Sequence[Compared], path: str | Path) -> None:
    """Save a figure with one row per image: the truth, then each upscaler's result on the same crop; PNG and SVG."""
    columns = len(compared[0].crops)
    figure = Figure(figsize=(2.4 * columns, 2.6 * len(compared)), layout="constrained")
    axes = figure.subplots(len(compared), columns, squeeze=False)
    for row, one in zip(axes, compared):
        for axis, (title, crop) in zip(row, one.crops.items()):
            _show(
                axis,
                crop,
                f"{title}\n{one.psnr[title]:.2f} dB" if title in one.psnr else f"{one.name}: {title}",
            )
    save_figure(figure, Path(path))


def slider_section(compared: Sequence[Compared]) -> Section:
    """The same crops for report.html, where a slider compares two of the pictures."""
    sliders = []
    for one in compared:
        pictures = []
        for title, crop in one.crops.items():
            said = f"{title}, {one.psnr[title]:.2f} dB" if title in one.psnr else title
            pictures.append(Picture(png(crop), f"{one.name}: {title}", said, crop.shape[1], crop.shape[0]))
        sliders.append(Slider(tuple(pictures), one.name))
    told = Text(
        ["Each crop is the one where bicubic is furthest from the truth; PSNR is that of the whole image."]
    )
    return Section("Side by side", (told, *sliders))


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
