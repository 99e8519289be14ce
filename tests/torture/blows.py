"""Runs that are dealt blows and go on: they have to end with what an undisturbed run leaves, to the last bit."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

from core.errors import UserError
from core.storage.checkpoint import read_verified
from tests.torture.programs import (
    DAMAGES,
    DATA,
    PROGRAMS,
    WORK_DIR,
    Blow,
    Ended,
    Kind,
    Place,
    damage,
    difference,
    files_of,
)

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
    "file": ("classification", "tracking.train", "super-resolution", "photographs", "tracking.run"),
}
IN_WORDS: dict[Kind, str] = {
    "kill": "kill -9",
    "disk": "full disk",
    "worker": "data worker killed",
    "data": "data root gone",
    "clock": "clock set back a day",
    "file": "finished, a file damaged",
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
        trial: in words.
        kind: of blow.
        problem: what was wrong; None where it ended as the undisturbed run did.
        seconds: that it took.
        statuses: of its runs.
    """

    trial: str
    kind: Kind
    problem: str | None = None
    seconds: float = 0.0
    statuses: list[int | None] = field(default_factory=list)


def drawn(counts: Mapping[Kind, int], programs: Sequence[str]) -> list[tuple[str, Kind]]:
    """The programs and kinds of all trials: of each kind so many, in turn for the programs that it can happen to."""
    found: list[tuple[str, Kind]] = []
    for kind, count in counts.items():
        able = [name for name in OF_PROGRAM[kind] if name in programs]
        found += [(name, kind) for name in islice(cycle(able), count if able else 0)]
    return found


class Trials:
    """The trials of one program.

    Args:
        program: a name of `PROGRAMS`.
        folder: for its runs.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.place = program, Place(folder)

    def reference(self) -> Ended:
        """Run the program undisturbed, which tells its events and how long it takes."""
        self.place.clear(PROGRAMS[self.program])
        ended = self.place.run(PROGRAMS[self.program])
        self.place.keep("undisturbed")
        return ended

    def draw(self, kind: Kind, events: str, seed: str) -> Trial:
        """A trial, the same for the same seed: where in the events of the undisturbed run the blows fall."""
        draws = random.Random(seed)
        at = draws.randrange(len(events))
        if kind == "disk":
            writes = [number for number, letter in enumerate(events) if letter == "w"]
            blows: tuple[Blow, ...] = (Blow(kind, draws.choice(writes), draws.choice(ROOMS)),)
        elif kind == "worker":
            steps = [number for number, letter in enumerate(events) if letter == "s"]
            blows = (Blow(kind, draws.choice(steps)),)
        elif kind == "kill" and draws.random() < 0.25:  # the one that goes on is killed as well
            blows = Blow(kind, at), Blow(kind, draws.randrange(max(1, len(events) - at)))
        elif kind == "file":
            blows = (Blow(kind, draws.randrange(10_000), draws.randrange(DAMAGES)),)
        elif kind == "clock":
            blows = Blow("kill", at), Blow(kind, 0)
        else:
            blows = (Blow(kind, at),)
        return Trial(self.program, kind, blows)

    def run(self, trial: Trial) -> Result:
        """Deal the blows, let the program go on, and hold what it leaves against the undisturbed run."""
        if trial.kind == "file":
            return self._run_damaged(trial)
        result, program = Result(str(trial), trial.kind), PROGRAMS[self.program]
        self.place.clear(program)
        for number, blow in enumerate((*trial.blows, None)):
            ended = self.place.run(program, blow, *(["--resume"] if number else []))
            result.seconds += ended.seconds
            result.statuses.append(ended.status)
            result.problem = result.problem or self._wrong(blow, ended)
            if (self.place.here / "gone").exists():
                (self.place.here / "gone").rename(self.place.here / DATA)
            if ended.status == 0:
                break
        if result.problem is None:
            undisturbed = self.place.folder / "undisturbed"
            result.problem = difference(undisturbed / WORK_DIR, self.place.here / WORK_DIR)
        if result.problem is not None:
            (self.place.here / "error.txt").write_text(ended.error)
            self.place.keep(f"failed/{trial.kind}-{'-'.join(str(blow.at) for blow in trial.blows)}")
        else:
            shutil.rmtree(self.place.here)
        return result

    def _run_damaged(self, trial: Trial) -> Result:
        """Damage a file of a finished run: it is made anew, or refused by name, or refused by whoever reads it."""
        self.place.clear(PROGRAMS[self.program])
        undisturbed, work_dir = self.place.folder / "undisturbed" / WORK_DIR, self.place.here / WORK_DIR
        shutil.copytree(undisturbed, work_dir)
        files, [blow] = files_of(work_dir), trial.blows
        path = files[blow.at % len(files)]
        name = str(path.relative_to(work_dir))
        how = damage(path, blow.room)
        left = path.read_bytes() if path.exists() else None
        ended = self.place.run(PROGRAMS[self.program], None, "--resume")
        result = Result(f"{self.program}: {name} {how}", trial.kind, None, ended.seconds, [ended.status])
        told = " ".join(ended.error.split())[-300:]
        if ended.status is None or "Traceback" in ended.error:
            result.problem = f"it hung or ended with a traceback: {told}"
        elif ended.status != 0:
            result.problem = None if path.name in ended.error else f"status {ended.status}, not named: {told}"
        else:
            result.problem = difference(undisturbed, work_dir, but=name)
            same = difference(undisturbed, work_dir) is None
            if result.problem is None and not same and left != (path.read_bytes() if path.exists() else None):
                if path.name not in ended.out + ended.error:
                    result.problem = "it was written anew, otherwise than before, and nothing is said"
            elif result.problem is None and not same and path.suffix in (".json", ".jsonl", ".py"):
                result.problem = "it stays damaged, and nothing is said"
            elif result.problem is None and not same and path.suffix == ".safetensors":
                result.problem = _believed(path)
        if result.problem is None:
            shutil.rmtree(self.place.here)
        else:
            (self.place.here / "error.txt").write_text(ended.error)
            self.place.keep(f"failed/file-{blow.at}-{blow.room}")
        return result

    def _wrong(self, blow: Blow | None, ended: Ended) -> str | None:
        """What is wrong with how a run ended; None if nothing is."""
        told = " ".join(ended.error.split())[-200:]
        if ended.status is None:
            return "it hung"
        if "Traceback" in ended.error:
            return f"a traceback: {told}"
        if blow is not None and blow.kind == "worker" and "k" not in ended.events:
            return "there was no process to be killed"
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


def _believed(path: Path) -> str | None:
    """Whether a damaged file of tensors would be taken for a whole one."""
    try:
        read_verified(path)
    except UserError:
        return None
    return "it stays damaged, and its reader does not notice"


def run_program(program: str, kinds: Mapping[int, Kind], seed: int, folder: Path) -> Iterator[Result]:
    """The trials of one program, told line by line.

    Args:
        program: a name of `PROGRAMS`.
        kinds: number of a trial -> its kind.
        seed: of the draws.
        folder: for the runs.
    """
    trials = Trials(program, folder)
    ended = trials.reference()
    if ended.status != 0:
        yield Result(
            program, "kill", f"it does not run undisturbed, status {ended.status}: {ended.error[-300:]}"
        )
        return
    letters = Counter(ended.events)
    print(f"  {program}: {ended.seconds:.0f} s undisturbed, {letters['w']} files written, {letters['s']} steps; "
          f"{len(kinds)} runs with blows, about {1.5 * ended.seconds * len(kinds) / 60:.0f} min ...",
          flush=True)  # fmt: skip
    for number, kind in kinds.items():
        result = trials.run(trials.draw(kind, ended.events, f"{seed} {number}"))
        statuses = ", ".join("hung" if status is None else str(status) for status in result.statuses)
        said = result.problem or ("same bits in the end" if result.statuses[-1] == 0 else "refused by name")
        print(f"  {result.trial} ({result.seconds:.0f} s; status {statuses}): {said}", flush=True)
        yield result
