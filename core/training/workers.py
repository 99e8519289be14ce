"""Worker processes that prepare batches for a training."""

from __future__ import annotations

import os
import signal

from core.interruption import SIGNALS
from core.storage.images import decode_in_one_thread
from core.workers import end_with_parent


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def at_most_cores(workers: int) -> int:
    """So many workers, but no more than there are cores: more would only wait for each other."""
    return min(workers, available_cores())


def begin_worker(_: int) -> None:
    """The first thing that a worker of torch's DataLoader does (`worker_init_fn`).

    Signals that ask a command to end reach all of its processes (Ctrl-C, schedulers). Workers go on: the training takes
    the step under way to its end, which needs their batches, and ends them. If it is killed, they end by themselves.
    """
    end_with_parent()
    decode_in_one_thread()  # the workers are the parallelism
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
