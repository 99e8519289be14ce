"""`lwdna store merge INTO FROM [FROM ...]`: merges stores of trials that were made on several machines.

Existing entries stay as they are; entries that are left out are named, and the exit status is then 1. Page:
docs/distributed.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.command_line.exits import run_parsed
from core.command_line.parsers import examples_text
from core.experiments.merging import LEFT_OUT, merge, summary

EXAMPLES = ("store merge work_dirs/one path/to/another/machines",)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="lwdna store",
        description=__doc__,
        epilog=examples_text(EXAMPLES, "lwdna"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", choices=("merge",), help="merge: add what the other stores hold to the first one"
    )
    parser.add_argument(
        "into", metavar="INTO", type=Path, help="the store that grows (--work-dir of a benchmark)"
    )
    parser.add_argument("others", metavar="FROM", type=Path, nargs="+", help="stores that are read")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run(options: argparse.Namespace) -> int:
    """Merge and print; returns the exit status."""
    counts = merge(
        options.into, options.others, lambda line: print(f"note: {line}", file=sys.stderr, flush=True)
    )
    for line in summary(counts):
        print(line)
    return int(any(counts[key] for key in counts if key[1] in LEFT_OUT))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit statuses as in `core.command_line.exits`."""
    return run_parsed(build_parser(), run, argv, "the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
