"""Processes that prepare batches: one that the system ends costs nothing but time, and none outlives the training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from core.training.batches import batches_of
from core.workers import end_with_parent
from tests.core.test_workers import ROOT
from tests.processes import assert_all_end

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signals on Windows")


class Numbers(Dataset):
    """20 numbers; the process that is first asked for number 11 is killed."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        if index == 11 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_batches_of_a_process_that_is_killed_are_prepared_again(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path / "killed")

    def loader_from(start: int) -> DataLoader:
        rows = [[2 * batch, 2 * batch + 1] for batch in range(start, 10)]
        return DataLoader(numbers, batch_sampler=rows, num_workers=2, generator=torch.Generator())

    before = signal.getsignal(signal.SIGCHLD)
    with pytest.warns(
        UserWarning, match=r"a process that prepares batches has died .*: batches from \d on are prepared"
    ):
        found = [batch.tolist() for batch in batches_of(loader_from, 1)]
    assert found == [[2 * batch, 2 * batch + 1] for batch in range(1, 10)]
    assert signal.getsignal(signal.SIGCHLD) == before


class Raises:
    """A loader that yields one batch, and raises."""

    def __init__(self, start: int, error: Exception, num_workers: int = 2) -> None:
        self.start, self.error, self.num_workers = start, error, num_workers

    def __iter__(self) -> Iterator[int]:
        yield self.start
        raise self.error


def test_a_second_death_is_told() -> None:
    death = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    batches = batches_of(lambda start: Raises(start, death), 3)  # type: ignore[arg-type, return-value]
    assert next(batches) == 3
    with pytest.warns(UserWarning, match=r"pid 7\) is killed by signal: Killed\): batches from 4 on"):
        assert next(batches) == 4
    with pytest.raises(RuntimeError, match=r"pid 7\).*the second one of this epoch; out of memory\? reduce"):
        next(batches)


@pytest.mark.parametrize(
    ("error", "workers"),
    [
        (RuntimeError("something else"), 2),
        (EOFError("Caught EOFError in DataLoader worker process 0."), 2),
        (FileNotFoundError("an image"), 0),
        (KeyError(3), 2),
    ],
)
def test_other_errors_pass_through(error: Exception, workers: int) -> None:
    batches = batches_of(lambda start: Raises(start, error, workers))  # type: ignore[arg-type, return-value]
    next(batches)
    with pytest.raises(type(error)) as caught:
        next(batches)
    assert caught.value is error


class Sleepers(Dataset):
    """Writes down in which process it is, and sleeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        (self.folder / str(os.getpid())).touch()
        time.sleep(600)
        return index


def begin(_: int) -> None:
    end_with_parent()


PARENT = """
import sys
from pathlib import Path
from torch.utils.data import DataLoader
from tests.core.training.test_batches import Sleepers, begin
list(DataLoader(Sleepers(Path(sys.argv[1])), num_workers=2, worker_init_fn=begin))
"""


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
def test_no_process_outlives_the_training(number: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert_all_end(process, number, tmp_path)
