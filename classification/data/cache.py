"""Decoded images in one memory-mapped file: a data set of small images is decoded once, not once per epoch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classification.data.images import read_rgb
from core.errors import UserError
from core.storage.cache import cache_folders, decode_in_order, fingerprint, open_or_build
from core.storage.files import atomic_write
from core.storage.images import BadImage
from core.storage.packed import read_array

_FORMAT = 2  # raise this when the meaning of the file changes
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
    """Open the cache of a data set's images; decode them first if there is none yet, or an outdated one.

    The file lies in `folder`, or under `$XDG_CACHE_HOME/lwdna` if `folder` cannot be written. Of several processes one
    decodes and the others wait for it.

    Args:
        folder: the data set's folder.
        part: "train" or "val": the cache's name.
        files: the images' paths relative to `folder`.
        size: height and width that every image must have.
        threads: number of decoding threads, at least 1.

    Raises:
        UserError: there is no room for the file, or no folder that can be written.
    """
    record = np.dtype([("readable", "?"), ("image", "u1", (3, *size))])

    def build(path: Path) -> None:
        _require_space(path.parent, len(files) * record.itemsize)
        _build(path, folder, files, record, threads)

    return open_or_build(
        cache_folders(folder),
        part,
        fingerprint(((file, folder / file) for file in files), (_FORMAT, size)),
        ".npy",
        open_file=lambda path: _open(path, len(files), record),
        build=build,
    )


def why_unreadable(path: Path, size: tuple[int, int]) -> str | None:
    """Why the image at `path` cannot be used, in one line that names it; None if it can."""
    try:
        found = read_rgb(path).shape[:2]
    except BadImage as error:
        return str(error)
    if found != size:
        return f"image '{path}' is {found[0]}x{found[1]} pixels; {size[0]}x{size[1]} are expected"
    return None


def _require_space(place: Path, size: int) -> None:
    free = shutil.disk_usage(place).free
    if free < size:
        raise UserError(
            f"decoded images need {size / 1e9:.2f} GB in '{place}', which has {free / 1e9:.2f} GB free; "
            "make room there"
        )


def _open(path: Path, count: int, record: np.dtype) -> DecodedImages | None:
    """Map the file; None if it is missing, or was damaged by the file system."""
    # "c": torch wants writable memory; nothing written there reaches the file.
    records = read_array(path, "c")
    if records is None or records.dtype != record or records.shape != (count,):
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

    title = f"Decoding {folder.name} ({path.name.split('-')[0]}, once)"
    with atomic_write(path, "wb") as output:
        np.lib.format.write_array_header_1_0(output, header)
        for records in decode_in_order(decode, range(0, len(files), _CHUNK), threads=threads, title=title):
            output.write(records.tobytes())


def _decode_chunk(folder: Path, files: Sequence[str], record: np.dtype) -> np.ndarray:
    records = np.zeros(len(files), record)
    for row, file in enumerate(files):
        try:
            image = read_rgb(folder / file)
        except BadImage:
            continue
        if image.transpose(2, 0, 1).shape == record["image"].shape:
            records[row] = (True, image.transpose(2, 0, 1))
    return records
