"""A run that was stopped at any step and started again ends in the same bits as one that was not."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from core.errors import UserError
from core.interruption import Preempted
from core.storage.checkpoint import load_state
from core.training.run_files import read_history
from core.training.train import FitResult, OptimizerConfig
from tests.bits import assert_same_bits
from tests.core.training.training_runs import DigitsLoader, network, run, send_signal
from tests.properties import examples

SCRIPT = Path(__file__).with_name("training_runs.py")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The state and the result of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    result = run(folder)
    return load_state(folder / "last.safetensors"), result


def untimed(result: FitResult) -> list:
    return [replace(record, seconds=0.0) for record in result.history]


class Stop(Exception):
    pass


def stop_at(epoch, batch):
    def before_batch(at_epoch, at_batch):
        if (at_epoch, at_batch) == (epoch, batch):
            raise Stop

    return DigitsLoader(before_batch=before_batch)


@examples(5, [HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=2))
def test_resume_after_failures_anywhere_is_exact(uninterrupted, tmp_path_factory, stops):
    folder = tmp_path_factory.mktemp("stopped")
    for stop in sorted(stops):
        try:
            run(folder, loader=stop_at(*stop))
        except Stop:
            continue
    torch.rand(3)  # a resumed process starts with other generators
    resumes = (folder / "last.safetensors").exists()
    result = run(folder, model=network(seed=77 if resumes else 0))
    state, whole = uninterrupted
    assert_same_bits(load_state(folder / "last.safetensors"), state)
    assert untimed(result) == untimed(whole)
    assert len((folder / "log.jsonl").read_text().splitlines()) == 3


def mixed(precision):
    # Fabric itself offers float16 on GPUs alone; the plugin runs the same code, scaler included, on the CPU.
    return {
        "recipe": {"precision": precision},
        "fabric": Fabric(accelerator="cpu", plugins=[MixedPrecision(precision, "cpu")]),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": {"channels_last": True}},
        {"recipe": {"accumulate": 3}},
        {"recipe": {"optimizer": OptimizerConfig("adam", lr=1e-3)}},
        mixed("bf16-mixed"),
        mixed("16-mixed"),
    ],
)
def test_other_recipes_resume_exactly(tmp_path, changes):
    run(tmp_path / "whole", **changes)
    with pytest.raises(Stop):
        run(tmp_path / "stopped", loader=stop_at(1, 9), **changes)
    if "fabric" in changes:  # a new process has a new scaler
        changes = mixed(changes["recipe"]["precision"])
    run(tmp_path / "stopped", model=network(seed=77), **changes)
    whole, stopped = (load_state(tmp_path / name / "last.safetensors") for name in ("whole", "stopped"))
    assert_same_bits(stopped, whole)


def test_killed_process_resumes_exactly(uninterrupted, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "killed", str(tmp_path)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = load_state(tmp_path / "last.safetensors")["position"]
    assert (state["epoch"], state["batch"]) == (1, 5)  # the last multiple of three steps: 15 = 10 + 5
    assert state["sums"]["loss"] > 0
    run(tmp_path, model=network(seed=77))
    assert_same_bits(load_state(tmp_path / "last.safetensors"), uninterrupted[0])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_signal_saves_the_step_under_way(uninterrupted, tmp_path, name):
    with pytest.raises(KeyboardInterrupt, match=name) as caught:
        run(tmp_path, loader=DigitsLoader(before_batch=send_signal(1, 6, name)))
    assert isinstance(caught.value, Preempted) == (name != "SIGINT")
    state = load_state(tmp_path / "last.safetensors")["position"]
    assert (state["epoch"], state["batch"]) == (1, 7)
    run(tmp_path, model=network(seed=77))
    assert_same_bits(load_state(tmp_path / "last.safetensors"), uninterrupted[0])


def test_signal_in_the_last_step_of_an_epoch_is_obeyed(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=DigitsLoader(before_batch=send_signal(0, 9, "SIGINT")))
    assert load_state(tmp_path / "last.safetensors")["position"]["batch"] == 10
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_second_signal_stops_at_once(tmp_path):
    def interrupt_twice(epoch, batch):
        if (epoch, batch) == (0, 4):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=DigitsLoader(before_batch=interrupt_twice))
    assert load_state(tmp_path / "last.safetensors")["position"]["batch"] == 3


def test_failed_evaluation_costs_no_training(uninterrupted, tmp_path):
    def fails(model):
        torch.rand(5)  # what it draws is put back
        raise Stop

    with pytest.raises(Stop):
        run(tmp_path, evaluate=fails)
    assert load_state(tmp_path / "last.safetensors")["position"]["batch"] == 10

    def no_training(epoch, batch):
        assert epoch > 0

    run(tmp_path, model=network(seed=77), loader=DigitsLoader(before_batch=no_training))
    assert_same_bits(load_state(tmp_path / "last.safetensors"), uninterrupted[0])


def test_finished_run_returns_its_result_at_once(tmp_path):
    model, again = network(), network(seed=77)
    first = run(tmp_path, model=model)

    def never(*arguments):
        raise AssertionError("a finished run must not touch its data")

    assert run(tmp_path, model=again, loader=DigitsLoader(before_batch=never), evaluate=never) == first
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_final_weights_are_written_if_the_end_was_missed(tmp_path):
    """Killed between the last state and the final weights, a run has still to leave them when started again."""
    first = run(tmp_path)
    before = first.weights.read_bytes()
    first.weights.unlink()
    run(tmp_path, model=network(seed=77))
    assert first.weights.read_bytes() == before


def test_a_log_that_is_lost_or_damaged_is_written_anew(tmp_path):
    result = run(tmp_path, recipe={"epochs": 1})
    log = tmp_path / "log.jsonl"
    (good,) = log.read_text().splitlines()
    second = good.replace('"epoch": 1', '"epoch": 2')
    for text, line in (
        ("null", 1), ("{}", 1), ("5", 1), ("", 1), (good[:40], 1), (f"{good}\n{good}", 2), (second, 1),
        (f"{good}\n{second}\nx", 3), (good.replace('"images"', '"pictures"'), 1),
    ):  # fmt: skip
        log.write_text(f"{text}\n")
        with pytest.raises(UserError, match=rf"log\.jsonl', line {line}, is damaged"):
            read_history(tmp_path)
    run(tmp_path, recipe={"epochs": 1})
    assert read_history(tmp_path) == result.history
    log.unlink()
    run(tmp_path, recipe={"epochs": 1})
    assert read_history(tmp_path) == result.history


def test_a_finished_training_without_its_state_is_not_trained_anew(tmp_path):
    run(tmp_path, recipe={"epochs": 1})
    (tmp_path / "last.safetensors").unlink()
    with pytest.raises(UserError, match="is of a finished training, but its state"):
        run(tmp_path, recipe={"epochs": 1})
    assert (tmp_path / "model.safetensors").exists()


def test_what_a_killed_write_left_is_removed(tmp_path):
    (tmp_path / ".last.safetensors.abc_0123.tmp").write_bytes(b"half a state")
    (tmp_path / "mine.tmp").write_bytes(b"not this one")
    run(tmp_path, recipe={"epochs": 1})
    assert [path.name for path in tmp_path.glob("*.tmp")] == ["mine.tmp"]


def test_starting_anew_removes_the_old_run(tmp_path):
    run(tmp_path)
    result = run(tmp_path, resume=False, recipe={"epochs": 1, "seed": 9})
    assert len(result.history) == len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"epochs": 4}}, "recipe.epochs is 3 there and 4 here"),
        (
            {"recipe": {"optimizer": OptimizerConfig(lr=0.1)}},
            "recipe.optimizer.lr is 0.05 there and 0.1 here",
        ),
        (
            {"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))},
            r"model.1.weight is \[8\] there and \[10, 64\] here",
        ),
        ({"loader": DigitsLoader(count=64)}, "batches per epoch is 10 there and 2 here"),
        ({"teacher": network(seed=9)}, "distillation is None there"),
    ],
)
def test_a_state_of_another_run_is_refused(tmp_path, changes, message):
    run(tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_a_longer_training_goes_on_from_the_shorter_one(tmp_path):
    """Finished, or stopped in mid-epoch: as if it had been planned so, and what it had given stays."""
    longer = {"epochs": 5, "extended": ((3, 3),)}
    planned = run(tmp_path / "planned", recipe=longer)
    expected = load_state(tmp_path / "planned/last.safetensors")

    short = run(tmp_path / "finished")
    weights = (tmp_path / "finished/model.safetensors").read_bytes()
    result = run(tmp_path / "finished", model=network(seed=3), recipe=longer)
    assert untimed(result) == untimed(planned)
    assert untimed(short) == untimed(result)[:3]
    assert [record.lr for record in result.history] == pytest.approx(
        [
            0.05,
            0.0375,
            0.0125,
            0.05 * (1 + math.cos(0.6 * math.pi)) / 2,
            0.05 * (1 + math.cos(0.8 * math.pi)) / 2,
        ]
    )
    assert_same_bits(load_state(tmp_path / "finished/last.safetensors"), expected)
    assert read_history(tmp_path / "finished") == result.history
    assert (tmp_path / "finished/model-3-epochs.safetensors").read_bytes() == weights
    assert (tmp_path / "finished/model.safetensors").read_bytes() == (
        tmp_path / "planned/model.safetensors"
    ).read_bytes()

    with pytest.raises(Stop):
        run(tmp_path / "stopped", loader=stop_at(1, 5))
    run(tmp_path / "stopped", model=network(seed=4), recipe=longer)
    assert_same_bits(load_state(tmp_path / "stopped/last.safetensors"), expected)


def test_a_longer_training_has_the_rates_that_its_state_was_trained_with(tmp_path):
    run(tmp_path, recipe={"epochs": 2})
    for changes in (
        {"epochs": 4},
        {"epochs": 4, "extended": ((1, 2),)},
        {"epochs": 4, "extended": ((2, 3),)},
    ):
        with pytest.raises(UserError, match=r"recipe.epochs is 2 there and 4 here"):
            run(tmp_path, recipe=changes)
    run(tmp_path, recipe={"epochs": 4, "extended": ((2, 2),)})
    with pytest.raises(UserError, match=r"recipe.epochs is 4 there and 2 here"):
        run(tmp_path, recipe={"epochs": 2})


def test_how_often_states_are_written_may_change(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, loader=stop_at(1, 9))
    run(tmp_path, recipe={"checkpoint_every_steps": None})


def test_damaged_state_is_named(tmp_path):
    run(tmp_path, recipe={"epochs": 1})
    path = tmp_path / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"last\.safetensors.* truncated"):
        run(tmp_path, recipe={"epochs": 1})


def test_training_in_a_thread_leaves_signals_alone(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, recipe={"epochs": 1})))
    thread.start()
    thread.join()
    assert len(results[0].history) == 1
