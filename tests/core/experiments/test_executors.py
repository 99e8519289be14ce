"""Processes that trials run in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.command_line.exits import RESUME
from core.errors import UserError
from core.experiments.executors import InProcess, Resources, open_executor
from tests.processes import is_running, started_by, wait_for_end

ROOT = Path(__file__).resolve().parents[3]
SLEEPERS = """
import os, sys, time
from pathlib import Path
from core.command_line.exits import run_command
from core.experiments.executors import Resources, open_executor

def sleep(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)

def work():
    with open_executor(Resources(jobs=2)) as executor:
        for future in [executor.submit(sleep, sys.argv[1]) for _ in range(2)]:
            future.result()

if __name__ == "__main__":
    sys.exit(run_command(work, False))
"""


def test_one_job_runs_here_and_at_once() -> None:
    with open_executor(Resources()) as executor:
        assert isinstance(executor, InProcess)
        assert executor.submit(os.getpid).result() == os.getpid()
        with pytest.raises(ZeroDivisionError):
            executor.submit(lambda: 1 / 0)


def test_fewer_than_one_job_is_refused() -> None:
    with pytest.raises(UserError, match="--jobs 0: use at least 1"):
        Resources(jobs=0)


def sleepers(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A command with two processes that sleep, and their numbers."""
    script, pids = folder / "sleepers.py", folder / "pids"
    script.write_text(SLEEPERS)
    pids.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(pids)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    return process, started_by(process, pids)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not tell of processes")
def test_what_schedulers_send_to_all_processes_ends_them_in_order(tmp_path: Path) -> None:
    process, found = sleepers(tmp_path)
    tasks = Path(
        f"/proc/{process.pid}/task"
    ).iterdir()  # processes are children of the thread that started them
    children = [pid for task in tasks for pid in (task / "children").read_text().split()]
    assert {*map(str, found)} < {*children}  # Python has one of its own beside them
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.splitlines() == ["stopping the other processes ...", f"stopped by SIGUSR1; {RESUME}"]
    assert not any(map(is_running, found))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell of processes")
def test_processes_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    process, found = sleepers(tmp_path)
    process.kill()
    process.wait()
    wait_for_end(found)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `launched.py` in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("launched.py"))
    return subprocess.run([*command, script, *arguments], env=environment, capture_output=True, text=True,
                          check=False, timeout=100)  # fmt: skip


def test_a_trial_that_fails_in_launched_processes_stops_no_other(tmp_path: Path) -> None:
    done = launch(str(tmp_path))
    assert done.returncode == 0, done.stderr
    told = [(tmp_path / f"failed{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0].startswith("lwdna, seed 0: ")
    assert told[0] == told[1]
    assert done.stderr.count("failed: lwdna, seed 0") == 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["methods"]) == ["baseline", "uniform", "accumulated"]
    assert [(entry["method"], entry["seed"]) for entry in result["failed"]] == [("lwdna", 0)]


def test_a_process_that_fails_alone_ends_all(tmp_path: Path) -> None:
    done = launch(str(tmp_path), "alone")
    assert done.returncode != 0
    assert (
        "the processes no longer work together: baseline, seed 0: RuntimeError: this process alone"
        in done.stderr
    )
    assert not (tmp_path / "result.json").exists()
