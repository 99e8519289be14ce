"""`python -m core.inspect FILE.safetensors`: what a trained network's file says of itself; its checksum is verified.

Nothing that the file names is imported or run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from core.command_line.exits import run_parsed
from core.command_line.parsers import command_parser
from core.export.contents import describe
from core.storage.description import read_contents
from core.storage.files import json_text


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("core.inspect", __doc__)
    parser.add_argument("file", metavar="FILE", type=Path, help="a *.safetensors file")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def run(options: argparse.Namespace) -> int:
    """Read, verify and print; returns the exit status."""
    contents = read_contents(options.file)
    print(json_text(asdict(contents), indent=2) if options.json else describe(options.file, contents))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 0 done, 1 failed, 2 wrong usage or a damaged file."""
    return run_parsed(build_parser(), run, argv, "start it again")


if __name__ == "__main__":
    sys.exit(main())
