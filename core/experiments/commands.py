"""What every experiment's command line shares: common arguments, protocols, work directories."""

from __future__ import annotations

import glob
import shlex
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

from lightning_fabric import Fabric

from core.command_line.config import dump_config, load_config
from core.command_line.exits import RESUME
from core.command_line.factories import from_data, is_factory
from core.command_line.parsers import examples_text
from core.differences import differences
from core.errors import UserError
from core.experiments.executors import check_jobs
from core.experiments.experiment import engine_of, run_experiment
from core.experiments.given import at_given_budget, shipped_names
from core.experiments.plan import PLAN_FILE, Plan, Start, extended, new_plan, stored_plan, with_weights
from core.experiments.pretrained import shrink_of, weights_told
from core.experiments.processes import from_first, launched_processes
from core.experiments.settings import FOUND, STAGES, Settings, TeacherConfig
from core.experiments.statistics import FEW_SEEDS
from core.experiments.task import Task
from core.experiments.trials import Engine, check_trials
from core.methods.registry import METHODS
from core.storage.claims import Claimed, take
from core.storage.data import data_root
from core.training.divergence import lowered_rate
from core.training.recipe import cut_short
from core.training.train import make_fabric
from core.widths.allocation import ALLOCATIONS
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from core.widths.scores import SCORES

CONFIG_FILE = "config.py"
WORK_DIRS = Path("work_dirs")
RESULT_FILE = "result.json"
_MADE = ("runs", "records", "last.safetensors")  # in a work directory, by trainings
_TOLD = 4  # differences of two protocols
T = TypeVar("T")
C_contra = TypeVar("C_contra", contravariant=True)
Use = Literal["new", "existing", "either"]


class OpenTask(Protocol[C_contra]):
    """Opens data and describes a task."""

    def __call__(self, config: C_contra, root: Path, folder: Path, fabric: Fabric, /) -> Task:
        """Takes protocol, data root, work directory and devices."""


def add_training_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that every command understands that trains; `overrides_of` reads those of the protocol."""
    run = parser.add_argument_group("training")
    run.add_argument(
        "--config",
        help="protocol: a file of shared_configs/, or your own; a .py file is run, .yaml and .json are data",
    )
    run.add_argument("--work-dir", type=Path, help="where results go (default: below work_dirs/)")
    run.add_argument("--data-root", help="folder of the data sets (default: $LWDNA_DATA, else data/)")
    run.add_argument("--seed", type=int, help="first seed (default: the protocol's)")
    run.add_argument("--epochs", type=int, help="train exactly so many epochs (default: the protocol's)")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    run.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change protocol entries"
    )
    run.add_argument("--no-progress", action="store_true", help="no progress bars")
    run.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_trial_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that every command understands that runs trials."""
    add_training_arguments(parser)
    trials = parser.add_argument_group("trials")
    trials.add_argument(
        "--jobs", type=int, default=1, help="trials at a time, each in a process of its own (default: 1)"
    )
    trials.add_argument(
        "--allow-unknown-start",
        action="store_true",
        help="train found networks although some of their tensors may start otherwise than the baseline's; the report "
        "names them",
    )
    trials.add_argument("--name", help="what reports and folders call the network (default: its own name)")
    space = parser.add_argument_group("where widths are searched (defaults: the protocol's)")
    space.add_argument("--widen", type=float, help="growth of the space of widths")
    space.add_argument("--floor", type=float, help="least fraction of each widened group to keep")
    space.add_argument(
        "--vanish",
        type=_number_or_word,
        help="depth: residual blocks that keep less than this fraction without floors are left out; floor: those that "
        "their floor would have to hold up; receptive-field: those that see the whole image",
    )
    space.add_argument("--allocation", help=f"how score and cost are weighed: {', '.join(ALLOCATIONS)}")
    space.add_argument("--batches", type=int, help="batches that channels are scored on")


def add_method_arguments(parser: ArgumentParser) -> None:
    """Add what single methods look at beyond the space, the budget and the batches."""
    method = parser.add_argument_group("options of single methods")
    method.add_argument("--dhp-strength", type=float, help="DHP's λ")
    method.add_argument("--dhp-epochs", type=int, help="DHP's search ends after so many epochs")
    method.add_argument("--candidates", type=int, help="allocations that a training-free proxy ranks")
    method.add_argument("--accumulate-epochs", type=int, help="epochs that accumulated scores look at")
    method.add_argument(
        "--tilt", type=float, help="early-wide and its like: logarithm of the ratio of the ends"
    )
    method.add_argument(
        "--depth-worth", type=float, help="depth-and-width: what depth is worth beside widths"
    )


def search_of(arguments: Namespace) -> dict[str, Any]:
    """How widths are searched: key of the protocol -> value, None where the user said nothing.

    Args:
        arguments: parsed `add_trial_arguments`, with or without `add_method_arguments`.
    """
    said = vars(arguments).get
    return {
        "shrink.widen": said("widen"),
        "shrink.floor": said("floor"),
        "shrink.vanish": said("vanish"),
        "shrink.allocation": said("allocation"),
        "shrink.batches": said("batches"),
        "search.dhp.strength": said("dhp_strength"),
        "search.dhp.max_epochs": said("dhp_epochs"),
        "search.proxy.candidates": said("candidates"),
        "search.accumulate_epochs": said("accumulate_epochs"),
        "search.tilt": said("tilt"),
        "search.depth": said("depth_worth"),
    }


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def help_text(examples: Sequence[str]) -> str:
    """The end of `--help`: examples, what the scores and the other methods are, where more is said.

    Args:
        examples: command lines, without "python -m".
    """
    others = {name: method.summary for name, method in METHODS.items() if name not in SCORES}

    def listed(entries: Mapping[str, str]) -> str:
        width = max(map(len, entries)) + 2
        return "\n".join(f"  {name:{width}}{text}" for name, text in entries.items())

    return "\n\n".join(
        [
            examples_text(examples),
            "scores say what each channel is worth; those worth least go until the budget holds\n"
            "(W: weights, L: the loss, z: a factor of 1 on every channel):\n"
            + listed({name: score.summary for name, score in SCORES.items()}),
            "methods, beside the scores, for --method and --controls:\n" + listed(others),
            "What each does, costs and honours: docs/methods.md. Exit statuses, and how runs are stopped and resumed:\n"
            "docs/work_directories.md.",
        ]
    )


def add_experiment_arguments(parser: ArgumentParser, examples: Sequence[str]) -> None:
    """Add the arguments that `run` of every task understands, and what explains them.

    Args:
        parser: the command line.
        examples: see `help_text`.
    """
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = help_text(examples)
    add_trial_arguments(parser)
    add_method_arguments(parser)
    run = parser.add_argument_group("experiment")
    run.add_argument(
        "--stages",
        nargs="+",
        choices=STAGES,
        help="run only these stages, by the plan of the work directory where it has one (default: all)",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="go on where an earlier run in the work directory stopped, with its protocol, seeds and controls; start "
        "one where there is none, so that one command serves both",
    )
    run.add_argument(
        "--seeds",
        type=int,
        help="repetitions, each with its own seed (default: 1, or as planned; with --resume more can be added)",
    )
    method = parser.add_argument_group("shrinkage")
    method.add_argument(
        "--budget",
        help="0.9 (of the baseline's FLOPs), or flops=0.9,params=20M,latency=12ms; FLOPs are counted in the protocol's "
        "convention, by default in both; ,convention=macs or paper names one",
    )
    method.add_argument("--score", help="what channels are worth, by one of the scores below")
    method.add_argument(
        "--method",
        help="how the found network's widths are found: a score or one of the methods below (default: as the "
        "protocol's section shrink says)",
    )
    method.add_argument(
        "--widths",
        "--found-widths",
        type=Path,
        dest="found_widths",
        metavar="FILE|NAME",
        help=f"the found network's widths, instead of finding any: a widths file, or one of those that ship: "
        f"{', '.join(shipped_names())}; controls then cost the same",
    )
    method.add_argument(
        "--controls",
        "--methods",
        nargs="+",
        default=[],
        metavar="METHOD",
        help="scores and methods to compare with, such as random, which draws widths, and uniform "
        "(with --resume: added to those that are planned)",
    )


def add_pretrained_arguments(parser: ArgumentParser) -> None:
    """Add what says what networks begin with; `given_pretrained` reads it."""
    start = parser.add_argument_group("trained weights")
    start.add_argument(
        "--pretrained",
        metavar="FILE",
        help="trained weights of the network, by which channels are scored: .safetensors or .pth (read as data), "
        "timm:NAME or torchvision:NAME from your own cache",
    )
    start.add_argument(
        "--start",
        choices=get_args(Start),
        help="what trainings begin with: fresh weights, or those of --pretrained; then the found network keeps its "
        "channels of these, and is also trained from scratch as a control (default: scratch)",
    )


def given_pretrained(arguments: Namespace) -> dict[str, object]:
    """Parsed `add_pretrained_arguments`: key of the protocol -> value, None for nothing."""
    return {"pretrained": arguments.pretrained, "start": arguments.start}


def read_protocol(
    path: str | Path, schema: type[T], arguments: Namespace, given: Mapping[str, Any], *, dumped: bool = False
) -> T:
    """The protocol in `path` with everything that the command line changes in it.

    Args:
        path: an mmengine config file.
        schema: the task's dataclass; its fields `train`, `shrink` and `search` are those of `Settings`, `found_widths`
            that of `core.experiments.given`.
        arguments: parsed `add_experiment_arguments`.
        given: the task's own shorthands: key of the protocol -> value, None where the user said nothing.
        dumped: it is a work directory's: read as data.
    """
    common = {"train.seed": arguments.seed, "name": arguments.name}
    common |= {
        "shrink.score": arguments.score,
        "found_widths": arguments.found_widths,
        **search_of(arguments),
    }
    config: Any = load_config(path, schema, overrides_of(arguments, {**common, **given}), dumped=dumped)
    shrink = config.shrink if arguments.budget is None else at_budget(config.shrink, arguments.budget)
    options = dict(option.split("=", 1) for option in arguments.cfg_options if "=" in option)
    shrink = shrink_of(getattr(config, "pretrained", None), shrink, arguments.widen, options)
    return config if shrink == config.shrink else replace(config, shrink=shrink)


def overrides_of(arguments: Namespace, given: Mapping[str, Any]) -> list[str]:
    """What a command line changes in a protocol, for `load_config`: `--cfg-options`, and what was said besides.

    Args:
        arguments: parsed `add_training_arguments`.
        given: key of the protocol -> value, None where the user said nothing.
    """
    said = {"train.epochs": arguments.epochs, **given}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in said.items()}
    return [
        *arguments.cfg_options,
        *(f"{key}={value!r}" for key, value in plain.items() if value is not None),
    ]


def at_budget(shrink: ShrinkConfig, text: str) -> ShrinkConfig:
    """The protocol's settings with a budget of the command line, counted in the protocol's convention.

    Raises:
        UserError: `text` is no budget.
    """
    return replace(shrink, budget=Budget.parse(text, shrink.budget.convention))


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
        find_protocol: the protocol file where `--config` does not name one.
        given: see `read_protocol`.
        default_name: name of the work directory for a protocol.
        open_task: opens data and describes the task; takes protocol, data root, work directory and devices. A function
            of a module, or a `functools.partial` of one, so that other processes can do the same.
        complete: fills in what follows from the rest of the protocol; told whether that is a work directory's.
        model: the key, of the protocol and of `given`, under which the network is named. Where that is code, and the
            protocol data, that is said.
        uses: commands that take the checkpoint that a run leaves, such as "classification.predict IMAGES"; takes the
            protocol, and " --data-root FOLDER", or "" where none was given.
    """

    def protocol(path: Path, dumped: bool = False) -> T:
        if arguments.config:
            path, dumped = Path(arguments.config), False
        return complete(read_protocol(path, schema, arguments, given, dumped=dumped), dumped)

    def name() -> str:
        return default_name(protocol(Path() if arguments.config else find_protocol()))

    check_jobs(arguments.jobs)
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
    devices, num_nodes = launched_processes()
    fabric = make_fabric(arguments.device, config.train.precision, devices, num_nodes)
    config, lowered_lr = lowered_rate(config, stored, there or Path())
    say = _say if fabric.is_global_zero else _silent
    with work_directory(fabric, there, arguments, name, RESULT_FILE, say) as folder:
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
        if stored is not None:
            check_same(config, stored, folder)
        for line in cut_short(config.train):
            say(f"note: {line}")
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
        check_trials(engine_of(task, settings, fabric), settings.trials())
        fabric.barrier()  # every process has read what is stored before the first one writes
        if fabric.is_global_zero:
            settle(plan, config, stored, folder, settings.stages)
        there_too = partial(open_engine, open_task, config, root, settings, arguments.device)
        outcome = run_experiment(task, settings, fabric, say, jobs=arguments.jobs, open_engine=there_too)
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
    """What to type after a comparison.

    Args:
        task_name: "classification", ...
        uses: commands that take the checkpoint.
        folder: the work directory.
        model: the network, as the protocol names it.
        key: where in the protocol.
        seeds: that were compared.
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
        f"    ({more} seeds in the place of {seeds})"
    )
    return ["next:", *(f"  {line}" for line in lines)]


def open_engine(open_task: OpenTask[Any], config: Any, root: Path, settings: Settings, device: str) -> Engine:
    """The engine of an experiment in a process of its own; see `execute`."""
    fabric = make_fabric(device, config.train.precision)
    task = open_task(config, root, settings.work_dir, fabric)
    return engine_of(task, replace(settings, progress=False), fabric, _say)


def settle(plan: Plan, config: Any, stored: Any, folder: Path, stages: Sequence[str]) -> None:
    """Write plan and protocol into a work directory, the protocol last: what has one has a plan.

    A comparison alone leaves the plan as it is: it can only be made if nothing is added.
    """
    if stored is None or tuple(stages) != ("compare",):
        plan.save(folder)
    if stored is None:
        dump_config(config, folder / CONFIG_FILE)


def _say(line: str) -> None:
    print(line, flush=True)


def _silent(line: str) -> None:
    """Other processes than the first one say nothing."""


def find_run(
    given: Path | None, default_name: Callable[[], str], use: Use, any_of: str | None = None
) -> Path | None:
    """The work directory of an earlier run, or None for a fresh run; nothing is written.

    Without `--work-dir`: the latest of work_dirs/NAME, NAME-2, NAME-3 ...

    Args:
        given: `--work-dir`.
        default_name: gives NAME.
        use: "new" for a fresh run, "existing" to resume one if there is one, "either" to run single stages.
        any_of: a task: where there is no run called NAME, its only experiment under another name is taken.

    Raises:
        UserError: a named directory holds a run and resuming was not asked for, or there are several to choose from.
    """
    if given is not None:
        runs = [given] if (given / CONFIG_FILE).exists() else []
    elif use == "new":
        return None
    else:
        runs = _runs_called(default_name())
    if runs and use != "new":
        return runs[-1]
    if runs:
        raise UserError(
            f"work directory '{given}' already holds a run: add --resume to go on, or name another"
        )
    if use != "existing":
        return None
    others = [] if given is not None or any_of is None else _experiments_of(any_of)
    if len(others) == 1:
        return others[0]
    if others:
        raise UserError(f"several runs could go on: name one with --work-dir: {', '.join(map(str, others))}")
    return None


@contextmanager
def work_directory(
    fabric: Fabric,
    there: Path | None,
    arguments: Namespace,
    default_name: Callable[[], str],
    result: str,
    say: Callable[[str], object],
) -> Iterator[Path]:
    """Hold the work directory of a run until the block is left; the first process does so for all.

    Args:
        fabric: the processes.
        there: the directory of an earlier run that goes on; None for a fresh run in `--work-dir`, or in work_dirs/NAME,
            NAME-2, NAME-3 ..., the first that is free.
        arguments: parsed, `work_dir` and `resume` among them.
        default_name: gives NAME.
        result: a file that a finished run has.
        say: takes one line of news at a time.

    Raises:
        UserError: another command has it, or it holds what is left of a run.
    """
    release: list[Callable[[], None]] = []

    def hold() -> Path:
        place = there or arguments.work_dir
        if place is not None:
            _require_text(place)
            release.append(take(place, say))
            if there is None and (place / CONFIG_FILE).exists():
                raise UserError(
                    f"work directory '{place}' holds the run of another command, which has just been there: add "
                    f"--resume to go on with it, or name another"
                )
        else:
            place = first_free()
        if there is None:
            left = [name for name in _MADE if (place / name).exists()]
            if left:
                raise UserError(
                    f"'{place}' holds trainings ({', '.join(left)}), but not the {CONFIG_FILE} that they were made by: "
                    f"restore it, or name another --work-dir"
                )
            if arguments.resume:
                say(f"there is no run in '{place}' to resume: starting one")
        return place

    def first_free() -> Path:
        first = WORK_DIRS / default_name()
        earlier = _runs_called(first.name)
        if earlier and not (earlier[-1] / result).exists():
            say(
                f"'{earlier[-1]}' holds a run that is not finished: --resume goes on with it; this one starts anew"
            )
        number = max(map(_number, earlier), default=0)
        while True:
            number += 1
            folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
            try:
                let_go = take(folder, say)
            except Claimed:  # another command has just begun there
                continue
            if not (folder / CONFIG_FILE).exists():
                release.append(let_go)
                return folder
            let_go()

    try:
        yield from_first(fabric, hold)
    finally:
        for let_go in release:
            let_go()


def _require_text(folder: Path) -> None:
    """Refuse a name that is no text here: TensorBoard, and JSON, cannot write it.

    Raises:
        UserError: see above.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"work directory '{folder}': its name is no text in this locale (LANG, LC_ALL): set LC_ALL=C.UTF-8 or "
            f"PYTHONUTF8=1, or use another"
        ) from error


def check_same(config: Any, stored: Any, folder: Path) -> None:
    """Check that the protocol to run with is the one that the work directory holds.

    Raises:
        UserError: they differ: results of two protocols would be mixed.
    """
    found = list(differences(asdict(stored), asdict(config)))
    if found:
        more = f", and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        raise UserError(
            f"'{folder}' was made with another protocol ({', '.join(map(str, found[:_TOLD]))}{more}): use another "
            f"--work-dir, or leave out what changes it"
        )


def _runs_called(name: str) -> list[Path]:
    """work_dirs/NAME, NAME-2, ... as far as they hold a run, by number."""
    first = WORK_DIRS / name
    numbered = [path for path in first.parent.glob(f"{glob.escape(name)}-[0-9]*") if _number(path) > 1]
    return [path for path in (first, *sorted(numbered, key=_number)) if (path / CONFIG_FILE).exists()]


def _experiments_of(task: str) -> list[Path]:
    """The work directories under work_dirs/ that hold an experiment of this task with a plan."""
    return sorted(
        path.parent
        for path in WORK_DIRS.glob(f"{task}-*/{PLAN_FILE}")
        if (path.parent / CONFIG_FILE).exists()
    )


def _number(path: Path) -> int:
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 1
