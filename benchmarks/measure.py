"""Timing in turns, what the machine was, and results as JSON and Markdown: the contract of `benchmarks/README.md`."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import shlex
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from core.storage.files import atomic_write, write_json

T = TypeVar("T")
Work = Callable[[], T]
NOTHING_KEPT = "nothing was written: the same command measures anew"  # what an interrupted benchmark says


@dataclass(frozen=True)
class Timing:
    """Seconds of every counted run of one way.

    Attributes:
        wall: elapsed seconds, one per run.
        cpu: processor seconds of this process (all its threads), one per run; they hardly depend on what else the
            machine is doing.
    """

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the elapsed seconds."""
        return statistics.median(self.wall)

    @property
    def cpu_median(self) -> float:
        """Median of the processor seconds."""
        return statistics.median(self.cpu)

    def to_json(self) -> dict[str, Any]:
        """Medians, the extremes and every single run."""
        return {
            "median": self.median,
            "min": min(self.wall),
            "max": max(self.wall),
            "cpu_median": self.cpu_median,
            "runs": list(self.wall),
        }

    def __str__(self) -> str:
        """Median, and the spread of the runs where there are several: '0.31 s (0.29–0.35)'."""
        text = seconds_text(self.median)
        if len(self.wall) == 1:
            return text
        return (
            f"{text} ({seconds_text(min(self.wall), unit=False)}–{seconds_text(max(self.wall), unit=False)})"
        )


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """One way's times and what its last run returned, or why it failed.

    Attributes:
        timing: of the counted runs; None if the way failed.
        result: what the last run returned; None if the way failed.
        failure: "IndexError: index 64 is out of bounds" of the first run that failed; None otherwise.
    """

    timing: Timing | None
    result: T | None
    failure: str | None = None


def time_in_turns(
    ways: Mapping[str, Callable[[], Work[T]]],
    *,
    turns: int,
    warmup: int = 0,
    patience: float = float("inf"),
    failures: tuple[type[Exception], ...] = (),
    on_run: Callable[[str, float | None], None] | None = None,
) -> dict[str, Outcome[T]]:
    """Time several ways of doing one job, one run of each after the other, so that all see the same machine.

    Every second turn goes backwards, so that none always comes first, or always after the same other one. Garbage is
    collected before every run, outside of the time.

    Args:
        ways: name -> a function that prepares (not timed) and returns the work (timed); called anew for every run.
        turns: counted runs of each way.
        warmup: turns before them that are not counted.
        patience: seconds; a way whose counted runs took longer in total sits out the remaining turns, so that a slow
            way does not decide how often a quick one is measured. Every way runs at least once.
        failures: exceptions of a way that are recorded as its outcome; any other ends the benchmark.
        on_run: called with the name and the seconds (None: it failed) after every run, counted or not.

    Returns:
        Name -> outcome, in the order of `ways`.

    Raises:
        ValueError: `turns` is below 1.
    """
    if turns < 1:
        raise ValueError(f"turns={turns}: at least one run has to be counted")
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, T] = {}
    failed: dict[str, str] = {}
    for turn in range(warmup + turns):
        for name, prepare in list(ways.items())[:: -1 if turn % 2 else 1]:
            if name in failed or sum(wall[name]) > patience:
                continue
            work = prepare()
            gc.collect()  # nobody pays for what another way left behind
            cpu_start, start = time.process_time(), time.perf_counter()
            try:
                result = work()
            except failures as error:
                failed[name] = describe_failure(error)
                if on_run is not None:
                    on_run(name, None)
                continue
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            if turn >= warmup:
                wall[name].append(seconds)
                cpu[name].append(cpu_seconds)
                results[name] = result
            if on_run is not None:
                on_run(name, seconds)
    return {
        name: Outcome(None, None, failed[name])
        if name in failed
        else Outcome(Timing(tuple(wall[name]), tuple(cpu[name])), results[name])
        for name in ways
    }


def describe_failure(error: BaseException) -> str:
    """'IndexError: index 64 is out of bounds', one line."""
    message = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def seconds_text(seconds: float, *, unit: bool = True) -> str:
    """Three significant digits: '0.0312 s', '5.41 s', '112 s'."""
    digits = max(0, 2 - len(str(int(seconds))) + 1) if seconds >= 1 else (3 if seconds >= 0.1 else 4)
    return f"{seconds:.{digits}f}" + (" s" if unit else "")


def machine(*packages: str) -> dict[str, Any]:
    """What a result depends on: processor, cores, memory, load, device, versions, threads, date.

    Args:
        packages: distributions whose versions matter besides torch's and numpy's ("torch-pruning").
    """
    versions = {}
    for name in ("torch", "numpy", *packages):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # Windows
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def machine_text(facts: Mapping[str, Any]) -> str:
    """The result of `machine` as one sentence for a report."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    threads = f"{facts['torch_threads']} torch thread{'s' * (facts['torch_threads'] != 1)}"
    parts = [facts["processor"], f"{facts['cores']} cores", facts["gpu"] or "no GPU"]
    parts += [f"{facts['memory_gib']} GiB"] if facts["memory_gib"] is not None else []
    parts += [threads]
    parts += [f"load average {facts['load_average']}"] if facts["load_average"] is not None else []
    return f"{facts['date']}: {', '.join(parts)}; {facts['system']}, Python {facts['python']}, {versions}."


def command_text(program: str, argv: Sequence[str] | None) -> str:
    """'python -m benchmarks.dimp --turns 3': what a page says it was made by.

    Args:
        program: "benchmarks.dimp".
        argv: the arguments; None for the process's own.
    """
    return shlex.join(["python", "-m", program, *(sys.argv[1:] if argv is None else argv)])


def write_results(stem: str | Path, value: Mapping[str, Any], markdown: str) -> list[Path]:
    """Write `stem`.json and `stem`.md, atomically; returns the two paths."""
    stem = Path(stem)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".json", ".md")]
    write_json(paths[0], value)
    with atomic_write(paths[1]) as file:
        file.write(markdown.rstrip("\n") + "\n")
    return paths


def add_output_arguments(parser: ArgumentParser, name: str) -> None:
    """Add --output, for `publish`, and --debug; `name` is the page's under docs/results."""
    parser.add_argument("--output", type=Path, help=f"write OUTPUT.json and OUTPUT.md (docs/results/{name})")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def publish(
    stem: str | Path, title: str, command: str, facts: Mapping[str, Any], text: str, value: Mapping[str, Any]
) -> None:
    """Write a page and its figures, and say where they are.

    Args:
        stem: see `write_results`.
        title: of the page.
        command: that made it.
        facts: of `machine`.
        text: what stands below.
        value: the figures; `machine` and `command` are added.
    """
    head = f"# {title}\n\nMade by `{command}`; how it is measured: `benchmarks/README.md`.\n{machine_text(facts)}\n\n"
    for path in write_results(stem, {**value, "machine": facts, "command": command}, head + text):
        print(f"written: {path}")
