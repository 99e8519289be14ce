"""Work directories and stores by keys: what counts as done, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from core.experiments.plan import SCHEMA, Trial
from core.experiments.settings import FOUND
from core.experiments.store import KeyedStore, Store, WorkDirectory, key_of
from core.methods.method import Found
from core.storage.files import write_json
from core.surgery.architecture import Architecture, describe_inputs
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


def test_a_record_of_a_work_directory_counts_with_its_weights_alone(tmp_path: Path) -> None:
    store = WorkDirectory(tmp_path, 3)
    assert store.load(TRIAL, "key") is None
    record = {"key": "key", "schema": SCHEMA}
    store.save(TRIAL, record)
    assert (tmp_path / "records/random-seed3.json").exists()
    assert store.load(TRIAL, "key") is None
    weights = tmp_path / "runs/random-seed3/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert store.load(TRIAL, "key") == record
    assert store.load(replace(TRIAL, seed=4), "key") is None


def test_results_of_two_networks_are_not_mixed(tmp_path: Path) -> None:
    store = WorkDirectory(tmp_path, 3)
    store.save(TRIAL, {"key": "of another network", "schema": SCHEMA})
    weights = tmp_path / "runs/random-seed3/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    with pytest.raises(
        UserError, match=r"random-seed3\.json' is of another network, data set, recipe or search"
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


@pytest.mark.parametrize("text", ["", "[]", '{"key": '])
def test_a_damaged_record_is_named(text: str, tmp_path: Path) -> None:
    store = KeyedStore(tmp_path)
    write_json(store.record_file("key"), {})
    assert store.load(TRIAL, "key") == {}
    store.record_file("key").write_text(text)
    with pytest.raises(UserError, match=r"key\.json' is damaged"):
        store.load(TRIAL, "key")
