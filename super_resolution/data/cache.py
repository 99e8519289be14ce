"""Decoded images in one memory-mapped file, so that training never waits for PNG or JPEG decoding.

The file holds the uint8 RGB planes of every HR and LR image of a set, one after another, then a JSON table
of contents with the names, sizes and modification times of the source files, then the table's length and a
mark. It is written under a temporary name and renamed when complete; one whose mark, length or sources do
not agree is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from core.errors import UserError
from core.files import atomic_write
from super_resolution.data.sets import ImagePair, ImageSet, read_pair

try:
    import fcntl
except ImportError:  # Windows: builders at the same time each do the work, and the last one's file stays
    fcntl = None  # type: ignore[assignment]

_MARK = b"LWDNASR1"
_FOOTER = struct.Struct("<Q8s")


@dataclass(frozen=True, eq=False)
class CachedImages:
    """The pixels of a set's images, read from disk as they are touched.

    Attributes:
        scale: the up-sampling factor.
        names: the images' names.
        hr_sizes: (height, width) of each HR image; its LR image is `scale` times smaller.
        pixels: the whole file as a flat, read-only, memory-mapped uint8 array.
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
    """Open a set's pixel cache, and make it first where it is missing, broken or older than its images.

    Of several processes that want it at once, one makes it while the others wait.

    Args:
        images: the set.
        folder: where the cache lies; None means `.lwdna_cache` in the set's own folder, or, where that can't
            be written, `$XDG_CACHE_HOME/lwdna` (`~/.cache/lwdna`).

    Raises:
        UserError: an image can't be read, its LR and HR files do not match, or the cache can be written
            nowhere.
        OSError: the disk is full.
    """
    sources = _sources(images)
    paths = cache_paths(images, folder)
    for path in paths:
        cached = _open(path, images.scale, sources)
        if cached is not None:
            return cached
    path = _first_writable(paths)
    with _exclusive(path.with_suffix(".lock")):
        cached = _open(path, images.scale, sources)  # made by another process while this one waited
        if cached is None:
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a build that was killed
                leftover.unlink()
            _write(path, images, sources)
            cached = _open(path, images.scale, sources)
    if cached is None:
        raise UserError(f"pixel cache '{path}' can't be read back; are the images being changed just now?")
    return cached


def cache_paths(images: ImageSet, folder: Path | None = None) -> tuple[Path, ...]:
    """Where a set's cache may lie, best place first: one file per name, place of the images, and scale."""
    sources = sorted({str(pair.hr.resolve().parent) for pair in images.pairs})
    digest = hashlib.sha256("\n".join(sources).encode()).hexdigest()[:10]
    name = f"{re.sub(r'[^A-Za-z0-9_-]+', '_', images.name)}-x{images.scale}-{digest}.pixels"
    if folder is not None:
        return (folder / name,)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lwdna" / name
    return (home,) if images.folder is None else (images.folder / ".lwdna_cache" / name, home)


def _first_writable(paths: tuple[Path, ...]) -> Path:
    """The first path whose folder is there, or can be made, and be written to."""
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(path.parent, os.W_OK):
            return path
    places = " or ".join(f"'{path.parent}'" for path in paths)
    raise UserError(f"decoded images can't be written to {places}; name a folder that can in data.cache.")


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends."""
    with path.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sources(images: ImageSet) -> list[list[Any]]:
    """What the cache was made from: name, size and modification time of every file."""
    return [
        [file.name, file.stat().st_size, file.stat().st_mtime_ns]
        for pair in images.pairs
        for file in (pair.hr, pair.lr)
        if file is not None
    ]


def _open(path: Path, scale: int, sources: list[list[Any]]) -> CachedImages | None:
    """The cache at `path`, or None where there is none that is whole and up to date."""
    try:
        with path.open("rb") as file:
            end = file.seek(-_FOOTER.size, os.SEEK_END)
            length, mark = _FOOTER.unpack(file.read(_FOOTER.size))
            if mark != _MARK or length > end:
                return None
            file.seek(end - length)
            contents = json.loads(file.read(length))
    except (OSError, ValueError):
        return None
    if contents["sources"] != sources or contents["scale"] != scale:
        return None
    sizes = tuple((height, width) for height, width in contents["hr_sizes"])
    lengths = [3 * (h * w + (h // scale) * (w // scale)) for h, w in sizes]
    if sum(lengths) != end - length:
        return None
    offsets = tuple(int(start) for start in np.cumsum([0, *lengths[:-1]]))
    pixels = np.asarray(np.memmap(path, np.uint8, mode="r"))  # a plain array slices many times faster
    return CachedImages(scale, tuple(contents["names"]), sizes, pixels, offsets)


def _write(path: Path, images: ImageSet, sources: list[list[Any]]) -> None:
    """Decode every image and write the cache file."""
    sizes = []
    console = Console(stderr=True)
    with atomic_write(path, "wb") as file:
        pairs = track(
            _decoded(images),
            total=len(images.pairs),
            description=f"Caching {images.name} x{images.scale}",
            console=console,
            disable=not console.is_terminal,
        )
        for hr, lr in pairs:
            file.write(hr.tobytes())
            file.write(lr.tobytes())
            sizes.append(hr.shape[1:])
        contents = {
            "scale": images.scale,
            "names": [pair.name for pair in images.pairs],
            "hr_sizes": sizes,
            "sources": sources,
        }
        table = json.dumps(contents).encode()
        file.write(table)
        file.write(_FOOTER.pack(len(table), _MARK))


def _decoded(images: ImageSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair as 3 x H x W, in order, decoded by all cores with a few pairs in memory at a time."""
    workers = os.cpu_count() or 1

    def decode(pair: ImagePair) -> tuple[np.ndarray, np.ndarray]:
        hr, lr = read_pair(pair, images.scale)
        return _planes(hr), _planes(lr)

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(images.pairs), 2 * workers):
            yield from pool.map(decode, images.pairs[start : start + 2 * workers])


def _planes(image: np.ndarray) -> np.ndarray:
    """H x W or H x W x 3 -> 3 x H x W; grey is repeated."""
    return np.stack([image] * 3) if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))
