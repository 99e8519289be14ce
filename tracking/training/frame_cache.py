"""Frames decoded once: reduced, cropped to the surroundings of the target, in one memory-mapped file.

A sample takes six frames. Decoding whole frames would be the bottleneck of training, and a crop shows little of them.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from core.errors import UserError
from core.storage.cache import cache_folders, decode_in_order, fingerprint, open_or_build
from core.storage.packed import read_packed, write_packed
from tracking.training.config import CacheConfig
from tracking.training.frames import AnnotatedFrame, BadFrame, DecodedFrames
from tracking.training.sequences import UsableSet

_MARK = b"LWDNATR1"  # change this when the meaning of the file changes


@dataclass(frozen=True, eq=False)
class CachedFrames:
    """The frames of a `UsableSet`, read from disk when they are used.

    Attributes:
        path: the cache file.
        first: of the `TrainingSet`.
        places: row of the training set -> number of the frame in the file, -1 if it is not there.
        offsets: `(frames,)` where each frame's pixels begin.
        shapes: `(frames, 2)` height and width.
        boxes: `(frames, 4)` the targets in the reduced frames, in coordinates of pixel centres.
        bad: file -> why it could not be read.
    """

    path: Path
    first: np.ndarray
    places: np.ndarray
    offsets: np.ndarray
    shapes: np.ndarray
    boxes: np.ndarray
    bad: dict[str, str] = field(default_factory=dict)

    def read(self, sequence: int, frame: int) -> AnnotatedFrame:
        """A frame; see `frames.FrameSource`."""
        place = self.places[self.first[sequence] + frame]
        height, width = self.shapes[place].tolist()
        begin = self.offsets[place]
        image = self._pixels[begin : begin + 3 * height * width].reshape(height, width, 3)
        return AnnotatedFrame(image, self.boxes[place])

    def bad_rows(self, rows: np.ndarray) -> np.ndarray:
        """Those of the training set's `rows` that could not be read."""
        return rows[self.places[rows] < 0]

    @cached_property
    def _pixels(self) -> np.ndarray:
        packed = read_packed(self.path, _MARK, mode="c")
        if packed is None:
            raise UserError(
                f"frame cache '{self.path}' was removed during training: start again with --resume"
            )
        return packed[1]

    def __getstate__(self) -> dict[str, Any]:
        # A worker process that is not forked opens the file itself.
        return {name: value for name, value in self.__dict__.items() if name != "_pixels"}


def open_frame_cache(usable: UsableSet, config: CacheConfig, threads: int | None = None) -> CachedFrames:
    """Open the cache of a source's frames; make it first if it is missing, broken or older than they are.

    Frames that cannot be read are left out and named in `CachedFrames.bad`.

    Args:
        usable: what may be drawn.
        config: how much is kept.
        threads: number of decoding threads; None for one per core.

    Raises:
        UserError: no place for the cache can be written, or a video has fewer images than boxes.
        OSError: the disk is full.
    """
    source, rows = usable.source, usable.rows
    sequences = np.searchsorted(source.first, rows, side="right") - 1
    frames = rows - source.first[sequences]
    places = [(int(sequence), int(frame)) for sequence, frame in zip(sequences, frames)]
    files = [source.files.path(*place) for place in places]
    state = hashlib.sha256(source.boxes[rows].tobytes()).hexdigest()
    mark = fingerprint(((str(file), file) for file in files), (_MARK, config.target, config.reach, state))

    def build(path: Path) -> None:
        _build(path, usable, config, rows, places, threads or os.cpu_count() or 1)

    # Two selections of one data set, such as its training and its validation part, each have a cache.
    where = hashlib.sha256("\n".join(map(str, files)).encode()).hexdigest()[:8]
    return open_or_build(
        cache_folders(source.folder) if config.folder is None else (config.folder,),
        f"{re.sub(r'[^A-Za-z0-9_-]+', '_', source.name)}-{where}",
        mark,
        ".frames",
        open_file=lambda path: _open(path, source.first, len(source.boxes)),
        build=build,
        setting="$XDG_CACHE_HOME" if config.folder is None else "data.cache.folder",
    )


def reduce_frame(frame: AnnotatedFrame, config: CacheConfig) -> AnnotatedFrame:
    """The surroundings of the target, smaller where the target is larger than `config.target`."""
    height, width = frame.image.shape[:2]
    x, y, w, h = frame.box.tolist()
    size = math.sqrt(w * h)
    left, right = _extent(x + w / 2, config.reach * size, width)
    top, bottom = _extent(y + h / 2, config.reach * size, height)
    image = frame.image[top:bottom, left:right]
    scale = min(1.0, config.target / size)
    if scale < 1:
        shape = (max(round((right - left) * scale), 1), max(round((bottom - top) * scale), 1))
        image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    factor = np.array([image.shape[1] / (right - left), image.shape[0] / (bottom - top)])
    # Pixel i of the reduced image covers the source from i / factor to (i + 1) / factor, counted from pixels' edges.
    corner = (frame.box[:2] - (left, top) + 0.5) * factor - 0.5
    return AnnotatedFrame(image, np.concatenate([corner, frame.box[2:] * factor]).astype(np.float32))


def _extent(centre: float, reach: float, length: int) -> tuple[int, int]:
    """The part of an axis of `length` pixels that is kept; at least one pixel, wherever the target is."""
    low = min(max(math.floor(centre - reach), 0), length - 1)
    return low, max(min(math.ceil(centre + reach) + 1, length), low + 1)


def _build(
    path: Path,
    usable: UsableSet,
    config: CacheConfig,
    rows: np.ndarray,
    places: list[tuple[int, int]],
    threads: int,
) -> None:
    decoded = DecodedFrames(usable.source)
    kept: list[int] = []
    shapes: list[list[int]] = []
    boxes: list[list[float]] = []
    bad: dict[str, str] = {}

    def decode(place: tuple[int, int]) -> AnnotatedFrame | BadFrame:
        try:
            return reduce_frame(decoded.read(*place), config)
        except BadFrame as error:
            return error

    def images() -> Iterator[np.ndarray]:
        title = f"Decoding {usable.source.name} (once)"
        for row, frame in zip(rows, decode_in_order(decode, places, threads=threads, title=title)):
            if isinstance(frame, BadFrame):
                bad[frame.path] = str(frame)
                continue
            kept.append(int(row))
            shapes.append(list(frame.image.shape[:2]))
            boxes.append([float(value) for value in frame.box])
            yield frame.image

    write_packed(path, _MARK, images(), lambda: {"rows": kept, "shapes": shapes, "boxes": boxes, "bad": bad})


def _open(path: Path, first: np.ndarray, rows: int) -> CachedFrames | None:
    packed = read_packed(path, _MARK)
    if packed is None:
        return None
    contents, pixels = packed
    shapes = np.asarray(contents["shapes"], np.int64).reshape(-1, 2)
    lengths = 3 * shapes.prod(axis=1)
    if lengths.sum() != len(pixels):
        return None
    places = np.full(rows, -1)
    places[contents["rows"]] = np.arange(len(shapes))
    boxes = np.asarray(contents["boxes"], np.float32).reshape(-1, 4)
    return CachedFrames(path, first, places, np.cumsum(lengths) - lengths, shapes, boxes, contents["bad"])
