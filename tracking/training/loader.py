"""Training batches: a function of seed, epoch and batch, whatever the number of processes and workers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core.errors import UserError
from core.training.batches import batches_of
from core.training.workers import at_most_cores, begin_worker
from tracking.training.config import BadImages, SamplingConfig, ViewConfig
from tracking.training.frames import BadFrame, FrameSource
from tracking.training.samples import Sample, make_sample
from tracking.training.sampling import draw_frames, draw_sequence
from tracking.training.sequences import UsableSet

# Batch norm of the box regressor's reference branch sees one value per channel and sequence.
LEAST_SEQUENCES = 2
_MOST_REDRAWS = 100

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Source:
    """A source of samples.

    Attributes:
        usable: sequences and frames that may be drawn.
        frames: their pixels.
        weight: how often, in relation to other sources.
    """

    usable: UsableSet
    frames: FrameSource
    weight: float


@dataclass(frozen=True, eq=False)
class SequenceLoader:
    """Batches of training samples; fulfils `core.training.train.Loader`.

    Attributes:
        sources: where samples are drawn from.
        sampling: which frames.
        views: how they are cut.
        filter_size: of the target model's filter.
        batch_size: sequences per batch, over all ranks.
        sequences_per_epoch: samples of one epoch; those that do not fill a batch are left out.
        seed: with epoch, batch and place in the batch, determines all random numbers.
        bad_images: "error" or "skip", see `DataConfig`.
        workers: processes that prepare batches; 0 for this one.
        rank, world: which part of every batch is yielded; see `shard`.
        unreadable: the files that could not be read so far.

    Raises:
        UserError: an epoch without a batch, or fewer than two sequences per process.
    """

    sources: Sequence[Source]
    sampling: SamplingConfig
    views: ViewConfig
    filter_size: int
    batch_size: int
    sequences_per_epoch: int
    seed: int = 0
    bad_images: BadImages = "error"
    workers: int = 0
    rank: int = 0
    world: int = 1
    unreadable: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size // self.world < LEAST_SEQUENCES:
            raise UserError(
                f"a batch of {self.batch_size} sequences for {self.world} process(es): each needs at least "
                f"{LEAST_SEQUENCES}, for the box regressor's batch norm sees one value per sequence; raise "
                "train.batch_size"
            )
        if self.sequences_per_epoch < self.batch_size:
            raise UserError(
                f"an epoch of {self.sequences_per_epoch} sequences holds no batch of {self.batch_size}: raise "
                "data.sequences_per_epoch or lower train.batch_size"
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.sequences_per_epoch // self.batch_size

    def shard(self, rank: int, world: int) -> SequenceLoader:
        """The loader of process `rank` of `world`: its contiguous part of every batch, at least two sequences."""
        return replace(self, rank=rank, world=world)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Inputs, dict[str, Tensor]]]:
        """Yield the batches `start`, `start + 1`, … of an epoch.

        Yields:
            inputs: train images (S, N, 3, H, W) and test images (S, M, 3, H, W), uint8 RGB, train boxes (S, N, 4),
                test proposals (S, M, P, 4).
            targets: `labels` (S, M, K, K) and `ious` (S, M, P).

        Raises:
            UserError: a frame cannot be read, and `bad_images` is "error"; or nearly none can.
        """
        yield from self.batches(epoch, range(start, len(self)))

    def batches(self, epoch: int, numbers: Sequence[int]) -> Iterator[tuple[Inputs, dict[str, Tensor]]]:
        """Yield the batches of an epoch that have these numbers; see `epoch`."""

        def loader_from(first: int) -> DataLoader:
            return DataLoader(
                _Batches(self, epoch),
                batch_size=None,
                sampler=numbers[first:],
                num_workers=at_most_cores(self.workers),
                worker_init_fn=begin_worker,
                pin_memory=torch.cuda.is_available(),
                generator=torch.Generator(),  # drawing from the global one would change other random numbers
            )

        for batch in batches_of(loader_from):
            if isinstance(batch, str):
                raise UserError(batch)
            self._note(batch.unreadable)
            yield batch.inputs, batch.targets

    def _note(self, unreadable: dict[str, str]) -> None:
        for path, reason in unreadable.items():
            if path not in self.unreadable:
                self.unreadable.add(path)
                warnings.warn(f"{reason}; skipped ({len(self.unreadable)} so far)", stacklevel=3)

    def batch(self, epoch: int, batch: int) -> _Batch:
        """This rank's part of a batch, and the files that could not be read."""
        unreadable: dict[str, str] = {}
        slots = np.array_split(np.arange(self.batch_size), self.world)[self.rank]
        samples = [self._sample(epoch, batch, int(slot), unreadable) for slot in slots]
        train, test, boxes, proposals, labels, ious = (torch.stack(part) for part in zip(*samples))
        return _Batch((train, test, boxes, proposals), {"labels": labels, "ious": ious}, unreadable)

    def _sample(self, epoch: int, batch: int, slot: int, unreadable: dict[str, str]) -> Sample:
        random = np.random.Generator(
            np.random.Philox(np.random.SeedSequence((self.seed, epoch, batch, slot)))
        )
        weights = [source.weight for source in self.sources]
        usable = [source.usable for source in self.sources]
        count = self.sampling.train_frames + self.sampling.test_frames
        for _ in range(_MOST_REDRAWS):
            chosen, sequence = draw_sequence(usable, weights, random)
            source = self.sources[chosen]
            if source.usable.source.still:
                numbers = np.zeros(count, np.int64)
            else:
                numbers = draw_frames(source.usable.frames(sequence), self.sampling, random)
            try:
                frames = [source.frames.read(sequence, int(number)) for number in numbers]
            except BadFrame as error:
                if self.bad_images == "error":
                    raise
                unreadable[error.path] = str(error)
                continue
            return make_sample(frames, self.sampling.train_frames, self.views, self.filter_size, random)
        raise UserError(
            f"{_MOST_REDRAWS} samples in turn with a frame that cannot be read; the first: "
            f"{next(iter(unreadable.values()))}"
        )


class _Batch(NamedTuple):
    inputs: Inputs
    targets: dict[str, Tensor]
    unreadable: dict[str, str]


@dataclass(frozen=True, eq=False)
class _Batches(Dataset):
    """The batches of an epoch, by number, as worker processes are asked for them."""

    loader: SequenceLoader
    epoch: int

    def __getitem__(self, batch: int) -> _Batch | str:
        try:
            return self.loader.batch(self.epoch, batch)
        except UserError as error:  # raised in a worker it would arrive as that worker's traceback
            return str(error)
