"""Using the cores of the machine: how many there are, and array work shared out among threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

# NumPy's short operations come back for the interpreter's lock all the time: more threads would queue up for it.
MOST_THREADS = 4

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`function` of each item, in their order, on up to `MOST_THREADS` cores.

    Worth its while where `function` spends its time in NumPy, which lets other threads run meanwhile. The first
    item's exception is raised, as in a loop.
    """
    workers = min(available_cores(), MOST_THREADS, len(items))
    if workers < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))
