"""Work directories and stores by keys: what counts as done, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import UserError
from core.experiments.plan import SCHEMA, Trial
from core.experiments.settings import FOUND
from core.experiments.store import KeyedStore, Store, WorkDirectory, key_of
from core.methods.method import Found
from core.storage.checkpoint import save_weights
from core.storage.files import write_json
from core.surgery.architecture import Architecture, describe_inputs
from core.training.run_files import EpochRecord, RunFiles
from core.widths.config import ShrinkConfig

TRIAL = Trial("random", ShrinkConfig(), 3)
FOUND_WIDTHS = Found(
    Architecture("net", {"0": 4}, describe_inputs(torch.zeros(1, 1, 8, 8)), found_by={"score": "random"}),
    0.5,
    2.0,
)


def test_equal_data_have_equal_keys() -> None:
    assert key_of({"a": 1, "b": (2, None)}) == key_of({"b": [2, None], "a": 1})
    assert len({key_of(value) for value in ({}, {"a": 1}, {"a": 2}, {"a": "1"}, [1], None)}) == 6


def finish(store: WorkDirectory) -> dict[str, Any]:
    """Leave what a finished trial leaves, of two epochs; returns its record."""
    record = {
        "key": "key",
        "schema": SCHEMA,
        "recipe": {"train": {"epochs": 2}},
        "architecture": FOUND_WIDTHS.architecture.to_json(),
    }
    store.save(TRIAL, record)
    store.save_widths(TRIAL, "key", FOUND_WIDTHS)
    files = RunFiles(store.run(TRIAL))
    files.write_log([EpochRecord(epoch, 0.1, 1.0, {}, {}, 1.0, 8) for epoch in (1, 2)])
    files.weights.touch()
    return record


def test_a_record_of_a_work_directory_counts_with_its_weights_alone(tmp_path: Path) -> None:
    store = WorkDirectory(tmp_path, 3)
    assert store.load(TRIAL, "key") is None
    record = finish(store)
    assert (tmp_path / "records/random-seed3.json").exists()
    assert store.load(TRIAL, "key") == record
    assert store.load(replace(TRIAL, seed=4), "key") is None
    RunFiles(store.run(TRIAL)).weights.unlink()
    assert store.load(TRIAL, "key") is None


@pytest.mark.parametrize("size", [0, 60])
def test_weights_that_were_cut_short_are_written_anew_where_their_state_is(
    size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = WorkDirectory(tmp_path, 3)
    record = finish(store)
    files = RunFiles(store.run(TRIAL))
    save_weights(torch.nn.Linear(2, 2), files.weights)
    assert store.load(TRIAL, "key") == record
    files.weights.write_bytes(files.weights.read_bytes()[:size])
    assert store.load(TRIAL, "key") == record  # whoever reads them says so
    files.state.touch()
    assert store.load(TRIAL, "key") is None
    assert not files.weights.exists()
    assert f"'{files.weights}' is damaged: written anew from '{files.state}'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["runs/random-seed3/log.jsonl", "widths/random-seed3.json"])
@pytest.mark.parametrize("part", [None, 0, 40, -2])
def test_a_record_does_not_count_where_the_log_or_the_widths_are_lost_or_cut(
    name: str, part: int | None, tmp_path: Path
) -> None:
    store = WorkDirectory(tmp_path, 3)
    finish(store)
    path = tmp_path / name
    whole = path.read_bytes()
    if part is None:
        path.unlink()
    else:
        path.write_bytes(whole[:part])
    assert store.load(TRIAL, "key") is None


def test_lost_or_damaged_widths_of_a_finished_trial_come_from_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = WorkDirectory(tmp_path, 3)
    record = finish(store)
    path = store.widths_file(TRIAL)
    for break_, how in ((path.unlink, "gone"), (lambda: path.write_text("{"), "damaged")):
        break_()
        again = store.load_widths(TRIAL)
        assert again is not None
        assert again.architecture == FOUND_WIDTHS.architecture == Architecture.load(path)
        assert f"note: '{path}' is {how}: written anew from the trial's record" in capsys.readouterr().err
        assert store.load(TRIAL, "key") == record
    path.unlink()
    RunFiles(store.run(TRIAL)).weights.unlink()  # an unfinished one is searched for again
    assert store.load_widths(TRIAL) is None


def test_results_of_two_networks_are_not_mixed(tmp_path: Path) -> None:
    store = WorkDirectory(tmp_path, 3)
    store.save(TRIAL, {"key": "of another network", "schema": SCHEMA})
    weights = tmp_path / "runs/random-seed3/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    with pytest.raises(
        UserError, match=r"random-seed3\.json' is of another network, data set, recipe, search or start"
    ):
        store.load(TRIAL, "key")


@pytest.mark.parametrize("make", [KeyedStore, lambda folder: WorkDirectory(folder, 3)], ids=["keys", "names"])
def test_widths_are_read_as_they_were_written(make: type[KeyedStore], tmp_path: Path) -> None:
    store: Store = make(tmp_path)
    assert store.load_widths(TRIAL, "key") is None
    store.save_widths(TRIAL, "key", FOUND_WIDTHS)
    again = store.load_widths(TRIAL, "key")
    assert again is not None
    assert again.architecture.widths == {"0": 4}
    assert (again.epochs, again.baseline_epochs) == (0.5, 2.0)


def test_widths_json_is_the_found_networks_of_the_first_seed(tmp_path: Path) -> None:
    store = WorkDirectory(tmp_path, 3)
    for trial in (TRIAL, replace(TRIAL, method=FOUND, seed=4)):
        store.save_widths(trial, "", FOUND_WIDTHS)
    assert not (tmp_path / "widths.json").exists()
    store.save_widths(replace(TRIAL, method=FOUND), "", FOUND_WIDTHS)
    assert Architecture.load(tmp_path / "widths.json").widths == {"0": 4}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": '])
def test_a_damaged_record_is_named_and_made_anew(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = KeyedStore(tmp_path)
    write_json(store.record_file("key"), {"key": "key"})
    assert store.load(TRIAL, "key") == {"key": "key"}
    store.record_file("key").write_text(text)
    assert store.load(TRIAL, "key") is None
    assert store.records() == []
    store.load(TRIAL, "key")
    error = capsys.readouterr().err
    assert (
        error.count(f"note: '{store.record_file('key')}' is damaged (") == 2
    )  # once for each thing that is done
    assert "): to be recorded anew from the training\n" in error
    assert "): left out\n" in error
