"""Data sets that live in memory as uint8 arrays: an epoch costs a crop and a normalisation, no decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from classification.data.augmentation import Normalisation, batch_generator, crop_and_flip, draw_views
from classification.data.config import DataConfig
from classification.data.sampling import batch_rows, check_shard, epoch_order
from classification.data.scan import LeftOut


@dataclass(frozen=True)
class Resident:
    """A split on one device; `rows` (always on the CPU) are the used rows of `images` and `labels`."""

    images: Tensor
    labels: Tensor
    rows: Tensor
    normalisation: Normalisation


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """The training or test part of a data set.

    Attributes:
        images: `(N, C, H, W)`, uint8, on the CPU; may be a memory-mapped file.
        labels: `(N,)`, int64.
        rows: `(M,)`, int64: the rows of `images` and `labels` that are used (readable, of the classes and within
            the training limit).
        mean: per channel, in pixel values.
        std: per channel, in pixel values.
        unreadable: the images that were left out because they cannot be read.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    unreadable: tuple[LeftOut, ...] = ()
    _resident: dict[torch.device, Resident] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def on(self, device: torch.device) -> Resident:
        """The used images on `device`: copied to an accelerator once, however many loaders there are."""
        if device not in self._resident:
            images, labels, rows = self.images, self.labels, self.rows
            if device.type != "cpu":
                images, labels = images.index_select(0, rows).to(device), labels[rows].to(device)
                rows = torch.arange(len(rows))
            normalisation = Normalisation.of(self.mean, self.std, device)
            self._resident[device] = Resident(images, labels, rows, normalisation)
        return self._resident[device]

    def loader(
        self, batch_size: int, device: torch.device, *, training: bool, seed: int = 0, config: DataConfig
    ) -> ArrayLoader:
        """Batches of this split; `config`'s crop and flip apply in training only."""
        return ArrayLoader(
            self, batch_size, device, seed, training, crop_padding=config.crop_padding, flip=config.flip
        )


@dataclass(frozen=True)
class ArrayLoader:
    """Batches of an `ArraySplit`; fulfils `core.training.train.Loader`.

    A batch is a function of (seed, epoch, batch index) and the options alone, and the same on every device. It is made
    on demand: a crop and a normalisation cost so little beside a training step that a thread that works ahead would
    gain nothing.

    Attributes:
        split: where the images come from.
        batch_size: images per batch, all ranks together.
        device: where batches are made and left.
        seed: of the order and the augmentation.
        training: shuffled, augmented, and without the last partial batch; else in order, as is, and complete.
        crop_padding: zero padding of the random crop in pixels; 0 for no crop.
        flip: whether training images are mirrored at random.
        rank: which part of every batch this loader yields.
        world: the number of parts.
    """

    split: ArraySplit
    batch_size: int
    device: torch.device
    seed: int
    training: bool
    crop_padding: int = 0
    flip: bool = False
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return len(batch_rows(len(self.split), self.batch_size, self.training))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches `start`, `start + 1`, … of an epoch that have images for this part.

        Yields:
            inputs `(B, C, H, W)`, float32, normalised, and targets `(B,)`, int64.
        """
        data = self.split.on(self.device)
        count = len(data.rows)
        order = data.rows[epoch_order(count, self.seed, epoch)] if self.training else data.rows
        order = order.to(self.device)
        part = slice(self.rank, None, self.world)
        for index, batch in enumerate(batch_rows(count, self.batch_size, self.training)):
            if index < start:
                continue
            chosen = order[batch][part]
            if not len(chosen):  # in evaluation a last batch may be smaller than there are processes
                continue
            images = data.images.index_select(0, chosen)
            if self.training and (self.crop_padding or self.flip):
                # Drawn for the whole batch, so that the ranks' parts together equal the single process's batch.
                generator = batch_generator(self.seed, epoch, index)
                views = draw_views(batch.stop - batch.start, self.crop_padding, self.flip, generator)
                images = crop_and_flip(images, _upload(views[part], self.device), self.crop_padding)
            yield data.normalisation(images), data.labels.index_select(0, chosen)

    def shard(self, rank: int, world: int) -> ArrayLoader:
        """The loader of one of `world` processes: its part of every batch."""
        check_shard(len(self.split), self.batch_size, world, self.training)
        return replace(self, rank=rank, world=world)


def _upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to `device` without waiting for the work that is queued there; on CUDA, plain `to` would wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def array_split(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    rows: np.ndarray | None = None,
    unreadable: Sequence[LeftOut] = (),
) -> ArraySplit:
    """An `ArraySplit` from numpy arrays `(N, C, H, W)` uint8 and `(N,)`; `rows` (sorted) defaults to all."""
    return ArraySplit(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels.astype(np.int64)),
        rows=torch.from_numpy(np.arange(len(labels)) if rows is None else rows),
        mean=tuple(mean),
        std=tuple(std),
        unreadable=tuple(unreadable),
    )
