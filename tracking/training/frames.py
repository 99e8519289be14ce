"""The pixels of annotated frames: decoded when they are needed, or read from a file that holds them decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from core.errors import UserError
from tracking.files.images import read_frame
from tracking.training.sequences import TrainingSet


class AnnotatedFrame(NamedTuple):
    """An image and the target in it.

    Attributes:
        image: `(H, W, 3)` uint8 RGB; changes to it may be lost.
        box: `(4,)` x, y, width, height in coordinates of the image's pixel centres.
    """

    image: np.ndarray
    box: np.ndarray


class BadFrame(UserError):
    """A frame cannot be read. The message names its file.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type[BadFrame], tuple[str, str]]:
        return BadFrame, (self.path, str(self))


class FrameSource(Protocol):
    """Frames of a `TrainingSet`, by sequence and frame number from 0."""

    def read(self, sequence: int, frame: int) -> AnnotatedFrame:
        """A frame.

        Raises:
            BadFrame: it cannot be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class DecodedFrames:
    """Frames decoded from their files, whole."""

    source: TrainingSet

    def read(self, sequence: int, frame: int) -> AnnotatedFrame:
        """A frame; see `FrameSource`."""
        path = self.source.files.path(sequence, frame)
        try:
            image = read_frame(path)
        except UserError as error:
            raise BadFrame(str(path), str(error)) from error
        return AnnotatedFrame(image, self.source.boxes[self.source.first[sequence] + frame])
