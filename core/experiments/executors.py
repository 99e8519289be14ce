"""Where trials run: in this process, in local ones, or as jobs; the shape is that of `concurrent.futures.Executor`.

Small networks leave a device idle while Python prepares the next operation, and most of a CPU's cores all the time.
Processes share neither the interpreter nor its lock, so they fill both. What is sent to a process has to be picklable:
a module's function that opens the engine, and the trial. Jobs of a cluster: `core.experiments.cluster`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeVar

import torch

from core.errors import UserError
from core.experiments.cluster import Jobs
from core.interruption import SENT_TO_ALL, watch_for_interruption
from core.workers import Workers

PATIENCE = 30  # seconds for a process to save its state, or to finish a trial after another process has
PROCESSES, SLURM, LOCAL_JOBS = "processes", "slurm", "local-jobs"
T = TypeVar("T")


@dataclass(frozen=True)
class Resources:
    """Where trials run.

    Attributes:
        kind: PROCESSES of this machine, or jobs: SLURM's, or LOCAL_JOBS, which need no queue.
        jobs: trials at a time.
        options: of submitit's executor, for jobs.
        gpus: CUDA_VISIBLE_DEVICES of the trials in turns, one GPU each; empty if all trials see the GPUs of this
            process.

    Raises:
        UserError: fewer than one trial at a time.
    """

    kind: str = PROCESSES
    jobs: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UserError(f"--jobs {self.jobs}: use at least 1")

    @property
    def here(self) -> bool:
        """Whether trials run in this process."""
        return self.kind == PROCESSES and self.jobs == 1

    def variables(self, number: int) -> dict[str, str]:
        """Environment variables of the trial at place `number` of `jobs`."""
        return {"CUDA_VISIBLE_DEVICES": self.gpus[number % len(self.gpus)]} if self.gpus else {}


def visible_gpus() -> tuple[str, ...]:
    """The names of this process' GPUs, as in CUDA_VISIBLE_DEVICES; none if there is at most one."""
    count = torch.cuda.device_count()
    said = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(said[:count] or map(str, range(count))) if count > 1 else ()


class InProcess(Executor):
    """Runs submitted work at once, in this process; `submit` raises what the work raises."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See `concurrent.futures.Executor.submit`."""
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def open_executor(
    resources: Resources, folder: Path | None = None, name: Callable[..., str] | None = None
) -> Iterator[Executor]:
    """The executor that runs trials; it ends with the block, and local processes end with this process.

    Leaving the block by an exception (Ctrl-C, SIGTERM and SIGUSR1 as well) asks the processes to end: a training writes
    a checkpoint first. Local processes share the cores. A trial whose process the system ends is begun once more.

    Args:
        resources: where trials run, and how many at a time.
        folder: for the output and the input of jobs.
        name: from the arguments of some work, what messages call it.

    Raises:
        UserError: submitit does not know an option, or there is no SLURM here.
    """
    if resources.here:
        yield InProcess()
    elif resources.kind == PROCESSES:
        _start_tracker()
        threads = max(1, (os.cpu_count() or 1) // resources.jobs)
        workers = Workers(
            resources.jobs, _begin, (threads,), each=resources.variables, patience=PATIENCE, name=name
        )
        with watch_for_interruption(), workers:
            yield workers
    else:
        assert folder is not None, "jobs need a folder"
        cluster = "slurm" if resources.kind == SLURM else "local"
        with (
            watch_for_interruption(),
            Jobs(cluster, resources.jobs, resources.options, resources.variables, folder, name=name) as jobs,
        ):
            yield jobs


def _start_tracker() -> None:
    """Start Python's resource tracker, shielded from signals that schedulers send to all processes of a job."""
    if hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, set(SENT_TO_ALL))
        try:
            resource_tracker.ensure_running()  # it inherits the blocked signals
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(threads: int) -> None:
    """Prepare a process for trials; called in it first."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches only the first process, which then ends the others in order
    for number in SENT_TO_ALL:
        signal.signal(number, signal.SIG_IGN)  # as above
    torch.set_num_threads(threads)
