"""One video with one target: its ground truth and where its frames are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


@dataclass(frozen=True)
class FrameFolder:
    """The images of a sequence.

    Attributes:
        folder: where they are.
        first: 1-based position of the first frame used, in the order of the frame numbers.
        count: number of frames used; None for all from `first` on.
    """

    folder: Path
    first: int = 1
    count: int | None = None

    def exists(self) -> bool:
        """Whether there is at least one image."""
        return self.folder.is_dir() and any(
            path.suffix.lower() in IMAGE_SUFFIXES for path in self.folder.iterdir()
        )

    def paths(self) -> list[Path]:
        """The image files in the order of their frame numbers; empty where the folder is missing."""
        if not self.folder.is_dir():
            return []
        images = [path for path in self.folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
        images.sort(key=lambda path: (frame_number(path), path.name))
        stop = None if self.count is None else self.first - 1 + self.count
        return images[self.first - 1 : stop]


def frame_number(path: Path) -> int:
    """The number at the end of an image's name; -1 where there is none."""
    match = re.search(r"(\d+)$", path.stem)
    return int(match.group(1)) if match else -1


@dataclass(frozen=True)
class Sequence:
    """One video with one target.

    Attributes:
        name: as the benchmark's own toolkit names it.
        boxes: ground truth `(frames, 4)`, `x, y, width, height` in the data set's own pixel coordinates, int32 where
            those of the split are whole numbers, else float64; NaN or zero sizes where the annotators gave none.
        absent: `(frames,)` bool, the target cannot be seen; None where the data set has no such flags.
        attributes: the benchmark's challenge attributes that this sequence has.
        frames: where the images are; None where only annotations are at hand.
        size: image `(width, height)` in pixels, where the annotations say so.
        aliases: other names under which toolkits store results of this sequence.
        source: the file of the ground truth.
        first_pixel: the number of the image's first pixel in `boxes`, 1 or 0.
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
