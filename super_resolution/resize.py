"""MATLAB's `imresize(image, scale, "bicubic")`, bit for bit, for 8- and 16-bit images.

Low-resolution benchmark images are made with that function, and PSNR depends on every bit of them. It differs from
other bicubic filters in three points: the Keys kernel has a = −0.5 and is stretched by 1/scale when it shrinks an
image; the axis that shrinks most is filtered first; and the intermediate image is rounded to the integer type between
the two axes.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from core.errors import UserError, check_known

Edges = Literal["replicate", "mirror"]
"""How pixels beyond the border are filled: with the nearest pixel (older MATLAB) or the mirrored image (newer)."""

_KERNEL_WIDTH = 4.0


def matlab_bicubic(image: np.ndarray, scale: float, *, edges: Edges = "replicate") -> np.ndarray:
    """Resize an image as MATLAB's `imresize` does with its default bicubic kernel and antialiasing.

    Args:
        image: H x W or H x W x C, uint8 or uint16.
        scale: the factor on both axes: 0.25 makes the low-resolution image for x4, 4 enlarges by four.
        edges: `"replicate"` reproduces the published LR images of Set5 and Set14; `"mirror"` is what later
            MATLAB releases (and BasicSR's Python port) do within two kernel widths of the border.

    Returns:
        ceil(H * scale) x ceil(W * scale) (x C) of the same type.

    Raises:
        UserError: another type or number of axes, an empty image, or a scale that is not positive.
    """
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or 0 in image.shape:
        raise UserError(
            f"matlab_bicubic takes a non-empty H x W or H x W x C image of uint8 or uint16, "
            f"not {image.dtype} of shape {image.shape}; round and convert it first."
        )
    if not 0 < scale < float("inf"):
        raise UserError(f"matlab_bicubic: the scale is {scale}; give a positive number, such as 0.25 or 4.")
    check_known("matlab_bicubic: unknown edges", [edges], get_args(Edges))
    # The two axes have one scale here, so MATLAB's stable sort by scale leaves rows before columns.
    return _resize_axis(_resize_axis(image, 0, scale, edges), 1, scale, edges)


def crop_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """Cut rows and columns at the bottom and right so that both sides are multiples of `scale` ("modcrop").

    Raises:
        UserError: a side is shorter than `scale`, so nothing would be left.
    """
    height, width = image.shape[0] // scale, image.shape[1] // scale
    if height == 0 or width == 0:
        raise UserError(
            f"an image of {image.shape[1]} x {image.shape[0]} pixels is too small for x{scale}: "
            f"each side needs at least {scale} pixels; leave it out."
        )
    return image[: height * scale, : width * scale]


def downscale(image: np.ndarray, scale: int) -> np.ndarray:
    """The LR counterpart of an HR image: cropped to a multiple of `scale`, then shrunk by bicubic.

    Its edges are those of the published LR images of Set5 and Set14; `matlab_bicubic` also offers those of later MATLAB
    releases.
    """
    return matlab_bicubic(crop_to_multiple(image, scale), 1 / scale)


def _resize_axis(image: np.ndarray, axis: int, scale: float, edges: Edges) -> np.ndarray:
    """Filter one axis and round half up to the image's type, as MATLAB's integer arithmetic does."""
    weights, indices = _contributions(image.shape[axis], scale, edges)
    shape = [1] * image.ndim
    shape[axis] = -1
    total = np.zeros([len(weights) if a == axis else n for a, n in enumerate(image.shape)])
    # Tap by tap, so that sums stay in MATLAB's order and no (pixels x taps) array is held.
    for tap in range(weights.shape[1]):
        total += weights[:, tap].reshape(shape) * image.take(indices[:, tap], axis)
    limit = np.iinfo(image.dtype).max
    return np.floor(total + 0.5).clip(0, limit).astype(image.dtype)


def _contributions(length: int, scale: float, edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    """Weights and source indices of every output position along one axis, both `outputs x taps`."""
    outputs = int(np.ceil(length * scale))
    stretch = min(scale, 1.0)
    width = _KERNEL_WIDTH / stretch
    centres = (np.arange(1, outputs + 1) / scale) + 0.5 * (1 - 1 / scale)  # one-based, as in MATLAB
    first = np.floor(centres - width / 2)
    taps = int(np.ceil(width)) + 2
    positions = first[:, None] + np.arange(taps)
    weights = stretch * _keys_cubic(stretch * (centres[:, None] - positions))
    weights /= weights.sum(axis=1, keepdims=True)
    indices = positions.astype(np.int64) - 1
    if edges == "replicate":
        indices = indices.clip(0, length - 1)
    else:
        indices = indices % (2 * length)
        indices = np.where(indices < length, indices, 2 * length - 1 - indices)
    used = (weights != 0).any(axis=0)
    return weights[:, used], indices[:, used]


def _keys_cubic(x: np.ndarray) -> np.ndarray:
    """Keys, "Cubic convolution interpolation for digital image processing" (1981), a = −0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
