"""Decoded images in one memory-mapped file: a data set of small images is decoded once, not once per epoch.

The file's name holds a fingerprint of the image files (names, sizes, modification times), so that a changed
image asks for another file and a stale one is never read. It appears by an atomic rename: whoever sees it
sees it whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from classification.data.images import BadImage, read_image
from core.errors import UserError
from core.files import atomic_write

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FOLDER = ".lwdna_cache"
_FORMAT = 1  # to be raised when the meaning of the file changes
_CHUNK = 256


@dataclass(frozen=True)
class DecodedImages:
    """Images in the order of their files.

    Attributes:
        images: `(N, 3, H, W)`, uint8, RGB, memory-mapped; changes to it stay in memory.
        readable: `(N,)`, bool: False where the file is damaged, missing or of another size (its pixels are
            0).
        path: the cache file.
    """

    images: np.ndarray
    readable: np.ndarray
    path: Path


def decoded_images(
    folder: Path, part: str, files: Sequence[str], size: tuple[int, int], threads: int
) -> DecodedImages:
    """Open the cache of a data set's images; decode them first where there is none yet, or an outdated one.

    The file lies in `folder`, or under `$XDG_CACHE_HOME/lwdna` where `folder` cannot be written. Of several
    processes one decodes and the others wait for it.

    Args:
        folder: the data set's folder.
        part: "train" or "val": the cache's name.
        files: the images' paths relative to `folder`.
        size: height and width that every image must have.
        threads: number of decoding threads, at least 1.

    Raises:
        UserError: there is no room for the file, or no folder that can be written.
    """
    name = f"{part}-{_fingerprint(folder, files, size)}.npy"
    record = np.dtype([("readable", "?"), ("image", "u1", (3, *size))])
    places = (folder / FOLDER, _user_cache(folder))
    for place in places:
        cached = _open(place / name, len(files), record)
        if cached is not None:
            return cached
    place = _writable(places)
    with _exclusive(place / f"{part}.lock") as alone:
        cached = _open(place / name, len(files), record)  # built by another process while this one waited
        if cached is None:
            if alone:
                _remove_outdated(place, part)
            _require_space(place, len(files) * record.itemsize)
            _build(place / name, folder, files, record, threads)
            cached = _open(place / name, len(files), record)
    if cached is None:
        raise UserError(
            f"image cache '{place / name}' cannot be read back; check the file system, then delete it"
        )
    return cached


def why_unreadable(path: Path, size: tuple[int, int]) -> str | None:
    """Why the image at `path` cannot be used, in one line that names it; None where it can."""
    try:
        found = read_image(path).shape[:2]
    except BadImage as error:
        return str(error)
    if found != size:
        return f"image '{path}' is {found[0]}x{found[1]} pixels; {size[0]}x{size[1]} are expected"
    return None


def _fingerprint(folder: Path, files: Sequence[str], size: tuple[int, int]) -> str:
    digest = hashlib.sha256(repr((_FORMAT, size)).encode())
    for file in files:
        try:
            status = os.stat(folder / file)
            digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        except OSError:
            digest.update(f"{file}\0missing\0".encode())
    return digest.hexdigest()[:16]


def _user_cache(folder: Path) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    return Path(base) / "lwdna" / f"{folder.name}-{place}"


def _writable(places: Sequence[Path]) -> Path:
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK):
            return place
    raise UserError(
        f"decoded images can be kept neither in '{places[0]}' nor in '{places[1]}': neither can be written; "
        "name a folder that can in $XDG_CACHE_HOME"
    )


@contextmanager
def _exclusive(path: Path) -> Iterator[bool]:
    """Hold a lock that ends with the process, however that ends; False where there is no such lock.

    Without one (Windows, some network file systems) builders at the same time each do the work, and the last one's
    file stays.
    """
    with open(path, "w") as file:
        locked = False
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
                locked = True
        yield locked


def _remove_outdated(place: Path, part: str) -> None:
    """Remove caches of earlier states of the images and what a killed process left; needs the lock."""
    for pattern in (f"{part}-*.npy", f".{part}-*.npy.*.tmp"):
        for path in place.glob(pattern):
            path.unlink(missing_ok=True)


def _require_space(place: Path, size: int) -> None:
    free = shutil.disk_usage(place).free
    if free < size:
        raise UserError(
            f"decoded images need {size / 1e9:.2f} GB in '{place}', which has {free / 1e9:.2f} GB free; "
            "make room there"
        )


def _open(path: Path, count: int, record: np.dtype) -> DecodedImages | None:
    """Map the file; None where it is not there, or is damaged by an accident of the file system."""
    try:
        # "c": torch wants memory that it may write; nothing written there reaches the file.
        records = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if records.dtype != record or records.shape != (count,):
        return None
    return DecodedImages(records["image"], np.array(records["readable"]), path)


def _build(path: Path, folder: Path, files: Sequence[str], record: np.dtype, threads: int) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(record),
        "fortran_order": False,
        "shape": (len(files),),
    }

    def decode(begin: int) -> np.ndarray:
        return _decode_chunk(folder, files[begin : begin + _CHUNK], record)

    starts = range(0, len(files), _CHUNK)
    executor = ThreadPoolExecutor(max(threads, 1))
    try:
        with atomic_write(path, "wb") as output:
            np.lib.format.write_array_header_1_0(output, header)
            title = f"Decoding {folder.name} ({path.name.split('-')[0]}, once)"
            chunks = executor.map(decode, starts)
            for records in track(chunks, title, total=len(starts), console=Console(stderr=True)):
                output.write(records.tobytes())
    finally:
        executor.shutdown(cancel_futures=True)


def _decode_chunk(folder: Path, files: Sequence[str], record: np.dtype) -> np.ndarray:
    records = np.zeros(len(files), record)
    for row, file in enumerate(files):
        try:
            image = read_image(folder / file)
        except BadImage:
            continue
        if image.transpose(2, 0, 1).shape == record["image"].shape:
            records[row] = (True, image.transpose(2, 0, 1))
    return records
