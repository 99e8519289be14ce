"""Trials as jobs of a cluster, by submitit: arrays of SLURM jobs, saved on preemption and put back into the queue.

submitit (an extra) writes the batch scripts, submits them, asks SLURM for the state of jobs, and requeues those that
run out of time; its local executor does the same on one machine, without a queue. This file turns its jobs into an
executor of `concurrent.futures`, and passes the signal that ends a job on to the training.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from core.command_line.exits import PREEMPTED
from core.errors import UserError
from core.interruption import Preempted
from core.workers import WorkerDied, to_stderr

T = TypeVar("T")
LARGEST_ARRAY = 1000  # SLURM's own default of MaxArraySize is 1001
_REQUEUES = 1000  # times that a job may run out of its time
_EVERY = {"slurm": 10.0, "local": 0.5}  # seconds between two looks at jobs that run
_MOMENT = 0.5  # seconds within which submitted work becomes one array
_LATE = 3  # looks at an ended job until its result counts as missing: shared file systems take a while
_LOCAL_MINUTES = 60 * 24 * 365  # submitit's local jobs end after two minutes otherwise


class Work:
    """A function with its arguments, which submitit runs in a job and puts back into the queue.

    submitit has SLURM send SIGUSR2 before the time is up. Like SIGUSR1 it makes a training finish its step and write
    its state; then submitit's own handler requeues the job. SIGTERM does the same without requeueing: SLURM decides
    what follows a preemption, and `scancel` means an end.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments
        self.variables: dict[str, str | None] = {}

    def __call__(self) -> Any:
        """Call the function; returns its result."""
        for name, value in self.variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        try:
            return self.function(*self.arguments)
        except Preempted as stop:
            if str(stop) != signal.SIGTERM.name:
                from submitit import JobEnvironment

                signal.raise_signal(signal.Signals[f"SIG{JobEnvironment.USR_SIG}"])
            sys.exit(PREEMPTED)

    def checkpoint(self) -> Any:
        """What to run when the job comes back: the same work, which goes on from the state that it finds."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass
class _Task:
    future: Future[Any]
    work: Work
    name: str
    job: Any = None
    place: int | None = None
    looks: int = 0
    deaths: int = 0


class Jobs(Executor):
    """submitit's jobs as an executor: work submitted within a moment becomes one array.

    A job that ends without a result, because its machine failed or memory ran out, is begun once more.

    Args:
        cluster: "slurm", or "local" for jobs on this machine.
        count: jobs at a time.
        options: of submitit's executor.
        variables: environment variables of a local job, by its place (0 to `count` - 1).
        folder: for submitit's files; each `Jobs` makes a folder of its own there.
        name: from the arguments of some work, what messages call it.
        report: called with one line about each job that ended without a result.

    Raises:
        UserError: submitit does not know an option, or there is no SLURM here.
    """

    def __init__(
        self,
        cluster: str,
        count: int,
        options: Mapping[str, Any],
        variables: Callable[[int], Mapping[str, str]],
        folder: Path,
        *,
        name: Callable[..., str] | None = None,
        report: Callable[[str], object] | None = None,
    ) -> None:
        self.folder = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        self._cluster, self._count, self._variables = cluster, count, variables
        self._executor = _executor(cluster, count, options, self.folder)
        self._name, self._report = name, report or to_stderr
        self._lock = threading.Lock()
        self._new: list[_Task] = []
        self._running: list[_Task] = []
        self._thread: threading.Thread | None = None
        self._closing = False
        self._stop = threading.Event()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See `concurrent.futures.Executor.submit`."""
        assert not kwargs, "jobs take no keyword arguments"
        name = getattr(fn, "__name__", str(fn)) if self._name is None else self._name(*args)
        future: Future[T] = Future()
        with self._lock:
            if self._closing:
                raise RuntimeError("the jobs have been told to end")
            self._new.append(_Task(future, Work(fn, args), name))
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, daemon=True)
                self._thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        self._closing = True
        if cancel_futures:
            with self._lock:
                for task in self._new:
                    task.future.cancel()
                self._new = []
        if self._thread is not None and wait:
            self._thread.join()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._stop.set()
        self.shutdown(cancel_futures=kind is not None)

    def _serve(self) -> None:
        """The thread that starts jobs and collects their results."""
        while not self._stop.wait(_EVERY[self._cluster] if self._running and not self._new else _MOMENT):
            try:
                self._start()
            except (OSError, RuntimeError, ValueError) as error:  # sbatch refuses the jobs
                line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                self._fail_all(UserError(f"no jobs can be submitted: {line}"))
            for task in [task for task in self._running if task.job.done()]:
                self._take_in(task)
            if self._closing and not self._new and not self._running:
                return
        self._cancel()

    def _start(self) -> None:
        """Submit what waits: all of it to a queue, on this machine as much as may run."""
        local = self._cluster == "local"
        with self._lock:
            room = self._count - len(self._running) if local else LARGEST_ARRAY
            tasks, self._new = self._new[:room], self._new[room:]
        tasks = [task for task in tasks if task.deaths or task.future.set_running_or_notify_cancel()]
        if not tasks:
            return
        self._running += tasks
        if local:
            taken = {task.place for task in self._running}
            free = (place for place in range(self._count) if place not in taken)
            for task in tasks:
                task.place = next(free)
                # submitit hides all GPUs from a local job that asks for none.
                shown = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}
                task.work.variables = {**shown, **self._variables(task.place)}
        for task, job in zip(tasks, self._executor.submit_array([task.work for task in tasks]), strict=True):
            task.job = job

    def _take_in(self, task: _Task) -> None:
        """Take the result of a job that has ended; without one, begin it once more."""
        paths = task.job.paths
        if not paths.result_pickle.exists():
            task.looks += 1
            if task.looks >= _LATE:
                self._bury(task)
            return
        self._running.remove(task)
        error = task.job.exception()
        if error is None:
            task.future.set_result(task.job.result())
        else:
            lines = [line for line in str(error).splitlines() if line.strip()]
            own = [line for line in lines if not line.startswith((" ", "-", "Job (", "You can check"))]
            task.future.set_exception(RuntimeError((own or lines)[-1].strip()))
        for path in (paths.result_pickle, paths.submitted_pickle):
            path.unlink(missing_ok=True)

    def _bury(self, task: _Task) -> None:
        self._running.remove(task)
        state = str(task.job.state).lower()
        died = f"job {task.job.job_id} ended without a result ({state}) while it was at {task.name}"
        task.job.paths.submitted_pickle.unlink(missing_ok=True)
        task.deaths += 1
        if task.deaths > 1 or state.startswith("cancelled"):
            again = ", for the second time" if task.deaths > 1 else ""
            task.future.set_exception(WorkerDied(f"{died}{again} (see '{task.job.paths.stderr}')"))
            return
        with suppress(OSError):  # nobody reads it
            self._report(f"{died}: it is begun again")
        task.looks, task.place = 0, None
        with self._lock:
            self._new.insert(0, task)

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            lost, self._running = (
                [task for task in self._running if task.job is None],
                [task for task in self._running if task.job is not None],
            )
            lost, self._new = lost + self._new, []
        for task in lost:
            task.future.set_exception(error)

    def _cancel(self) -> None:
        """End all jobs that are queued or running, arrays as a whole."""
        with suppress(OSError):
            self._report(f"cancelling {len(self._running)} jobs ...")
        whole = {task.job.job_id.split("_")[0]: task.job for task in self._running}
        for number, job in whole.items():
            slurm = self._cluster == "slurm"
            (type(job)(folder=self.folder, job_id=number) if slurm else job).cancel(check=False)


def _executor(cluster: str, count: int, options: Mapping[str, Any], folder: Path) -> Any:
    import submitit

    settings = dict(options)
    try:
        if cluster == "slurm":
            executor: Any = submitit.SlurmExecutor(folder, max_num_timeout=_REQUEUES)
            settings = {"job_name": "lwdna", "array_parallelism": count, **settings}
        else:
            executor = submitit.LocalExecutor(folder, max_num_timeout=_REQUEUES)
            settings = {"timeout_min": _LOCAL_MINUTES, **settings}
        executor.update_parameters(**settings)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"--executor-options: submitit refuses them, or there is no SLURM here: {text}"
        ) from error
    return executor
