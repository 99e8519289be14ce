"""Cache files, made once from a data set: where they lie, who makes them, and what a killed process leaves.

A cache file's name holds a fingerprint of the files that it was made from: their names and sizes, the times of their
last change and of the last change of their status, which nobody sets back. So a changed image leads to another file. A
cache file appears by an atomic rename, so it is always whole. Its task decides on its content; it may also be a folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from core.errors import UserError
from core.storage.files import exclusive
from core.terminal import watched

FOLDER = ".lwdna_cache"
_DIGITS = 16

T = TypeVar("T")
Item = TypeVar("Item")


def cache_folder() -> Path:
    """The user's cache: `$LWDNA_CACHE`, else `$XDG_CACHE_HOME/lwdna`, else `~/.cache/lwdna`."""
    if folder := os.environ.get("LWDNA_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lwdna"


def cache_folders(data: Path | None) -> tuple[Path, ...]:
    """Where the caches of a data set may lie, best place first.

    Args:
        data: the data set's folder; None if nothing may be written beside it.

    Returns:
        `.lwdna_cache` in the data set's folder, then a folder for this data set in `cache_folder()`; for None only
        `cache_folder()` itself.
    """
    home = cache_folder()
    if data is None:
        return (home,)
    mark = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]
    return data / FOLDER, home / f"{data.name}-{mark}"


def fingerprint(files: Iterable[tuple[str, str | Path]], facts: object) -> str:
    """A digest that changes with any file's name, size, modification or status-change time, and with `facts`.

    Args:
        files: each file's name in the data set, and its path; a missing file enters the digest as such.
        facts: what else the cache depends on, such as a version of its format; its `repr` is taken.
    """
    digest = hashlib.sha256(repr(facts).encode())
    for name, path in files:
        try:
            status = os.stat(path)
            times = f"{status.st_mtime_ns}\0{status.st_ctime_ns}"
            digest.update(f"{name}\0{status.st_size}\0{times}\0".encode(errors="surrogateescape"))
        except OSError:
            digest.update(f"{name}\0missing\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:_DIGITS]


def open_or_build(
    folders: Sequence[Path],
    stem: str,
    mark: str,
    suffix: str,
    *,
    open_file: Callable[[Path], T | None],
    build: Callable[[Path], None],
    setting: str = "$XDG_CACHE_HOME",
) -> T:
    """Open the cache file `<stem>-<mark><suffix>`; make it first if it is missing or not whole.

    If several processes want it at once, one makes it while the others wait. Before that, files of the same stem with
    another mark are removed, and so is what a killed process left.

    Args:
        folders: where it may lie, best place first (`cache_folders`).
        stem: the cache's name.
        mark: of `fingerprint`.
        suffix: with its dot.
        open_file: opens the file; None where it is not there or not whole.
        build: writes the file atomically (`core.storage.files.atomic_write`), or a folder that is renamed when it is
            complete; called with a path in the first writable folder.
        setting: where the user can name another folder, for the error message.

    Raises:
        UserError: no folder can be written, or the file cannot be opened after it was made.
    """
    name = f"{stem}-{mark}{suffix}"
    for folder in folders:
        found = open_file(folder / name)
        if found is not None:
            return found
    folder = _first_writable(folders, setting)
    with exclusive(folder / f"{stem}.lock") as alone:
        found = open_file(folder / name)  # made by another process while this one waited
        if found is None:
            if alone:
                _remove_outdated(folder, stem, suffix)
            build(folder / name)
            found = open_file(folder / name)
    if found is None:
        raise UserError(f"cache '{folder / name}' cannot be read back; check the file system, then delete it")
    return found


def decode_in_order(
    decode: Callable[[Item], T], items: Sequence[Item], *, threads: int, title: str
) -> Iterator[T]:
    """`decode` of every item in order, by several threads, with a bar on a terminal's error stream.

    Args:
        decode: called from the threads; what it raises ends the iteration.
        items: its arguments.
        threads: at least 1; at most two results per thread wait in memory.
        title: of the bar.
    """
    yield from watched(_in_order(decode, items, max(threads, 1)), title, len(items))


def _in_order(decode: Callable[[Item], T], items: Sequence[Item], threads: int) -> Iterator[T]:
    executor = ThreadPoolExecutor(threads)
    upcoming: deque[Future[T]] = deque()
    try:
        for item in items:
            upcoming.append(executor.submit(decode, item))
            if len(upcoming) >= 2 * threads:
                yield upcoming.popleft().result()
        while upcoming:
            yield upcoming.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _first_writable(folders: Sequence[Path], setting: str) -> Path:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    places = " nor to ".join(f"'{folder}'" for folder in folders)
    raise UserError(
        f"cached data cannot be written to {places}; name a folder that can be written in {setting}"
    )


def _remove_outdated(folder: Path, stem: str, suffix: str) -> None:
    """Remove caches of earlier states of the images and what a killed process left; needs the lock."""
    name = f"{stem}-{'[0-9a-f]' * _DIGITS}{suffix}"
    for pattern in (name, f".{name}.*.tmp"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
