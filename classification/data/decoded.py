"""Decoded images of any size in one memory-mapped file, each with its shorter side no longer than a network needs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.storage.cache import cache_folders, decode_in_order, fingerprint, open_or_build
from core.storage.images import BadImage
from core.storage.packed import read_packed, write_packed

_MARK = b"LWDNACL1"  # change this when the meaning of the file changes
_ROOM = 0.5


class NoRoom(Exception):
    """Decoded images would take too much of the disk; the message says how much."""


@dataclass(frozen=True, eq=False)
class DecodedFiles:
    """Decoded images in the order of their files.

    Attributes:
        path: the cache file.
        pixels: its images' bytes, memory-mapped; the mapping outlives the file's name. A process to which this object
            is sent maps the file anew.
        sizes: `(N, 2)`, int64: height and width; 0 and 0 if the file cannot be read.
        offsets: `(N,)`, int64: where each image starts in the file.
    """

    path: Path
    pixels: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray

    def __getitem__(self, row: int) -> np.ndarray:
        """Image `row`, `(H, W, 3)`, uint8, RGB; read-only."""
        height, width = self.sizes[row].tolist()
        start = int(self.offsets[row])
        return self.pixels[start : start + 3 * height * width].reshape(height, width, 3)

    def __reduce__(self) -> tuple[Callable[..., DecodedFiles], tuple[object, ...]]:
        return _mapped_anew, (self.path, self.sizes, self.offsets)

    def chosen(self, rows: np.ndarray) -> DecodedFiles:
        """Some of the images, in the order of `rows`."""
        return replace(self, sizes=self.sizes[rows], offsets=self.offsets[rows])

    def damaged(self) -> list[int]:
        """The rows of the files that could not be read."""
        return np.flatnonzero(self.sizes[:, 0] == 0).tolist()


def decode_files(
    folder: Path, files: Sequence[str], side: int, read: Callable[[str], np.ndarray], threads: int
) -> DecodedFiles:
    """Open the cache of a folder's images; decode them first if there is none, or if a file has changed.

    Args:
        folder: the data set's folder.
        files: the images' paths relative to `folder`.
        side: the largest shorter side of images from `read`; part of the cache's name.
        read: a file's name -> `(H, W, 3)`, uint8, or `BadImage`.
        threads: number of decoding threads.

    Raises:
        NoRoom: they would take more than half of the free disk where the cache lies.
        UserError: no folder can be written.
    """

    def build(path: Path) -> None:
        need, free = len(files) * 4 * side * side, shutil.disk_usage(path.parent).free  # at an aspect of 4:3
        if need > _ROOM * free:
            raise NoRoom(
                f"about {need / 1e9:.1f} GB, more than half of the {free / 1e9:.1f} GB that are free in '{path.parent}'"
            )
        _build(path, folder, files, read, threads)

    return open_or_build(
        cache_folders(folder),
        f"images-{side}",
        fingerprint(((file, folder / file) for file in files), (_MARK, side)),
        ".pixels",
        open_file=lambda path: _open(path, len(files)),
        build=build,
    )


def _open(path: Path, count: int) -> DecodedFiles | None:
    packed = read_packed(path, _MARK)
    if packed is None:
        return None
    contents, pixels = packed
    sizes = np.array(contents["sizes"], dtype=np.int64).reshape(-1, 2)
    ends = np.cumsum(3 * sizes[:, 0] * sizes[:, 1])
    if len(sizes) != count or ends[-1] != len(pixels):
        return None
    return DecodedFiles(path, pixels, sizes, np.concatenate(([0], ends[:-1])))


def _mapped_anew(path: Path, sizes: np.ndarray, offsets: np.ndarray) -> DecodedFiles:
    packed = read_packed(path, _MARK)
    if packed is None:
        raise UserError(
            f"cache '{path}' has gone while it was used: start anew, and leave '{path.parent}' alone"
        )
    return DecodedFiles(path, packed[1], sizes, offsets)


def _build(
    path: Path, folder: Path, files: Sequence[str], read: Callable[[str], np.ndarray], threads: int
) -> None:
    sizes: list[tuple[int, int]] = []

    def decode(file: str) -> np.ndarray:
        try:
            return read(f"{folder}/{file}")
        except BadImage:
            return np.empty((0, 0, 3), np.uint8)

    def images() -> Iterator[np.ndarray]:
        for image in decode_in_order(decode, files, threads=threads, title=f"Decoding {folder.name} (once)"):
            sizes.append((image.shape[0], image.shape[1]))
            yield image

    write_packed(path, _MARK, images(), lambda: {"sizes": sizes})
