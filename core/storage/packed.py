"""Bytes of many arrays and their table of contents in one file, read by memory mapping.

The file holds the arrays' bytes one after another, then a JSON table of contents, then the table's length and a mark
of the kind of file. A file whose mark or length does not agree is refused.
"""

from __future__ import annotations

import json
import os
import struct
import tokenize
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.storage.files import atomic_write

MARK_BYTES = 8
# What numpy raises on damaged headers, which it parses as Python, and on other kinds of file.
_NO_ARRAY = (OSError, ValueError, EOFError, OverflowError, MemoryError, RecursionError, TypeError, SyntaxError,
             tokenize.TokenError, zipfile.BadZipFile)  # fmt: skip
_FOOTER = struct.Struct(f"<Q{MARK_BYTES}s")


def write_packed(
    path: Path, mark: bytes, arrays: Iterable[np.ndarray], contents: Callable[[], dict[str, Any]]
) -> None:
    """Write the arrays' bytes, atomically.

    Args:
        path: the file.
        mark: eight bytes that name the kind of file; a new meaning needs a new mark.
        arrays: written in order, as they come.
        contents: called after all are written; its result must be JSON.
    """
    if len(mark) != MARK_BYTES:
        raise ValueError(f"a mark has {MARK_BYTES} bytes, got {mark!r}")
    with atomic_write(path, "wb") as file:
        for array in arrays:
            file.write(array.tobytes())
        table = json.dumps(contents()).encode()
        file.write(table)
        file.write(_FOOTER.pack(len(table), mark))


def read_array(path: Path, mode: Literal["r", "c"] = "r") -> np.ndarray | None:
    """The array in a `.npy` file; None if the file is missing or not whole.

    The file is mapped, so its header cannot ask for more memory than the file has; pickled objects are refused.

    Args:
        path: the file.
        mode: as in `read_packed`.
    """
    try:
        found = np.load(path, mmap_mode=mode, allow_pickle=False)
    except _NO_ARRAY:
        return None
    return found if isinstance(found, np.ndarray) else None


def read_packed(
    path: Path, mark: bytes, mode: Literal["r", "c"] = "r"
) -> tuple[dict[str, Any], np.ndarray] | None:
    """The table of contents and all bytes before it; None if the file is missing or not whole.

    Args:
        path: the file.
        mark: the kind of file that it must be.
        mode: "r" for a read-only array; "c" for one that torch takes, as it requires writable memory: changes stay in
            memory.

    Returns:
        The contents, and a flat, memory-mapped uint8 array.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(-_FOOTER.size, os.SEEK_END)
            length, found = _FOOTER.unpack(file.read(_FOOTER.size))
            if found != mark or length > end:
                return None
            file.seek(end - length)
            contents = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError, struct.error):
        return None
    # A plain array slices many times faster than a memmap.
    return contents, np.asarray(np.memmap(path, np.uint8, mode=mode))[: end - length]
