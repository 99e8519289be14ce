"""Parsed text kept as arrays between runs, so that scoring the same files again does not parse them again.

The cache is a convenience: where it cannot be written or does not fit the files any more, the text is parsed.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from core.storage.files import atomic_write

T = TypeVar("T")

FORMAT = "3"  # of what is stored and of how text is parsed: raise it when either changes


def cache_folder() -> Path:
    """`$LWDNA_CACHE`, else `$XDG_CACHE_HOME/lwdna`, else `~/.cache/lwdna`."""
    if folder := os.environ.get("LWDNA_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lwdna"


def cached(
    kind: str,
    sources: Iterable[Path],
    parse: Callable[[], T],
    pack: Callable[[T], dict[str, np.ndarray]],
    unpack: Callable[[Mapping[str, np.ndarray]], T],
    enabled: bool = True,
) -> T:
    """What `parse()` returns, from the cache where no source has changed since.

    Args:
        kind: what is parsed; part of the key.
        sources: the files whose names, sizes and modification times decide whether the cache holds; any of them may
            be named several times.
        parse: reads the text.
        pack: turns what `parse` returns into arrays that can be stored.
        unpack: turns them back.
        enabled: False parses always and writes nothing.
    """
    if not enabled:
        return parse()
    names = list(dict.fromkeys(os.path.abspath(source) for source in sources))
    states: list[tuple[int, int, int] | None] = []
    for name in names:
        try:
            status = os.stat(name)
        except FileNotFoundError:
            states.append(None)
        else:
            states.append((status.st_size, status.st_mtime_ns, status.st_ino))
    key = hashlib.sha256(json.dumps([FORMAT, kind, names]).encode()).hexdigest()[:32]
    fingerprint = hashlib.sha256(json.dumps(states).encode()).hexdigest()
    path = cache_folder() / "tracking" / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["fingerprint"]) == fingerprint:
                return unpack({name: stored[name] for name in stored.files if name != "fingerprint"})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # none, an old one, or one that was damaged: parse and write it afresh
    value = parse()
    try:
        with atomic_write(path, "wb") as file:
            np.savez(file, fingerprint=np.array(fingerprint), **pack(value))
    except OSError:
        pass  # a read-only or full home must not stop an evaluation
    return value
