"""`python -m classification.run`: baseline → shrink → train → compare on an image classification data set."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from lightning_fabric import Fabric

from classification.config import RunConfig, find_config, with_distillation
from classification.data import DATASETS, dataset_title, is_folder, open_dataset
from classification.models import MODELS
from classification.task import (
    SKIPPED_FILE,
    data_notes,
    keep_data,
    left_out,
    make_task,
    read_skipped,
    require_same_data,
    write_skipped,
)
from core.command_line.exits import run_parsed
from core.command_line.factories import title
from core.experiments.arguments import add_experiment_arguments, given_pretrained
from core.experiments.commands import execute
from core.experiments.task import Task
from core.experiments.work_directories import CONFIG_FILE
from core.training.devices import gathered, is_first_process

EXAMPLES = (
    "classification.run",
    "classification.run --dataset path/to/photos --controls uniform --seeds 5",
    "classification.run --dataset cifar10 --data-root DATA --model path/to/net.py:factory --budget 0.7",
    "classification.run --resume --work-dir work_dirs/mine --config protocol.py",
)


def add_subject_arguments(parser: ArgumentParser) -> None:
    """Add the arguments for network, data and recipe; `given_of` reads them."""
    parser.add_argument(
        "--model", help=f"{', '.join(MODELS)}; package.module:factory; path/to/file.py:factory"
    )
    parser.add_argument(
        "--dataset",
        help=f"{', '.join(DATASETS)} (default: digits); or a folder of your own images: PATH/CLASS/*, or "
        "PATH/{train,val}/CLASS/*",
    )
    parser.add_argument(
        "--val-share", type=float, help="part of PATH/CLASS/* that is held out of training (default: 0.2)"
    )
    parser.add_argument(
        "--train-limit", type=int, help="use only so many training images, balanced over classes"
    )
    parser.add_argument(
        "--distillation", action="store_true", help="train every network with a widened teacher"
    )


def given_of(arguments: Namespace) -> dict[str, object]:
    """The parsed `add_subject_arguments` except distillation: key of the protocol -> value, None if not given."""
    return {
        "data.train_limit": arguments.train_limit,
        "data.val_share": arguments.val_share,
        "dataset": arguments.dataset,
        "model": arguments.model,
    }


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m classification.run", description=__doc__)
    add_subject_arguments(parser)
    add_experiment_arguments(parser, EXAMPLES)
    return parser


def open_task(config: RunConfig, root: Path, folder: Path, fabric: Fabric) -> Task:
    """Data and task of a protocol.

    Args:
        config: the protocol.
        root: the data root.
        folder: the work directory; `Task.keep` writes `data.json` and `skipped.txt` there.
        fabric: devices and processes.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = open_dataset(config.dataset, root, config.data)
    new = not (folder / CONFIG_FILE).exists()
    if not new:
        require_same_data(folder, data)
    if fabric.is_global_zero:
        for note in data_notes(data):
            print(note)
    data.recall(read_skipped(folder))

    def keep() -> None:
        keep_data(folder, data, new=new)
        if not (folder / SKIPPED_FILE).exists():
            write_skipped(folder, data.left_out)

    def close() -> list[str]:
        unreadable = data.unreadable_everywhere(gathered)
        if not is_first_process():
            return []
        write_skipped(folder, (*data.left_out, *chain.from_iterable(unreadable.values())))
        return left_out({part: len(entries) for part, entries in unreadable.items()})

    return replace(make_task(config, data, fabric.device), keep=keep, close=close)


def run(arguments: Namespace) -> int:
    """One experiment from parsed arguments; returns the exit status."""
    return execute(
        arguments,
        "classification",
        RunConfig,
        lambda: find_config(arguments.model, arguments.dataset, arguments.distillation),
        {**given_of(arguments), **given_pretrained(arguments)},
        lambda config: f"classification-{title(config.model, config.name)}-{dataset_title(config.dataset)}",
        open_task,
        lambda config, stored: with_distillation(config, arguments.distillation),
        uses=uses,
    )


def uses(config: RunConfig, data_root: str) -> tuple[str, ...]:
    """Commands that use the checkpoint of a run; see `execute`."""
    images = f" --dataset {shlex.quote(config.dataset)}" if is_folder(config.dataset) else ""
    return "classification.predict IMAGES", f"classification.eval{images}{data_root}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see the module's docstring for exit statuses."""
    return run_parsed(build_parser(), run, argv, unread=True)


if __name__ == "__main__":
    sys.exit(main())
