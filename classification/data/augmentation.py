"""Augmentation of whole batches as tensor operations, on whatever device the batch lies.

Random numbers are drawn on the CPU from a generator of their own for every batch, so that a batch is the
same on every device and can be made without making the batches before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def batch_generator(seed: int, epoch: int, batch: int) -> torch.Generator:
    """A CPU generator that depends on the three numbers alone; a change of any gives another stream."""
    entropy = np.random.SeedSequence([seed, epoch, batch]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(entropy[0] >> np.uint64(1)))


def draw_views(count: int, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Draw a crop position and a side for each of `count` images.

    Args:
        count: number of images.
        padding: zero pixels on every side; each of the `(2 * padding + 1) ** 2` positions is equally likely.
        flip: whether each image is mirrored with probability 1/2.
        generator: a CPU generator; the same numbers are drawn whatever the options, so that one option does not change
            the other's draws.

    Returns:
        `(count, 3)`, int64, on the CPU: the crop's top and left within the padded image, and 1 for mirrored.
    """
    offsets = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)
    mirrored = torch.rand((count, 1), generator=generator) < 0.5
    return torch.cat((offsets, mirrored & flip), dim=1)


def crop_and_flip(images: Tensor, views: Tensor, padding: int) -> Tensor:
    """Crop zero-padded images to their own size, and mirror some of them.

    The padding is black: it is added to raw pixels, before normalisation, as in the CIFAR recipe of He et al.
    (CVPR 2016, section 4.2).

    Args:
        images: `(N, C, H, W)`, uint8.
        views: `(N, 3)` from `draw_views`, on the device of `images`.
        padding: as given to `draw_views`.

    Returns:
        A new tensor of the same shape, type and device.
    """
    count, channels, height, width = images.shape
    top, left, mirrored = views.unbind(1)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = left[:, None] + torch.where(mirrored[:, None] > 0, columns.flip(0), columns)
    # One gather over flattened pixels: twice as fast on a CPU as cropping and mirroring one after the other.
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    pixels = pixels.view(count, 1, -1).expand(-1, channels, -1)
    padded = functional.pad(images, (padding,) * 4).flatten(2)
    return padded.gather(2, pixels).view_as(images)


@dataclass(frozen=True)
class Normalisation:
    """Turns uint8 pixels into float32 inputs: `(pixel - mean) / std`, computed as `pixel * scale - shift`.

    Attributes:
        scale: `(1, C, 1, 1)`, float32, on the device of the batches.
        shift: likewise.
    """

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float], device: torch.device) -> Normalisation:
        """From a mean and a standard deviation per channel, in pixel values (0 to 255 for photographs)."""
        scale = torch.tensor(std, dtype=torch.float64).reciprocal().view(1, -1, 1, 1)
        shift = torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1) * scale
        return cls(scale.float().to(device), shift.float().to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise `(N, C, H, W)` uint8 images."""
        return torch.mul(images, self.scale).sub_(self.shift)
