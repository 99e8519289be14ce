"""Several seeds at a time: each in a process of its own, all into one store of trials.

Small networks leave a device idle while Python prepares the next operation, and most of a CPU's cores all the time.
Processes share neither the interpreter nor its lock, so they fill both; seeds share no training, so none waits for
another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence

from core.errors import UserError
from core.training.interruption import watch_for_interruption

GOES_ON = "the same command goes on where it stopped"
PATIENCE = 30  # seconds that a process has to save its state


def check_jobs(arguments: Namespace) -> None:
    """Refuse options of `add_trial_arguments` that do not go together.

    Raises:
        UserError: fewer than one job; or neither trials nor a report are wanted.
    """
    if arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs}: use at least 1")
    if arguments.no_report and arguments.report_only:
        raise UserError("--no-report and --report-only leave nothing to do: use one of them")


def run_seeds(
    program: str, argv: Sequence[str] | None, seeds: Sequence[int], jobs: int, *, share_cores: bool
) -> None:
    """Run a command's trials, `jobs` seeds at a time, and wait for all.

    Args:
        program: the module: "benchmarks.hypothesis".
        argv: its arguments; None for this process's own.
        seeds: one process each.
        jobs: how many at a time.
        share_cores: give each process its part of the cores; False where the protocol says how many it takes.

    Raises:
        RuntimeError: one of them failed; it has said why itself, and the others have been stopped. What they finished
            is in the store.
        KeyboardInterrupt: Ctrl-C or SIGTERM; all of them have been stopped.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    end = given.index("--") if "--" in given else len(given)
    waiting = list(seeds)
    running: dict[int, subprocess.Popen[bytes]] = {}
    with watch_for_interruption():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    seed = waiting.pop(0)
                    own = ["--seed", str(seed), "--seeds", "1", "--jobs", "1", "--no-report", "--no-progress"]
                    if share_cores:
                        own += ["--threads", str(max(1, (os.cpu_count() or 1) // jobs))]
                    running[seed] = subprocess.Popen(
                        # What comes last counts, so these stand behind the options that they replace.
                        [sys.executable, "-m", program, *given[:end], *own, *given[end:]],
                        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends them in order
                    )
                for seed, process in list(running.items()):
                    status = process.poll()
                    if status is not None:
                        del running[seed]
                    if status:
                        raise RuntimeError(f"seed {seed} ended with status {status}; {GOES_ON}")
                time.sleep(0.1)
        finally:
            _stop(list(running.values()))


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end: a training writes a checkpoint first. Kill them where that takes long or is not awaited."""
    if not processes:
        return
    print("stopping the other processes ...", file=sys.stderr)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    try:
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in processes:
            process.kill()
            process.wait()
