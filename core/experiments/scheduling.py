"""Runs trials, several at a time: their order, second tries, and failures.

A training that another command is running is left for later and waited for at the end, so that several commands, on one
machine or many, share the trials of one store. A trial that fails is tried once more, unless the user has to act on the
message or the failure is bound to repeat; if it fails again, the others go on.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

import torch

from core.errors import NonFiniteOutput, UserError
from core.experiments import executors
from core.experiments.cluster import Jobs
from core.experiments.engine import Engine
from core.experiments.executors import PROCESSES, Resources, open_executor
from core.experiments.forecast import Forecast
from core.experiments.plan import Trial
from core.experiments.processes import of_all
from core.experiments.trials import Failure, attempt, failure
from core.interruption import watch_for_interruption
from core.storage.claims import Claimed
from core.training.divergence import TrainingDiverged
from core.training.optim import schedule_notes
from core.workers import WorkerDied

OpenEngine = Callable[[], Engine]
_SAME_AGAIN = (TrainingDiverged.__name__, NonFiniteOutput.__name__, WorkerDied.__name__)
_opened: dict[bytes, Engine] = {}  # in a process of its own: the engine that it works with


@dataclass(frozen=True)
class _Item:
    """A trial of the list.

    Attributes:
        number: its place, from 1.
        trial: the trial.
        train: whether its network is trained, or only its widths are found.
        is_new: whether there is something to train.
        place: the beginning of lines about it.
    """

    number: int
    trial: Trial
    train: bool
    is_new: bool
    place: str


def attempt_there(
    open_engine: OpenEngine,
    trial: Trial,
    place: str,
    train: bool,
    waits: bool,
    forecast: Forecast | None,
    in_job: bool,
) -> Failure | None:
    """`core.experiments.trials.attempt` in a process of its own, which opens the engine once.

    The first process has already printed the lines of opening, so they are dropped here; a job, whose process ends with
    the trial, prints them into a file of its own.
    """
    name = pickle.dumps(open_engine)
    with watch_for_interruption():  # the reason of an end goes to the first process, not to the terminal
        if name not in _opened:
            _opened.clear()
            with nullcontext() if in_job else redirect_stdout(io.StringIO()):
                _opened[name] = open_engine()
        engine = replace(_opened[name], waits=waits)
        return attempt(engine, trial, place, train=train, forecast=forecast)


def _trial_of(open_engine: OpenEngine, trial: Trial, *rest: object) -> str:
    return str(trial)


def run_trials(
    engine: Engine,
    trials: Sequence[tuple[Trial, bool]],
    resources: Resources | None = None,
    open_engine: OpenEngine | None = None,
) -> list[Failure]:
    """Run what is left of each trial; returns the failed ones. The engine's store gets the records.

    Args:
        engine: of this process.
        trials: each with whether its network is trained, or only its widths are found.
        resources: where they run; None for this process.
        open_engine: opens the engine in another process; picklable, such as a `functools.partial` of a module's
            function. Needed if trials run in other processes.

    Raises:
        UserError: the engine's trials cannot run in processes of their own, or a launcher has started several.
        KeyboardInterrupt: Ctrl-C, SIGTERM, SIGUSR1 or SIGUSR2; everything has been stopped.
    """
    resources = resources or Resources()
    _check(engine, resources)
    control = None
    if engine.fabric.world_size > 1:
        patience = timedelta(seconds=executors.PATIENCE)
        control = torch.distributed.new_group(backend="gloo", timeout=patience)
    new = [train and engine.load(trial) is None for trial, train in trials]
    wanted = sum(train for _, train in trials)
    if sum(new) < wanted:
        engine.say(f"{wanted - sum(new)} of {wanted} trials are done already")
    for line in schedule_notes(engine.train) if any(new) else ():
        engine.say(f"note: {line}")
    if resources.jobs > len(resources.gpus) > 0:
        engine.say(f"{resources.jobs} trials at a time share {len(resources.gpus)} GPUs, one each by turns")
    pending = [
        _Item(number, trial, train, is_new, f"{number}/{len(trials)} {trial}")
        for number, ((trial, train), is_new) in enumerate(zip(trials, new, strict=True), start=1)
        if is_new or not train
    ]
    forecast = Forecast(sum(new), resources.jobs)
    failures: list[Failure] = []
    tried: set[int] = set()
    waits = False
    with open_executor(resources, engine.store.folder / "jobs", _trial_of) as executor:
        jobs = isinstance(executor, Jobs)
        if isinstance(executor, Jobs):
            engine.say(f"{len(pending)} trials as jobs; what they print: '{executor.folder}'")
        run = partial(_attempts, engine, resources, executor, open_engine, forecast)
        while pending:
            again: list[_Item] = []
            for item, own in run(pending, waits):
                found = own if control is None else of_all(own, control)
                if found is None:
                    if jobs:  # trials elsewhere print their own lines here
                        engine.say(f"{item.place}: done")
                    continue
                if found.kind == Claimed.__name__ and not waits:
                    again.append(item)
                elif not found.usage and found.kind not in _SAME_AGAIN and item.number not in tried:
                    tried.add(item.number)
                    again.append(item)
                    _tell(engine, f"{found}: it is tried once more")
                else:
                    failures.append(found)
                    _tell(engine, f"failed: {found}{', twice' if item.number in tried else ''}")
            pending, waits = sorted(again, key=lambda item: item.number), True
    return failures


def _check(engine: Engine, resources: Resources) -> None:
    if resources.here:
        return
    how = f"--jobs {resources.jobs}" if resources.kind == PROCESSES else f"--executor {resources.kind}"
    if engine.fabric.world_size > 1:
        raise UserError(f"{how}: a launcher has started several processes already: use one of both")
    if engine.task.one_process:
        raise UserError(f"{how}: {engine.task.one_process}")


def _tell(engine: Engine, line: str) -> None:
    if engine.fabric.is_global_zero:
        print(line, file=sys.stderr, flush=True)


def _attempts(
    engine: Engine,
    resources: Resources,
    executor: Executor,
    open_engine: OpenEngine | None,
    forecast: Forecast,
    items: Sequence[_Item],
    waits: bool,
) -> Iterator[tuple[_Item, Failure | None]]:
    """Each trial with its failure or None, in the order of completion."""
    if resources.here:
        own = replace(engine, waits=waits)
        for item in items:
            future = executor.submit(
                attempt, own, item.trial, item.place, train=item.train, forecast=forecast
            )
            yield item, future.result()
            forecast.trainings -= item.is_new
        return
    assert open_engine is not None, "other processes need open_engine"
    first = next((item.number for item in items if item.is_new), None)
    waiting: dict[Future[Failure | None], _Item] = {}
    for item in items:
        told = forecast if item.number == first else None  # only the first trial prints the forecast
        arguments = (
            open_engine,
            item.trial,
            item.place,
            item.train,
            waits,
            told,
            resources.kind != PROCESSES,
        )
        waiting[executor.submit(attempt_there, *arguments)] = item
    for future in as_completed(waiting):
        item = waiting[future]
        try:
            yield item, future.result()
        except (
            RuntimeError
        ) as error:  # `WorkerDied`, for want of memory say, or the engine does not open there
            yield item, failure(item.trial, error)
