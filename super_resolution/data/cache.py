"""Decoded images in one memory-mapped file, so that training never waits for PNG or JPEG decoding.

The file (`core.storage.packed`) holds the uint8 RGB planes of every HR and LR image of a set, one after another; its
table of contents has the images' names and sizes. An incomplete file is made again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.storage.cache import cache_folders, decode_in_order, fingerprint, open_or_build
from core.storage.packed import read_packed, write_packed
from super_resolution.data.sets import ImagePair, ImageSet, read_pair

_MARK = b"LWDNASR2"  # change this when the meaning of the file changes


@dataclass(frozen=True, eq=False)
class CachedImages:
    """The pixels of a set's images, read from disk when they are used.

    Attributes:
        scale: the up-sampling factor.
        names: the images' names.
        hr_sizes: (height, width) of each HR image; its LR image is `scale` times smaller.
        pixels: those of all images as a flat, read-only, memory-mapped uint8 array.
        offsets: where each HR image starts in `pixels`; its LR image follows it.
    """

    scale: int
    names: tuple[str, ...]
    hr_sizes: tuple[tuple[int, int], ...]
    pixels: np.ndarray
    offsets: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def hr(self, index: int) -> np.ndarray:
        """HR image `index` as a read-only 3 x H x W view."""
        return self._view(self.offsets[index], *self.hr_sizes[index])

    def lr(self, index: int) -> np.ndarray:
        """LR image `index` as a read-only view of 3 x H/scale x W/scale."""
        height, width = self.hr_sizes[index]
        return self._view(self.offsets[index] + 3 * height * width, height // self.scale, width // self.scale)

    def _view(self, start: int, height: int, width: int) -> np.ndarray:
        return self.pixels[start : start + 3 * height * width].reshape(3, height, width)


def open_cache(images: ImageSet, folder: Path | None = None) -> CachedImages:
    """Open a set's pixel cache; make it first if it is missing, broken or older than its images.

    If several processes want it at once, one makes it while the others wait.

    Args:
        images: the set.
        folder: where the cache lies; None means `.lwdna_cache` in the set's own folder, or, if that can't be written, a
            folder under `$XDG_CACHE_HOME/lwdna` (`~/.cache/lwdna`).

    Raises:
        UserError: an image can't be read, its LR and HR files do not match, or no place for the cache can be written.
        OSError: the disk is full.
    """
    files = (
        (f"{pair.name}/{file.name}", file)
        for pair in images.pairs
        for file in (pair.hr, pair.lr)
        if file is not None
    )
    return open_or_build(
        cache_folders(images.folder) if folder is None else (folder,),
        _stem(images),
        fingerprint(files, (_MARK, images.scale)),
        ".pixels",
        open_file=lambda path: _open(path, images.scale),
        build=lambda path: _build(path, images),
        setting="$XDG_CACHE_HOME" if folder is None else "data.cache.folder",
    )


def _stem(images: ImageSet) -> str:
    """The cache file's stem, one for every name, place of the images, and scale."""
    sources = sorted({str(pair.hr.resolve().parent) for pair in images.pairs})
    digest = hashlib.sha256("\n".join(sources).encode()).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', images.name)}-x{images.scale}-{digest}"


def _open(path: Path, scale: int) -> CachedImages | None:
    """The cache at `path`; None if there is no complete one."""
    packed = read_packed(path, _MARK)
    if packed is None:
        return None
    contents, pixels = packed
    sizes = tuple((height, width) for height, width in contents["hr_sizes"])
    lengths = [3 * (h * w + (h // scale) * (w // scale)) for h, w in sizes]
    if sum(lengths) != len(pixels):
        return None
    offsets = tuple(int(start) for start in np.cumsum([0, *lengths[:-1]]))
    return CachedImages(scale, tuple(contents["names"]), sizes, pixels, offsets)


def _build(path: Path, images: ImageSet) -> None:
    """Decode every image and write the cache file."""
    sizes = []

    def decode(pair: ImagePair) -> tuple[np.ndarray, np.ndarray]:
        hr, lr = read_pair(pair, images.scale)
        return _planes(hr), _planes(lr)

    def planes() -> Iterator[np.ndarray]:
        title = f"Caching {images.name} x{images.scale}"
        for hr, lr in decode_in_order(decode, images.pairs, threads=os.cpu_count() or 1, title=title):
            sizes.append(hr.shape[1:])
            yield from (hr, lr)

    names = [pair.name for pair in images.pairs]
    write_packed(path, _MARK, planes(), lambda: {"names": names, "hr_sizes": sizes})


def _planes(image: np.ndarray) -> np.ndarray:
    """H x W or H x W x 3 -> 3 x H x W; grey is repeated."""
    return np.stack([image] * 3) if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))
