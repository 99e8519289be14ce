"""Several stores made one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import MissingData, UserError
from core.experiments.merging import merge, summary
from core.storage.claims import claimed
from lwdna.store import main


def record(store: Path, key: str, score: float) -> None:
    (store / "records").mkdir(parents=True, exist_ok=True)
    (store / "records" / f"{key}.json").write_text(json.dumps({"key": key, "metrics": {"error": score}}))


def run(store: Path, key: str, **files: str) -> Path:
    folder = store / "runs" / key
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    first, second = tmp_path / "a", tmp_path / "b"
    record(first, "x", 1.0)
    record(first, "y", 2.0)
    for key, score in (("x", 1.0), ("y", 2.5), ("z", 3.0)):
        record(second, key, score)
    (second / "records" / "broken.json").write_text("{")
    (second / "widths").mkdir()
    (second / "widths" / "w.json").write_text(json.dumps({"architecture": {"widths": {"conv": 3}}}))
    run(first, "t1", model_safetensors="first", last_safetensors="first")
    run(second, "t1", model_safetensors="second", last_safetensors="second")
    run(first, "t2", last_safetensors="half", previous_safetensors="earlier")
    run(second, "t2", model_safetensors="whole", last_safetensors="whole")
    (run(second, "t3", last_safetensors="half") / "tensorboard").mkdir()
    (second / "runs" / "t3" / "tensorboard" / "events").write_text("events")
    return first, second


def test_what_is_missing_is_added_and_what_is_there_stays(stores: tuple[Path, Path]) -> None:
    first, second = stores
    said: list[str] = []
    counts = merge(first, [second], said.append)
    assert summary(counts) == [
        "records: 1 added, 1 damaged, 1 different, 1 there already",
        "widths: 1 added",
        "runs: 2 added, 1 there already",
    ]

    def error(store: Path, key: str) -> Any:
        return json.loads((store / "records" / f"{key}.json").read_text())["metrics"]["error"]

    assert [error(first, key) for key in "xyz"] == [1.0, 2.0, 3.0]
    assert len(said) == 2
    assert "broken.json' is damaged" in said[0]
    assert "y.json' differs from" in said[1]
    runs = {path.name: sorted(file.name for file in path.rglob("*")) for path in (first / "runs").iterdir()}
    assert (first / "runs" / "t1" / "model.safetensors").read_text() == "first"
    assert runs["t2"] == [
        "last.safetensors",
        "model.safetensors",
    ]  # the finished one, and nothing of the other
    assert runs["t3"] == ["events", "last.safetensors", "tensorboard"]
    assert (second / "runs" / "t2" / "model.safetensors").exists()  # what is read stays as it is
    again = merge(first, [second], lambda line: None)
    assert summary(again)[2] == "runs: 3 there already"


def test_a_training_that_is_under_way_is_left_out(
    stores: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stores
    with claimed(second / "runs" / "t3"):
        assert main(["merge", str(first), str(second)]) == 1
    out, err = capsys.readouterr()
    assert "runs: 1 added, 1 in use, 1 there already" in out
    assert "t3' is in use by process" in err
    assert not (first / "runs" / "t3").exists()
    assert main(["merge", str(first.with_name("new")), str(first)]) == 0  # into one that is not there yet


def test_what_is_no_store_is_refused(stores: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = stores
    with pytest.raises(MissingData, match="there is no store"):
        merge(first, [tmp_path / "nowhere"], print)
    with pytest.raises(UserError, match="is the store to add to"):
        merge(first, [first], print)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is no store of trials"):
        merge(first, [tmp_path / "empty"], print)
    (second / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="is the work directory of one experiment"):
        merge(first, [second], print)
