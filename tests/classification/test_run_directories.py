"""Work directories of the command line: what a resume goes on with, and that no two commands share one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from classification.run import main
from core.experiments.experiment import Outcome
from core.experiments.plan import PLAN_FILE
from core.experiments.settings import Settings
from core.interruption import Preempted
from core.storage.claims import CLAIM_FILE, Claim
from core.storage.files import write_json

pytestmark = pytest.mark.usefixtures("unarranged")
QUICK = ["--train-limit", "60", "--epochs", "1", "--no-progress", "--device", "cpu", "--cfg-options",
         "train.batch_size=30", "shrink.batch_size=20"]  # fmt: skip
RESUME = ["--resume", "--no-progress", "--device", "cpu"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Settings]:
    """The experiments that commands would have run, in an empty current directory."""
    found: list[Settings] = []

    def note(task: Any, settings: Settings, *rest: Any, **more: Any) -> Outcome:
        found.append(settings)
        return Outcome(None)

    monkeypatch.setattr("core.experiments.commands.run_experiment", note)
    monkeypatch.chdir(tmp_path)
    return found


def test_a_bare_resume_goes_on_with_seeds_and_controls(
    started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    first = [
        "--work-dir",
        "w",
        "--seeds",
        "3",
        "--controls",
        "random",
        "uniform",
        "--seed",
        "4",
        "--data-root",
        "d",
    ]
    assert main([*QUICK, *first]) == 0
    plan = json.loads(Path("w", PLAN_FILE).read_text())
    assert plan == {"task": "classification", "seeds": [4, 5, 6], "controls": ["random", "uniform"],
                    "data_root": str(Path("d").absolute()), "method": None, "schema": 2}  # fmt: skip
    for how in (["--resume"], ["--stages", "compare"], ["--resume", "--stages", "train"]):
        assert main([*how, "--work-dir", "w", "--no-progress"]) == 0
        assert started[-1].seed_list == [4, 5, 6]
        assert list(started[-1].methods) == ["lwdna", "random", "uniform"]
        assert "goes on with its plan: seeds 4, 5, 6; controls random, uniform" in capsys.readouterr().out
    assert started[-1].stages == ("train",)
    assert json.loads(Path("w", PLAN_FILE).read_text()) == plan


def test_a_bare_resume_goes_on_with_the_method(
    started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--work-dir", "w", "--method", "early-wide", "--methods", "shallow-uniform"]) == 0
    assert main([*RESUME, "--work-dir", "w"]) == 0
    assert (
        "goes on with its plan: seed 0; controls shallow-uniform; method early-wide"
        in capsys.readouterr().out
    )
    for settings in started:
        assert (settings.method, settings.controls) == ("early-wide", ("shallow-uniform",))
    assert main([*RESUME, "--work-dir", "w", "--method", "late-wide"]) == 2
    assert "--method late-wide: 'w' was begun with --method early-wide" in capsys.readouterr().err
    assert len(started) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--controls", "fisher-per-flopp"],
            "unknown method 'fisher-per-flopp': did you mean 'fisher-per-flop'",
        ),
        (["--method", "dph"], "unknown method 'dph': did you mean 'dhp'"),
        (["--method", "dhp", "--controls", "dhp"], "control 'dhp' is the method of the found network itself"),
        (
            ["--controls", "zico-search", "--budget", "latency=0.9"],
            "method 'zico-search' knows no clock",
        ),
        (["--controls", "dhp", "--budget", "params=0.9"], "method 'dhp' needs a limit on flops: add flops="),
        (["--jobs", "0"], "--jobs 0: use at least 1"),
    ],
)
def test_what_a_method_cannot_do_is_refused_before_anything_trains(
    arguments: list[str], message: str, started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--work-dir", "w", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not started
    assert not Path("w").exists()


def test_a_resume_adds_and_drops_nothing(started: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--work-dir", "w", "--seeds", "2", "--controls", "random"]) == 0
    assert main([*RESUME, "--work-dir", "w", "--seeds", "1"]) == 2
    error = capsys.readouterr().err
    assert "plan.json' has 2, and none of them is dropped" in error
    assert len(error.splitlines()) == 1
    assert main([*RESUME, "--work-dir", "w", "--controls", "luck"]) == 2
    assert len(started) == 1
    assert main([*RESUME, "--work-dir", "w", "--seeds", "3", "--controls", "uniform"]) == 0
    out = capsys.readouterr().out
    assert "added to the plan: seed 2\n" in out
    assert "added to the plan: controls uniform\n" in out
    assert main([*RESUME, "--work-dir", "w"]) == 0
    for settings in started[1:]:
        assert (settings.seed_list, settings.controls) == ([0, 1, 2], ("random", "uniform"))
    # A comparison of what is not planned fails where it is not trained, and leaves the plan alone.
    assert main(["--stages", "compare", "--work-dir", "w", "--seeds", "9"]) == 0
    assert json.loads(Path("w", PLAN_FILE).read_text())["seeds"] == [0, 1, 2]


def test_a_work_directory_without_a_plan_goes_by_its_files(
    started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--work-dir", "w"]) == 0
    Path("w", PLAN_FILE).unlink()
    for name in ("baseline-seed0", "baseline-seed1", "magnitude-seed0"):
        Path("w/runs", name).mkdir(parents=True)
    assert main([*RESUME, "--work-dir", "w"]) == 0
    assert (started[-1].seed_list, started[-1].controls) == ([0, 1], ("magnitude",))
    assert "'w' has no plan.json; its files show seeds 0, 1; controls magnitude" in capsys.readouterr().out
    assert Path("w", PLAN_FILE).exists()


def test_a_resume_that_names_nothing_finds_the_only_experiment(
    started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--model", "resnet56"]) == 0
    assert main(RESUME) == 0
    assert started[-1].work_dir == Path("work_dirs/classification-resnet56-digits")
    assert main([*QUICK, "--model", "resnet110"]) == 0
    capsys.readouterr()
    assert main(RESUME) == 2
    error = capsys.readouterr().err
    assert "several runs could go on" in error
    assert "classification-resnet56-digits" in error
    assert "classification-resnet110-digits" in error
    assert len(started) == 3
    # The same command with --resume goes on with its own, whatever else is there.
    assert main([*QUICK, "--resume", "--model", "resnet20"]) == 0  # that one has not been started
    own = Path("work_dirs/classification-resnet20-digits")
    assert started[-1].work_dir == own
    assert f"there is no run in '{own}' to resume: starting one\n" in capsys.readouterr().out
    assert main(RESUME) == 0
    assert started[-1].work_dir == own
    assert "starting one" not in capsys.readouterr().out


def test_the_stored_precision_counts(started: list[Settings]) -> None:
    """Devices are set up for the protocol that goes on, not for the one of the data set that nobody named."""
    assert main([*QUICK, "train.precision=bf16-mixed", "--work-dir", "w"]) == 0
    devices = []

    def watch(task: Any, settings: Settings, fabric: Any, *rest: Any, **more: Any) -> Outcome:
        devices.append((settings.train.precision, fabric.strategy.precision.precision))
        return Outcome(None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.experiments.commands.run_experiment", watch)
        assert main([*RESUME, "--work-dir", "w"]) == 0
    assert devices == [("bf16-mixed", "bf16-mixed")]


@pytest.mark.parametrize("how", ["--resume", "--stages=train"])
def test_a_stored_protocol_is_not_run(
    how: str, started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--work-dir", "w"]) == 0
    config = Path("w/config.py")
    lines = config.read_text().count("\n")
    with config.open("a") as file:
        file.write("import pathlib; pathlib.Path('run').touch()\n")
    assert main([how, "--work-dir", "w"]) == 2
    error = capsys.readouterr().err
    assert f"'w/config.py', line {lines + 1}, is not 'name = value'" in error
    assert len(error.splitlines()) == 1
    assert not Path("run").exists()


def test_code_that_stored_data_name_is_announced(
    started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1),"
        " nn.Flatten(), nn.Linear(8, 10))\n"
    )
    assert main([*QUICK, "--work-dir", "w", "--model", "own.py:net"]) == 0
    assert "names code" not in capsys.readouterr().out
    assert main([*RESUME, "--work-dir", "w"]) == 0
    assert "the protocol names code: 'own.py:net' is imported" in capsys.readouterr().out


def test_a_used_directory_is_another_commands(
    started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    for pid, message in ((os.getppid(), "is in use by process"), (os.getpid(), "is in use by process")):
        Path("w").mkdir(exist_ok=True)
        write_json(Path("w", CLAIM_FILE), asdict(_claim_of(pid)))
        assert main([*QUICK, "--work-dir", "w"]) == 2
        error = capsys.readouterr().err
        assert f"'w' {message} {pid} on" in error
        assert len(error.splitlines()) == 1
        assert [path.name for path in Path("w").iterdir()] == [CLAIM_FILE]
    assert not started


def _claim_of(pid: int) -> Claim:
    from core.storage.claims import _start_of

    return replace(Claim.own(), pid=pid, started=_start_of(pid) or "", token="x")


def test_a_killed_command_blocks_no_resume(
    started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--work-dir", "w"]) == 0
    assert not Path("w", CLAIM_FILE).exists()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_json(Path("w", CLAIM_FILE), asdict(replace(Claim.own(), pid=gone.pid, token="x")))
    assert main([*RESUME, "--work-dir", "w"]) == 0
    assert f"claimed by process {gone.pid} on" in capsys.readouterr().out
    assert not Path("w", CLAIM_FILE).exists()


def test_the_claim_is_let_go_however_a_run_ends(
    started: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def stop(*arguments: Any, **more: Any) -> None:
        held.append(Path("w", CLAIM_FILE).exists())
        raise errors.pop()

    errors: list[BaseException] = [KeyboardInterrupt(), RuntimeError("out of memory")]
    monkeypatch.setattr("core.experiments.commands.run_experiment", stop)
    errors.append(Preempted("SIGUSR1"))
    assert main([*QUICK, "--work-dir", "w"]) == 75
    assert main([*RESUME, "--work-dir", "w"]) == 1
    assert main([*RESUME, "--work-dir", "w"]) == 130
    assert held == [True] * 3
    assert not Path("w", CLAIM_FILE).exists()


def test_commands_without_a_name_of_their_own_get_one_each(
    started: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins while the first is at work, the third when both have ended."""
    nested = []

    def first(task: Any, settings: Settings, *rest: Any, **more: Any) -> Outcome:
        started.append(settings)
        if not nested:
            nested.append(1)
            assert main(QUICK) == 0
        return Outcome(None)

    monkeypatch.setattr("core.experiments.commands.run_experiment", first)
    assert main(QUICK) == 0
    assert main(QUICK) == 0
    names = [settings.work_dir.name for settings in started]
    stem = "classification-resnet20-digits"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]


def test_one_command_starts_and_goes_on(started: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    command = [*QUICK, "--work-dir", "w", "--seeds", "2", "--controls", "random", "--resume"]
    for said in (
        "there is no run in 'w' to resume: starting one",
        "'w' goes on with its plan: seeds 0, 1; controls",
    ):
        assert main(command) == 0
        assert said in capsys.readouterr().out
    assert started[0] == started[1]


def test_a_fresh_run_beside_one_that_is_not_finished_says_so(
    started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    line = "holds a run that is not finished: --resume goes on with it; this one starts anew"
    assert main(QUICK) == 0
    assert line not in capsys.readouterr().out
    assert main(QUICK) == 0
    assert f"'work_dirs/classification-resnet20-digits' {line}" in capsys.readouterr().out
    Path("work_dirs/classification-resnet20-digits-2/result.json").touch()
    assert main(QUICK) == 0
    assert line not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["runs", "records", "last.safetensors"])
def test_what_is_left_of_a_run_is_not_written_over(
    name: str, started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--work-dir", "w"]) == 0
    Path("w/config.py").unlink()
    Path("w", name).mkdir()
    for more in ([], ["--resume"]):
        assert main([*QUICK, "--work-dir", "w", *more]) == 2
        assert f"'w' holds trainings ({name}), but not the config.py" in capsys.readouterr().err
    assert len(started) == 1


def test_a_name_that_is_no_text_is_refused(
    started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    """As 'größe' is where the locale knows ASCII alone, and b'\\xff' anywhere."""
    assert main([*QUICK, "--work-dir", os.fsdecode(b"w\xff")]) == 2
    assert "its name is no text in this locale" in capsys.readouterr().err
    assert not started
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_two_commands_started_together(tmp_path: Path) -> None:
    """Whichever comes first has the directory; the other one is told so and leaves it alone."""
    command = [sys.executable, "-m", "classification.run", *QUICK, "--work-dir", str(tmp_path / "w")]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    running = [
        subprocess.Popen(
            [*command, "--seed", str(seed)], cwd=root, env=environment, stderr=subprocess.PIPE, text=True
        )
        for seed in (1, 2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    statuses = [process.returncode for process in running]
    assert sorted(statuses) == [0, 2], errors
    loser = errors[statuses.index(2)]
    assert (
        "is in use by process" in loser
        or "already holds a run" in loser
        or "holds the run of another" in loser
    )
    winner = statuses.index(0) + 1
    assert json.loads((tmp_path / "w/result.json").read_text())["seeds"] == [winner]
    assert json.loads((tmp_path / "w" / PLAN_FILE).read_text())["seeds"] == [winner]
