"""PSNR and SSIM as super-resolution papers count them, and the scores of a benchmark set.

The protocol (EDSR, BasicSR and the reference code of LW-DNA): the output is clamped and rounded to 8 bits; a
border of `scale` pixels is left out; colour is scored on Y of YCbCr; grey images are scored on their raw
values; DIV2K is scored in RGB with a border of scale + 6. A set's score is the mean of its images' scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np
from skimage.metrics import structural_similarity
from torch import nn

from core.errors import NonFiniteOutput, UserError, check_known
from core.training.devices import shared_out
from super_resolution.data.sets import ImagePair, ImageSet, read_pair
from super_resolution.resize import matlab_bicubic
from super_resolution.tiling import receptive_radius, super_resolve

Channel = Literal["y", "rgb"]
Upscaler = Callable[[np.ndarray], np.ndarray]
"""Turns a low-resolution image (H x W or H x W x 3, uint8) into a high-resolution one."""

_Y = np.array([65.481, 128.553, 24.966]) / 255
"""Weights of R, G, B in Y (ITU-R BT.601, 16 to 235), as in MATLAB's rgb2ycbcr, without the offset of 16."""

_SSIM_WINDOW = 11


@dataclass(frozen=True)
class ImageScore:
    """PSNR in dB and SSIM of one image."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class SetScore:
    """Scores of every image of a set, by image name."""

    name: str
    images: Mapping[str, ImageScore]

    @property
    def psnr(self) -> float:
        """Mean PSNR over the images, in dB."""
        return fmean(score.psnr for score in self.images.values())

    @property
    def ssim(self) -> float:
        """Mean SSIM over the images."""
        return fmean(score.ssim for score in self.images.values())


def psnr(sr: np.ndarray, hr: np.ndarray, border: int, channel: Channel = "y") -> float:
    """Peak signal-to-noise ratio in dB, infinite for equal images.

    Args:
        sr: the output, uint8, H x W (grey) or H x W x 3 (RGB).
        hr: the truth, of the same shape and type.
        border: pixels left out on each side.
        channel: `"y"` scores colour on its luminance, `"rgb"` on all three channels; grey is scored as it is.

    Raises:
        UserError: types or shapes differ or aren't allowed, or nothing is left within the border.
    """
    first, second = _scored(sr, hr, border, channel)
    error = np.mean((first - second) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(sr: np.ndarray, hr: np.ndarray, border: int, channel: Channel = "y") -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window 11 x 11, sigma 1.5, at places where it fits entirely.

    Arguments and errors as for `psnr`; colour with `channel="rgb"` gives the mean over the channels. At
    least 11 x 11 pixels must be left within the border.
    """
    first, second = _scored(sr, hr, border, channel)
    if min(first.shape[:2]) < _SSIM_WINDOW:
        raise UserError(
            f"SSIM needs {_SSIM_WINDOW} x {_SSIM_WINDOW} pixels within the border of {border}, "
            f"and this image leaves {first.shape[1]} x {first.shape[0]}; score it by PSNR or leave it out."
        )
    return float(
        structural_similarity(
            first,
            second,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=2 if first.ndim == 3 else None,
        )
    )


def luminance(image: np.ndarray) -> np.ndarray:
    """Y of YCbCr (16 to 235, not rounded) of an H x W x 3 uint8 image; grey H x W values stay."""
    values = image.astype(np.float64)
    return values if image.ndim == 2 else values @ _Y + 16


def protocol(set_name: str, scale: int) -> tuple[int, Channel]:
    """Border and channel for scoring a benchmark set."""
    return (scale + 6, "rgb") if set_name == "DIV2K" else (scale, "y")


def bicubic(scale: int) -> Upscaler:
    """The upscaler in the first row of every table."""
    return lambda image: matlab_bicubic(image, scale)


def by_network(network: nn.Module, scale: int, tile: int | None = None) -> Upscaler:
    """An upscaler by a trained network; `tile` as for `super_resolution.tiling.super_resolve`."""
    overlap = None if tile is None else receptive_radius(network, scale)
    return lambda image: super_resolve(network, image, scale, tile=tile, overlap=overlap)


def score_set(upscale: Upscaler, benchmark: ImageSet) -> SetScore:
    """Score an upscaler on a benchmark set by that set's protocol.

    Args:
        upscale: from `bicubic`, `by_network`, or the user's own.
        benchmark: from `super_resolution.data.open_benchmarks`.

    Raises:
        UserError: an image can't be read, or LR and HR sizes do not match.
        NonFiniteOutput: a network's output for one of the images is not finite.
    """
    return SetScore(
        benchmark.name, {pair.name: score_pair(upscale, benchmark, pair) for pair in benchmark.pairs}
    )


def score_pair(upscale: Upscaler, benchmark: ImageSet, pair: ImagePair) -> ImageScore:
    """`score_set` of one of its images."""
    border, channel = protocol(benchmark.name, benchmark.scale)
    hr, lr = read_pair(pair, benchmark.scale)
    try:
        sr = upscale(lr)
        return ImageScore(psnr(sr, hr, border, channel), ssim(sr, hr, border, channel))
    except UserError as error:
        raise UserError(f"'{pair.hr}' can't be scored: {error}") from error
    except NonFiniteOutput as error:
        raise NonFiniteOutput(f"'{pair.hr}' can't be scored: {error}") from error


def metrics(network: nn.Module, benchmarks: Sequence[ImageSet], tile: int | None = None) -> dict[str, float]:
    """A network's mean scores as a flat dict for the log of a training: `Set5_psnr`, `Set5_ssim`, …

    Args:
        network: on its device; its mode is left as it was.
        benchmarks: sets of one scale, that of the network; see `mean_scores` for several processes.
        tile: as for `super_resolution.tiling.super_resolve`.
    """
    return mean_scores(lambda scale: by_network(network, scale, tile), benchmarks)


def mean_scores(upscaler: Callable[[int], Upscaler], benchmarks: Sequence[ImageSet]) -> dict[str, float]:
    """Mean scores of an upscaler under the names of `metrics`.

    Launched processes share out the images, and each image is scored once; all processes have to call this.

    Args:
        upscaler: makes one for a scale, such as `bicubic`.
        benchmarks: the sets.
    """
    upscalers = [upscaler(images.scale) for images in benchmarks]
    items = [
        (upscale, images, pair)
        for upscale, images in zip(upscalers, benchmarks, strict=True)
        for pair in images.pairs
    ]
    scores = iter(shared_out(items, lambda item: score_pair(*item)))
    sets = [
        SetScore(images.name, {pair.name: next(scores) for pair in images.pairs}) for images in benchmarks
    ]
    return {
        f"{score.name}_{kind}": value
        for score in sets
        for kind, value in (("psnr", score.psnr), ("ssim", score.ssim))
    }


def _scored(sr: np.ndarray, hr: np.ndarray, border: int, channel: Channel) -> tuple[np.ndarray, np.ndarray]:
    """Both images as they are compared: float64, without the border, on the scored channel."""
    for image in (sr, hr):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise UserError(
                f"PSNR and SSIM take uint8 images of H x W or H x W x 3, not {image.dtype} of {image.shape}; "
                f"clamp, round and convert first."
            )
    if sr.shape != hr.shape:
        raise UserError(
            f"the images differ in shape, {sr.shape} and {hr.shape}; crop the truth to LR size x scale."
        )
    check_known("unknown channel", [channel], ("y", "rgb"))
    height, width = hr.shape[:2]
    if border < 0 or 2 * border >= min(height, width):
        raise UserError(
            f"a border of {border} leaves nothing of a {width} x {height} image; give a smaller one."
        )
    inner = (slice(border, height - border), slice(border, width - border))
    first, second = sr[inner], hr[inner]
    if channel == "y":
        return luminance(first), luminance(second)
    return first.astype(np.float64), second.astype(np.float64)
