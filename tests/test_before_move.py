"""The code gives what it gave before its modules moved; see `before_move.py`, which wrote the golden file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from core.methods.registry import METHODS
from tests import before_move

GOLDEN: dict[str, Any] = json.loads(before_move.GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def same_arithmetic() -> None:
    """Skips what other libraries or another CPU may compute differently in the last bit."""
    written, here = GOLDEN["made"]["environment"], before_move.environment()
    other = [
        f"{name} is {here[name]}, the golden file's {written[name]}"
        for name in written
        if here[name] != written[name]
    ]
    if other:
        pytest.skip(f"floating point may differ: {'; '.join(other)}")


def assert_equal(found: Any, golden: Any, tolerance: float = 0.0, place: str = "") -> None:
    """Equal all the way down, in the order of keys too; says where it is not."""
    if isinstance(golden, dict):
        assert isinstance(found, dict), place
        assert list(found) == list(golden), place
        for key, value in golden.items():
            assert_equal(found[key], value, tolerance, f"{place}.{key}")
    elif isinstance(golden, list):
        assert isinstance(found, list), place
        assert len(found) == len(golden), place
        for number, value in enumerate(golden):
            assert_equal(found[number], value, tolerance, f"{place}[{number}]")
    elif isinstance(golden, float) and tolerance:
        assert math.isclose(found, golden, rel_tol=0, abs_tol=tolerance), f"{place}: {found} and not {golden}"
    else:
        assert found == golden, place


OWN = [name for name, method in METHODS.items() if method.package is None]


def test_the_golden_file_holds_every_part() -> None:
    assert GOLDEN["widths"].keys() == before_move.NETWORKS.keys()
    for network, found in GOLDEN["widths"].items():
        assert list(found) == OWN, network
    assert GOLDEN["commands"].keys() == before_move.COMMANDS.keys()
    assert GOLDEN["old_work_dir"].keys() == before_move.RESUMED.keys()
    assert GOLDEN["stores"].keys() == before_move.STORES.keys()


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("network", before_move.NETWORKS)
def test_widths(network: str, method: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if method not in before_move.DATA_FREE:
        request.getfixturevalue("same_arithmetic")
    assert_equal(
        before_move.plain(before_move.widths(network, method, tmp_path)), GOLDEN["widths"][network][method]
    )


@pytest.fixture(scope="module", params=before_move.COMMANDS)
def ran(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    """Name of a `run` command, and what it left."""
    name = str(request.param)
    return name, before_move.command(name, tmp_path_factory.mktemp(name))


def test_files_and_headings_of_a_command(
    ran: tuple[str, dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    name, left = ran
    golden = GOLDEN["commands"][name]
    assert left["headings"] == golden["headings"]
    if name == "tracking":  # folders of tracks are called by a fingerprint of the tracker's weights
        request.getfixturevalue("same_arithmetic")
    assert left["files"] == golden["files"]


def test_result_of_a_command(ran: tuple[str, dict[str, Any]], same_arithmetic: None) -> None:
    name, left = ran
    for part in ("result", "losses"):
        assert_equal(before_move.plain(left[part]), GOLDEN["commands"][name][part])


def test_scores_of_lasot() -> None:
    root = Path(os.environ.get("LWDNA_DATA", "data"))
    for needed in ("lasot_annotations", "tracker_results/lasot/ATOM"):
        if not (root / needed).is_dir():
            pytest.skip(f"needs {root / needed}: set LWDNA_DATA to the root of real data")
    assert_equal(before_move.plain(before_move.lasot(root.resolve())), GOLDEN["lasot"], tolerance=1e-12)


@pytest.mark.parametrize("how", before_move.RESUMED)
def test_an_old_work_directory_resumes(how: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    left = before_move.resumed(how, tmp_path / "copy")
    for run in ("baseline", "lwdna"):  # what was trained is not trained again: its seconds are still there
        log = f"work/runs/{run}-seed0/log.jsonl"
        old = (before_move.OLD / log).read_text(encoding="utf-8").splitlines()
        new = (tmp_path / "copy" / log).read_text(encoding="utf-8").splitlines()
        assert len(old) == {"baseline": 2, "lwdna": 1}[run]
        assert len(new) == 2
        for before, after in zip(map(json.loads, old), map(json.loads, new)):
            assert before.items() <= after.items()
    golden = GOLDEN["old_work_dir"][how]
    assert left["files"] == golden["files"]
    assert left["headings"] == golden["headings"]
    request.getfixturevalue("same_arithmetic")
    for part in ("result", "losses"):
        assert_equal(before_move.plain(left[part]), golden[part])


@pytest.mark.parametrize("name", before_move.STORES)
def test_names_in_a_store(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = before_move.store(name, tmp_path / "folder")
    assert_equal(found["names"], GOLDEN["stores"][name]["names"])
    request.getfixturevalue("same_arithmetic")
    assert_equal(found["metrics"], GOLDEN["stores"][name]["metrics"])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return before_move.keys(tmp_path_factory.mktemp("keys") / "folder")


@pytest.mark.parametrize("label", GOLDEN["keys"])
def test_keys_of_trials(label: str, keys: dict[str, str]) -> None:
    assert keys[label] == GOLDEN["keys"][label]


def test_different_trials_have_different_keys(keys: dict[str, str]) -> None:
    assert keys.keys() == GOLDEN["keys"].keys()
    assert len(set(keys.values())) == len(keys)
