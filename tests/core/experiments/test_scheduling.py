"""Which trials run when: one that fails is tried once more, one that another command is at comes last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import UserError
from core.experiments import scheduling
from core.experiments.arguments import add_executor_arguments, resources_of
from core.experiments.engine import Engine
from core.experiments.executors import PROCESSES, SLURM, Resources, visible_gpus
from core.experiments.plan import Trial
from core.experiments.processes import launched_processes
from core.experiments.scheduling import run_trials
from core.experiments.store import KeyedStore
from core.experiments.trials import Failure, setting_text
from core.methods.registry import METHODS
from core.training.train import TrainConfig, make_fabric
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from tests.toys import toy_task

TRIALS = [Trial("baseline", ShrinkConfig(), seed) for seed in range(3)]


def outcomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[int, list[tuple[str, bool]]]
) -> tuple[list[tuple[int, bool]], list[Failure]]:
    """Seeds and patience of all attempts, and what failed; `told` says how the attempts of a seed fail."""
    attempts: list[tuple[int, bool]] = []

    def attempt(engine: Engine, trial: Trial, place: str, **more: object) -> Failure | None:
        attempts.append((trial.seed, engine.waits))
        left = told.get(trial.seed, [])
        return Failure(trial, left[0][0], "x", left.pop(0)[1]) if left else None

    monkeypatch.setattr(scheduling, "attempt", attempt)
    engine = Engine(toy_task(), TrainConfig(epochs=1), KeyedStore(tmp_path), make_fabric("cpu"), METHODS)
    failed = run_trials(engine, [(trial, True) for trial in TRIALS])
    return attempts, failed


def test_a_trial_that_fails_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {0: [("OSError", False)], 1: [("RuntimeError", False)] * 2}
    attempts, failed = outcomes(tmp_path, monkeypatch, told)
    assert [seed for seed, _ in attempts] == [0, 1, 2, 0, 1]
    assert [(failure.trial.seed, failure.kind) for failure in failed] == [(1, "RuntimeError")]
    assert capsys.readouterr().err.splitlines() == [
        "baseline, seed 0: OSError: x: it is tried once more",
        "baseline, seed 1: RuntimeError: x: it is tried once more",
        "failed: baseline, seed 1: RuntimeError: x, twice",
    ]


@pytest.mark.parametrize(
    ("kind", "usage"), [("UserError", True), ("TrainingDiverged", False), ("WorkerDied", False)]
)
def test_what_would_only_fail_again_is_not_tried_again(
    kind: str, usage: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, failed = outcomes(tmp_path, monkeypatch, {1: [(kind, usage)]})
    assert [seed for seed, _ in attempts] == [0, 1, 2]
    assert [failure.trial.seed for failure in failed] == [1]


def test_what_another_command_is_at_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts, failed = outcomes(tmp_path, monkeypatch, {0: [("Claimed", True), ("OSError", False)]})
    assert attempts == [(0, False), (1, False), (2, False), (0, True), (0, True)]
    assert failed == []


def test_what_is_done_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "load", lambda self, trial: {} if trial.seed == 1 else None)
    attempts, _ = outcomes(tmp_path, monkeypatch, {})
    assert [seed for seed, _ in attempts] == [0, 2]


def test_each_process_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,GPU-7")
    assert visible_gpus() == ("4", "6", "GPU-7")
    resources = Resources(jobs=4, gpus=visible_gpus())
    shown = [resources.variables(number)["CUDA_VISIBLE_DEVICES"] for number in range(4)]
    assert shown == ["4", "6", "GPU-7", "4"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ("0", "1", "2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert visible_gpus() == ()


def parsed(*words: str) -> Resources:
    from argparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_argument("--device", default="auto")
    add_executor_arguments(parser)
    return resources_of(parser.parse_args(words))


def test_flags_say_where_trials_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert parsed() == Resources(PROCESSES, 1, {}, ("0", "1"))
    assert parsed("--jobs", "3", "--device", "cuda:1") == Resources(PROCESSES, 3)
    assert parsed().here
    monkeypatch.setattr("core.experiments.arguments.find_spec", lambda name: object())
    asked = parsed(
        "--executor", SLURM, "--jobs", "8", "--executor-options", "time=240", "mem=32GB", "setup=['a','b']"
    )
    assert asked == Resources(SLURM, 8, {"time": 240, "mem": "32GB", "setup": ["a", "b"], "gpus_per_node": 1})
    assert parsed("--executor", SLURM, "--device", "cpu").options == {}
    assert parsed("--executor", SLURM, "--executor-options", "gres=gpu:2").options == {"gres": "gpu:2"}


def test_flags_that_say_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--executor-options are for jobs: add --executor slurm"):
        parsed("--executor-options", "time=3")
    with pytest.raises(UserError, match="--executor-options time: write KEY=VALUE"):
        parsed("--executor", SLURM, "--executor-options", "time")
    monkeypatch.setattr("core.experiments.arguments.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"--executor slurm needs submitit: install the extra, pip install -e"
    ):
        parsed("--executor", SLURM)


def test_srun_is_understood_without_ntasks_per_node(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)
    told = {"SLURM_NTASKS": "6", "SLURM_PROCID": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "bash",
            "SLURM_STEP_TASKS_PER_NODE": "3(x2)"}  # fmt: skip
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")  # so that it is removed afterwards
    assert launched_processes() == (3, 2)
    assert os.environ["SLURM_NTASKS_PER_NODE"] == "3"
    assert os.environ["SLURM_JOB_NAME"] == "lwdna"  # lightning-fabric would take it for one process
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4,2")
    with pytest.raises(UserError, match=r"spread 6 processes unevenly over 2 machines \(4,2\): add --ntasks"):
        launched_processes()


def test_a_terminal_says_what_limits_a_search() -> None:
    assert setting_text(ShrinkConfig()).startswith("budget 0.9, widen 2.0, floor 0.4, ")
    limits = ShrinkConfig(budget=Budget(params=0.5, latency="5ms"), batches=1, vanish="floor")
    assert (
        setting_text(limits) == "budget params 0.5, latency 5ms, widen 2.0, floor 0.4, 1 batch, vanish floor"
    )
