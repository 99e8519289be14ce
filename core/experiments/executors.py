"""Where trials run: in this process, or in local processes; the shape is that of `concurrent.futures.Executor`.

Small networks leave a device idle while Python prepares the next operation, and most of a CPU's cores all the time.
Processes share neither the interpreter nor its lock, so they fill both. What is sent to a process is picklable: a
function of a module that opens the engine, and the trial. Whatever offers `submit(function, *arguments) -> future` can
take the place of these two, a cluster's queue too.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import torch

from core.errors import UserError
from core.experiments.engine import Engine
from core.experiments.forecast import Forecast
from core.experiments.plan import Trial
from core.experiments.processes import of_all
from core.experiments.trials import Failure, attempt, failure
from core.interruption import watch_for_interruption
from core.workers import WorkerDied, Workers

PATIENCE = 30  # seconds that a process has to save its state, or to be done with a trial after another one
OpenEngine = Callable[[], Engine]
T = TypeVar("T")
_opened: dict[bytes, Engine] = {}  # in a process of its own: the engine that it works with


class InProcess(Executor):
    """Runs what is submitted at once, here; what that raises is raised to whoever submits."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See `concurrent.futures.Executor.submit`."""
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def check_jobs(jobs: int) -> None:
    """Refuse what is no number of jobs.

    Raises:
        UserError: fewer than one.
    """
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: use at least 1")


@contextmanager
def local_executor(jobs: int, name: Callable[..., str] | None = None) -> Iterator[Executor]:
    """This process for one job, as many processes for several; they end with the block, and with this process.

    Leaving the block by an exception, Ctrl-C, SIGTERM and SIGUSR1 among them, asks them to end: a training writes a
    checkpoint first. The cores are shared out among them. A trial whose process the system ends is begun again, once.

    Args:
        jobs: trials at a time.
        name: what messages call some work, from its arguments.
    """
    check_jobs(jobs)
    if jobs == 1:
        yield InProcess()
        return
    _start_tracker()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with watch_for_interruption(), Workers(jobs, _begin, (threads,), patience=PATIENCE, name=name) as pool:
        yield pool


def _trial_of(open_engine: OpenEngine, trial: Trial, *rest: object) -> str:
    return str(trial)


def _start_tracker() -> None:
    """Start Python's own process beside ours, shielded from SIGUSR1: schedulers send it to all processes of a job."""
    if hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            resource_tracker.ensure_running()  # it inherits what is blocked
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(threads: int) -> None:
    """The first thing that a process of ours does."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the first process alone, which then ends the others in order
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # schedulers send it to all; as above
    torch.set_num_threads(threads)


def attempt_there(
    open_engine: OpenEngine, trial: Trial, place: str, train: bool, forecast: Forecast | None
) -> Failure | None:
    """`core.experiments.trials.attempt` in a process of its own, which opens the engine once.

    What opening prints has been printed by the first process already.
    """
    name = pickle.dumps(open_engine)
    with watch_for_interruption():  # what ends it goes to the first process, not to the terminal
        if name not in _opened:
            _opened.clear()
            with redirect_stdout(io.StringIO()):
                _opened[name] = open_engine()
        return attempt(_opened[name], trial, place, train=train, forecast=forecast)


def run_trials(
    engine: Engine,
    trials: Sequence[tuple[Trial, bool]],
    jobs: int = 1,
    open_engine: OpenEngine | None = None,
) -> list[Failure]:
    """Run trials, each as far as it has not been done; returns those that failed. Records are in the engine's store.

    Args:
        engine: of this process.
        trials: each with whether its network is trained, or its widths are found alone.
        jobs: trials at a time.
        open_engine: opens the engine in another process: picklable, such as a `functools.partial` of a function of a
            module. Needed for several jobs.

    Raises:
        UserError: the engine's trials cannot run in processes of their own, or there are launched processes.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGUSR1; everything has been stopped.
    """
    check_jobs(jobs)
    if jobs > 1 and engine.fabric.world_size > 1:
        raise UserError(f"--jobs {jobs}: a launcher has started several processes already: use one of both")
    if jobs > 1 and engine.task.one_process:
        raise UserError(f"--jobs {jobs}: {engine.task.one_process}")
    failures = []
    control = None
    if engine.fabric.world_size > 1:
        control = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE))

    def note(found: Failure | None) -> None:
        if found is not None:
            failures.append(found)
            if engine.fabric.is_global_zero:
                print(f"failed: {found}", file=sys.stderr, flush=True)

    new = [train and engine.load(trial) is None for trial, train in trials]
    wanted = sum(train for _, train in trials)
    if sum(new) < wanted:
        engine.say(f"{wanted - sum(new)} of {wanted} trials are done already")
    forecast = Forecast(sum(new), jobs)
    with local_executor(jobs, _trial_of) as executor:
        waiting: dict[Future[Failure | None], Trial] = {}
        for number, ((trial, train), is_new) in enumerate(zip(trials, new, strict=True), start=1):
            place = f"{number}/{len(trials)} {trial}"
            if jobs == 1:
                found = executor.submit(
                    attempt, engine, trial, place, train=train, forecast=forecast
                ).result()
                note(found if control is None else of_all(found, control))
                forecast.trainings -= is_new
            else:
                assert open_engine is not None, "several jobs need open_engine"
                own = forecast if is_new and not any(new[: number - 1]) else None  # the first one says it
                waiting[executor.submit(attempt_there, open_engine, trial, place, train, own)] = trial
        for future in as_completed(waiting):
            try:
                note(future.result())
            except WorkerDied as error:  # twice: the system killed it, for want of memory say
                note(failure(waiting[future], error))
    return failures
