"""`python -m core.inspect FILE`: what a trained network's .safetensors, or an export's .onnx or .pt2, says of itself.

Its checksum is verified: a checkpoint's own, or the one in the card beside an export. Nothing in the file, and nothing
that it names, is imported or run.
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
from core.export.exported import contents_of_file
from core.storage.files import json_text

EXAMPLES = ("core.inspect WORK/lwdna.safetensors", "core.inspect net.onnx --json")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("core.inspect", __doc__, EXAMPLES)
    parser.add_argument("file", metavar="FILE", type=Path, help="a *.safetensors, *.onnx or *.pt2")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def run(options: argparse.Namespace) -> int:
    """Read, verify and print; returns the exit status."""
    contents = contents_of_file(options.file)
    print(json_text(asdict(contents), indent=2) if options.json else describe(options.file, contents))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 0 done, 1 failed, 2 wrong usage or a damaged file."""
    return run_parsed(build_parser(), run, argv, "start it again")


if __name__ == "__main__":
    sys.exit(main())
