"""Where the real data and the reference scores are; nothing goes into the user's own cache."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.helpers import write_boxes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWDNA_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def _demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
def demo(_demo_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache in which the frames of the data set `demo` are rendered once for all tests."""
    monkeypatch.setenv("LWDNA_CACHE", str(_demo_cache))
    return _demo_cache


@pytest.fixture(scope="session")
def data() -> Path:
    """The data root named by $LWDNA_DATA."""
    root = os.environ.get("LWDNA_DATA")
    if not root:
        pytest.skip("needs real data: set LWDNA_DATA to its root")
    return Path(root)


@pytest.fixture(scope="session")
def lasot_annotations(data: Path) -> Path:
    folder = data / "lasot_annotations"
    if not folder.is_dir():
        pytest.skip(f"needs the LaSOT toolkit's annotations at {folder}")
    return folder


@pytest.fixture(scope="session")
def atom_results(data: Path) -> Path:
    folder = data / "tracker_results/lasot"
    if not (folder / "ATOM").is_dir():
        pytest.skip(f"needs ATOM's published boxes at {folder}/ATOM")
    return folder


@pytest.fixture(scope="session")
def otb_frames(data: Path) -> Path:
    if not (data / "otb/Crossing/img").is_dir():
        pytest.skip(f"needs OTB's Crossing at {data}/otb")
    return data


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The folder of reference results named by $LWDNA_GOLDEN."""
    root = os.environ.get("LWDNA_GOLDEN")
    if not root:
        pytest.skip("needs reference results: set LWDNA_GOLDEN to their folder")
    return Path(root)


@pytest.fixture(scope="session")
def golden(golden_folder: Path) -> dict[str, Any]:
    """What the LaSOT authors' own MATLAB functions give: tracker to summary and per-sequence rows."""
    path = golden_folder / "lasot_official_toolkit.json"
    if not path.is_file():
        pytest.skip(f"needs the reference scores at {path}")
    return json.loads(path.read_text())["trackers"]


@pytest.fixture
def lasot_tree(tmp_path: Path) -> Path:
    """A root with two short made-up sequences in LaSOT's official layout: `car-2` and `rubicCube-6`."""
    for name, frames in (("car-2", 4), ("rubicCube-6", 5)):
        folder = tmp_path / "data/lasot" / name.split("-")[0] / name
        truth = [[10 + 2 * frame, 20, 30, 40] for frame in range(frames)]
        write_boxes(folder / "groundtruth.txt", truth)
        (folder / "full_occlusion.txt").write_text(",".join("0" * frames) + "\n")
        flags = ["0"] * frames
        flags[-1] = "1" if name == "rubicCube-6" else "0"
        (folder / "out_of_view.txt").write_text(",".join(flags) + "\n")
    return tmp_path / "data"
