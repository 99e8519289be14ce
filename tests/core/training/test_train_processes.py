"""Several processes on the CPU (gloo): the same result as one process with the same batches."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from core.storage.checkpoint import load_state, load_weights
from core.training.devices import gathered, is_first_process, shared_out
from core.training.divergence import read_divergences
from core.training.recipe import TrainConfig
from core.training.training_step import batch_norm_note, share_statistics
from tests.bits import assert_same_bits
from tests.core.training.training_runs import DigitsLoader, WithUnused, network, run


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The folder in which `training_runs.in_two_processes` ran, and what it printed."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("training_runs.py")), "processes", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


def test_two_processes_equal_one_with_the_same_batches(two_processes, tmp_path):
    """Parts of uneven size included: 309 images end in a batch of 21, which is parted into 11 and 10."""
    folder = two_processes[0] / "plain"
    expected = network(0.0, normalise=False)
    result = run(tmp_path, model=expected, loader=DigitsLoader(count=309))
    model = network(0.0, normalise=False, seed=1)
    load_weights(model, folder / "model.safetensors")
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=1e-6)
    history = load_state(folder / "last.safetensors")["position"]["history"]
    assert len(history) == 3
    for record, other in zip(history, result.history):
        assert record["images"] == other.images == 309
        assert record["train_loss"] == pytest.approx(other.train_loss, rel=1e-5)
        assert record["train_metrics"] == pytest.approx(other.train_metrics, rel=1e-5)
        assert record["eval_metrics"] == pytest.approx(other.eval_metrics, abs=0.01)
    assert len(list((folder / "tensorboard").iterdir())) == 1  # only the first process writes


def test_parameters_that_no_batch_or_not_every_batch_uses(two_processes, tmp_path, capsys):
    """torch's default fails at the second step. Without a gradient there is no weight decay either."""
    folder, _ = two_processes
    expected, start = WithUnused(), WithUnused()
    run(tmp_path, model=expected)
    told = "note: 2 parameters, such as 'unused.weight', got no gradient in the first step"
    assert told in capsys.readouterr().err
    model = WithUnused()
    load_weights(model, folder / "unused" / "model.safetensors")
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    assert model.unused.weight.equal(start.unused.weight)
    load_weights(model, folder / "sometimes" / "model.safetensors")
    assert not model.unused.weight.equal(start.unused.weight)


def test_two_interrupted_processes_resume_exactly(two_processes):
    """A signal to the first process stops both at one step; each process' dropout goes on where it was."""
    folder, printed = two_processes
    told = [f"process {rank} was interrupted by SIGUSR1" for rank in (0, 1)]
    assert (
        sorted(re.findall(r"process \d was interrupted by SIG[A-Z]+[12]?", printed)) == told
    )  # maybe in one line
    states = [load_state(folder / name / "last.safetensors") for name in ("stopped", "whole")]
    assert_same_bits(*states)
    generators = states[0]["random"]["torch"]
    assert generators.shape[0] == 2
    assert not torch.equal(generators[0], generators[1])


def test_what_one_process_finds_not_finite_ends_all(two_processes):
    folder = two_processes[0]
    told = {(folder / f"diverged{rank}").read_text() for rank in (0, 1)}
    assert len(told) == 1
    assert "in evaluation 2 of 2 answers are NaN at step 10 (epoch 1)" in told.pop()
    assert load_state(folder / "diverged" / "last.safetensors")["position"]["step"] == 9
    assert [divergence.kept_step for divergence in read_divergences(folder / "diverged")] == [9]


def test_every_process_learns_what_all_have(two_processes):
    folder = two_processes[0]
    for rank in (0, 1):
        told = json.loads((folder / f"gathered{rank}.json").read_text())
        assert told == {
            "first": rank == 0,
            "values": [["both", "file 0"], ["both", "file 1"]],
            "squares": [0, 1, 4, 9, 16],
            "judged": [[0, 2, 4], [1, 3]][rank],
            "problem": "3 is no square",
        }


def test_batch_norm_in_several_processes_is_told(two_processes):
    printed = two_processes[1]
    line = "note: 2 BatchNorm layers have statistics per process: each of 2 normalises by about 16 of a batch's 32"
    assert printed.count(line) == 4  # of the trainings with such layers, by the first process
    assert batch_norm_note(network(), 1, 32) == ""
    assert batch_norm_note(network(normalise=False), 2, 32) == ""


def test_statistics_are_shared_on_gpus_alone():
    model = network()
    with pytest.raises(UserError, match=r"train\.sync_batchnorm=True needs GPUs"):
        share_statistics(model, torch.device("cpu"))
    share_statistics(model, torch.device("cuda"))
    assert isinstance(model[1], torch.nn.SyncBatchNorm)
    assert model.state_dict().keys() == network().state_dict().keys()
    assert batch_norm_note(model, 2, 32) == ""


def test_a_younger_setting_leaves_keys_of_stored_results_as_they_are():
    assert "sync_batchnorm" not in TrainConfig().plain()
    assert TrainConfig(sync_batchnorm=True).plain()["sync_batchnorm"] is True


def test_a_single_process_has_its_own():
    assert gathered("x") == ["x"]
    assert shared_out([1, 2, 3], lambda number: number**2) == [1, 4, 9]
    assert is_first_process()
