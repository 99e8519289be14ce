"""Annotated frames of many sequences as arrays, from which training samples are drawn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from core.errors import UserError
from tracking.datasets.sequence import FrameFolder
from tracking.training.config import SamplingConfig


class FrameFiles(Protocol):
    """Where the images of a source are."""

    def path(self, sequence: int, frame: int) -> Path:
        """The file of a frame, both counted from 0."""
        ...


@dataclass
class VideoFiles:
    """The images of videos, a folder each; a folder is listed at its first use.

    Attributes:
        folders: one per sequence.
        counts: annotated frames of each.
    """

    folders: Sequence[FrameFolder]
    counts: Sequence[int]
    _listed: dict[int, list[str]] = field(default_factory=dict, repr=False)

    def path(self, sequence: int, frame: int) -> Path:
        """The file of a frame.

        Raises:
            UserError: the folder holds fewer images than there are boxes.
        """
        folder = self.folders[sequence]
        if sequence not in self._listed:
            names = [path.name for path in folder.paths()]
            if len(names) < self.counts[sequence]:
                raise UserError(
                    f"'{folder.folder}' holds {len(names)} images for {self.counts[sequence]} boxes: complete the "
                    "data set (python -m tracking.check_dataset says what is missing)"
                )
            self._listed[sequence] = names
        return folder.folder / self._listed[sequence][frame]


@dataclass(frozen=True, eq=False)
class StillFiles:
    """Photographs: every sequence is one image.

    Attributes:
        folder: where they are.
        names: file names as bytes in one array, which worker processes share.
    """

    folder: Path
    names: np.ndarray

    def path(self, sequence: int, frame: int) -> Path:
        """The file of a sequence's only frame."""
        return self.folder / os.fsdecode(self.names[sequence])


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The annotated sequences of one source.

    Attributes:
        name: for messages and the name of a cache.
        folder: a cache of its frames lies beside it.
        first: `(sequences + 1,)`: rows `first[i]` to `first[i + 1]` are sequence i's frames.
        boxes: `(rows, 4)` float32, `x, y, width, height` in coordinates of pixel centres (`tracking.dimp.crops`).
        visible: `(rows,)` bool, the target can be seen.
        files: the images.
        still: every sequence is a single image, which a sample uses several times.
    """

    name: str
    folder: Path
    first: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray
    files: FrameFiles
    still: bool = False

    def __len__(self) -> int:
        return len(self.first) - 1

    def usable(self, sampling: SamplingConfig) -> np.ndarray:
        """`(rows,)` bool: the target can be seen and is large enough."""
        sizes = self.boxes[:, 2:]
        with np.errstate(invalid="ignore"):
            large = (sizes > 1).all(axis=1) & (sizes.prod(axis=1) >= sampling.min_target**2)
        return self.visible & np.isfinite(self.boxes).all(axis=1) & large

    def confined_to(self, sampling: SamplingConfig) -> UsableSet:
        """The part that can be drawn by the rules of `sampling`.

        Raises:
            UserError: no sequence can.
        """
        usable = self.usable(sampling)
        counts = np.add.reduceat(usable, self.first[:-1], dtype=np.int64) if len(self) else np.zeros(0, int)
        if self.still:
            wanted = counts > 0
        else:
            wanted = (counts >= sampling.min_visible) & (np.diff(self.first) >= sampling.min_frames)
        if not wanted.any():
            rule = (
                f"a target of at least {sampling.min_target:g} pixels"
                if self.still
                else f"at least {sampling.min_frames} frames, {sampling.min_visible} of them with a target of at least "
                f"{sampling.min_target:g} pixels"
            )
            raise UserError(f"{self.name}: none of {len(self)} sequences has {rule}")
        return UsableSet(self, usable, np.flatnonzero(wanted))


@dataclass(frozen=True, eq=False)
class UsableSet:
    """The part of a source that a sampling rule leaves.

    Attributes:
        source: all of it.
        usable: `(source's rows,)` bool, the frames that may be drawn.
        sequences: numbers of the sequences that may be drawn.
    """

    source: TrainingSet
    usable: np.ndarray
    sequences: np.ndarray

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows of the source that may be drawn."""
        wanted = np.zeros(len(self.source), bool)
        wanted[self.sequences] = True
        return np.flatnonzero(self.usable & np.repeat(wanted, np.diff(self.source.first)))

    def frames(self, sequence: int) -> np.ndarray:
        """The frames of a sequence that may be drawn, counted from 0, in ascending order."""
        begin, end = self.source.first[sequence : sequence + 2]
        return np.flatnonzero(self.usable[begin:end])

    def without(self, rows: Iterable[int], sampling: SamplingConfig) -> UsableSet:
        """The same without some rows of the source, such as frames that cannot be read."""
        visible = self.source.visible.copy()
        visible[list(rows)] = False
        return replace(self.source, visible=visible).confined_to(sampling)
