"""`lwdna doctor`: versions, devices, decoders, system libraries, data sets and folders, and what to do about each.

Exit status 0: nothing required is missing (notes name what some uses lack). 1: something required is missing, or a run
of --smoke fails. 2: wrong usage. It changes nothing and needs no network.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain, groupby
from pathlib import Path

from core.command_line.exits import run_parsed
from core.command_line.parsers import examples_text
from core.storage.files import json_text
from lwdna.checks import (
    Check,
    check_data,
    check_decoders,
    check_devices,
    check_folders,
    check_libraries,
    check_versions,
)

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 900.0  # seconds allowed for one of the smallest runs
_COMMON = ("--epochs", "1", "--no-progress")
# Task -> its smallest run: baseline, found network, comparison.
SMOKE: dict[str, tuple[str, ...]] = {
    "classification": (*_COMMON, "--train-limit", "60", "--cfg-options", "train.batch_size=30", "shrink.batch_size=20"),
    "super_resolution": (
        *_COMMON, "--cfg-options", "options.n_blocks=1", "options.n_feats=8", "data.crops_per_epoch=16",
        "data.benchmarks=('skimage',)", "data.patch=32", "shrink.round_to=1",
    ),
    "tracking": (
        *_COMMON, "--cfg-options", "data.sources=({'dataset':'demo','split':'test'},)",
        "evaluation.sequences=('face',)", "data.sequences_per_epoch=4", "data.views.crop=64", "data.workers=0",
        "train.batch_size=2", "shrink.batch_size=2", "shrink.batches=1", "network.classification_channels=8",
        "network.iou_channels=8", "network.optimizer_iterations=1",
    ),
}  # fmt: skip


EXAMPLES = ("doctor", "doctor --smoke", "doctor --json --data-root DATA")


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(
        prog="lwdna doctor",
        description=__doc__,
        epilog=examples_text(EXAMPLES, "lwdna"),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--smoke", action="store_true", help="also run each task's smallest experiment, in a temporary folder"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--data-root", help="folder of the data sets (default: $LWDNA_DATA, else data/)")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("work_dirs"), help="where runs will go (default: work_dirs/)"
    )
    parser.add_argument(
        "--device", default="auto", help="device of --smoke: auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def checks(options: Namespace) -> Iterator[Check]:
    """All checks, in the order in which they are printed."""
    yield from chain(
        check_versions(), check_devices(), check_libraries(), check_decoders(), check_data(options.data_root),
        check_folders(options.work_dir),
    )  # fmt: skip
    if options.smoke:
        yield from smoke(options.device)


def smoke(device: str) -> Iterator[Check]:
    """Each task's smallest run, on `device`; all that they write, caches included, is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="lwdna-doctor-") as folder:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "LWDNA_CACHE": str(Path(folder, "cache"))}
        for task, words in SMOKE.items():
            command = [
                sys.executable,
                "-m",
                "lwdna",
                task,
                "run",
                "--work-dir",
                f"{folder}/{task}",
                "--device",
                device,
            ]
            started = time.perf_counter()
            try:
                done = subprocess.run(
                    [*command, *words], cwd=folder, env=environment, timeout=PATIENCE, capture_output=True, text=True,
                    errors="replace", check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                yield Check("smoke", task, "fails", f"not done after {PATIENCE:.0f} s")
                continue
            seconds = f"{time.perf_counter() - started:.1f} s"
            if done.returncode == 0 and Path(folder, task, "report.md").exists():
                yield Check("smoke", task, "ok", f"trained, found widths and compared in {seconds}")
            else:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                yield Check("smoke", task, "fails", f"exit status {done.returncode} after {seconds}: {last}")


def lines_of(found: Sequence[Check]) -> Iterator[str]:
    """The checks as lines for a terminal, section by section."""
    width = max(len(check.name) for check in found)
    for section, members in groupby(found, lambda check: check.section):
        yield section
        for check in members:
            yield f"  {check.state:5}  {check.name:{width}}  {check.found}"
            if check.remedy:
                yield f"  {'':5}  {'':{width}}  -> {check.remedy}"


def run(options: Namespace) -> int:
    """Check and print; returns the exit status."""
    started = time.perf_counter()
    found = list(checks(options))
    seconds = time.perf_counter() - started
    failed = [check for check in found if check.state == "fails"]
    notes = sum(check.state == "note" for check in found)
    if options.json:
        content = {
            "ok": not failed,
            "seconds": round(seconds, 2),
            "checks": [asdict(check) for check in found],
        }
        print(json_text(content, indent=2))
    else:
        for line in lines_of(found):
            print(line)
        told = f"{len(failed)} fail" if failed else "nothing fails"
        print(f"\n{told}; {notes} notes, {len(found) - len(failed) - notes} ok; {seconds:.1f} s")
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit statuses as above."""
    return run_parsed(build_parser(), run, argv, "start it again")


if __name__ == "__main__":
    sys.exit(main())
