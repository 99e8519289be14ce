"""Small runs of the commands that train, and what is done to them while they run.

A run is a process forked from this one, which has imported everything. What it does is counted: files that are opened
to be written, renamed and removed in its folder, and optimiser steps. Blows are dealt by that count and not by a clock,
so that a seed repeats them on any machine.
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from skimage import data as photographs
from torch.optim.optimizer import register_optimizer_step_post_hook

from core.command_line.config import dump_config
from core.storage.checkpoint import load_state
from tests.bits import assert_same_bits
from tests.torture.processes import fork, wait
from tests.tracking.training.trees import sequence_folder, small_config
from tracking.datasets.demo_rendering import SCENES
from tracking.experiment.config import EvaluationConfig, RunConfig
from tracking.training.config import CacheConfig

Kind = Literal["kill", "disk", "worker", "data", "clock", "file"]
WORK_DIR, DATA = "w", "data"
SECONDS = 120.0  # of a core, for one run
DAY = 86400.0


@dataclass(frozen=True)
class Program:
    """A command on small real data.

    Attributes:
        module: of the command.
        arguments: its words, without the work directory.
        prepare: writes its data and protocol into a folder.

    """

    module: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path], object] = lambda folder: None


@dataclass(frozen=True)
class Blow:
    """What happens to a run.

    Attributes:
        kind: the process is killed by the system; the disk is full from then on; a process that reads data is killed;
            the data are gone; the clock goes back by a day; a file of a finished run is damaged.
        at: the number of the event at which it happens, from 0; of the file.
        room: bytes that files may still have on a full disk; 0 lets none be opened. Of a damaged file: how.
    """

    kind: Kind
    at: int
    room: int = 0


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        status: its exit status, negative for a signal; None where it was ended because it hung.
        out: what it printed.
        error: what it printed on the error stream.
        events: a letter for each: "w"rite, "m"ove, "r"emove, "s"tep; "k" for a process that was killed at the last one.
        seconds: that it took.
    """

    status: int | None
    out: str
    error: str
    events: str
    seconds: float


def images_of_two_classes(folder: Path) -> None:
    """Parts of two photographs, a folder each."""
    for name, picture in (("astronaut", photographs.astronaut()), ("coffee", photographs.coffee())):
        (folder / DATA / name).mkdir(parents=True)
        for number in range(8):
            part = picture[40 * (number // 4) :, 60 * (number % 4) :][:80, :100]
            Image.fromarray(part).save(folder / DATA / name / f"{number}.jpg")


def images_to_enlarge(folder: Path) -> None:
    """Parts of photographs, to train on and to score on."""
    for part, picture in (("train", photographs.astronaut()), ("test", photographs.coffee())):
        (folder / DATA / part).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(picture[96 * number :][:96, 100:196]).save(folder / DATA / part / f"{number}.png")


def sequences(folder: Path, **changes: Any) -> None:
    """Two sequences of a photograph, and a protocol that trains on them."""
    for target in ("face", "badge"):
        sequence_folder(folder / DATA, target)
    config = small_config(Path(DATA))
    config = replace(config, data=replace(config.data, **changes),
                     train=replace(config.train, checkpoint_every_steps=1))  # fmt: skip
    dump_config(config, folder / "protocol.py")


def sequences_read_by_processes(folder: Path) -> None:
    """The same, read by a process of its own, frame by frame."""
    sequences(folder, cache=CacheConfig(enabled=False), workers=1)


def two_trackers(folder: Path) -> None:
    """The same for the comparison of two backbones, tried on one short rendered video."""
    sequences(folder)
    own = small_config(Path(DATA))
    scene = SCENES["test"][0]
    fields = {name: getattr(own, name) for name in own.__dataclass_fields__}
    config = RunConfig(**fields, evaluation=EvaluationConfig(sequences=(scene.name,)))
    dump_config(
        replace(config, train=replace(config.train, epochs=1, checkpoint_every_steps=1)),
        folder / "protocol.py",
    )


QUICK = ("--no-progress", "--device", "cpu")
PROGRAMS: dict[str, Program] = {
    "classification": Program(
        "classification.run",
        (*QUICK, "--train-limit", "60", "--epochs", "2", "--cfg-options",
        "train.batch_size=30",
         "shrink.batch_size=20", "train.checkpoint_every_steps=1"),
    ),
    "photographs": Program(
        "classification.run",
        (*QUICK, "--model", "resnet20", "--dataset", DATA, "--val-share", "0.25", "--epochs", "2", "--cfg-options",
         "data.size=32", "data.workers=1", "train.batch_size=4", "shrink.batch_size=4",
         "train.checkpoint_every_steps=1"),
        images_of_two_classes,
    ),
    "super-resolution": Program(
        "super_resolution.run",
        (*QUICK, "--epochs", "2", "--scale", "2", "--dataset", f"{DATA}/train", "--cfg-options", "options.n_blocks=1",
         "options.n_feats=8", "data.crops_per_epoch=16", f"data.benchmarks=('{DATA}/test',)", "data.patch=32",
         "shrink.round_to=1", "train.checkpoint_every_steps=1"),
        images_to_enlarge,
    ),
    "tracking.train": Program("tracking.train", (*QUICK, "--config", "protocol.py"), sequences),
    "tracking.train, processes": Program(
        "tracking.train", (*QUICK, "--config", "protocol.py"), sequences_read_by_processes
    ),
    "tracking.run": Program(
        "tracking.run", (*QUICK, "--config", "protocol.py", "--cfg-options", "shrink.batch_size=2",
        "shrink.batches=1"), two_trackers
    ),
}  # fmt: skip


# What is imported when it is needed, by every run.
_LATER = (
    "torch.utils.tensorboard",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "sklearn.datasets",
)


class Place:
    """The folder in which one run after another takes place, always under the same path.

    Args:
        folder: for it, and for what is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.here = folder / "run"

    def clear(self, program: Program) -> None:
        """Empty it, and lay the program's data."""
        shutil.rmtree(self.here, ignore_errors=True)
        self.here.mkdir(parents=True)
        program.prepare(self.here)

    def keep(self, name: str) -> Path:
        """Move it away."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        self.here.rename(place)
        return place

    def run(self, program: Program, blow: Blow | None = None, *options: str) -> Ended:
        """Run the program there, with a blow; with `--resume` it goes on with what is there."""
        words = [*program.arguments]
        words[:0] = ["--work-dir", WORK_DIR, *options]
        start = time.perf_counter()
        status = wait(fork(lambda: _child(self.here, program.module, words, blow)), SECONDS)
        took = time.perf_counter() - start
        texts = [
            (self.here / name).read_text(errors="replace") for name in ("out.txt", "err.txt", "events.txt")
        ]
        for name in ("out.txt", "err.txt", "events.txt"):
            (self.here / name).unlink()
        return Ended(status, *texts, took)


def _child(folder: Path, module: str, words: list[str], blow: Blow | None) -> int:
    """The run itself."""
    os.chdir(folder)
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["LWDNA_CACHE"] = str((folder.parent if module == "tracking.run" else folder) / "cache")
    os.environ["LWDNA_DATA"] = str(folder)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - whoever draws from it
    torch.manual_seed(0)
    torch.set_num_threads(1)
    SCENES.update(
        {split: SCENES[split][:count] for split, count in (("test", 1), ("train", 3), ("random", 3))}
    )
    sys.argv = [module, *words]
    events = _Events(folder, blow)
    status: int = importlib.import_module(module).main(words)
    events.close()
    return status


class _Events:
    """Counts what a run does, and deals the blow."""

    def __init__(self, folder: Path, blow: Blow | None) -> None:
        self.folder, self.blow, self.count, self.full = str(folder), blow, 0, False
        self.own, self.first = False, os.getpid()
        self.text = os.open("events.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        register_optimizer_step_post_hook(lambda *arguments: self.note("s"))
        sys.addaudithook(self._audit)

    def close(self) -> None:
        """No blow any more."""
        self.own = True

    def _inside(self, path: object) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        whole = os.path.abspath(os.fspath(path))
        return isinstance(whole, str) and whole.startswith(f"{self.folder}/")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and self._inside(path):
                self.note("w", path)
        elif event in ("os.rename", "os.remove") and self._inside(arguments[0]):
            self.note("m" if event == "os.rename" else "r")

    def note(self, letter: str, path: str = "") -> None:
        """Count an event; the blow comes before what it announces."""
        if self.own or os.getpid() != self.first:
            return
        self.own = True
        try:
            os.write(self.text, letter.encode())
            number, self.count = self.count, self.count + 1
            if self.blow is not None and number == self.blow.at:
                self._deal(self.blow)
        finally:
            self.own = False
        if self.full and letter == "w":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def _deal(self, blow: Blow) -> None:
        if blow.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif blow.kind == "disk" and blow.room:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (blow.room, resource.RLIM_INFINITY))
        elif blow.kind == "disk":
            self.full = True
        elif blow.kind == "worker":
            for child in multiprocessing.active_children():
                if child.pid is not None:
                    os.kill(child.pid, signal.SIGKILL)
                    os.write(self.text, b"k")
        elif blow.kind == "data":
            os.rename(DATA, "gone")
        else:
            _set_back(Path(WORK_DIR))


def _set_back(folder: Path) -> None:
    """As if a day had gone by when the files were written: they are of tomorrow."""
    now, clock, clock_ns = time.time(), time.time, time.time_ns
    for path in folder.rglob("*"):
        os.utime(path, (now, now))
    time.time = lambda: clock() - DAY
    time.time_ns = lambda: clock_ns() - int(DAY * 1e9)


def files_of(work_dir: Path) -> list[Path]:
    """What a run has left, in order; TensorBoard's files are not read again."""
    return sorted(path for path in work_dir.rglob("*") if path.is_file() and "tensorboard" not in path.parts)


def damage(path: Path, how: int) -> str:
    """Damage a file that a run has left; in words."""
    content = path.read_bytes()
    if how == 0:
        path.unlink()
        return "gone"
    if how == 1:
        path.write_bytes(b"")
        return "empty"
    if how == 2:
        path.write_bytes(content[: len(content) // 2])
        return "cut"
    if how == 3:
        path.write_bytes(content[: len(content) // 3] + bytes(len(content) - len(content) // 3))
        return "zeros at its end"
    place = len(content) * 2 // 3
    path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    return "a bit flipped"


DAMAGES = 5

# What two runs of one command leave

MEASURED = ("report.html",)  # files that tell what a clock measured among other things
TIMED = ("seconds", "images_per_second", "finished", "repeats")  # keys of what a clock says
SPEEDS = "ms"  # the column of a report's table from which on a clock speaks
TIMES = "times"  # a folder of files with the seconds of every frame


def difference(one: Path, other: Path, but: str = "") -> str | None:
    """The first difference between two work directories to the last bit, times left out; None where there is none.

    Args:
        one: a folder.
        other: a folder.
        but: the name of a file that may differ.
    """
    names = {str(path.relative_to(folder)) for folder in (one, other) for path in files_of(folder)}
    for name in sorted(names - {but}):
        first, second = one / name, other / name
        if not first.is_file() or not second.is_file():
            return f"'{name}' is {'new' if second.is_file() else 'gone'}"
        try:
            _assert_same(first, second)
        except (AssertionError, ValueError) as error:  # one that cannot be read differs as well
            return f"'{name}' differs: {' '.join(str(error).split())[:100]}"
    return None


def _assert_same(first: Path, second: Path) -> None:
    if first.name == "last.safetensors":
        assert_same_bits(load_state(first), load_state(second))
    elif first.suffix == ".json":
        assert_same_bits(_untimed(json.loads(first.read_text())), _untimed(json.loads(second.read_text())))
    elif first.suffix == ".jsonl":
        pairs = [
            [_untimed(json.loads(line)) for line in path.read_text().splitlines()] for path in (first, second)
        ]
        assert_same_bits(*pairs)
    elif first.suffix == ".md":
        assert _unmeasured(first.read_text()) == _unmeasured(second.read_text()), "other lines"
    elif first.parent.name == TIMES:
        assert first.read_text().count("\n") == second.read_text().count("\n"), "not as many frames"
    elif first.name in MEASURED:
        assert first.stat().st_size > 0, "empty"
    else:
        assert first.read_bytes() == second.read_bytes(), "other bytes"


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(item) for key, item in value.items() if key not in TIMED}
    return [_untimed(item) for item in value] if isinstance(value, list) else value


def _unmeasured(report: str) -> list[str]:
    """The lines of a report; of a table with a column `SPEEDS` what stands before it."""
    lines, shown = [], None
    for line in report.splitlines():
        cells = line.split(" | ") if line.startswith("|") else []
        if not cells:
            shown = None
        elif SPEEDS in cells:
            shown = cells.index(SPEEDS)
        lines.append(" | ".join(cells[:shown]) if cells else line)
    return lines


def warm() -> None:
    """Import what the programs need, so that each run has it from its start."""
    for module in (*{program.module for program in PROGRAMS.values()}, *_LATER):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
