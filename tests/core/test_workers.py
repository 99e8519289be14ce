"""Processes of ours: what they return and raise, what happens where one is killed, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import UserError
from core.workers import WorkerDied, Workers
from tests.processes import assert_all_end, die, is_running

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signals on Windows")


def double(number: int) -> int:
    if number == 3:
        raise UserError("no threes")
    return 2 * number


def own_id(name: str = "") -> tuple[int, str | None]:
    return os.getpid(), os.environ.get(name)


class Awkward(Exception):
    """Cannot be made again from its message."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__("awkward")


def raise_awkward() -> None:
    raise Awkward(1, 2)


def sleep(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def pool(said: list[str]) -> Iterator[Workers]:
    """Starting a process takes a second: all tests but the last share two."""
    with Workers(2, environment={"OF_THE_WORKERS": "1"}, report=said.append) as workers:
        yield workers


def test_results_and_errors_come_back(pool: Workers) -> None:
    futures = [pool.submit(double, number) for number in range(5)]
    assert [future.result() for future in futures if future is not futures[3]] == [0, 2, 4, 8]
    with pytest.raises(UserError, match=r"^no threes\n") as caught:
        futures[3].result()
    assert "in double" in caught.value.__notes__[0]  # where it happened
    with pytest.raises(RuntimeError, match=r"^Awkward: awkward$"):
        pool.submit(raise_awkward).result()
    with pytest.raises(AttributeError):  # at once: it cannot be sent
        pool.submit(lambda: 1)


def test_processes_are_others_and_get_the_environment(pool: Workers) -> None:
    pid, value = pool.submit(own_id, "OF_THE_WORKERS").result()
    assert pid != os.getpid()
    assert value == "1"
    assert "OF_THE_WORKERS" not in os.environ


def test_each_process_gets_variables_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with Workers(1, each=lambda number: {"CUDA_VISIBLE_DEVICES": str(7 + number)}) as workers:
        assert workers.submit(own_id, "CUDA_VISIBLE_DEVICES").result()[1] == "7"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_the_work_of_a_process_that_is_killed_is_done_once_more(
    pool: Workers, said: list[str], tmp_path: Path
) -> None:
    for times in (1, 2):
        (tmp_path / str(times)).mkdir()
    said.clear()
    once, twice = (pool.submit(die, tmp_path / str(times), times) for times in (1, 2))
    others = [pool.submit(double, number) for number in (5, 6)]
    assert once.result() == "after 1 deaths"
    with pytest.raises(
        WorkerDied,
        match=r"^process \d+ was ended by SIGKILL \(out of memory\?\) while it was at die, for the second time$",
    ):
        twice.result()
    assert [future.result() for future in others] == [10, 12]
    assert len(said) == 2
    assert all(line.endswith("(out of memory?) while it was at die: it is begun again") for line in said)


def test_leaving_by_an_error_ends_what_is_under_way(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Workers(1) as workers:  # noqa: PT012
        future, later = workers.submit(sleep, tmp_path), workers.submit(double, 1)
        while not (found := [int(path.name) for path in tmp_path.iterdir()]):
            time.sleep(0.02)
        raise ZeroDivisionError
    assert not is_running(found[0])
    assert later.cancelled()
    with pytest.raises(WorkerDied, match=r"while it was at sleep$"):
        future.result()
    with pytest.raises(RuntimeError, match="told to end"):
        workers.submit(double, 1)


PARENT = """
import sys
from pathlib import Path
from core.workers import Workers
from tests.core.test_workers import sleep

if __name__ == "__main__":
    with Workers(2) as workers:
        for future in [workers.submit(sleep, Path(sys.argv[1])) for _ in range(2)]:
            future.result()
"""


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
def test_no_process_outlives_the_first(number: str, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    (tmp_path / "pids").mkdir()
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "pids")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert_all_end(process, number, tmp_path / "pids")


def test_what_cannot_be_started_is_told_and_nothing_hangs() -> None:
    with Workers(1, lambda: None) as workers:  # which cannot be sent
        future = workers.submit(double, 1)
        with pytest.raises((AttributeError, TypeError), match="pickle"):
            future.result(timeout=30)


def test_work_larger_than_a_pipe_holds_comes_through(pool: Workers) -> None:
    futures = [pool.submit(len, bytes(2**20 + index)) for index in range(4)]
    assert [future.result() for future in futures] == [2**20 + index for index in range(4)]
