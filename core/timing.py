"""The clock: several ways of doing one job, timed in turns, so that ratios are fair on a machine whose speed drifts."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch

T = TypeVar("T")
Work = Callable[[], T]


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

    def over(self, other: Timing, clock: Literal["wall", "cpu"] = "cpu") -> list[float]:
        """Own seconds over another way's, turn by turn: both ways of a turn saw the same machine."""
        return [own / its for own, its in zip(getattr(self, clock), getattr(other, clock), strict=True)]

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
        """Median, and the spread of the runs where there are several: '0.312 s (0.290–0.351)'."""
        text = seconds_text(self.median)
        return (
            text
            if len(self.wall) == 1
            else f"{text} ({span_text(min(self.wall), max(self.wall), self.median)})"
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
    before: Callable[[], object] = gc.collect,
    failures: tuple[type[Exception], ...] = (),
    on_run: Callable[[str, float | None], None] | None = None,
) -> dict[str, Outcome[T]]:
    """Time several ways of doing one job, one run of each after the other, so that all see the same machine.

    Every second turn goes backwards, so that none always comes first, or always after the same other one.

    Args:
        ways: name -> a function that prepares (not timed) and returns the work (timed); called anew for every run.
        turns: counted runs of each way.
        warmup: turns before them that are not counted.
        patience: seconds; a way whose counted runs took longer in total sits out the remaining turns, so that a slow
            way does not decide how often a quick one is measured. Every way runs at least once.
        before: called before every run, outside of the time; by default garbage is collected, so that no way pays for
            what another one left behind.
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
            before()
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


def timings(outcomes: Mapping[str, Outcome[Any]]) -> dict[str, Timing]:
    """The times of all ways that did not fail, by name."""
    return {name: outcome.timing for name, outcome in outcomes.items() if outcome.timing is not None}


def describe_failure(error: BaseException) -> str:
    """'IndexError: index 64 is out of bounds', one line."""
    message = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def seconds_text(seconds: float, *, like: float | None = None) -> str:
    """Three significant digits: '0.312 ms', '0.0312 s', '5.41 s', '112 s'.

    Args:
        seconds: the time.
        like: another time, whose unit is used; None for this one's own.
    """
    size = seconds if like is None else like
    unit, scale = ("s", 1.0) if size >= 1e-2 else ("ms", 1e3) if size >= 1e-5 else ("µs", 1e6)
    value = scale * seconds
    whole = len(str(int(value))) if value >= 1 else 0 if value >= 0.1 else -1
    return f"{value:.{max(0, 3 - whole)}f} {unit}"


def span_text(low: float, high: float, like: float) -> str:
    """Two times in the unit of a third, without the unit: '0.290–0.351'."""
    return "–".join(seconds_text(seconds, like=like).partition(" ")[0] for seconds in (low, high))


def wait(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
