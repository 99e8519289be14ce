"""Super-resolution of images of any size by overlapping tiles: the network's memory is bounded by the tile.

A convolutional network's output depends on the input only within its receptive field. If every tile is read with that
much context on each side and only its middle is kept, the assembled tiles equal the whole image's output, up to the
rounding of floating-point sums.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from core.errors import NonFiniteOutput, UserError
from core.modules import evaluating
from super_resolution.images import to_pixels, to_tensor

_LARGEST_STRIP = 2048


@dataclass(frozen=True)
class Tile:
    """A tile in low-resolution pixels.

    Attributes:
        rows, columns: the part of the output that this tile provides.
        seen_rows, seen_columns: the part of the input that the network is given for it.
    """

    rows: slice
    columns: slice
    seen_rows: slice
    seen_columns: slice


def lay_out(images: torch.Tensor) -> torch.Tensor:
    """The same (N, C, H, W) values in the memory layout that suits the device's kernels.

    Given channels last, oneDNN takes images as they are; otherwise it copies every layer's input and output into blocks
    of channels and back. Its kernels for channels last also depend less on which numbers divide the widths
    (benchmarks/super_resolution.py). GPUs keep torch's default.
    """
    if images.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return images.to(memory_format=torch.channels_last)
    return images


def tiles(height: int, width: int, side: int, overlap: int) -> Iterator[Tile]:
    """Cover a `height` x `width` image by tiles of at most `side`², read with `overlap` pixels of context."""
    for rows, seen_rows in _spans(height, side, overlap):
        for columns, seen_columns in _spans(width, side, overlap):
            yield Tile(rows, columns, seen_rows, seen_columns)


@torch.inference_mode()
def receptive_radius(network: nn.Module, scale: int) -> int:
    """How far, in low-resolution pixels, an input pixel reaches in the output.

    It is measured on a double-precision copy on the CPU: one pixel of a narrow strip is set to NaN, and every output
    that becomes NaN depends on it. (Double precision forces direct convolution; Winograd and FFT kernels would smear
    the NaN.)

    Args:
        network: takes 1 x C x H x W, gives 1 x C' x scale*H x scale*W, and acts alike at every position.
        scale: its up-sampling factor.

    Raises:
        UserError: the network looks at the whole image (global pooling, attention), so tiles can't equal it.
    """
    probe = copy.deepcopy(network).cpu().double().eval()
    channels = input_channels(network)
    return max(_radius_along(probe, scale, channels, axis) for axis in (2, 3))


def input_channels(network: nn.Module) -> int:
    """Channels of the images that a network takes: those of its first convolution.

    If these are neither 1 nor 3, an RGB image and a grey one are tried first: modules need not be defined in the order
    of their use, and some networks rearrange the pixels before they convolve.

    Raises:
        UserError: the network has no convolution.
    """
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise UserError(f"{type(network).__name__} has no Conv2d, so the channels of its input are unknown.")
    if first.in_channels in (1, 3):
        return first.in_channels
    probe = copy.deepcopy(network).eval()
    for channels in (3, 1):
        try:
            probe(first.weight.new_zeros(1, channels, 32, 48))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            continue
        return channels
    return first.in_channels


@torch.inference_mode()
def super_resolve(
    network: nn.Module,
    image: np.ndarray,
    scale: int,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    on_tile: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Enlarge one image.

    Args:
        network: takes and gives images in [0, 1], N x C x H x W; used in evaluation mode on the device it is
            on.
        image: H x W (grey) or H x W x 3 (RGB), uint8 or uint16.
        scale: the network's up-sampling factor.
        tile: the largest side of a tile in low-resolution pixels; None takes the image as a whole. The
            network's memory grows with (tile + 2 * overlap)² and not with the image.
        overlap: context on each side of a tile; None measures the network's receptive field.
        on_tile: called after each tile with (tiles done, tiles in all).

    Returns:
        scale*H x scale*W (x 3), of the image's type, clamped and rounded.

    Raises:
        UserError: the tile is not positive, the image has other channels, or the network has another scale.
        NonFiniteOutput: the network's output is not finite everywhere.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise UserError(
            f"super_resolve takes H x W or H x W x 3 images, not shape {image.shape}; split the alpha off."
        )
    if tile is not None and tile < 1:
        raise UserError(
            f"the tile is {tile} pixels; give at least 1, or leave it out for the whole image at once."
        )
    height, width = image.shape[:2]
    if tile is None or (height <= tile and width <= tile):
        plan = list(tiles(height, width, max(height, width), 0))
    else:
        plan = list(
            tiles(height, width, tile, receptive_radius(network, scale) if overlap is None else overlap)
        )
    channels = input_channels(network)
    parameter = next(network.parameters())
    enlarged = np.empty((height * scale, width * scale, *image.shape[2:]), image.dtype)
    with evaluating(network):
        for done, part in enumerate(plan, 1):
            seen = image[part.seen_rows, part.seen_columns]
            output = network(lay_out(to_tensor(seen, channels).to(parameter)))
            _check_scale(output, seen, scale)
            kept = output[
                ...,
                _within(part.rows, part.seen_rows, scale),
                _within(part.columns, part.seen_columns, scale),
            ]
            _check_finite(kept, part, len(plan))
            enlarged[_times(part.rows, scale), _times(part.columns, scale)] = to_pixels(kept, like=image)
            if on_tile is not None:
                on_tile(done, len(plan))
    return enlarged


def _spans(length: int, side: int, overlap: int) -> Iterator[tuple[slice, slice]]:
    """Parts of one axis, and the input that is seen for each; parts differ by at most one pixel in length."""
    count = -(-length // side)
    edges = [length * i // count for i in range(count + 1)]
    for start, stop in itertools.pairwise(edges):
        yield slice(start, stop), slice(max(start - overlap, 0), min(stop + overlap, length))


def _within(part: slice, seen: slice, scale: int) -> slice:
    """`part` as a slice of the network's output for `seen`."""
    return slice((part.start - seen.start) * scale, (part.stop - seen.start) * scale)


def _times(part: slice, scale: int) -> slice:
    """A slice of low-resolution pixels as one of high-resolution pixels."""
    return slice(part.start * scale, part.stop * scale)


def _check_scale(output: torch.Tensor, seen: np.ndarray, scale: int) -> None:
    """Refuse a network whose output is not `scale` times its input."""
    expected = (seen.shape[0] * scale, seen.shape[1] * scale)
    if tuple(output.shape[-2:]) != expected:
        raise UserError(
            f"the network turns {seen.shape[1]} x {seen.shape[0]} pixels into "
            f"{output.shape[-1]} x {output.shape[-2]}, not x{scale}; give the scale it was built for."
        )


def _check_finite(output: torch.Tensor, part: Tile, tiles_in_all: int) -> None:
    """Refuse values that are not finite; they would become black pixels."""
    finite = torch.isfinite(output)
    if not bool(finite.all()):
        where = (
            f" in the tile of rows {part.rows.start}–{part.rows.stop - 1}, columns {part.columns.start}–"
            f"{part.columns.stop - 1}"
            if tiles_in_all > 1
            else ""
        )
        count = finite.numel() - int(finite.sum())
        raise NonFiniteOutput(
            f"{count} of {finite.numel()} values of the network's output{where} are not finite; the checkpoint may "
            "come from a run that diverged"
        )


def _radius_along(probe: nn.Module, scale: int, channels: int, axis: int) -> int:
    """The receptive radius along axis 2 (rows) or 3 (columns), on strips that grow until they hold it."""
    length = 128
    while length <= _LARGEST_STRIP:
        shape = [1, channels, 1, 1]
        shape[axis] = length
        strip = torch.zeros(shape, dtype=torch.float64)
        centre = length // 2
        strip.select(axis, centre).fill_(torch.nan)
        other_axes = [a for a in range(4) if a != axis]
        reached = probe(strip).isnan().any(other_axes[2]).any(other_axes[1]).any(other_axes[0]).nonzero()
        first, last = int(reached.min()) // scale, int(reached.max()) // scale
        if first > 0 and last < length - 1:
            return max(centre - first, last - centre)
        length *= 2
    raise UserError(
        f"the network sees further than {_LARGEST_STRIP // 2} pixels, so tiles can't equal the whole image; "
        f"leave --tile out."
    )
