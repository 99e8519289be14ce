"""`python -m super_resolution.run --scale 4`: baseline → shrink → train → compare for single-image super-resolution."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from pathlib import Path

from lightning_fabric import Fabric

from core.command_line.exits import run_parsed
from core.command_line.factories import title
from core.experiments.arguments import add_experiment_arguments, given_pretrained
from core.experiments.commands import execute
from core.experiments.task import Task
from super_resolution.config import RunConfig, completed, find_config
from super_resolution.models import UPSCALERS
from super_resolution.task import make_task

EXAMPLES = (
    "super_resolution.run --scale 4",
    "super_resolution.run --scale 2 --dataset path/to/photos --controls uniform --seeds 5",
    "super_resolution.run --scale 4 --dataset bsds500 --data-root DATA --model srresnet --budget 0.7",
    "super_resolution.run --resume --work-dir work_dirs/mine --config protocol.py",
)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m super_resolution.run", description=__doc__)
    parser.add_argument(
        "--scale", type=int, choices=(2, 3, 4), help="up-sampling factor (default: the protocol's, 4)"
    )
    parser.add_argument(
        "--model",
        help=f"{', '.join(UPSCALERS)}; package.module:factory; path/to/file.py:factory (default: the protocol's, edsr)",
    )
    parser.add_argument(
        "--dataset",
        help="skimage, bsds500, div2k, flickr2k, df2k, or a folder (default: skimage, or that of --config)",
    )
    parser.add_argument("--tile", type=int, help="score images in tiles of that many LR pixels a side")
    parser.add_argument(
        "--tie-upsampler",
        action=BooleanOptionalAction,
        help="upsamplers as wide as the trunk, or of their own widths (default: the protocol's)",
    )
    add_experiment_arguments(parser, EXAMPLES)
    return parser


def open_task(config: RunConfig, root: Path, folder: Path, fabric: Fabric) -> Task:
    """Data and task of a protocol.

    Args:
        config: the protocol.
        root: the data root.
        folder: the work directory.
        fabric: devices and processes.
    """
    return make_task(config, root, fabric.device)


def run(arguments: Namespace) -> int:
    """One experiment from parsed arguments; returns the exit status."""

    def complete(config: RunConfig, stored: bool) -> RunConfig:
        return completed(
            config,
            arguments.model,
            arguments.cfg_options,
            tie=arguments.tie_upsampler,
            named=stored or arguments.config is not None,
        )

    given = {"scale": arguments.scale, "model": arguments.model, "dataset": arguments.dataset}
    given |= {
        "data.tile": arguments.tile,
        "tie_upsampler": arguments.tie_upsampler,
        **given_pretrained(arguments),
    }
    return execute(
        arguments,
        "super_resolution",
        RunConfig,
        lambda: find_config(arguments.model, arguments.dataset),
        given,
        lambda config: (
            f"super_resolution-{title(config.model, config.name)}-x{config.scale}-{Path(config.dataset).name}"
        ),
        open_task,
        complete=complete,
        uses=lambda config, data_root: (
            "super_resolution.upscale LOW.png HIGH.png",
            f"super_resolution.eval{data_root}",
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit statuses as in `core.experiments.commands`."""
    return run_parsed(build_parser(), run, argv, unread=True)


if __name__ == "__main__":
    sys.exit(main())
