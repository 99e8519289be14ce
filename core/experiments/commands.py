"""`run` of every task: the experiment that a command line describes."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lightning_fabric import Fabric

from core.command_line.config import load_config
from core.command_line.exits import RESUME
from core.command_line.factories import from_data, is_factory
from core.errors import UserError
from core.experiments.arguments import read_protocol, resources_of
from core.experiments.checks import check_trials
from core.experiments.engine import Engine
from core.experiments.experiment import engine_of, run_experiment
from core.experiments.extension import keep_shorter, longer_protocol, trainings_in
from core.experiments.given import at_given_budget
from core.experiments.plan import extended, new_plan, stored_plan, with_weights
from core.experiments.pretrained import weights_told
from core.experiments.processes import launched_processes
from core.experiments.settings import FOUND, STAGES, Settings, TeacherConfig
from core.experiments.statistics import FEW_SEEDS
from core.experiments.task import Task
from core.experiments.work_directories import CONFIG_FILE, Use, check_same, find_run, settle, work_directory
from core.storage.data import data_root
from core.training.divergence import lowered_rate
from core.training.train import make_fabric

RESULT_FILE = "result.json"
T = TypeVar("T")
C_contra = TypeVar("C_contra", contravariant=True)


class OpenTask(Protocol[C_contra]):
    """Opens data and describes a task."""

    def __call__(self, config: C_contra, root: Path, folder: Path, fabric: Fabric, /) -> Task:
        """Takes protocol, data root, work directory and devices."""


def execute(
    arguments: Namespace,
    task_name: str,
    schema: type[T],
    find_protocol: Callable[[], Path],
    given: Mapping[str, Any],
    default_name: Callable[[T], str],
    open_task: OpenTask[T],
    complete: Callable[[T, bool], T] = lambda config, stored: config,
    model: str = "model",
    uses: Callable[[T, str], Sequence[str]] = lambda config, data_root: (),
) -> int:
    """Run the experiment that a command line describes; returns the exit status: 0, or 1 if a trial failed.

    Args:
        arguments: parsed arguments, `add_experiment_arguments` among them.
        task_name: "classification", ...
        schema: dataclass of the task's protocol.
        find_protocol: gives the protocol file if `--config` names none.
        given: see `read_protocol`.
        default_name: name of the work directory for a protocol.
        open_task: opens data and describes the task; takes protocol, data root, work directory and devices. A function
            of a module, or a `functools.partial` of one, so that other processes can do the same.
        complete: fills in what follows from the rest of the protocol; also gets whether that is a work directory's.
        model: the key, in the protocol and in `given`, under which the network is named. A line says so if a protocol
            that is data names code there.
        uses: (protocol, " --data-root FOLDER" or "") -> commands that take the checkpoint of a run, such as
            "classification.predict IMAGES".
    """

    def protocol(path: Path, dumped: bool = False) -> T:
        if arguments.config:
            path, dumped = Path(arguments.config), False
        return complete(read_protocol(path, schema, arguments, given, dumped=dumped), dumped)

    def name() -> str:
        return default_name(protocol(Path() if arguments.config else find_protocol()))

    resources = resources_of(arguments)
    use: Use = "existing" if arguments.resume else "new" if arguments.stages is None else "either"
    said_what = bool(arguments.config or arguments.cfg_options)
    said_what = said_what or any(value is not None for value in (arguments.name, *given.values()))
    there = find_run(arguments.work_dir, name, use, None if said_what else task_name)
    stored: Any = None
    if there is None:
        config: Any = protocol(Path() if arguments.config else find_protocol())
    else:
        stored = load_config(there / CONFIG_FILE, schema, dumped=True)
        config = protocol(there / CONFIG_FILE, dumped=True)
    fabric = make_fabric(arguments.device, config.train.precision, *launched_processes())
    config, lowered_lr = lowered_rate(config, stored, there or Path())
    say = _say if fabric.is_global_zero else _silent
    with work_directory(fabric, there, arguments, name, RESULT_FILE, say) as folder:
        trainings = trainings_in(folder)
        whole = arguments.resume and arguments.stages is None
        config, longer = longer_protocol(config, stored, trainings, whole)
        first_seed = config.train.seed
        asked = arguments.seeds, arguments.controls, arguments.data_root, arguments.method
        if there is None:
            plan = new_plan(task_name, first_seed, *asked)
        else:
            earlier = stored_plan(there, task_name, stored.train.seed, say)
            plan = extended(earlier, there, *asked, say)
        settings = Settings(
            train=config.train,
            shrink=config.shrink,
            work_dir=folder,
            controls=plan.controls,
            seeds=len(plan.seeds),
            stages=tuple(arguments.stages or STAGES),
            method=plan.method,
            search=config.search,
            distillation=getattr(config, "distillation", None),
            teacher=getattr(config, "teacher", TeacherConfig()),
            progress=not arguments.no_progress,
            lowered_lr=lowered_lr,
            allow_unknown_start=arguments.allow_unknown_start,
            schema=plan.schema,
            start=getattr(config, "start", "scratch"),
        )
        if stored is not None and not longer:
            check_same(config, stored, folder)
        root = data_root(plan.data_root)
        note = from_data(attrgetter(model)(config), given[model], arguments.config)
        if note is not None:
            say(note)
        task = open_task(config, root, folder, fabric)
        if task.given is not None and plan.method is not None:
            raise UserError(
                f"--widths gives the found network's widths, and --method {plan.method} says how they are found: leave "
                "one of both out"
            )
        if task.given is not None and settings.start == "pretrained" and not task.given.kept:
            raise UserError(
                "--start pretrained: the file of --widths does not say which channels of the weights are kept; leave "
                "--widths out, or name the widths.json of a run with --pretrained"
            )
        settings = replace(settings, shrink=at_given_budget(settings.shrink, task.given))
        if task.pretrained is not None:
            for line in weights_told(task.pretrained, settings.start, settings.shrink):
                say(line)
            plan = with_weights(plan, task.pretrained.checksum, task.pretrained.source, folder)
        known = replace(settings, train=stored.train) if longer else settings  # of existing records
        check_trials(engine_of(task, known, fabric), settings.trials())
        fabric.barrier()  # every process has read what is stored before the first one writes
        if fabric.is_global_zero:
            if longer:
                keep_shorter(folder, config, stored, trainings, say)
            task.keep()
            settle(plan, config, None if longer else stored, folder, settings.stages)
        if longer:
            fabric.barrier()  # no process looks for trained networks before these are out of the way
        there_too = partial(open_engine, open_task, config, root, settings, arguments.device)
        outcome = run_experiment(task, settings, fabric, say, resources=resources, open_engine=there_too)
        for line in task.close():
            say(line)
    if outcome.result is not None:
        where = "" if plan.data_root is None else f" --data-root {shlex.quote(plan.data_root)}"
        typed = uses(config, where)
        for line in next_steps(task_name, typed, folder, attrgetter(model)(config), model, len(plan.seeds)):
            say(line)
    if outcome.failed and fabric.is_global_zero:
        print(f"{len(outcome.failed)} trial{'s' * (len(outcome.failed) != 1)} failed, as said above; {RESUME}",
              file=sys.stderr)  # fmt: skip
    return 1 if outcome.failed else 0


def next_steps(
    task_name: str, uses: Sequence[str], folder: Path, model: str, key: str, seeds: int
) -> list[str]:
    """The commands to type after a comparison.

    Args:
        task_name: "classification", ...
        uses: commands that take the checkpoint.
        folder: the work directory.
        model: the network, as the protocol names it.
        key: its key in the protocol.
        seeds: number of seeds that were compared.
    """
    checkpoint = folder / f"{FOUND}.safetensors"
    named = shlex.quote(str(checkpoint))
    lines = []
    if checkpoint.exists():
        code = f" --{key.partition('.')[0]} {shlex.quote(model)}" if is_factory(model) else ""
        lines += [f"python -m {use} --checkpoint {named}{code}" for use in uses]
        lines.append(f"python -m core.inspect {named}")
        if find_spec(f"{task_name}.export") is not None:
            lines.append(
                f"python -m {task_name}.export {named} {shlex.quote(str(checkpoint.with_suffix('.onnx')))}{code}"
            )
    more = max(seeds + 2, FEW_SEEDS)
    lines.append(
        f"python -m {task_name}.run --resume --work-dir {shlex.quote(str(folder))} --seeds {more}"
        f"    ({more} seeds instead of {seeds})"
    )
    return ["next:", *(f"  {line}" for line in lines)]


def open_engine(open_task: OpenTask[Any], config: Any, root: Path, settings: Settings, device: str) -> Engine:
    """The engine of an experiment in a process of its own; see `execute`."""
    fabric = make_fabric(device, config.train.precision)
    task = open_task(config, root, settings.work_dir, fabric)
    return engine_of(task, replace(settings, progress=False), fabric, _say)


def _say(line: str) -> None:
    print(line, flush=True)


def _silent(line: str) -> None:
    """Processes other than the first one print nothing."""
