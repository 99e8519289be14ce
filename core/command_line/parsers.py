"""Arguments that the commands of several tasks share."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path


def command_parser(module: str, description: str | None, examples: Sequence[str]) -> ArgumentParser:
    """The parser of `python -m module`, with `--debug` (see `core.command_line.exits`).

    Args:
        module: a module with `main`.
        description: the docstring of the module.
        examples: command lines, without "python -m".
    """
    parser = ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=examples_text(examples),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def examples_text(examples: Sequence[str], program: str = "python -m") -> str:
    """The end of `--help`: example command lines, given here without their program."""
    return "examples:\n" + "\n".join(f"  {program} {line}" for line in examples)


def add_checkpoint_arguments(parser: ArgumentParser, written_by: str) -> None:
    """Add the options of a trained network: `--checkpoint`, `--model` and `--device`."""
    parser.add_argument("--checkpoint", required=True, type=Path, help=f"a *.safetensors of {written_by}")
    parser.add_argument(
        "--model",
        metavar="FILE.py:FACTORY",
        help="the code of your own network, for a checkpoint of one; it is run",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")


def add_data_root(parser: ArgumentParser) -> None:
    """Add `--data-root` (see `core.storage.data.data_root`)."""
    parser.add_argument("--data-root", help="folder of the data sets (default: $LWDNA_DATA, else data/)")
