"""Do the store and its leases hold? Thousands of trials that train nothing, with failures and kills injected.

    python -m benchmarks.store --output docs/results/store

Several commands, each posing as a machine of its own, run the same list of trials in one store, as they would on a
cluster. Everything is the engine's own (keys, claims, records, processes, second attempts) except the training, which
writes its weights after a moment. Some trials kill their process, some raise an error once or always, and one whole
command is killed several times and started again. The program counts trials that are lost, and trainings that were done
twice or by two processes at a time.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import Page, benchmark
from benchmarks.store_simulation import (
    LEASE,
    MOMENT,
    WRONG,
    Injected,
    counted,
    open_engine,
    put_back,
    simulate,
)
from core.experiments.cluster import LARGEST_ARRAY
from core.experiments.plan import Trial
from core.experiments.store import KeyedStore
from core.experiments.trials import run_trial
from core.methods.registry import BASELINE
from core.storage import claims
from core.storage.files import write_json
from core.tables import markdown_table
from core.widths.config import ShrinkConfig

PRODUCTION_RENEWAL = claims.RENEWED_EVERY
PAPER_TRIALS, PAPER_WORKERS, PAPER_SECONDS = 10_000, 64, 60.0  # seconds of a training, for the estimate
# Calls of the file system that Python reports to its audit hooks; look-ups (stat) are not among them.
AUDITED = (
    "open",
    "os.mkdir",
    "os.rmdir",
    "os.rename",
    "os.remove",
    "os.chmod",
    "os.utime",
    "os.listdir",
    "os.scandir",
)


def costs(folder: Path, turns: int = 200) -> dict[str, float]:
    """Seconds of single steps of the store, with one process alone."""
    store = KeyedStore(folder / "store")
    path = next((folder / "store" / "records").glob("*.json"))
    record = store.load(Trial(BASELINE, ShrinkConfig(), 0), path.stem)
    assert record is not None
    alone = KeyedStore(folder / "alone")
    trial = Trial(BASELINE, ShrinkConfig(), 0)

    def per_turn(step: Any) -> float:
        began = time.perf_counter()
        for turn in range(turns):
            step(turn)
        return (time.perf_counter() - began) / turns

    return {
        "claim and release": per_turn(lambda turn: claims.take(folder / "alone" / "runs" / str(turn))()),
        "look for a record that is not there": per_turn(lambda turn: alone.load(trial, str(turn))),
        "write a record": per_turn(lambda turn: alone.save(trial, {**record, "key": str(turn)})),
        "read a record": per_turn(lambda turn: alone.load(trial, str(turn))),
    }


def operations(folder: Path) -> int:
    """The file-system calls of one trial, by Python's own count; see `AUDITED`."""
    counting, count = False, 0

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if counting and event in AUDITED:
            count += 1

    sys.addaudithook(hear)
    for name in ("journal", "attempts"):
        (folder / name).mkdir(parents=True)
    write_json(folder / "injected.json", asdict(Injected(1, 1, (), (), (), ())))
    with put_back():
        engine = open_engine(folder, 0)
        run_trial(engine, Trial(BASELINE, ShrinkConfig(), 0))  # imports, folders
        counting = True
        run_trial(engine, Trial(BASELINE, ShrinkConfig(), 1))
        counting = False
    return count


def measure(arguments: Namespace) -> Page:
    """Simulate, count, estimate."""
    injected = Injected.drawn(
        arguments.trials, arguments.jobs, arguments.kills, arguments.errors, arguments.hopeless
    )
    with TemporaryDirectory() as made:
        folder = Path(made)
        kills = arguments.command_kills if arguments.commands > 1 else 0
        found = simulate(folder, injected, arguments.commands, kills, arguments.seconds)
        figures = counted(folder, injected, found)
        steps = costs(folder)
        figures["operations"] = operations(folder / "one")
    figures |= {
        "commands": arguments.commands,
        "workers": arguments.commands * arguments.jobs,
        "steps": steps,
    }
    wrong = sum(figures[key] for key in WRONG)
    missed = figures["hopeless"] - figures["hopeless_reported"]
    title = f"{figures['trials']:,} trials by {figures['workers']} workers in one store"
    return Page(title, page_text(figures), figures, failed=bool(wrong or missed))


def page_text(figures: Mapping[str, Any]) -> str:
    """The injected failures, the outcome, and the needs of a cluster."""
    injected = [
        ["processes killed (SIGKILL) in the midst of a trial", figures["processes_killed"]],
        [
            "a whole command killed, with which its processes end, and started again",
            figures["commands_killed"],
        ],
        ["trials that raise an error at their first attempt", figures["errors_injected"]],
        ["trials that raise one at every attempt", figures["hopeless"]],
    ]
    outcomes = [
        ["trials", figures["trials"]],
        ["recorded", figures["recorded"]],
        ["lost", figures["lost"]],
        ["recorded twice", figures["recorded_twice"]],
        ["trained twice", figures["trained_twice"]],
        ["begun after its record was written", figures["begun_after_record"]],
        ["trained by two processes at a time", figures["two_at_a_time"]],
        [
            "hopeless trials that every command reports",
            f"{figures['hopeless_reported']} of {figures['hopeless']}",
        ],
        ["others that a command reports (their process was killed twice)", figures["reported_besides"]],
        ["attempts in all", figures["attempts"]],
        ["trainings that ended in their midst with their command, and were begun again", figures["told_to_end"]],
        ["processes that ended with it between training and record: written later, not trained again",
         figures["ended_between"]],
        ["processes that ended with it between record and claim: it is left in a folder that is done",
         figures["claims_left"]],
        ["more of these two than killed commands explain", figures["unexplained"]],
    ]  # fmt: skip
    shares = ", ".join(f"{name} {count}" for name, count in figures["by_machine"].items())
    steps = [[name, f"{1e6 * seconds:.0f}"] for name, seconds in figures["steps"].items()]
    return "\n\n".join(
        [
            f"{figures['commands']} commands with {figures['workers'] // figures['commands']} processes each, every "
            f"command a machine of its own to the others (they cannot see each other's processes, and go by leases of "
            f"{LEASE:g} s), ran the same list. A training takes {1000 * MOMENT:g} ms and trains nothing; all else is "
            f"the engine's.",
            "## Injected",
            markdown_table(["what", "how often"], injected),
            "## What came of it",
            markdown_table(["", "count"], outcomes),
            f"{figures['trials_per_second']:.1f} trials a second over {figures['seconds_of_trials']:.0f} s "
            f"({figures['seconds']:.0f} s with the start of all processes); trained by {shares}.",
            "## What one step costs",
            markdown_table(["step", "µs"], steps),
            "One process that is alone with the store, on this machine's disk; a record is synced to it.",
            f"## {PAPER_TRIALS:,} trials by {PAPER_WORKERS} workers, on paper",
            paper_text(figures),
        ]
    )


def paper_text(figures: Mapping[str, Any]) -> str:
    """The load on a shared file system, estimated from the steps and the calls of one trial."""
    own = sum(figures["steps"].values()) + figures["steps"]["look for a record that is not there"]
    rate = PAPER_WORKERS / PAPER_SECONDS
    calls = 2 * figures["operations"]
    hours = PAPER_TRIALS * PAPER_SECONDS / PAPER_WORKERS / 3600
    a_second = rate * calls + 2 * PAPER_WORKERS / PRODUCTION_RENEWAL
    return (
        f"Trainings of {PAPER_SECONDS:g} s, the shortest that are worth a job, take {hours:.1f} hours on "
        f"{PAPER_WORKERS} workers: {rate:.2f} trials a second, of the {figures['trials_per_second']:.1f} seen above. "
        f"One trial makes {figures['operations']} calls of the file system (files opened, renamed, removed, folders), "
        f"this program's notes among them; with as many looks, which Python does not count, and the renewals of claims "
        f"every {PRODUCTION_RENEWAL:g} s that is {a_second:.0f} calls a second. At 1 ms each, which is what we take a "
        f"network file system to need, a worker spends {100 * calls * 1e-3 / PAPER_SECONDS:.2f} % of its time on them. "
        f"On this disk a trial's steps take {1000 * own:.1f} ms. At its start every command looks once for each "
        f"record: {PAPER_TRIALS * 1e-3:.0f} s at 1 ms. A report reads all records: "
        f"{PAPER_TRIALS * figures['steps']['read a record']:.0f} s here. Arrays hold at most {LARGEST_ARRAY:,} jobs, "
        f"so "
        f"there are {-(-PAPER_TRIALS // LARGEST_ARRAY)}."
    )


main = benchmark(
    "store",
    __doc__,
    measure,
    numbers={
        "trials": (2000, "in the list"),
        "commands": (2, "side by side, each a machine of its own"),
        "jobs": (4, "processes of each"),
        "kills": (16, "trials whose process is killed"),
        "errors": (40, "trials that fail at first"),
        "hopeless": (5, "trials that always fail"),
        "command-kills": (3, "times that the second command is killed"),
    },
    options={"--seconds": {"type": float, "default": 600.0, "help": "given up after so many (%(default)s)"}},
)


if __name__ == "__main__":
    sys.exit(main(None))
