"""Where the files of one sequence are, before anything is read: shared by listing, loading and checking."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.errors import MissingData, UserError
from tracking.datasets.sequence import FrameFolder, FrameRange
from tracking.files.archives import StoredFile


@dataclass(frozen=True)
class Entry:
    """The files of one sequence; any of them may be missing.

    Attributes:
        name: as the benchmark's own toolkit names it.
        truth: the ground-truth boxes.
        frames: the images, if the data set (not only its annotations) is at hand.
        absent: files of flags; a frame is absent if any of them says so.
        absent_when: what a flag file says about an absent frame: a set flag, or a zero (GOT-10k's visible ratio).
        attributes: the file of challenge attributes.
        attribute_names: names of the flags in that file; empty if the file holds the names itself.
        size: the file that states the image size.
        aliases: other names under which toolkits store results.
        first_pixel: the number of the image's first pixel in the ground truth: 1 if the benchmark is written in MATLAB,
            else 0.
        part: the frames of the folder that the benchmark uses; None for all.
    """

    name: str
    truth: StoredFile
    frames: FrameFolder | None = None
    absent: tuple[Path, ...] = ()
    absent_when: Literal["set", "zero"] = "set"
    attributes: Path | None = None
    attribute_names: tuple[str, ...] = ()
    size: Path | None = None
    aliases: tuple[str, ...] = ()
    first_pixel: int = 1
    part: FrameRange | None = None

    def sources(self) -> tuple[Path, ...]:
        """All files of annotations."""
        others = (*self.absent, self.attributes, self.size)
        return (self.truth.path, *(path for path in others if path is not None))

    def has_frames(self) -> bool:
        """Whether there is at least one image."""
        return self.frames is not None and self.frames.exists()


@dataclass(frozen=True)
class DatasetRequest:
    """A request for a data set.

    Attributes:
        root: the data root.
        split: the data set's own word for a part of it.
        annotations: other ground truth than the data set's own: a folder or a zip, see each data set.
        beside_frames: if there are two ground truths, take the one beside the frames.
    """

    root: Path
    split: str
    annotations: Path | None = None
    beside_frames: bool = False


def first_folder(root: Path, candidates: Iterable[str], marker: str) -> Path | None:
    """The first of `root`'s sub-folders `candidates` (`"."` is `root` itself) in which the glob `marker` matches."""
    for candidate in candidates:
        folder = root / candidate
        if folder.is_dir() and next(folder.glob(marker), None) is not None:
            return folder
    return None


def not_found(what: str, root: Path, layout: str, source: str) -> MissingData:
    """The error for a data set that is not under `root`: what, where it belongs, where to get it."""
    return MissingData(
        f"{what} not found under '{root}': expected {layout}. Get it from {source}, or name another root with "
        "--data-root or $LWDNA_DATA."
    )


def select(entries: list[Entry], patterns: Sequence[str]) -> list[Entry]:
    """The entries whose name matches any of the shell-style `patterns`, all for none, in their own order.

    Raises:
        UserError: a pattern that matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(entry.name, pattern) for entry in entries):
            raise UserError(f"no sequence matches '{pattern}': --list shows the {len(entries)} names")
    return [
        entry
        for entry in entries
        if not patterns or any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in patterns)
    ]
