"""Arguments that all training commands share: flags, their help, and what they change in a protocol."""

from __future__ import annotations

import ast
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, get_args

from core.command_line.config import load_config
from core.command_line.parsers import examples_text
from core.errors import MissingData, UserError
from core.experiments.executors import LOCAL_JOBS, PROCESSES, SLURM, Resources, visible_gpus
from core.experiments.given import shipped_names
from core.experiments.plan import Start
from core.experiments.pretrained import shrink_of
from core.experiments.settings import STAGES
from core.methods.registry import METHODS
from core.widths.allocation import ALLOCATIONS
from core.widths.budget import Budget, number_or_word
from core.widths.config import ShrinkConfig
from core.widths.scores import SCORES

T = TypeVar("T")
_ONE_GPU = ("gpus_per_node", "gpus_per_task", "num_gpus", "gres")  # options that set which GPUs a job gets


def add_training_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of every command that trains; `overrides_of` reads those of the protocol."""
    run = parser.add_argument_group("training")
    run.add_argument(
        "--config",
        help="protocol: a file of shared_configs/, or your own; a .py file is run, .yaml and .json are data",
    )
    run.add_argument("--work-dir", type=Path, help="where results go (default: below work_dirs/)")
    run.add_argument("--data-root", help="folder of the data sets (default: $LWDNA_DATA, else data/)")
    run.add_argument("--seed", type=int, help="first seed (default: the protocol's)")
    run.add_argument(
        "--epochs",
        type=int,
        help="train exactly this many epochs (default: the protocol's); with --resume, if the command has it, a larger "
        "number lengthens the run",
    )
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    run.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change protocol entries"
    )
    run.add_argument("--no-progress", action="store_true", help="no progress bars")
    run.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_trial_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of every command that runs trials."""
    add_training_arguments(parser)
    add_executor_arguments(parser)
    trials = parser.add_argument_group("trials")
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
        type=number_or_word,
        help="depth: residual blocks that keep less than this fraction without floors are left out; floor: those "
        "that only their floor would keep; receptive-field: those that see the whole image",
    )
    space.add_argument("--allocation", help=f"how score and cost are weighed: {', '.join(ALLOCATIONS)}")
    space.add_argument("--batches", type=int, help="batches on which channels are scored")


def add_executor_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that say where trials run; `resources_of` reads them."""
    where = parser.add_argument_group("where trials run")
    where.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="trials at a time, each in a process (or job) of its own, with a GPU of its own where there are several "
        "(default: 1)",
    )
    where.add_argument(
        "--executor",
        choices=(PROCESSES, SLURM, LOCAL_JOBS),
        default=PROCESSES,
        help="processes of this machine; slurm: an array of jobs, by submitit; local-jobs: the same jobs on this "
        "machine, to try them (default: processes; docs/distributed.md)",
    )
    where.add_argument(
        "--executor-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="of submitit's jobs: time=240 (minutes) partition=gpu cpus_per_task=8 mem=16GB ...",
    )


def resources_of(arguments: Namespace) -> Resources:
    """Where trials run, by the command line.

    Args:
        arguments: parsed `add_executor_arguments`, and `device`.

    Raises:
        UserError: options are malformed or there are no jobs for them; fewer than one trial at a time.
        MissingData: submitit is not installed.
    """
    kind = arguments.executor
    options = dict(map(_option, arguments.executor_options))
    if options and kind == PROCESSES:
        raise UserError(
            "--executor-options are for jobs: add --executor slurm (or local-jobs), or leave them out"
        )
    if kind != PROCESSES and find_spec("submitit") is None:
        raise MissingData(
            f"--executor {kind} needs submitit: install the extra, pip install -e '.[cluster]', or leave it out"
        )
    gpus: tuple[str, ...] = ()
    if kind == SLURM and arguments.device != "cpu" and not any(name in options for name in _ONE_GPU):
        options["gpus_per_node"] = 1
    elif kind != SLURM and arguments.device in ("auto", "cuda"):
        gpus = visible_gpus()
    return Resources(kind, arguments.jobs, options, gpus)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"--executor-options {text}: write KEY=VALUE, such as time=240")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def add_method_arguments(parser: ArgumentParser) -> None:
    """Add the options of single methods, beyond the space, the budget and the batches."""
    method = parser.add_argument_group("options of single methods")
    method.add_argument("--dhp-strength", type=float, help="DHP's λ")
    method.add_argument("--dhp-epochs", type=int, help="epochs after which DHP's search ends")
    method.add_argument("--candidates", type=int, help="allocations that a training-free proxy ranks")
    method.add_argument("--accumulate-epochs", type=int, help="epochs over which accumulated scores add up")
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


def help_text(examples: Sequence[str]) -> str:
    """The end of `--help`: examples, the scores and the other methods, and where to read more.

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
    """Add the arguments of every task's `run`, and their explanations.

    Args:
        parser: the command line.
        examples: see `help_text`.
    """
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = help_text(examples)
    add_pretrained_arguments(parser)
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
    """Add the arguments that say how networks begin; `given_pretrained` reads them."""
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
        help="what trainings begin with: fresh weights, or those of --pretrained; then the found network keeps these "
        "in its channels, and is also trained from scratch as a control (default: scratch)",
    )


def given_pretrained(arguments: Namespace) -> dict[str, object]:
    """Parsed `add_pretrained_arguments`: key of the protocol -> value, None where the user said nothing."""
    return {"pretrained": arguments.pretrained, "start": arguments.start}


def read_protocol(
    path: str | Path, schema: type[T], arguments: Namespace, given: Mapping[str, Any], *, dumped: bool = False
) -> T:
    """The protocol in `path` with all changes of the command line.

    Args:
        path: an mmengine config file.
        schema: the task's dataclass; its fields `train`, `shrink` and `search` are those of `Settings`, `found_widths`
            that of `core.experiments.given`.
        arguments: parsed `add_experiment_arguments`.
        given: the task's own shorthands: key of the protocol -> value, None where the user said nothing.
        dumped: whether it is a work directory's, which is read as data.
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
    """The changes of a command line to a protocol, for `load_config`: `--cfg-options` and its other arguments.

    Args:
        arguments: parsed `add_training_arguments`.
        given: key of the protocol -> value, None where the user said nothing.

    Raises:
        UserError: an option of its own and the last --cfg-options of its key say two things.
    """
    said = {"train.epochs": arguments.epochs, **given}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in said.items()}
    own = {key: repr(value) for key, value in plain.items() if value is not None}
    # Of entries that name one key twice the last one counts, as in mmengine.
    last = {key: text for key, _, text in (option.partition("=") for option in arguments.cfg_options)}
    for key, text in own.items():
        if text.strip("'\"") != last.get(key, text).strip("'\""):
            raise UserError(
                f"the command line says {key}={last[key]} by --cfg-options and {key}={text} by an option of its own: "
                f"leave one out"
            )
    return [*arguments.cfg_options, *(f"{key}={text}" for key, text in own.items())]


def at_budget(shrink: ShrinkConfig, text: str) -> ShrinkConfig:
    """The protocol's settings with the command line's budget, counted in the protocol's convention.

    Raises:
        UserError: `text` is no budget.
    """
    return replace(shrink, budget=Budget.parse(text, shrink.budget.convention))
