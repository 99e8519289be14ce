"""A run of the command line that is given more epochs: what goes on, by which schedule, and what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from classification.run import main
from core.interruption import Preempted
from core.storage.checkpoint import read_weights
from core.training.progress import TrainingDisplay
from core.training.run_files import EpochRecord, read_history

pytestmark = pytest.mark.usefixtures("unarranged")
QUICK = ["--train-limit", "60", "--no-progress", "--device", "cpu"]
OPTIONS = ["--cfg-options", "train.batch_size=30", "shrink.batch_size=20"]
RESUME = ["--resume", "--no-progress", "--device", "cpu"]
NOTE = (
    "extended from 2 to 3 epochs: up to epoch 2 the learning rates are those of 2 epochs (0.025 in epoch 2), then "
    "those of 3 (0.0125 in epoch 3), by the schedule 'cosine'"
)
RUNS = ("baseline-seed0", "lwdna-seed0")
TRAINED = ["--stages", "baseline", "shrink", "train"]  # no report, which takes most of so small a run


def begin(folder: Path, *more: str) -> int:
    return main([*QUICK, "--work-dir", str(folder), *OPTIONS, "train.optimizer.lr=0.05", *more])


def train(folder: Path, *more: str) -> int:
    return begin(folder, *more, *TRAINED)


def go_on(folder: Path, *more: str) -> int:
    return main([*RESUME, "--work-dir", str(folder), *more])


def untimed(folder: Path, name: str) -> list[EpochRecord]:
    return [replace(record, seconds=0.0) for record in read_history(folder / "runs" / name)]


def record_of(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "records" / f"{name}.json").read_text())
    return found


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knew from the start how long it would be: its recipe is that of two epochs and one more."""
    folder = tmp_path_factory.mktemp("planned") / "w"
    assert train(folder, "train.epochs=3", "train.extended=((2, 2),)") == 0
    return folder


def assert_as_planned(folder: Path, planned: Path) -> None:
    for name in RUNS:
        assert untimed(folder, name) == untimed(planned, name)
        first, other = (
            read_weights(place / "runs" / name / "model.safetensors") for place in (folder, planned)
        )
        assert all(first[key].equal(other[key]) for key in first)
        assert record_of(folder, name)["key"] == record_of(planned, name)["key"]


def test_a_finished_run_goes_on_with_more_epochs(
    planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "w"
    assert begin(work, "train.epochs=2") == 0
    two = {name: untimed(work, name) for name in RUNS}
    names = [*(f"records/{name}.json" for name in RUNS), "result.json", "report.md", "widths.json", "config.py",
             "lwdna.safetensors", *(f"runs/{name}/model.safetensors" for name in RUNS)]  # fmt: skip
    before = {name: (work / name).read_bytes() for name in names}
    capsys.readouterr()

    assert go_on(work, "--epochs", "3") == 0
    said = capsys.readouterr().out
    assert f"'{work}' gets 3 epochs instead of 2; what it holds is kept in '{work / 'epochs-2'}'" in said
    assert said.count(f"note: {NOTE}") == 1
    assert_as_planned(work, planned)
    for name in RUNS:
        assert untimed(work, name)[:2] == two[name]
        assert [record.lr for record in read_history(work / "runs" / name)] == pytest.approx(
            [0.05, 0.025, 0.0125]
        )
        assert record_of(work, name)["recipe"]["train"]["extended"] == [[2, 2]]
        assert len(record_of(work, name)["losses"]) == 3
    result = json.loads((work / "result.json").read_text())
    assert (result["epochs"], result["training_notes"]) == (3, [f"{NOTE[0].upper()}{NOTE[1:]}."])
    assert f"{NOTE[1:]}." in (work / "report.md").read_text()

    kept = work / "epochs-2"
    assert {name: (kept / name).read_bytes() for name in names} == before
    assert (work / "widths.json").read_bytes() == before["widths.json"]
    assert go_on(kept, "--stages", "compare") == 0
    assert (kept / "report.md").read_bytes() == before["report.md"]

    capsys.readouterr()
    assert go_on(work, *TRAINED) == 0
    assert go_on(work, "--epochs", "3") == 0
    assert capsys.readouterr().out.count("2 of 2 trials are done already") == 2
    assert not (work / "epochs-3").exists()


def test_all_trainings_of_a_run_have_one_recipe(
    planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline was done with two epochs, the found network had begun."""
    work, ended = tmp_path / "w", TrainingDisplay.end_epoch
    epochs: list[int] = []

    def end_epoch(self: TrainingDisplay, record: EpochRecord, *rest: float) -> None:
        ended(self, record, *rest)
        epochs.append(record.epoch)
        if len(epochs) == 3:
            raise Preempted("SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "end_epoch", end_epoch)
        assert train(work, "train.epochs=2") == 75
    assert epochs == [1, 2, 1]
    assert go_on(work, "--epochs", "3") == 0
    assert_as_planned(work, planned)


def test_a_teacher_stays_as_it_has_taught(tmp_path: Path) -> None:
    work = tmp_path / "w"
    assert (
        main([*QUICK, *TRAINED, "--distillation", "--work-dir", str(work), *OPTIONS, "train.epochs=1"]) == 0
    )
    teacher = (work / "runs/teacher-seed0/model.safetensors").read_bytes()
    assert go_on(work, "--epochs", "2") == 0
    assert (work / "runs/teacher-seed0/model.safetensors").read_bytes() == teacher
    assert [len(read_history(work / "runs" / name)) for name in ("teacher-seed0", *RUNS)] == [1, 2, 2]


def test_a_run_whose_protocol_lies_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One command line starts, goes on and does nothing; with more epochs in it, too."""
    protocol = Path("shared_configs/classification/resnet20_digits.py").resolve()
    command = ["--config", str(protocol), *RESUME, *QUICK[:2], "--work-dir", str(tmp_path / "w"), *OPTIONS]
    for epochs, stages in (("1", TRAINED), ("2", []), ("2", TRAINED)):
        assert main([*command, f"train.epochs={epochs}", *stages]) == 0
    assert "2 of 2 trials are done already" in capsys.readouterr().out
    assert main([*command, "train.epochs=1"]) == 2
    assert "train.epochs is 2 there and 1 here" in capsys.readouterr().err


def test_what_is_no_extension_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tmp_path / "w"
    assert train(work, "train.epochs=1") == 0
    (work / "runs/lwdna-seed0/last.safetensors").rename(tmp_path / "state")
    protocol = (work / "config.py").read_bytes()
    for more, message in (
        (["--epochs", "2"], "lwdna-seed0/last.safetensors' is gone, from which it would get more epochs"),
        (["--epochs", "2", "--cfg-options", "train.optimizer.lr=0.1"], "train.optimizer.lr is 0.05 there"),
        (["--epochs", "2", "--stages", "compare"], "train.epochs is 1 there and 2 here"),
    ):
        assert go_on(work, *more) == 2
        assert message in capsys.readouterr().err
    assert (work / "config.py").read_bytes() == protocol
    assert not (work / "epochs-1").exists()
