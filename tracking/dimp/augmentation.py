"""The first frame's training samples: one crop, shifted, flipped, blurred and rotated (Bhat et al., ICCV 2019, 3.5).

Flips and rotations are about the patch's middle and move the target's centre with the pixels; its width and height are
kept, as in the published code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from tracking.dimp.crops import replicated
from tracking.dimp.settings import TrackerSettings

# A sample: its pixels, and the target's box in them.
Sample = tuple[Tensor, Tensor]


def expanded_size(settings: TrackerSettings) -> int:
    """Side of the patch from which samples are cut; it has the crop's parity, so that both have the same middle."""
    size = round(settings.crop_size * settings.augmentation_expansion)
    return size + (size - settings.crop_size) % 2


def first_frame_samples(
    patch: Tensor, box: Tensor, settings: TrackerSettings, generator: torch.Generator
) -> Iterator[Sample]:
    """Cut the samples of the first frame, the plain crop first.

    Args:
        patch: (3, s, s) float32, s = `expanded_size(settings)`, with the target in its middle.
        box: (4,), x, y, w, h of the target in the patch.
        settings: which samples; `settings.dropout_samples` are not among these, as they are made from features.
        generator: on the CPU, for the random shifts.

    Yields:
        Pixels (3, crop_size, crop_size) and the box (4,) in them.
    """
    size = settings.crop_size
    yield _shifted(patch, box, (0, 0), size)
    for x, y in settings.translations:
        yield _shifted(patch, box, (int(x * size / 2), int(y * size / 2)), size)
    transforms: list[Callable[[Tensor, Tensor, tuple[int, int]], Sample]] = [
        *([partial(_flipped, size=size)] if settings.flip else []),
        *(partial(_blurred, size=size, sigma=sigma) for sigma in settings.blurs),
        *(partial(_rotated, size=size, angle=angle) for angle in settings.rotations),
    ]
    for transform in transforms:
        random = torch.rand(2, generator=generator).tolist()
        shift = tuple(int((value - 0.5) * settings.random_shift * size) for value in random)
        yield transform(patch, box, (shift[0], shift[1]))


def channel_dropout(features: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Features (1, C, h, w) with random channels set to zero and the others scaled up, as `dropout2d` does.

    Args:
        features: of one sample.
        probability: that a channel is set to zero.
        generator: on the CPU, so that all devices drop the same channels.
    """
    kept = torch.rand(features.shape[1], generator=generator) >= probability
    return features * (kept / (1 - probability)).to(features)[None, :, None, None]


def _shifted(patch: Tensor, box: Tensor, shift: tuple[int, int], size: int, margin: int = 0) -> Sample:
    """The middle of a patch, moved so that the target goes `shift` right and down; beyond the patch its border repeats.

    With a margin the pixels reach that much further on all sides; the box is that of the crop without it.
    """
    start = (patch.shape[-1] - size) // 2
    left, top = start - shift[0], start - shift[1]
    pixels = replicated(patch, left - margin, top - margin, size + 2 * margin)
    return pixels, box - box.new_tensor([left, top, 0, 0])


def _flipped(patch: Tensor, box: Tensor, shift: tuple[int, int], size: int) -> Sample:
    x, y, width, height = box.unbind()
    mirrored = torch.stack([patch.shape[-1] - 1 - x - width, y, width, height])
    return _shifted(patch.flip(-1), mirrored, shift, size)


def _blurred(
    patch: Tensor, box: Tensor, shift: tuple[int, int], size: int, sigma: tuple[float, float]
) -> Sample:
    """Gaussian blur by `sigma` (x, y); kernels reach two standard deviations to either side."""
    margin = math.ceil(2 * max(sigma))
    pixels, moved = _shifted(patch, box, shift, size, margin)
    across, down = (_gaussian(value).to(pixels) for value in sigma)
    blurred = functional.conv2d(pixels[:, None], across[None, None, None, :])
    blurred = functional.conv2d(blurred, down[None, None, :, None])[:, 0]
    # The narrower kernel leaves part of the margin.
    x, y = ((blurred.shape[axis] - size) // 2 for axis in (2, 1))
    return blurred[:, y : y + size, x : x + size], moved


def _gaussian(sigma: float) -> Tensor:
    reach = math.ceil(2 * sigma)
    weights = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
    return (weights / weights.sum()).to(torch.float32)


def _rotated(patch: Tensor, box: Tensor, shift: tuple[int, int], size: int, angle: float) -> Sample:
    """Rotated by `angle` degrees, from the x-axis towards the y-axis, around the patch's middle."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    length = patch.shape[-1]
    # Offsets of sample pixels from the middle, before the shift; rotated back, they are places in the patch.
    steps = torch.arange(size, dtype=torch.float32, device=patch.device) - (size - 1) / 2
    x, y = steps[None, :] - shift[0], steps[:, None] - shift[1]
    source = torch.stack([cos * x + sin * y, -sin * x + cos * y], dim=-1)
    grid = source * (2 / length)  # grid_sample's -1 and 1 are the patch's outer edges
    pixels = functional.grid_sample(patch[None], grid[None], padding_mode="border", align_corners=False)[0]
    centre = box[:2] + box[2:] / 2 - (length - 1) / 2
    turned = torch.stack([cos * centre[0] - sin * centre[1], sin * centre[0] + cos * centre[1]])
    middle = turned + box.new_tensor(shift) + (size - 1) / 2
    return pixels, torch.cat([middle - box[2:] / 2, box[2:]])
