"""Damaged files for every reader; runs that are killed, find the disk full, lose their data: what breaks, and what not.

The same seed draws the same files and the same blows. What fails is kept, with the command that repeats it.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path

from core.tables import text_table
from tests.readers import READERS
from tests.torture.blows import IN_WORDS, Result, Trials
from tests.torture.fuzzing import Found, fuzz
from tests.torture.programs import PROGRAMS, warm

SECONDS_PER_CASE = 0.08  # of one core of 2020, for a first guess


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--cases", type=int, default=2_000, help="damaged files (default: %(default)s)")
    for name, count, what in (
        ("kill", 20, "runs that are killed"),
        ("disk", 20, "runs whose disk is full from a drawn write on"),
        ("worker", 4, "runs of which a process that reads data is killed"),
        ("data", 4, "runs whose data go away"),
        ("clock", 4, "runs that go on a day earlier"),
    ):
        parser.add_argument(
            f"--{name}s", type=int, default=count, metavar="N", help=f"{what} (default: {count})"
        )
    parser.add_argument("--seed", type=int, default=1, help="of all draws (default: %(default)s)")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS), metavar="NAME",
                        help="only these readers; --cases is for all of them together")  # fmt: skip
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), metavar="NAME",
                        help=f"only these of {', '.join(PROGRAMS)}")  # fmt: skip
    parser.add_argument("--folder", type=Path, help="for all files (default: a new one of the system's)")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    return parser


def fuzz_all(arguments: Namespace, folder: Path) -> list[Found]:
    """Damaged files, with a table of the readers."""
    if not arguments.cases:
        return []
    guess = arguments.cases * SECONDS_PER_CASE / 60
    print(
        f"{arguments.cases:,} damaged files for {len(arguments.readers)} readers, about {guess:.0f} min ...",
        flush=True,
    )
    found = list(fuzz(arguments.readers, arguments.cases, arguments.seed, folder / "files"))
    rows = [
        [item.reader, str(item.cases), str(item.refused), str(item.cases - item.refused - _times(item)),
        str(_times(item)),
         f"{item.slowest:.1f}"] for item in found
    ]  # fmt: skip
    total = [str(sum(int(row[column]) for row in rows)) for column in range(1, 5)]
    rows.append(["all", *total, f"{max(item.slowest for item in found):.1f}"])
    print(text_table(["reader", "files", "refused", "read", "wrong", "slowest, s"], rows), flush=True)
    for item in found:
        for what, how in item.failures.items():
            print(f"  {item.reader}: {what}\n    {how['damage']}, {how['times']} times; {how['file']}")
    return found


def _times(found: Found) -> int:
    return sum(how["times"] for how in found.failures.values())


def run_all(arguments: Namespace, folder: Path) -> list[Result]:
    """Runs with blows, a line for each."""
    counts = {kind: getattr(arguments, f"{kind}s") for kind in IN_WORDS}
    trials = Trials(counts, arguments.seed, folder / "runs", arguments.programs)
    if not trials.drawn:
        return []
    warm()
    print(f"{len({name for name, _ in trials.drawn})} programs undisturbed ...", flush=True)
    for name, ended in trials.references():
        letters = Counter(ended.events)
        print(
            f"  {name}: {ended.seconds:.0f} s, {letters['w']} files written, {letters['s']} steps", flush=True
        )
    print(f"{len(trials.drawn)} runs with blows, about {trials.estimate() / 60:.0f} min ...", flush=True)
    results = []
    for number, result in enumerate(trials.run(), start=1):
        statuses = ", ".join("hung" if status is None else str(status) for status in result.statuses)
        said = result.problem or "ended alike"
        print(
            f"  {number}/{len(trials.drawn)} {result.trial} ({result.seconds:.0f} s; {statuses}): {said}",
            flush=True,
        )
        results.append(result)
    rows = []
    for kind, words in IN_WORDS.items():
        own = [result for result in results if result.trial.kind == kind]
        if own:
            wrong = sum(result.problem is not None for result in own)
            rows.append([words, str(len(own)), str(len(own) - wrong), str(wrong)])
    print(text_table(["blow", "runs", "same bits in the end", "wrong"], rows), flush=True)
    return results


def main() -> int:
    """0 if nothing was wrong, else 1."""
    arguments = build_parser().parse_args()
    start = time.perf_counter()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="torture-"))).absolute()
    found = fuzz_all(arguments, folder)
    results = run_all(arguments, folder)
    wrong = sum(map(_times, found)) + sum(result.problem is not None for result in results)
    print(f"{sum(item.cases for item in found):,} files, {len(results)} runs, seed {arguments.seed}: {wrong} wrong, "
          f"{(time.perf_counter() - start) / 60:.1f} min")  # fmt: skip
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({
            "readers": {item.reader: {"cases": item.cases, "refused": item.refused,
            "failures": item.failures} for item in found},
            "runs": [{"trial": str(result.trial), "kind": result.trial.kind,
            "problem": result.problem} for result in results],
        }))  # fmt: skip
    if wrong:
        print(f"kept: {folder}\nnext:")
        for item in found:
            if item.failures:
                print(f"  python -m tests.torture --seed {arguments.seed} --cases {item.cases} --readers "
                      f"{shlex.quote(item.reader)} --kills 0 --disks 0 --workers 0 --datas 0 --clocks 0")  # fmt: skip
        if any(result.problem for result in results):
            print(f"  look at {folder / 'runs' / 'failed'}; the same command without files: --cases 0")
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
