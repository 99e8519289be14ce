"""Trials that train nothing, run by several commands in one store, with failures and kills; counts what is wrong after.

Everything is the engine's own (keys, claims, records, processes, second attempts) except the training. See
`benchmarks.store`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from core.errors import UserError
from core.experiments import trials as engine_trials
from core.experiments.engine import Engine
from core.experiments.executors import Resources
from core.experiments.plan import Trial
from core.experiments.scheduling import run_trials
from core.experiments.store import KeyedStore
from core.experiments.task import Metric, Task
from core.methods.registry import BASELINE
from core.storage import claims
from core.storage.files import atomic_write, read_json, write_json
from core.training.run_files import EpochRecord, RunFiles
from core.training.train import FitResult, TrainConfig, make_fabric
from core.widths.config import ShrinkConfig

LEASE, RENEWED_EVERY = 10.0, 1.0  # seconds; squeezes hours of a cluster into two minutes
MOMENT = 0.1  # seconds that a training takes: long enough that kills meet some in their midst
AFTER_ITS_RECORD = "begins after its record"  # a note that must not occur
WRONG = ("lost", "recorded_twice", "trained_twice", "begun_after_record", "two_at_a_time", "unexplained")
_COMMAND = (
    "import sys; from benchmarks.store_simulation import command; "
    "sys.exit(command(sys.argv[1], int(sys.argv[2])))"
)


@dataclass(frozen=True)
class Injected:
    """The failures to inject, by the seeds of the trials.

    Attributes:
        trials: number of trials; their seeds are 0, 1, ...
        jobs: processes of each command.
        kills: process killed at the first attempt.
        kills_twice: process killed at the first and the second attempt.
        errors: raise an OSError at the first attempt.
        hopeless: raise one at every attempt.
    """

    trials: int
    jobs: int
    kills: tuple[int, ...]
    kills_twice: tuple[int, ...]
    errors: tuple[int, ...]
    hopeless: tuple[int, ...]

    @classmethod
    def drawn(cls, trials: int, jobs: int, kills: int, errors: int, hopeless: int) -> Injected:
        """Draw this many of each, always the same ones; one kill in eight comes twice.

        Raises:
            UserError: there are too few trials.
        """
        wanted = kills + errors + hopeless
        if wanted > trials:
            raise UserError(f"--trials {trials}: {wanted} of them are to go wrong: take more, or inject less")
        drawn = random.Random(0).sample(range(trials), wanted)
        dying, rest = drawn[:kills], drawn[kills:]
        twice = kills // 8 if jobs > 1 else 0
        return cls(
            trials,
            jobs,
            tuple(dying[twice:]),
            tuple(dying[:twice]),
            tuple(rest[:errors]),
            tuple(rest[errors:]),
        )

    @classmethod
    def read(cls, folder: Path) -> Injected:
        """The failures that are written down in `folder`."""
        content = read_json(folder / "injected.json")
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        return cls(**plain)


def network() -> nn.Sequential:
    """The smallest possible network."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class NoBatches:
    """A loader without batches."""

    def __len__(self) -> int:
        return 0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """See `core.training.train.Loader`."""
        yield from ()

    def shard(self, rank: int, world: int) -> NoBatches:
        """See `core.training.train.Loader`."""
        return self


@contextmanager
def put_back() -> Iterator[None]:
    """Undo, in this process, the replacements of `open_engine` in the engine."""
    kept = socket.gethostname, claims.LEASE, claims.RENEWED_EVERY, engine_trials.train_network
    try:
        yield
    finally:
        socket.gethostname, claims.LEASE, claims.RENEWED_EVERY, engine_trials.train_network = kept


def open_engine(folder: Path, number: int) -> Engine:
    """The engine of command `number`, in any of its processes: with a machine name of its own and a dummy training."""
    host = f"machine{number}"
    socket.gethostname = lambda: host
    claims.LEASE, claims.RENEWED_EVERY = LEASE, RENEWED_EVERY
    task = Task(
        name="store",
        dataset="none",
        model_name="net",
        build=network,
        example_inputs=torch.zeros(1, 1, 8, 8),
        train_loader=lambda batch_size, seed: NoBatches(),
        loss_fn=nn.functional.cross_entropy,
        evaluate=lambda model: {},
        metrics=(Metric("seed", "seed", higher_is_better=False),),
        curves=("loss", "seed", "seed"),
    )
    engine = Engine(
        task,
        TrainConfig(epochs=1),
        KeyedStore(folder / "store"),
        make_fabric("cpu"),
        {},
        say=lambda line: None,
    )
    engine_trials.train_network = partial(train_nothing, folder, engine)
    return engine


def train_nothing(
    folder: Path,
    engine: Engine,
    task: Task,
    model: nn.Module,
    config: TrainConfig,
    work_dir: Path,
    fabric: Fabric,
    **more: object,
) -> FitResult:
    """Stands in for a training: note its start, inject its failure, write weights, note its end.

    As a training does, it trains nothing more where its weights are: their process ended before it wrote the record.
    """
    seed, injected = config.seed, Injected.read(folder)
    work_dir.mkdir(parents=True, exist_ok=True)
    files = RunFiles(work_dir)
    record = EpochRecord(1, 0.1, 1.0, {}, {"seed": float(seed)}, MOMENT, 1, 1.0)
    try:
        recorded = engine.load(Trial(BASELINE, ShrinkConfig(), seed)) is not None
        note(folder, seed, AFTER_ITS_RECORD if recorded else "begins")
        if not files.weights.exists():
            _train(folder, seed, injected, files)
        note(folder, seed, "ends")
    except KeyboardInterrupt:  # its command was killed; its claim is given back next
        note(folder, seed, "told to end")
        raise
    return FitResult((record,), MOMENT, 1, files.weights)


def _train(folder: Path, seed: int, injected: Injected, files: RunFiles) -> None:
    before = _attempts_so_far(folder, seed)
    time.sleep(MOMENT)
    if (seed in injected.kills and not before) or (seed in injected.kills_twice and before < 2):
        note(folder, seed, "dies")
        os.kill(os.getpid(), signal.SIGKILL)
    if seed in injected.hopeless or (seed in injected.errors and not before):
        note(folder, seed, "raises")
        raise OSError(5, "injected")
    with atomic_write(files.weights, "wb") as file:
        file.write(b"weights")
    note(folder, seed, "trained")


def _attempts_so_far(folder: Path, seed: int) -> int:
    """How often this training was started before; the claim keeps others out meanwhile."""
    path = folder / "attempts" / str(seed)
    before = len(path.read_bytes()) if path.exists() else 0
    with path.open("ab") as file:
        file.write(b".")
    return before


def note(folder: Path, seed: int, what: str) -> None:
    """Add a line to this process' journal; all processes of a machine share the monotonic clock."""
    line = json.dumps([time.monotonic(), socket.gethostname(), os.getpid(), seed, what])
    with (folder / "journal" / str(os.getpid())).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def command(folder: str, number: int) -> int:
    """One command: all trials that others have not done; lists failed ones in `failed-NUMBER.json`."""
    place = Path(folder)
    injected = Injected.read(place)
    wanted = [(Trial(BASELINE, ShrinkConfig(), seed), True) for seed in range(injected.trials)]
    opened = partial(open_engine, place, number)
    failed = run_trials(opened(), wanted, Resources(jobs=injected.jobs), opened)
    write_json(place / f"failed-{number}.json", [failure.trial.seed for failure in failed])
    return 0


@dataclass
class Simulation:
    """The outcome of a simulation.

    Attributes:
        seconds: from the first start of a command to the end of the last.
        kills: how often a whole command was killed.
        restarts: commands that had to be started again.
        journal: all notes, by time: (seconds, machine, process, seed, what).
        failed: the seeds that each command reports.
    """

    seconds: float
    kills: int
    restarts: int
    journal: list[tuple[float, str, int, int, str]]
    failed: list[list[int]]


def simulate(
    folder: Path, injected: Injected, commands: int, command_kills: int, seconds: float
) -> Simulation:
    """Run commands side by side until all are done; those that die are started again.

    Args:
        folder: empty.
        injected: the failures.
        commands: number of commands; each is a machine to the others.
        command_kills: how often the second one is killed, at even distances of trials that are done; its processes end
            with it.
        seconds: time after which it is given up.

    Raises:
        UserError: it was not done by then.
    """
    for name in ("journal", "attempts", "store/records"):
        (folder / name).mkdir(parents=True)
    write_json(folder / "injected.json", asdict(injected))
    began = time.monotonic()

    def start(number: int) -> subprocess.Popen[bytes]:
        with (folder / f"said-{number}.log").open("ab") as said:
            line = [sys.executable, "-c", _COMMAND, str(folder), str(number)]
            return subprocess.Popen(line, stdout=said, stderr=said)

    running = {number: start(number) for number in range(commands)}
    kills = restarts = 0
    try:
        while running:
            time.sleep(0.1)
            if time.monotonic() - began > seconds:
                raise UserError(f"not done after {seconds:.0f} s: take fewer --trials, or more --seconds")
            done = sum(1 for _ in (folder / "store" / "records").glob("*.json"))
            if kills < command_kills and done * (command_kills + 1) > injected.trials * (kills + 1):
                running[1].kill()
                kills += 1
            for number, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[number]
                if process.returncode != 0:
                    restarts += 1
                    running[number] = start(number)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    took = time.monotonic() - began
    lines = [line for path in (folder / "journal").iterdir() for line in path.read_text("utf-8").splitlines()]
    journal = sorted(tuple(json.loads(line)) for line in lines)
    failed = [read_json(folder / f"failed-{number}.json") for number in range(commands)]
    return Simulation(took, kills, restarts, journal, failed)


def counted(folder: Path, injected: Injected, found: Simulation) -> dict[str, Any]:
    """The figures: trials lost, done twice, overlapping, and started again."""
    records = KeyedStore(folder / "store").records()
    recorded = [int(record["seed"]) for record in records]
    expected = set(range(injected.trials)) - set(injected.hopeless)
    notes = Counter(what for *_, what in found.journal)
    trained = Counter(seed for *_, seed, what in found.journal if what == "trained")
    overlaps = 0
    under_way: set[int] = set()
    for *_, seed, what in found.journal:
        if what in ("begins", AFTER_ITS_RECORD):
            overlaps += seed in under_way
            under_way.add(seed)
        elif what != "trained":
            under_way.discard(seed)
    by_machine = Counter(machine for _, machine, _, _, what in found.journal if what == "trained")
    times = [moment for moment, *_ in found.journal]
    busy = times[-1] - times[0]
    # What a process leaves undone that ends right after a training; only killed commands end any there.
    between = notes["ends"] - len(recorded)
    left = sum(1 for _ in (folder / "store" / "runs").glob(f"*/{claims.CLAIM_FILE}"))
    return {
        "trials": injected.trials,
        "recorded": len(records),
        "lost": len(expected - set(recorded)),
        "recorded_twice": len(recorded) - len(set(recorded)),
        "trained_twice": sum(count > 1 for count in trained.values()),
        "begun_after_record": notes[AFTER_ITS_RECORD],
        "two_at_a_time": overlaps,
        "hopeless": len(injected.hopeless),
        "hopeless_reported": sum(all(seed in told for told in found.failed) for seed in injected.hopeless),
        "reported_besides": len({seed for told in found.failed for seed in told} - set(injected.hopeless)),
        "attempts": notes["begins"] + notes[AFTER_ITS_RECORD],
        "told_to_end": notes["told to end"],
        "ended_between": between,
        "processes_killed": len(injected.kills) + 2 * len(injected.kills_twice),
        "commands_killed": found.kills,
        "commands_restarted": found.restarts,
        "errors_injected": len(injected.errors),
        "by_machine": dict(sorted(by_machine.items())),
        "claims_left": left,
        "unexplained": max(0, max(between, left) - found.kills * injected.jobs),
        "seconds": found.seconds,
        "seconds_of_trials": busy,
        "trials_per_second": len(records) / busy,
    }
