"""Worker processes that prepare batches for a training."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from multiprocessing.queues import Queue

from core.interruption import SIGNALS
from core.storage.images import decode_in_one_thread
from core.workers import end_with_parent


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def at_most_cores(workers: int) -> int:
    """This many workers, but no more than there are cores: more would only wait for each other."""
    return min(workers, available_cores())


def begin_worker(_: int) -> None:
    """The first thing that a worker of torch's DataLoader does (`worker_init_fn`).

    Signals that ask a command to end reach all of its processes (Ctrl-C, schedulers). Workers go on: the training
    finishes its present step, which needs their batches, and ends them. If it is killed, they end by themselves.

    A batch that cannot be handed over (shared memory is full, too many files are open) ends the worker, which
    `batches_of` then notices.
    """
    end_with_parent()
    # Python's own hook prints a traceback, drops the batch and goes on: the training would wait for ever.
    Queue._on_queue_feeder_error = staticmethod(_cannot_hand_over)  # type: ignore[attr-defined]
    decode_in_one_thread()  # the workers are the parallelism
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _cannot_hand_over(error: Exception, _: object) -> None:
    """End the worker; called by its queue in a thread of its own, where nothing can be raised."""
    with suppress(OSError):  # nobody reads it
        print(f"process {os.getpid()} cannot hand over a batch, and ends: {type(error).__name__}: {error}",
              file=sys.stderr, flush=True)  # fmt: skip
    os._exit(1)
