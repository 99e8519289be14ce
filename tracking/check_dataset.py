"""Check that a tracking data set is complete: `python -m tracking.check_dataset --dataset lasot --data-root D`.

It reports numbers of sequences and frames, gaps in the numbering of frames, unreadable first images, and ground truth
and flags of the wrong length. Only the first image of each sequence is decoded, so a benchmark takes seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.command_line.exits import run_parsed
from core.command_line.parsers import command_parser
from core.errors import MissingData, UserError
from core.storage.images import BadImage, read_image
from tracking.datasets import TITLES, list_entries, read_absent, read_attributes, read_size
from tracking.datasets.entries import Entry, select
from tracking.datasets.options import add_data_options
from tracking.datasets.sequence import frame_number
from tracking.files.boxes import parse_boxes

EXAMPLES = (
    "tracking.check_dataset --dataset lasot --data-root DATA",
    "tracking.check_dataset --dataset got10k --data-root DATA --annotations-only",
)


@dataclass(frozen=True)
class Check:
    """The findings of a check.

    Attributes:
        sequences: number expected.
        frames: number of images seen.
        problems: one line for each thing that is wrong.
    """

    sequences: int
    frames: int
    problems: tuple[str, ...]


def check(entries: Sequence[Entry], images: bool = True) -> Check:
    """Check the files of some sequences.

    Args:
        entries: from `datasets.list_entries`.
        images: look at the images too, not only at the annotations.
    """
    problems: list[str] = []
    frames = 0
    for entry in entries:
        try:
            table = parse_boxes(entry.truth.read(), str(entry.truth))
            rows = len((table if entry.part is None else entry.part.cut(table)).boxes)
        except UserError as error:
            problems.append(f"{entry.name}: {error}")
            rows = None
        for reader in (read_absent, read_attributes, read_size):
            try:
                found = reader(entry)
            except UserError as error:
                problems.append(f"{entry.name}: {error}")
                continue
            if reader is read_absent and rows is not None:
                if found is None and entry.absent:
                    problems.append(f"{entry.name}: no absence flags at '{entry.absent[0]}'")
                elif found is not None and len(found) != rows:
                    problems.append(
                        f"{entry.name}: {len(found)} absence flags for {rows} boxes in {entry.truth}"
                    )
        if images:
            frames += _check_images(entry, rows, problems)
    return Check(len(entries), frames, tuple(problems))


def _check_images(entry: Entry, rows: int | None, problems: list[str]) -> int:
    if entry.frames is None or not entry.frames.folder.is_dir():
        where = "its images" if entry.frames is None else f"'{entry.frames.folder}'"
        problems.append(f"{entry.name}: no frames: {where} missing")
        return 0
    paths = entry.frames.paths()
    if not paths:
        problems.append(f"{entry.name}: no images in '{entry.frames.folder}'")
        return 0
    numbers = [frame_number(path) for path in paths]
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        shown = ", ".join(map(str, missing[:5]))
        problems.append(f"{entry.name}: frames missing in '{entry.frames.folder}': {shown}{more}")
    # With a single box, the benchmark keeps the rest of the ground truth on its server.
    if rows is not None and rows not in (1, len(paths)):
        problems.append(f"{entry.name}: {len(paths)} frames for {rows} boxes in {entry.truth}")
    try:
        read_image(paths[0], upright=False, first=True)
    except BadImage as error:
        problems.append(f"{entry.name}: {error}")
    return len(paths)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command_parser("tracking.check_dataset", __doc__.split("\n")[0], EXAMPLES)
    add_data_options(made)
    made.add_argument("--annotations-only", action="store_true", help="do not look for images")
    return made


def command(arguments: argparse.Namespace) -> int:
    """Check and report; exit status 0 if all is well, else 2."""
    annotations: Path | None = arguments.annotations
    entries = list_entries(
        arguments.dataset,
        arguments.data_root,
        arguments.split,
        annotations,
        beside_frames=not arguments.annotations_only,
    )
    if not entries:
        raise MissingData(
            f"{TITLES[arguments.dataset]}: the split holds no sequences: check --split and --data-root"
        )
    result = check(select(entries, arguments.sequences), images=not arguments.annotations_only)
    for problem in result.problems:
        print(problem)
    counted = (
        f"{result.sequences} sequences, {result.frames} frames"
        if result.frames
        else f"{result.sequences} sequences"
    )
    if result.problems:
        print(f"{TITLES[arguments.dataset]}: {counted}, {len(result.problems)} problems", file=sys.stderr)
        return 2
    print(f"{TITLES[arguments.dataset]}: {counted}, complete")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_parsed(build_parser(), command, argv, "start it again")


if __name__ == "__main__":
    sys.exit(main())
