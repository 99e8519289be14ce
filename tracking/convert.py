"""`python -m tracking.convert IN.pth OUT.safetensors`: a published DiMP-50 for this project's commands.

The file is read without running code that it may carry. Every tensor must have a counterpart of its name and shape, or
nothing is written; the backbone's last stage and classifier, which the tracker never uses, are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.command_line.exits import run_parsed
from core.command_line.parsers import command_parser
from core.storage.files import require_new_checkpoint

EXAMPLES = ("tracking.convert dimp50.pth dimp50.safetensors",)


def convert_file(source: Path, target: Path) -> str:
    """Write a published checkpoint as one that `tracking.dimp.checkpoint.load_network` reads; returns a report.

    Raises:
        UserError: the source is missing, broken or of another network, or the target has another ending.
    """
    from tracking.dimp.checkpoint import load_network, save_network

    require_new_checkpoint(source, target)
    network, description = load_network(source)
    save_network(target, network, description)
    state = network.state_dict()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return f"DiMP on {description.backbone}: {len(state)} tensors taken over, {parameters:,} parameters; none left over"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("tracking.convert", __doc__, EXAMPLES)
    parser.add_argument("source", metavar="IN", type=Path, help="the published checkpoint, dimp50.pth")
    parser.add_argument("target", metavar="OUT", type=Path, help="the checkpoint to write, *.safetensors")

    return parser


def run(arguments: argparse.Namespace) -> int:
    """Convert and report; returns the exit status."""
    print(convert_file(arguments.source, arguments.target))
    print(f"written: {arguments.target}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 0 done, 1 failed, 2 wrong usage or a checkpoint that does not fit."""
    return run_parsed(build_parser(), run, argv, "start it again")


if __name__ == "__main__":
    sys.exit(main())
