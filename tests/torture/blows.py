"""Runs that are dealt blows and go on: they have to end with what an undisturbed run leaves, to the last bit."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

from tests.torture.programs import DATA, PROGRAMS, WORK_DIR, Blow, Ended, Kind, Place, difference

ROOMS = (0, 0, 100, 5_000, 60_000)  # bytes that files may still have on a full disk
FULL = ("No space left on device", "File too large")
OF_PROGRAM: dict[Kind, tuple[str, ...]] = {
    "kill": (
        "classification",
        "super-resolution",
        "tracking.train",
        "tracking.run",
        "photographs",
        "tracking.train, processes",
    ),
    "disk": ("classification", "tracking.train", "super-resolution", "photographs", "tracking.run"),
    "worker": ("photographs", "tracking.train, processes"),
    "data": ("photographs", "tracking.train, processes", "super-resolution", "tracking.train"),
    "clock": ("classification", "tracking.train", "super-resolution", "tracking.run"),
}
IN_WORDS: dict[Kind, str] = {
    "kill": "kill -9",
    "disk": "full disk",
    "worker": "data worker killed",
    "data": "data root gone",
    "clock": "clock set back a day",
}


@dataclass(frozen=True)
class Trial:
    """A program, and the blows that it is dealt one after the other, each to the run that goes on from the last."""

    program: str
    kind: Kind
    blows: tuple[Blow, ...]

    def __str__(self) -> str:
        at = ", then ".join(
            f"{blow.kind} at {blow.at}{f' with {blow.room} bytes' if blow.room else ''}"
            for blow in self.blows
        )
        return f"{self.program}: {at}"


@dataclass
class Result:
    """What came of a trial.

    Attributes:
        trial: see there.
        problem: what was wrong; None where it ended as the undisturbed run did.
        seconds: that it took.
        statuses: of its runs.
    """

    trial: Trial
    problem: str | None = None
    seconds: float = 0.0
    statuses: list[int | None] = field(default_factory=list)


class Undisturbed(RuntimeError):
    """A program does not even run undisturbed, or not twice alike."""


class Trials:
    """Trials of all kinds, drawn by a seed.

    Args:
        counts: how many of each kind.
        seed: the same trials for the same seed.
        folder: for the runs.
        programs: names of those that are used.
    """

    def __init__(
        self, counts: Mapping[Kind, int], seed: int, folder: Path, programs: Sequence[str] = tuple(PROGRAMS)
    ) -> None:
        self.place, self.random = Place(folder), random.Random(seed)
        self.drawn = [
            (name, kind)
            for kind, count in counts.items()
            for name in islice(cycle([name for name in OF_PROGRAM[kind] if name in programs] or [""]), count)
            if name
        ]
        self.events: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def references(self) -> Iterator[tuple[str, Ended]]:
        """Run each program undisturbed, which tells its events and how long it takes.

        Raises:
            Undisturbed: it fails.
        """
        for name in dict.fromkeys(name for name, _ in self.drawn):
            self.place.clear(PROGRAMS[name])
            ended = self.place.run(PROGRAMS[name])
            if ended.status != 0:
                raise Undisturbed(f"{name} ended with status {ended.status}: {ended.error[-2_000:]}")
            self.place.keep(f"reference-{name}")
            self.events[name], self.seconds[name] = ended.events, ended.seconds
            yield name, ended

    def estimate(self) -> float:
        """Seconds that all trials take: each runs once and a half."""
        return sum(1.5 * self.seconds[name] for name, _ in self.drawn)

    def run(self) -> Iterator[Result]:
        """Draw the trials, and run one after another."""
        for name, kind in self.drawn:
            yield self._tried(Trial(name, kind, self._draw(kind, self.events[name])))

    def _draw(self, kind: Kind, events: str) -> tuple[Blow, ...]:
        if kind == "disk":
            writes = [number for number, letter in enumerate(events) if letter == "w"]
            return (Blow(kind, self.random.choice(writes), self.random.choice(ROOMS)),)
        if kind == "worker":
            return (
                Blow(
                    kind,
                    self.random.choice([number for number, letter in enumerate(events) if letter == "s"]),
                ),
            )
        at = self.random.randrange(len(events))
        if kind == "kill" and self.random.random() < 0.25:  # the one that goes on is killed as well
            return Blow(kind, at), Blow(kind, self.random.randrange(max(1, len(events) - at)))
        if kind == "clock":
            return Blow("kill", at), Blow(kind, 0)
        return (Blow(kind, at),)

    def _tried(self, trial: Trial) -> Result:
        result, program = Result(trial), PROGRAMS[trial.program]
        self.place.clear(program)
        done = False
        for number, blow in enumerate((*trial.blows, None)):
            if done:
                break
            ended = self.place.run(program, blow, *(["--resume"] if number else []))
            result.seconds += ended.seconds
            result.statuses.append(ended.status)
            result.problem = result.problem or self._wrong(trial, blow, ended)
            if (self.place.here / "gone").exists():
                (self.place.here / "gone").rename(self.place.here / DATA)
            done = ended.status == 0
        reference = self.place.folder / f"reference-{trial.program}"
        if result.problem is None:
            result.problem = difference(reference / WORK_DIR, self.place.here / WORK_DIR)
        if result.problem is not None:
            (self.place.here / "error.txt").write_text(ended.error)
            self.place.keep(f"failed/{trial.program}-{trial.kind}-{trial.blows[0].at}")
        else:
            shutil.rmtree(self.place.here)
        return result

    def _wrong(self, trial: Trial, blow: Blow | None, ended: Ended) -> str | None:
        """What is wrong with how a run ended; None if nothing is."""
        told = " ".join(ended.error.split())[-200:]
        if ended.status is None:
            return "it hung"
        if "Traceback" in ended.error:
            return f"a traceback: {told}"
        if blow is None or blow.kind in ("worker", "clock"):
            return None if ended.status == 0 else f"ended with status {ended.status}: {told}"
        if blow.kind == "kill":
            return None if ended.status in (-9, 0) else f"ended with status {ended.status}: {told}"
        if ended.status == 0:
            return None
        if blow.kind == "disk" and (ended.status != 1 or not any(word in ended.error for word in FULL)):
            return f"a full disk is not told, status {ended.status}: {told}"
        if (
            blow.kind == "disk"
            and f"{self.place.here.name}/" not in ended.error
            and f"{WORK_DIR}/" not in ended.error
        ):
            return f"the full disk's file is not named: {told}"
        if blow.kind == "data" and (ended.status not in (1, 2) or DATA not in ended.error):
            return f"the data that are gone are not named, status {ended.status}: {told}"
        return None
