"""Data roots and what to say when data is missing: what, where it belongs, where to get it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from core.errors import MissingData

ENVIRONMENT_VARIABLE = "LWDNA_DATA"
# What file managers, notebooks, archives and network drives leave behind, besides names that start with a dot.
_CLUTTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin", "lost+found"}


def data_root(argument: str | Path | None = None) -> Path:
    """The folder under which data sets lie: `--data-root`, else `$LWDNA_DATA`, else `data/`."""
    if argument is not None:
        return Path(argument).expanduser()
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or "data").expanduser()


def missing_of(openers: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    """Data set -> what is missing and where to get it; "" if its opener finds the data set."""
    found = dict.fromkeys(openers, "")
    for name, open_set in openers.items():
        try:
            open_set()
        except MissingData as error:
            found[name] = str(error)
    return found


def require(path: str | Path, what: str, get: str) -> Path:
    """Return `path` if it exists.

    Args:
        path: a file or folder that a data set needs.
        what: what is missing, in words ("Tiny-ImageNet's training images").
        get: where to get it, in words or as an address.

    Raises:
        MissingData: `path` does not exist; the one-line message says what, where it goes and where to get it.
    """
    path = Path(path)
    if not path.exists():
        raise MissingData(
            f"{what} not found: expected at '{path}'. Get it from {get}, or name another root "
            f"with --data-root or ${ENVIRONMENT_VARIABLE}."
        )
    return path


def is_hidden(name: str) -> bool:
    """Whether no user put this file or folder there as data: `._x`, `.DS_Store`, `Thumbs.db`, `@eaDir`, …"""
    return name.startswith(".") or name.lower() in _CLUTTER
