"""Batches from the worker processes of torch's DataLoader, also where the system kills one of them."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

# What the first process meets if a worker died while its batch was being received: torch says nothing then.
_PIPE_ENDED = (EOFError, ConnectionError, FileNotFoundError)


def batches_of(loader_from: Callable[[int], DataLoader], start: int = 0) -> Iterator[Any]:
    """The batches of an epoch. If a process that prepares them dies, new ones start at the missing batch.

    Args:
        loader_from: number -> a loader of the epoch's batches from this one on; a batch is a function of its number.
        start: number of the first batch.

    Raises:
        RuntimeError: a second process has died.
    """
    died = False
    while True:
        loader = loader_from(start)
        try:
            for batch in _undisturbed(loader):
                start += 1
                yield batch
            return
        except (RuntimeError, *_PIPE_ENDED) as error:
            if not loader.num_workers or not _tells_of_death(error):
                raise
            how = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
            what = f"a process that prepares batches has died ({how})"
            if died:
                advice = "out of memory? reduce data.workers"
                raise RuntimeError(f"{what}, the second one of this epoch; {advice}") from error
            died = True
            warnings.warn(f"{what}: batches from {start} on are prepared again", stacklevel=2)


def _tells_of_death(error: Exception) -> bool:
    text = str(error)
    if text.startswith("Caught "):  # what the data set itself has raised in a process
        return False
    return isinstance(error, _PIPE_ENDED) or "DataLoader worker (pid" in text


def _undisturbed(loader: DataLoader) -> Iterator[Any]:
    """What `loader` yields; a process that dies raises an error here, within five seconds.

    torch's handler of SIGCHLD would raise it wherever the first process is at that moment, such as in a training step.
    """
    ours = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if ours else None
    iterator = iter(loader)
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
    return iterator
