"""All three tasks in two processes, as srun starts them: they make one experiment and score every sample once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from classification.checkpoint import load_network
from classification.data import open_dataset
from classification.evaluation import error_rates
from core.storage.checkpoint import load_state, read_weights
from super_resolution.images import write_image
from super_resolution.run import main as upscale
from tests.launched_tasks import SUPER_RESOLUTION

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def tasks_of_srun(count: int, port: int) -> list[dict[str, str]]:
    """What `srun --ntasks=2` without --ntasks-per-node tells its tasks on one machine."""
    common = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": str(count), "SLURM_NNODES": "1", "SLURM_NODEID": "0",
              "SLURM_NODELIST": "localhost", "SLURM_JOB_NAME": "interactive", "MASTER_ADDR": "127.0.0.1",
              "SLURM_STEP_TASKS_PER_NODE": str(count), "MASTER_PORT": str(port)}  # fmt: skip
    return [{**common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(count)]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder in which two processes ran `launched_tasks.py`, and what each printed."""
    folder = tmp_path_factory.mktemp("launched")
    photo = data.astronaut()
    for number in range(3):  # more than there are processes, and no multiple of them
        write_image(folder / f"photos/{number}.png", np.ascontiguousarray(photo[60 * number :][:60, :80]))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "LWDNA_CACHE": str(folder / "cache"),
    }
    command = [sys.executable, "-m", "tests.launched_tasks", str(folder)]
    port = 20000 + os.getpid() % 20000
    processes = [
        subprocess.Popen(
            command, env=environment | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for own in tasks_of_srun(2, port)
    ]
    try:
        printed = [process.communicate(timeout=840)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], printed[0][-3000:] + printed[1][-3000:]
    return folder, printed


def test_every_sample_is_scored_once(launched: tuple[Path, list[str]]) -> None:
    folder, printed = launched
    told = [json.loads((folder / f"process{rank}.json").read_text()) for rank in (0, 1)]
    assert [process["statuses"] for process in told] == [[0, 0, 0]] * 2
    scored = Counter(name for process in told for name in process["scored"])
    tracked = {name: count for name, count in scored.items() if "/" in name}
    # The weights, their average and two trackers without a network, on two sequences each.
    assert len(tracked) == 8
    assert set(tracked.values()) == {1}
    images = {name: count for name, count in scored.items() if "/" not in name}
    # By the bicubic reference, and by the network after its last epoch.
    assert images == dict.fromkeys("012", 2)
    assert all(len(process["scored"]) >= 5 for process in told)  # neither leaves it to the other
    line = "BatchNorm layers have statistics per process: each of 2 normalises by about 15 of"
    assert printed[0].count(line) == 2  # of the baseline and of the found network
    assert "BatchNorm layers have" not in printed[1]


def test_the_errors_of_two_processes_are_those_of_one(launched: tuple[Path, list[str]]) -> None:
    """ResNets have statistics per process: what was evaluated is the network that was saved, on all images."""
    work, printed = launched[0] / "classification", launched[1]
    assert [text.count("baseline, seed 0: training resnet20") for text in printed] == [1, 0]
    loader = open_dataset("digits", work).test_loader(256, torch.device("cpu"))
    methods = json.loads((work / "result.json").read_text())["methods"]
    assert list(methods) == ["baseline", "lwdna"]
    for method in methods:
        network, _ = load_network(work / f"{method}.safetensors")
        found = json.loads((work / f"records/{method}-seed0.json").read_text())["metrics"]
        for name, value in error_rates(network, loader, "cpu").items():
            assert found[name] == pytest.approx(value, rel=1e-6 if name == "loss" else 0)


def test_super_resolution_in_two_processes_is_that_of_one(
    launched: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """EDSR has no BatchNorm."""
    folder = launched[0]
    sets = f"data.benchmarks=({str(folder / 'photos')!r},)"
    always = ["--device", "cpu", "--no-progress", "--stages", "baseline", "--work-dir", str(tmp_path)]
    assert upscale([*always, *SUPER_RESOLUTION, sets]) == 0
    place = Path("runs/baseline-seed0")
    works = tmp_path, folder / "super_resolution"
    one, two = (read_weights(work / place / "model.safetensors") for work in works)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6)
    histories = [load_state(work / place / "last.safetensors")["position"]["history"] for work in works]
    for record, other in zip(*histories, strict=True):
        assert other["eval_metrics"] == pytest.approx(record["eval_metrics"], abs=1e-3)
