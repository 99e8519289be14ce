"""`python -m tracking.run`: DiMP with the regular and with a found backbone, trained alike and compared.

Without `--widths` the backbone's widths are found on the tracking task itself. With `--widths` they come from
`python -m classification.run`, and both backbones can start from their classifiers' weights.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lightning_fabric import Fabric

from core.command_line.exits import run_parsed
from core.errors import UserError
from core.experiments.arguments import (
    add_experiment_arguments,
    given_pretrained,
)
from core.experiments.commands import execute
from core.experiments.task import Task
from tracking.dimp.backbones import RESNETS
from tracking.experiment.config import RunConfig
from tracking.experiment.task import make_task
from tracking.training import run_title

CONFIGS = Path(__file__).resolve().parent.parent / "shared_configs" / "tracking"
DEFAULT_CONFIG = "compare_small.py"


EXAMPLES = (
    "tracking.run",
    "tracking.run --dataset otb --data-root DATA --backbone resnet18 --controls uniform --seeds 3",
    "tracking.run --config shared_configs/tracking/dimp50.py --data-root DATA --found-widths FOUND/widths.json",
    "tracking.run --resume --work-dir work_dirs/mine --config protocol.py",
)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m tracking.run", description=__doc__)
    parser.add_argument("--dataset", help="what trackers are tried on (default: the protocol's, demo)")
    parser.add_argument("--split", help="part of it")
    parser.add_argument(
        "--backbone",
        help=f"{', '.join(RESNETS)}; package.module:factory; path/to/file.py:factory (default: the protocol's)",
    )
    parser.add_argument(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="a classifier's weights for the regular backbone to start from, beside --found-weights",
    )
    parser.add_argument(
        "--found-weights",
        type=Path,
        metavar="FILE",
        help="weights of a classifier with the widths of --widths, for the found backbone to start from",
    )
    add_experiment_arguments(parser, EXAMPLES)
    return parser


def open_task(config: RunConfig, root: Path, folder: Path, fabric: Fabric, *, quiet: bool = False) -> Task:
    """Data and task of a protocol.

    Args:
        config: the protocol.
        root: the data root.
        folder: the work directory; tracks are stored below it.
        fabric: devices and processes.
        quiet: print nothing about tracked sequences.
    """
    tells = fabric.is_global_zero and not quiet
    say = partial(print, file=sys.stderr, flush=True) if tells else lambda line: None
    return make_task(config, root, folder, fabric.device, say)


def run(arguments: Namespace) -> int:
    """One experiment from parsed arguments; returns the exit status.

    Raises:
        UserError: controls are requested, but weights are given for the found widths alone; or see `execute`.
    """
    if arguments.found_weights is not None and arguments.controls:
        raise UserError(
            f"--found-weights are of the widths of --widths; {arguments.controls[0]} would start at random beside "
            "them: leave --controls out"
        )
    given = {"evaluation.dataset": arguments.dataset, "evaluation.split": arguments.split}
    given["backbone.name"] = arguments.backbone
    given |= {"backbone.weights": arguments.backbone_weights, "found_weights": arguments.found_weights}
    given |= given_pretrained(arguments)
    return execute(
        arguments,
        "tracking",
        RunConfig,
        lambda: CONFIGS / DEFAULT_CONFIG,
        given,
        lambda config: f"tracking-{run_title(config, arguments.name)}-{config.evaluation.dataset}",
        partial(open_task, quiet=arguments.no_progress),
        model="backbone.name",
        uses=lambda config, data_root: (
            "tracking.track VIDEO --box X,Y,WIDTH,HEIGHT",
            f"tracking.eval --dataset {config.evaluation.dataset}{data_root}",
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit statuses as in `core.experiments.commands`."""
    return run_parsed(build_parser(), run, argv, unread=True)


if __name__ == "__main__":
    sys.exit(main())
