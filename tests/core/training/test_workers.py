"""Worker processes of a training: how many, and what a signal to all processes of a command does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import multiprocessing

from core.storage.checkpoint import load_state
from core.training.workers import at_most_cores, available_cores, begin_worker

ROOT = Path(__file__).resolve().parents[3]
TRAINING = """
import os, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from core.command_line.exits import run_command
from core.training.train import OptimizerConfig, TrainConfig, fit, make_fabric
from core.training.workers import begin_worker

class Numbers(Dataset):
    def __len__(self):
        return 4_000
    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.full((4,), index / 4_000), torch.tensor(index % 2)

class Batches:
    def __len__(self):
        return 500
    def epoch(self, epoch, start=0):
        rows = [list(range(8 * batch, 8 * batch + 8)) for batch in range(start, 500)]
        yield from DataLoader(Numbers(), batch_sampler=rows, num_workers=2, worker_init_fn=begin_worker,
                              generator=torch.Generator())

def command():
    recipe = TrainConfig(epochs=1, batch_size=8, optimizer=OptimizerConfig(lr=0.1), checkpoint_every_steps=2)
    fit(nn.Linear(4, 2), Batches(), nn.functional.cross_entropy, recipe, work_dir=sys.argv[1],
        fabric=make_fabric("cpu"), progress=False)
    return 0

sys.exit(run_command(command, False))
"""


def test_no_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.training.workers.available_cores", lambda: 2)
    assert [at_most_cores(workers) for workers in (0, 1, 2, 8)] == [0, 1, 2, 2]
    monkeypatch.undo()
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def hand_over(batches: multiprocessing.Queue) -> None:
    begin_worker(0)
    batches.put(lambda: "what no process can send")
    time.sleep(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked there")
def test_a_batch_that_cannot_be_handed_over_ends_the_worker(capfd: pytest.CaptureFixture[str]) -> None:
    """The training is told of a process that has ended; for a batch that is dropped it would wait for ever."""
    context = multiprocessing.get_context("fork")  # as torch's DataLoader has them
    worker = context.Process(target=hand_over, args=(context.Queue(),))
    worker.start()
    worker.join(30)
    assert worker.exitcode == 1
    assert f"process {worker.pid} cannot hand over a batch, and ends: " in capfd.readouterr().err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_to_all_processes_saves_and_ends(name: str, tmp_path: Path) -> None:
    """As schedulers send it: to the workers too, whose batches the step under way may still need."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", TRAINING, str(tmp_path)], env=environment, stderr=subprocess.PIPE,
                          text=True, start_new_session=True) as process:  # fmt: skip
        while not (tmp_path / "last.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.Signals[name])
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait() == 75, said
    assert (
        said.splitlines()[-1] == f"stopped by {name}; the same command with --resume goes on where it stopped"
    )
    assert "Traceback" not in said
    position = load_state(tmp_path / "last.safetensors")["position"]
    assert 2 <= position["step"] == position["batch"] < 500
