"""Trials as submitit's jobs: results, deaths, preemption and requeueing, by its local executor."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import UserError
from core.experiments.cluster import Jobs
from core.storage.checkpoint import load_state
from core.workers import WorkerDied
from tests.core.experiments.job_work import double, shown, train
from tests.core.training.test_train_resume import assert_same_bits
from tests.core.training.training_runs import run
from tests.processes import die

pytest.importorskip("submitit")
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="no such signals on Windows")


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def jobs(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    folder = tmp_path_factory.mktemp("jobs")
    gpus = {0: "5", 1: "7"}
    with Jobs(
        "local", 2, {}, lambda place: {"CUDA_VISIBLE_DEVICES": gpus[place]}, folder, report=said.append
    ) as executor:
        yield executor


def test_results_errors_deaths_and_preemption(jobs: Jobs, said: list[str], tmp_path: Path) -> None:
    for name in ("1", "2", "train"):
        (tmp_path / name).mkdir()
    trained = jobs.submit(train, tmp_path / "train")
    numbers = [jobs.submit(double, number) for number in (1, 3)]
    once, twice = (jobs.submit(die, tmp_path / str(times), times) for times in (1, 2))
    gpu = jobs.submit(shown, "CUDA_VISIBLE_DEVICES")

    assert numbers[0].result(120) == 2
    with pytest.raises(RuntimeError, match=r"^RuntimeError: no threes$"):
        numbers[1].result(120)
    assert once.result(120) == "after 1 deaths"
    with pytest.raises(WorkerDied, match=r"^job \d+ ended without a result .* at die, for the second time"):
        twice.result(120)
    assert len(said) == 2
    assert all(line.endswith("while it was at die: it is begun again") for line in said)
    assert gpu.result(120) in ("5", "7")  # one of its own, whatever this process sees

    assert trained.result(120) == 3
    run(tmp_path / "whole")
    assert_same_bits(
        *(
            load_state(place / "last.safetensors")
            for place in (tmp_path / "train" / "run", tmp_path / "whole")
        )
    )
    log = next(path for path in jobs.folder.glob("*_log.out") if "Requeued" in path.read_text())
    assert "SIGUSR2" in log.read_text()
    assert not list(jobs.folder.glob("*.pkl"))  # nothing that could be run stays


def test_what_submitit_refuses_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nodes=1"):
        Jobs("local", 1, {"nodes": 2}, lambda place: {}, tmp_path)
    if not any((Path(folder) / "srun").exists() for folder in os.environ["PATH"].split(os.pathsep)):
        with pytest.raises(UserError, match="are you indeed on a slurm cluster"):
            Jobs("slurm", 1, {}, lambda place: {}, tmp_path)


FAKE_SLURM = {
    "srun": "exit 0",
    "sbatch": 'cp "$1" "$FAKE/script.sh"; echo Submitted batch job 4711',
    "sacct": "echo 'JobID|State|NodeList'; for i in 0 1 2; do echo \"4711_$i|RUNNING|node\"; done",
    "scancel": 'echo "$@" >> "$FAKE/cancelled"',
}


def test_slurm_gets_one_array_and_the_signal_and_one_cancellation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is handed to SLURM; there is none here, so that its commands are scripts that write down what they get."""
    for name, text in FAKE_SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    options = {"time": 240, "gpus_per_node": 1, "partition": "gpu"}

    def wait_for_the_array() -> None:
        with Jobs("slurm", 2, options, lambda place: {}, tmp_path / "jobs", report=lambda line: None) as jobs:
            for number in range(3):
                jobs.submit(double, number)
            while not list(jobs.folder.glob("4711_2_submitted.pkl")):
                pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_for_the_array()
    script = (tmp_path / "script.sh").read_text()
    for line in ("--array=0-2%2", "--signal=USR2@90", "--time=240", "--gpus-per-node=1", "--partition=gpu"):
        assert f"#SBATCH {line}" in script.replace("'", "")
    assert f"{sys.executable} -u -m submitit.core._submit" in script
    assert (tmp_path / "cancelled").read_text().split() == ["4711"]
