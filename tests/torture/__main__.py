"""Damaged files for every reader; runs that are killed, find the disk full, lose their data: what breaks, and what not.

The same seed draws the same files and the same blows. What fails is kept, with the command that repeats it.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

from core.tables import text_table
from core.training.workers import available_cores
from tests.readers import READERS
from tests.torture.blows import IN_WORDS, Result, drawn, run_program
from tests.torture.fuzzing import Found, fuzz, shares
from tests.torture.processes import run_parts
from tests.torture.programs import PROGRAMS, warm

K, V = TypeVar("K"), TypeVar("V")

REPORT = "report.jsonl"
SECONDS = {"file": 0.05, "run": 5.0}  # of a core, for a first guess
BLOWS = {
    "kill": (20, "runs that are killed"),
    "disk": (20, "runs whose disk is full from a drawn write on"),
    "worker": (4, "runs of which a process that reads data is killed"),
    "data": (4, "runs whose data go away"),
    "clock": (4, "runs that go on a day earlier"),
    "file": (10, "finished runs of which a file is damaged"),
}


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--cases", type=int, default=2_000, help="damaged files (default: %(default)s)")
    for kind, (count, what) in BLOWS.items():
        parser.add_argument(
            f"--{kind}", type=int, default=count, metavar="N", help=f"{what} (default: {count})"
        )
    parser.add_argument("--seed", type=int, default=1, help="of all draws (default: %(default)s)")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS), metavar="NAME",
                        help="only these readers; --cases is for all of them together")  # fmt: skip
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), metavar="NAME",
                        help=f"only these of {'; '.join(PROGRAMS)}")  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=available_cores(), help="processes at a time (default: cores)"
    )
    parser.add_argument("--folder", type=Path, help="for all files (default: a new one of the system's)")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    return parser


def run_all(arguments: Namespace, folder: Path) -> tuple[list[Found], list[Result]]:
    """Files and runs, so many processes at a time."""
    trials = drawn({kind: getattr(arguments, kind) for kind in IN_WORDS}, arguments.programs)
    seconds = SECONDS["file"] * arguments.cases + SECONDS["run"] * len(trials)
    print(f"{arguments.cases:,} damaged files for {len(arguments.readers)} readers and {len(trials)} runs with blows, "
          f"{arguments.jobs} processes at a time, about {seconds / arguments.jobs / 60 + 1:.0f} min "
          "where each has a core", flush=True)  # fmt: skip
    cases = shares(arguments.readers, arguments.cases) if arguments.cases else {}
    parts: list[Callable[[Path], Iterator[Found] | Iterator[Result]]] = [
        partial(fuzz, part, arguments.seed)
        for part in _parts(cases, math.ceil(len(cases) * 4 / max(arguments.jobs, 4)))
    ]
    # Each process runs its program undisturbed first, so that parts are not too small.
    most = max(3, math.ceil(len(trials) / arguments.jobs))
    for program in dict.fromkeys(name for name, _ in trials):
        kinds = {number: kind for number, (name, kind) in enumerate(trials) if name == program}
        parts += [partial(run_program, program, own, arguments.seed) for own in _parts(kinds, most)]
    warm()
    places = [folder / f"part-{number}" for number in range(len(parts))]
    for number, status in run_parts([partial(_part, *both) for both in zip(parts, places)], arguments.jobs):
        if status != 0:
            raise RuntimeError(f"part {number} ended with status {status}: see above")
    lines = [line for place in places for line in (place / REPORT).read_text(encoding="utf-8").splitlines()]
    items = [json.loads(line) for line in lines]
    found = [Found(**item) for item in items if "reader" in item]
    return found, [Result(**item) for item in items if "trial" in item]


def _part(part: Callable[[Path], Iterator[Found] | Iterator[Result]], place: Path) -> int:
    """In a process of its own."""
    place.mkdir(parents=True)
    with (place / REPORT).open("w", encoding="utf-8") as report:
        for item in part(place / "work"):
            report.write(json.dumps(asdict(item)) + "\n")
            report.flush()
    return 0


def _parts(whole: dict[K, V], most: int) -> list[dict[K, V]]:
    """A dictionary in parts of at most so many entries."""
    return [dict(list(whole.items())[start : start + most]) for start in range(0, len(whole), most)]


def show_files(found: Sequence[Found]) -> None:
    """A table of the readers, and what was wrong."""
    rows = [
        [item.reader, str(item.cases), str(item.refused), str(item.cases - item.refused - item.wrong), str(item.wrong),
         f"{item.slowest:.1f}"]
        for item in found
    ]  # fmt: skip
    total = [str(sum(int(row[column]) for row in rows)) for column in range(1, 5)]
    rows.append(["all", *total, f"{max(item.slowest for item in found):.1f}"])
    print(text_table(["reader", "files", "refused", "read", "wrong", "slowest, s"], rows))
    for item in found:
        for what, how in item.failures.items():
            print(f"  {item.reader}: {what}\n    {how['damage']}, {how['times']} times; {how['file']}")


def show_runs(results: Sequence[Result]) -> None:
    """A table of the blows."""
    rows = []
    for kind, words in IN_WORDS.items():
        own = [result for result in results if result.kind == kind]
        if own:
            wrong = sum(result.problem is not None for result in own)
            rows.append([words, str(len(own)), str(len(own) - wrong), str(wrong)])
    print(text_table(["blow", "runs", "right", "wrong"], rows))


def main() -> int:
    """0 if nothing was wrong, else 1."""
    arguments = build_parser().parse_args()
    start = time.perf_counter()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="torture-"))).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    found, results = run_all(arguments, folder)
    if found:
        show_files(found)
    if results:
        show_runs(results)
    failed = [result for result in results if result.problem is not None]
    wrong = sum(item.wrong for item in found) + len(failed)
    print(f"{sum(item.cases for item in found):,} files, {len(results)} runs, seed {arguments.seed}: {wrong} wrong, "
          f"{(time.perf_counter() - start) / 60:.1f} min")  # fmt: skip
    if arguments.out is not None:
        told = {
            "readers": {item.reader: asdict(item) for item in found},
            "runs": [asdict(item) for item in results],
        }
        arguments.out.write_text(json.dumps(told))
    if wrong:
        print(f"kept: {folder}\nnext:")
        none = " ".join(f"--{kind} 0" for kind in BLOWS)
        for item in found:
            if item.failures:
                print(f"  python -m tests.torture --seed {arguments.seed} --cases {item.cases} --readers "
                      f"{shlex.quote(item.reader)} {none}")  # fmt: skip
        for result in failed:
            print(f"  {result.trial}: {result.problem}")
        if failed:
            print(
                f"  look for 'failed' below {folder}; the same command with --cases 0 repeats the runs alone"
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
