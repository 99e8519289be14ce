"""`python -m tracking.train`: train DiMP on sequences, with any ResNet as its backbone."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.command_line.config import dump_config, load_config
from core.command_line.exits import run_parsed
from core.command_line.factories import from_data
from core.command_line.parsers import examples_text
from core.experiments.arguments import add_training_arguments, overrides_of
from core.experiments.extension import keep_shorter, longer_protocol
from core.experiments.forecast import Forecast
from core.experiments.processes import launched_processes
from core.experiments.store import plain
from core.experiments.work_directories import CONFIG_FILE, check_same, find_run, work_directory
from core.storage.data import data_root
from core.storage.description import Origin, header_of
from core.training.devices import gathered
from core.training.divergence import lowered_rate, read_divergences, with_rate
from core.training.optim import schedule_notes
from core.training.run_files import training_notes
from core.training.train import fit, make_fabric
from tracking.dimp.backbones import RESNETS
from tracking.dimp.checkpoint import KEY, Description, save_network
from tracking.training import (
    TrackingConfig,
    build_network,
    make_loader,
    make_loss,
    make_validation,
    run_title,
    trained_on,
)

CONFIGS = Path(__file__).resolve().parent.parent / "shared_configs" / "tracking"
DEFAULT_CONFIG = "dimp18_small.py"
CHECKPOINT = "tracker.safetensors"
EXAMPLES = (
    "tracking.train",
    "tracking.train --config shared_configs/tracking/dimp50.py --data-root DATA --backbone-weights resnet50.pth",
    "tracking.train --resume --work-dir work_dirs/dimp18-small --epochs 60",
)


def build_parser() -> ArgumentParser:
    """The command line; without `--config` the protocol is `DEFAULT_CONFIG`."""
    parser = ArgumentParser(
        prog="python -m tracking.train",
        description=__doc__,
        epilog=examples_text(EXAMPLES),
        formatter_class=RawDescriptionHelpFormatter,
    )
    add_training_arguments(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where an earlier run in the work directory stopped; start one if there is none",
    )
    parser.add_argument("--name", help="of the work directory (default: the protocol's)")
    parser.add_argument(
        "--backbone",
        help=f"{', '.join(RESNETS)}; package.module:factory; path/to/file.py:factory (default: the protocol's)",
    )
    parser.add_argument("--backbone-widths", type=Path, help="a file of found widths for the backbone")
    parser.add_argument(
        "--backbone-weights", type=Path, help="a trained classifier's weights to start the backbone from"
    )
    parser.add_argument("--init", type=Path, help="weights of a whole tracker to start from")
    return parser


def read_protocol(path: str | Path, arguments: Namespace, *, dumped: bool = False) -> TrackingConfig:
    """The protocol in `path` with the changes of the command line; `dumped`: see `load_config`."""
    given = {
        "train.seed": arguments.seed,
        "name": arguments.name,
        "backbone.name": arguments.backbone,
        "backbone.widths": arguments.backbone_widths,
        "backbone.weights": arguments.backbone_weights,
        "init": arguments.init,
    }
    return load_config(path, TrackingConfig, overrides_of(arguments, given), dumped=dumped)


def describe(config: TrackingConfig) -> Description:
    """The description in a checkpoint of this protocol."""
    found = config.backbone.architecture()
    views = config.data.views
    settings: dict[str, Any] = {"crop_size": views.crop, "search_area": views.area_factor, **config.tracker}
    return Description(
        backbone=config.backbone.name,
        architecture=None if found is None else found.to_json(),
        config=config.network,
        settings=settings,
    )


def origin_of(config: TrackingConfig, folder: Path) -> Origin:
    """How a checkpoint of this protocol was made, in this work directory."""
    method = "baseline" if config.backbone.widths is None else "given widths"
    recipe = plain({"train": config.train.plain(), "data": asdict(config.data)})
    notes = tuple(f"{divergence}." for divergence in read_divergences(folder))
    return Origin(trained_on(config), method, config.train.seed, recipe, notes)


def train(arguments: Namespace) -> int:
    """One training from parsed arguments; returns the exit status."""
    root = data_root(arguments.data_root)

    def protocol() -> TrackingConfig:
        return read_protocol(arguments.config or CONFIGS / DEFAULT_CONFIG, arguments)

    def name() -> str:
        return f"tracking-{run_title(protocol(), arguments.name)}"

    there = find_run(arguments.work_dir, name, "existing" if arguments.resume else "new")
    stored = None
    if there is None:
        config = protocol()
    else:
        stored = load_config(there / CONFIG_FILE, TrackingConfig, dumped=True)
        stays = arguments.config is None
        config = read_protocol(there / CONFIG_FILE if stays else arguments.config, arguments, dumped=stays)
    fabric = make_fabric(arguments.device, config.train.precision, *launched_processes())
    config, lowered_lr = lowered_rate(config, stored, there or Path())
    say = print if fabric.is_global_zero else _silent
    note = from_data(config.backbone.name, arguments.backbone, arguments.config)
    if note is not None:
        say(note)
    with work_directory(fabric, there, arguments, name, CHECKPOINT, say) as folder:
        config, longer = longer_protocol(config, stored, [folder], arguments.resume)
        if stored is not None and not longer:
            check_same(config, stored, folder)
        network = build_network(config)
        loader = make_loader(config, root, config.train.batch_size, config.train.seed)
        evaluate = make_validation(config, root)
        fabric.barrier()  # every process looks for a stored protocol before the first one writes it
        if fabric.is_global_zero and longer:
            keep_shorter(folder, config, stored, [folder], say)
        if fabric.is_global_zero and (stored is None or longer):
            dump_config(config, folder / CONFIG_FILE)
        fabric.barrier()
        for note in schedule_notes(config.train):
            say(f"note: {note}")
        result = fit(
            network,
            loader,
            make_loss(config),
            config.train if lowered_lr is None else with_rate(config.train, lowered_lr),
            work_dir=folder,
            evaluate=evaluate,
            fabric=fabric,
            progress=not arguments.no_progress,
            header=lambda: header_of(KEY, describe(config), origin_of(config, folder)),
            pace=Forecast(1).teller(config.train.epochs, say),
        )
        unreadable = set().union(*gathered(loader.unreadable))
        if fabric.is_global_zero:
            save_network(folder / CHECKPOINT, network, describe(config), origin_of(config, folder))
            report(folder, unreadable, result.seconds, result.images_seen)
            notes = *training_notes(result.history), *schedule_notes(config.train)
            for line in (*read_divergences(folder), *notes):
                print(line)
    return 0


def _silent(line: str) -> None:
    """Only the first process prints."""


def report(folder: Path, unreadable: set[str], seconds: float, sequences: int) -> None:
    """Print what a finished training leaves."""
    if unreadable:
        print(f"{len(unreadable)} frames could not be read and were skipped, such as {min(unreadable)}")
    print(f"{sequences} sequences in {seconds:.0f} s")
    checkpoint = shlex.quote(str(folder / CHECKPOINT))
    print(f"checkpoint: {folder / CHECKPOINT}")
    print("next:")
    print(f"  python -m tracking.track VIDEO --box X,Y,WIDTH,HEIGHT --checkpoint {checkpoint}")
    print(f"  python -m tracking.eval --dataset DATASET --checkpoint {checkpoint}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit statuses as in `core.command_line.exits`."""
    return run_parsed(build_parser(), train, argv, unread=True)


if __name__ == "__main__":
    sys.exit(main())
