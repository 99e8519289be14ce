"""Training batches of random crops, flipped and rotated: a function of seed, epoch and step alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from core.errors import UserError
from super_resolution.data.cache import CachedImages
from super_resolution.images import LUMA

_ORDER, _CROPS = 0, 1  # keys that keep the two uses of the seed from sharing random numbers


@dataclass(frozen=True)
class CropLoader:
    """Batches of (LR crops, HR crops) from a pixel cache; a `core.training.train.Loader`.

    Attributes:
        images: the cached training set.
        batch_size: crops per batch, over all ranks.
        patch: side of an HR crop in pixels, a multiple of the scale.
        crops_per_epoch: crops of one epoch; the numbers of crops of any two images differ by at most one.
        seed: with the epoch and the step, determines all random numbers.
        augment: flip and rotate each crop by one of the square's eight symmetries.
        channels: 3, or 1 for the luma (ITU-R BT.601) of the crops.
        rank, world: which part of every batch is yielded; see `shard`.

    Raises:
        UserError: the crop is no multiple of the scale or larger than an image, or an epoch holds less than
            a batch.
    """

    images: CachedImages
    batch_size: int
    patch: int
    crops_per_epoch: int
    seed: int = 0
    augment: bool = True
    channels: int = 3
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        scale = self.images.scale
        if self.patch < scale or self.patch % scale:
            raise UserError(
                f"data.patch is {self.patch} HR pixels; it must be a multiple of the scale {scale}."
            )
        for name, (height, width) in zip(self.images.names, self.images.hr_sizes):
            if min(height, width) < self.patch:
                raise UserError(
                    f"image '{name}' has {width} x {height} pixels, too few for crops of "
                    f"data.patch={self.patch}; leave it out or set a smaller patch."
                )
        if not 0 < self.batch_size <= self.crops_per_epoch:
            raise UserError(
                f"an epoch of {self.crops_per_epoch} crops holds no batch of {self.batch_size}; "
                f"raise data.crops_per_epoch or lower train.batch_size."
            )
        if self.batch_size % self.world:
            raise UserError(
                f"a batch of {self.batch_size} can't be shared equally by {self.world} processes."
            )

    def __len__(self) -> int:
        """Batches per epoch; crops that do not fill a batch are left out."""
        return self.crops_per_epoch // self.batch_size

    def shard(self, rank: int, world: int) -> CropLoader:
        """The loader of process `rank` of `world`: each yields its equal, contiguous part of every batch."""
        return replace(self, rank=rank, world=world)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches `start`, `start` + 1, … of an epoch, each prepared while the one before is used.

        Yields:
            LR crops, B x C x patch/scale x patch/scale, and HR crops, B x C x patch x patch; float32 in [0,
            1].
        """
        order = self._image_order(epoch)
        with ThreadPoolExecutor(1) as pool:
            upcoming = None
            for step in range(start, len(self)):
                current = upcoming or pool.submit(self._batch, order, epoch, step)
                upcoming = pool.submit(self._batch, order, epoch, step + 1) if step + 1 < len(self) else None
                yield current.result()

    def _image_order(self, epoch: int) -> np.ndarray:
        """Image indices of an epoch's crops: as many shuffles of the whole set as are needed."""
        random = _random(self.seed, _ORDER, epoch, 0)
        rounds = -(-self.crops_per_epoch // len(self.images))
        return np.concatenate([random.permutation(len(self.images)) for _ in range(rounds)])[
            : self.crops_per_epoch
        ]

    def _batch(self, order: np.ndarray, epoch: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's part of a batch."""
        draws = _random(self.seed, _CROPS, epoch, step).random((self.batch_size, 3))
        size = self.batch_size // self.world
        first = self.rank * size
        scale, low = self.images.scale, self.patch // self.images.scale
        lr = np.empty((size, 3, low, low), np.uint8)
        hr = np.empty((size, 3, self.patch, self.patch), np.uint8)
        for slot in range(size):
            index = order[step * self.batch_size + first + slot]
            height, width = self.images.hr_sizes[index]
            vertical, horizontal, turn = draws[first + slot]
            top = int(vertical * (height // scale - low + 1))
            left = int(horizontal * (width // scale - low + 1))
            symmetry = int(turn * 8) if self.augment else 0
            lr[slot] = _turn(self.images.lr(index)[:, top : top + low, left : left + low], symmetry)
            top, left = top * scale, left * scale
            hr[slot] = _turn(
                self.images.hr(index)[:, top : top + self.patch, left : left + self.patch], symmetry
            )
        return _as_floats(lr, self.channels), _as_floats(hr, self.channels)


def _random(*entropy: int) -> np.random.Generator:
    """A generator for one purpose; all keys have one length, since NumPy pads shorter ones with zeros."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def _turn(crop: np.ndarray, symmetry: int) -> np.ndarray:
    """One of the eight symmetries of the square, by its number: transpose, flip rows, flip columns."""
    if symmetry & 4:
        crop = crop.transpose(0, 2, 1)
    if symmetry & 2:
        crop = crop[:, ::-1]
    return crop[:, :, ::-1] if symmetry & 1 else crop


def _as_floats(crops: np.ndarray, channels: int) -> torch.Tensor:
    """B x 3 x H x W uint8 in 0 to 255 -> B x `channels` x H x W float32 in [0, 1]."""
    colours = torch.from_numpy(crops).float().div_(255)
    if channels == 3:
        return colours
    return (colours * torch.from_numpy(LUMA).float().view(3, 1, 1)).sum(dim=1, keepdim=True)
