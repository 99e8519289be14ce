"""Data sets too large for memory: worker processes decode the images while the network trains."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classification.data.augmentation import Normalisation
from classification.data.config import BadImages, DataConfig
from classification.data.decoded import DecodedFiles
from classification.data.images import read_rgb
from classification.data.sampling import batch_rows, check_shard, epoch_order
from classification.data.scan import LeftOut
from classification.data.views import CROP, central_view, train_view
from core.errors import UserError
from core.storage.images import BadImage
from core.training.batches import batches_of
from core.training.workers import at_most_cores, begin_worker


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """The training or test part of a data set of image files.

    Attributes:
        paths: `(N,)`, file names as bytes in one array: worker processes share an array, but would copy a list.
        labels: `(N,)`, int64.
        mean: per channel, in pixel values.
        std: per channel, in pixel values.
        size: side in pixels of the square that a network sees.
        read: a file's name -> `(H, W, 3)`, uint8, RGB, or `BadImage`.
        decoded: the decoded images of all rows, if they were kept; None if files are decoded during training.
        unreadable: the rows of files that could not be read so far, and why; loaders add to it.
    """

    paths: np.ndarray
    labels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int = CROP
    read: Callable[[str], np.ndarray] = read_rgb
    decoded: DecodedFiles | None = None
    unreadable: dict[int, str] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, row: int) -> np.ndarray:
        """The pixels of a row, `(H, W, 3)`, uint8.

        Raises:
            BadImage: it cannot be read.
        """
        if self.decoded is None:
            return self.read(os.fsdecode(self.paths[row]))
        if row in self.unreadable:
            raise BadImage(self.unreadable[row])
        return self.decoded[row]

    def chosen(self, rows: np.ndarray) -> FolderSplit:
        """The split with some of the rows, in their order."""
        decoded = None if self.decoded is None else self.decoded.chosen(rows)
        unreadable = {
            new: self.unreadable[old] for new, old in enumerate(rows.tolist()) if old in self.unreadable
        }
        return replace(
            self, paths=self.paths[rows], labels=self.labels[rows], decoded=decoded, unreadable=unreadable
        )

    def joined(self, more: FolderSplit) -> FolderSplit:
        """The images of this split, then those of another split of the same data set."""
        own, theirs, decoded = self.decoded, more.decoded, None
        if own is not None and theirs is not None and own.path == theirs.path:
            sizes, offsets = (
                np.concatenate(pair) for pair in ((own.sizes, theirs.sizes), (own.offsets, theirs.offsets))
            )
            decoded = replace(own, sizes=sizes, offsets=offsets)
        later = {len(self) + row: why for row, why in more.unreadable.items()}
        return replace(
            self,
            paths=np.concatenate([self.paths, more.paths]),
            labels=np.concatenate([self.labels, more.labels]),
            decoded=decoded,
            unreadable={**self.unreadable, **later},
        )

    def left_out(self, damages: Mapping[int, str]) -> Iterator[LeftOut]:
        """The files of unreadable rows, in the order of the rows."""
        return (LeftOut(os.fsdecode(self.paths[row]), damages[row]) for row in sorted(damages))

    def recall(self, paths: Collection[str]) -> None:
        """Count images that the run left out before it was resumed, if they are still unreadable.

        Args:
            paths: files, of this split or not.
        """
        for row in np.flatnonzero(np.isin(self.paths, [os.fsencode(path) for path in paths])):
            try:
                self.image(int(row))
            except BadImage as error:
                self.unreadable[int(row)] = str(error)

    def require_readable_classes(self, unreadable: Collection[int]) -> None:
        """Refuse to go on when a class has vanished: the error of the other classes would look right.

        Args:
            unreadable: rows that cannot be read.

        Raises:
            UserError: all images of a class are among them.
        """
        rows = np.array(sorted(unreadable), dtype=np.int64)
        bad = np.bincount(self.labels[rows], minlength=int(self.labels.max()) + 1)
        gone = np.flatnonzero((bad > 0) & (bad == np.bincount(self.labels)))
        if gone.size:
            own = rows[self.labels[rows] == gone[0]]
            more = f", nor any of {gone.size - 1} other classes" if gone.size > 1 else ""
            raise UserError(
                f"none of the {len(own)} images of the class with '{os.fsdecode(self.paths[own[0]])}' can be read"
                f"{more}; repair them, or take the class out of every part"
            )

    def loader(
        self, batch_size: int, device: torch.device, *, training: bool, seed: int = 0, config: DataConfig
    ) -> FolderLoader:
        """Batches of this split; `config.flip` applies in training only."""
        return FolderLoader(
            self, batch_size, device, seed, training, config.flip, config.bad_images, config.workers
        )


@dataclass(frozen=True)
class FolderLoader:
    """Batches of a `FolderSplit`; fulfils `core.training.train.Loader`.

    Every image's crop is a function of (seed, epoch, image) alone, whatever the number of workers.

    Attributes:
        split: where the images come from.
        batch_size: images per batch, all ranks together.
        device: where batches are put.
        seed: of the order and the crops.
        training: shuffled, randomly cropped, and without the last partial batch; else in order, central
            crops, and complete.
        flip: whether training images are mirrored at random.
        bad_images: "error" or "skip"; a batch with skipped images is smaller.
        workers: number of worker processes; 0 decodes in this one.
        rank: which part of every batch this loader yields.
        world: the number of parts.
    """

    split: FolderSplit
    batch_size: int
    device: torch.device
    seed: int
    training: bool
    flip: bool
    bad_images: BadImages
    workers: int
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return len(batch_rows(len(self.split), self.batch_size, self.training))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches `start`, `start + 1`, … of an epoch that have images for this part.

        Yields:
            inputs `(B, 3, size, size)`, float32, normalised, and targets `(B,)`, int64.

        Raises:
            UserError: an image cannot be read, and `bad_images` is "error"; or no image of a batch or class can.
        """
        normalisation = Normalisation.of(self.split.mean, self.split.std, self.device)

        def loader_from(batch: int) -> DataLoader:
            return DataLoader(
                _Views(self.split, self.training, self.flip, self.seed, epoch),
                batch_sampler=self._batches(epoch, batch),
                collate_fn=_collate,
                num_workers=at_most_cores(self.workers),
                worker_init_fn=begin_worker,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # drawing from the global one would change the run's dropout
            )

        for batch, (*samples, damages) in enumerate(batches_of(loader_from, start), start):
            self._report(damages)
            images, labels = samples
            if not len(labels) and self.world > 1:
                if not self.training:
                    continue  # other processes have the rest of the batch
                images, labels = self._in_their_place(epoch, batch)
            if not len(labels):
                raise UserError(f"no image of a batch can be read; the first: {next(iter(damages.values()))}")
            yield (
                normalisation(images.to(self.device, non_blocking=True)),
                labels.to(self.device, non_blocking=True),
            )

    def shard(self, rank: int, world: int) -> FolderLoader:
        """The loader of one of `world` processes: its part of every batch."""
        check_shard(len(self.split), self.batch_size, world, self.training)
        return replace(self, rank=rank, world=world)

    def _batches(self, epoch: int, start: int) -> list[list[int]]:
        count = len(self.split)
        order = epoch_order(count, self.seed, epoch) if self.training else torch.arange(count)
        batches = batch_rows(count, self.batch_size, self.training)[start:]
        parts = [order[batch][self.rank :: self.world].tolist() for batch in batches]
        # In evaluation a last batch may be smaller than there are processes.
        return parts if self.training else [part for part in parts if part]

    def _in_their_place(self, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        """The next readable image of the epoch, for a batch whose part here has none; no image if none is left.

        Other processes have images of that batch, and wait for this one's gradients.
        """
        views = _Views(self.split, self.training, self.flip, self.seed, epoch)
        count = len(self.split)
        after = batch_rows(count, self.batch_size, self.training)[batch].stop
        for row in epoch_order(count, self.seed, epoch).roll(-after).tolist():
            images, labels, damages = _collate([views[row]])
            self._report(damages)
            if len(labels):
                warnings.warn(
                    f"no image of process {self.rank}'s part of a batch can be read: it takes "
                    f"'{os.fsdecode(self.split.paths[row])}' in their place",
                    stacklevel=3,
                )
                break
        return images, labels

    def _report(self, damages: dict[int, str]) -> None:
        known = len(self.split.unreadable)
        for row, damage in damages.items():
            if self.bad_images == "error":
                raise UserError(f"{damage}; repair it, or leave such images out with data.bad_images='skip'")
            if row not in self.split.unreadable:
                self.split.unreadable[row] = damage
                warnings.warn(f"{damage}; left out", stacklevel=3)
        if len(self.split.unreadable) > known:
            self.split.require_readable_classes(self.split.unreadable)


@dataclass(frozen=True)
class _Views(Dataset):
    """One epoch's views of the images; an image that cannot be read is returned as its row and damage."""

    split: FolderSplit
    training: bool
    flip: bool
    seed: int
    epoch: int

    def __getitem__(self, row: int) -> tuple[Tensor, int] | tuple[int, str]:
        try:
            image = self.split.image(row)
        except BadImage as error:
            return row, str(error)
        if self.training:
            generator = np.random.default_rng([self.seed, self.epoch, row])
            view = train_view(image, generator, self.flip, self.split.size)
        else:
            view = central_view(image, self.split.size)
        return torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1))), int(self.split.labels[row])


def _collate(
    samples: Sequence[tuple[Tensor, int] | tuple[int, str]],
) -> tuple[Tensor, Tensor, dict[int, str]]:
    images = [sample[0] for sample in samples if isinstance(sample[0], Tensor)]
    labels = [sample[1] for sample in samples if isinstance(sample[0], Tensor)]
    damages = {sample[0]: str(sample[1]) for sample in samples if not isinstance(sample[0], Tensor)}
    stacked = torch.stack(images) if images else torch.empty(0)
    return stacked, torch.tensor(labels, dtype=torch.int64), damages
