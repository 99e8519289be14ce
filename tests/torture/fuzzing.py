"""Damaged files for every reader, in a process of its own whose memory and time are limited.

A case is right if the reader raises one `UserError` of one line that names the file, or makes the right thing of it. A
traceback, a hang, much memory, a file that is written elsewhere, a process or a connection that is begun are wrong.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

import core.storage.limits
from core.errors import UserError
from tests.readers import READERS
from tests.torture.damage import OF_BYTES, damaged
from tests.torture.processes import fork, wait
from tests.torture.right_results import check

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 3 * 2**30  # bytes of address space, beyond what imports take
MACHINE = 2**30  # bytes of memory that readers are told to be there
PIXELS = 2**24  # of an image
SECONDS = 20.0  # of a core, for one case
START = 30.0  # seconds of a core until the first case
_SHAPES = ("a folder in its place", "gone", "a link to itself", "a device")
_OUTSIDE = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.connect",
            "pickle.find_class", "pty.spawn", "webbrowser.open")  # fmt: skip


@dataclass
class Found:
    """What came of the cases of one reader.

    Attributes:
        reader: its name.
        cases: how many were tried.
        refused: in one line that names the file.
        seconds: of all of them.
        slowest: seconds of the slowest one.
        failures: what was wrong -> the damage, the file that is kept, and how often.
    """

    reader: str
    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def wrong(self) -> int:
        """Cases that were."""
        return sum(how["times"] for how in self.failures.values())

    def fail(self, what: str, damage: str, path: str) -> bool:
        """Note what was wrong; whether it is new."""
        new = what not in self.failures
        self.failures.setdefault(what, {"damage": damage, "file": path, "times": 0})["times"] += 1
        return new


class TooLong(BaseException):
    """A case has had its time."""


def shares(readers: Sequence[str], cases: int) -> dict[str, int]:
    """How many of all cases each reader gets."""
    return {
        name: cases // len(readers) + (number < cases % len(readers)) for number, name in enumerate(readers)
    }


def fuzz(cases: Mapping[str, int], seed: int, folder: Path) -> Iterator[Found]:
    """Try damaged files on readers.

    Args:
        cases: name of `tests.readers.READERS` -> how many.
        seed: the same cases for the same seed.
        folder: for the files; those that failed are kept there, under `failed`.

    Yields:
        What came of each reader.
    """
    left = dict(cases)
    begun = 0
    shutil.rmtree(folder, ignore_errors=True)
    while left:
        folder.mkdir(parents=True, exist_ok=True)
        begun += 1
        report, current = folder / f"report-{begun}.jsonl", folder / "current"
        report.touch()
        current.unlink(missing_ok=True)
        pid = fork(partial(_in_a_box, dict(left), seed, folder, report))
        ended = wait(pid, 3 * SECONDS + START, partial(_changed, current))
        for line in report.read_text().splitlines():
            found = Found(**json.loads(line))
            left.pop(found.reader)
            yield found
        if left:  # the process has died with a case
            name = next(iter(left))
            found = Found(name, left.pop(name))
            damage, path = (current.read_text().split("\n") if current.exists() else ["", ""])[:2]
            kept = _kept(folder, Path(path)) if path else ""
            found.fail(f"the process {_how(ended)} ({folder / 'said.txt'})", damage, kept)
            yield found


def _changed(path: Path) -> int:
    """When a file was written; 0 where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _how(status: int | None) -> str:
    if status is None:
        return "hung"
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _kept(folder: Path, path: Path) -> str:
    """The file of a case, where it is not removed."""
    place = folder / "failed" / path.parent.name
    if not place.exists():
        shutil.copytree(path.parent, place, symlinks=True)
    return str(place)


class _Box:
    """The limits of this process, and what it must not do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.watching, self.seen = str(folder.resolve()), False, list[str]()
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        size = (
            int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            if Path("/proc/self/statm").exists()
            else 2**34
        )
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
        self.peak = self._peak()
        signal.signal(signal.SIGPROF, self._too_long)
        sys.addaudithook(self._audit)

    @staticmethod
    def _peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _too_long(self, number: int, frame: FrameType | None) -> None:
        raise TooLong(f"took more than {SECONDS:.0f} s")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event in _OUTSIDE:
            self.seen.append(f"{event} {str(arguments)[:100]}")
        elif (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            path = (
                os.path.realpath(os.fsdecode(arguments[0]))
                if isinstance(arguments[0], str | bytes)
                else self.folder
            )
            if not path.startswith((self.folder, "/dev/")):
                self.seen.append(f"writes '{path}'")

    @contextmanager
    def limits(self) -> Iterator[None]:
        """Within this block time runs, and what is done elsewhere is noted."""
        self.seen.clear()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        self.watching = True
        try:
            yield
        finally:
            self.watching = False
            signal.setitimer(signal.ITIMER_PROF, 0)

    def taken(self) -> str | None:
        """What the last case took that no case may."""
        peak, before = self._peak(), self.peak
        self.peak = max(peak, before)
        if self.seen:
            return self.seen[0]
        return f"took {(peak - before) / 2**30:.1f} GiB" if peak - before > 1.5 * 2**30 else None


def _in_words(error: BaseException) -> str:
    """An exception by its kind and by the last line of the project's in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if str(ROOT) in frame.filename and "/.venv/" not in frame.filename]
    place = f"{Path(own[-1].filename).relative_to(ROOT)}:{own[-1].lineno}" if own else "?"
    return f"{type(error).__name__} at {place}"


class _Cases:
    """The cases of one reader."""

    def __init__(self, name: str, box: _Box, folder: Path) -> None:
        self.reader, self.box, self.folder, self.found = READERS[name], box, folder, Found(name)
        self.marker = folder / "marker" / "ran"
        self.marker.parent.mkdir(parents=True, exist_ok=True)
        self.number = 0
        valid = self._place()
        self.reader.valid(valid)
        self.content = valid.read_bytes()
        self.valid = self.reader.read(valid)
        shutil.rmtree(valid.parent)

    def _place(self) -> Path:
        self.number += 1
        place = self.folder / f"{zlib.crc32(self.found.reader.encode()):08x}-{self.number}"
        place.mkdir()
        return place / self.reader.file

    def draw(self, draw: Any) -> None:
        """Draw a case, and try it."""
        kind = draw(st.integers(0, 60))
        content = None
        if kind < len(_SHAPES) and self.reader.named:
            damage = _SHAPES[kind]
        else:
            damage, content = damaged(draw, self.reader.form, self.content, str(self.marker))
        path = self._place()
        (self.folder / "current").write_text(f"{damage}\n{path}")
        self._make(path, damage, content)
        start = time.perf_counter()
        problem = self._try(path, damage in OF_BYTES)
        took = time.perf_counter() - start
        self.found.cases += 1
        self.found.seconds += took
        self.found.slowest = max(self.found.slowest, took)
        if problem is not None and self.found.fail(problem, damage, ""):
            shutil.rmtree(path.parent)  # a reader may have renamed it
            path.parent.mkdir()
            self._make(path, damage, content)
            self.found.failures[problem]["file"] = _kept(self.folder, path)
        shutil.rmtree(path.parent)

    @staticmethod
    def _make(path: Path, damage: str, content: bytes | None) -> None:
        if content is not None:
            path.write_bytes(content)
        elif damage == "a folder in its place":
            path.mkdir()
        elif damage == "a link to itself":
            path.symlink_to(path)
        elif damage == "a device":
            path.symlink_to(os.devnull)

    def _try(self, path: Path, by_bytes: bool) -> str | None:
        """What is wrong with how the file is read; None if nothing is."""
        refused = False
        here = {entry.name for entry in path.parent.iterdir()}
        try:
            with self.box.limits(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = self.reader.read(path)
        except UserError as error:
            said = str(error)
            names = {path.name, *(entry.name for entry in path.parent.iterdir())} | here
            if "\n" in said or len(said) > 3_000:
                return f"a message of several lines or {len(said) // 1000} thousand letters from {_in_words(error)}"
            if self.reader.named and not any(name in said for name in names):
                return f"no file is named: {said[:150]}"
            refused = True
        except (Exception, TooLong) as error:  # noqa: BLE001 - this is what is looked for
            return f"{_in_words(error)}: {' '.join(str(error).split())[:100]}"
        else:
            there = path if path.exists() else next(iter(sorted(path.parent.iterdir())), path)
            try:
                check(self.found.reader, result, self.valid, there, by_bytes)
            except Exception as error:  # noqa: BLE001 - whatever it is, the result was not right
                return f"a wrong result: {_in_words(error)}: {' '.join(str(error).split())[:150]}"
        if self.marker.exists():
            self.marker.unlink()
            return "code in the file was run"
        taken = self.box.taken()
        self.found.refused += refused and taken is None
        return taken


def _run(name: str, cases: int, seed: int, box: _Box, folder: Path) -> Found:
    own = _Cases(name, box, folder)

    @seeded(zlib.crc32(f"{name} {seed}".encode()))
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def case(data: st.DataObject) -> None:
        own.draw(data.draw)

    case()
    return own.found


def _in_a_box(cases: Mapping[str, int], seed: int, folder: Path, report: Path) -> int:
    """In the process whose memory is limited."""
    os.dup2(os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)  # by libraries of C, too
    faulthandler.enable()
    os.environ |= {"LWDNA_MAX_PIXELS": str(PIXELS), "LWDNA_CACHE": str(folder / "cache")}
    tempfile.tempdir = str(folder)
    torch.set_num_threads(1)
    core.storage.limits.physical_memory = lambda: MACHINE
    box = _Box(folder)
    with report.open("a") as file, open(os.devnull, "w") as nowhere:
        for name, count in cases.items():
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                found = _run(name, count, seed, box, folder)
            file.write(json.dumps(asdict(found)) + "\n")
            file.flush()
    return 0
