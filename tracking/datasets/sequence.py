"""One video with one target: its ground truth and the place of its frames."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.storage.data import is_hidden
from tracking.files.boxes import BoxTable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


@dataclass(frozen=True)
class FrameFolder:
    """The images of a sequence.

    Attributes:
        folder: where they are.
        first: number (at the end of its name) of the first frame used; None for all from the start.
        last: number of the last frame used; None for all to the end.
    """

    folder: Path
    first: int | None = None
    last: int | None = None

    def exists(self) -> bool:
        """Whether there is at least one image."""
        return self.folder.is_dir() and any(is_frame(path) for path in self.folder.iterdir())

    def paths(self) -> list[Path]:
        """The image files in the order of their frame numbers; empty if the folder is missing."""
        if not self.folder.is_dir():
            return []
        images = [path for path in self.folder.iterdir() if is_frame(path)]
        images.sort(key=lambda path: (frame_number(path), path.name))
        # By number, not by position: a missing image must not shift the others against the ground truth.
        return [
            path
            for path in images
            if (self.first is None or frame_number(path) >= self.first)
            and (self.last is None or frame_number(path) <= self.last)
        ]


def is_frame(path: Path) -> bool:
    """Whether a file in a folder of images is a frame, by its name; `._1.jpg`, which macOS leaves behind, is not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)


def frame_number(path: Path) -> int:
    """The number at the end of an image's name; -1 if there is none."""
    match = re.search(r"(\d+)$", path.stem)
    return int(match.group(1)) if match else -1


@dataclass(frozen=True)
class FrameRange:
    """The part of a folder of images that a benchmark uses; images are numbered from 1.

    Attributes:
        first: number of the first image used.
        last: number of the last image used.
        images: number of images in the folder.
    """

    first: int
    last: int
    images: int

    @property
    def frames(self) -> int:
        """Number of images used."""
        return self.last - self.first + 1

    def cut(self, table: BoxTable) -> BoxTable:
        """The boxes of the used frames, from a file with a row for each of these or for each image.

        Raises:
            UserError: the file has another number of rows, so that rows cannot be matched with frames.
        """
        rows = len(table.boxes)
        if rows == self.frames:
            return table
        if rows != self.images:
            raise UserError(
                f"{table.source}: {rows} rows; the benchmark uses the {self.frames} frames {self.first} to {self.last} "
                f"of {self.images}: expected {self.frames} rows or {self.images}: get or make the file again"
            )
        used = range(self.first - 1, self.last)
        lines = tuple(table.line(row) for row in used)
        return BoxTable(table.boxes[self.first - 1 : self.last], table.source, lines, table.header)


@dataclass(frozen=True)
class Sequence:
    """One video with one target.

    Attributes:
        name: as the benchmark's own toolkit names it.
        boxes: ground truth `(frames, 4)`, `x, y, width, height` in the data set's own pixel coordinates, int32 if those
            of the split are whole numbers, else float64; NaN or zero sizes for frames without a box.
        absent: `(frames,)` bool, the target cannot be seen; None if the data set has no such flags.
        attributes: the benchmark's challenge attributes that this sequence has.
        frames: where the images are; None if only annotations are at hand.
        size: image `(width, height)` in pixels, if the annotations state it.
        aliases: other names under which toolkits store results of this sequence.
        source: the file of the ground truth.
        first_pixel: the number of the image's first pixel in `boxes`, 1 or 0.
        part: the frames of its folder that the benchmark uses, the same as in `boxes`; None for all.
    """

    name: str
    boxes: np.ndarray
    absent: np.ndarray | None = None
    attributes: tuple[str, ...] = ()
    frames: FrameFolder | None = None
    size: tuple[int, int] | None = None
    aliases: tuple[str, ...] = ()
    source: str = ""
    first_pixel: int = 1
    part: FrameRange | None = None
