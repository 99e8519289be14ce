"""300 damaged files, three kills and a full disk, the same for everybody; `make torture` tries thousands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.readers import READERS
from tests.torture.programs import difference

ROOT = Path(__file__).resolve().parents[2]
NO_LIMITS = "the system has no limits of memory, and no kills"
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason=NO_LIMITS),
    pytest.mark.timeout(900),  # a minute where there is a core
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of all of them, in processes whose memory is limited."""
    folder = tmp_path_factory.mktemp("torture")
    words = "--cases 300 --kill 3 --disk 1 --worker 0 --data 0 --clock 0 --file 2 --seed 0 --jobs 1".split()
    places = ["--folder", str(folder / "files"), "--out", str(folder / "found.json")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", *words, *places],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert (folder / "found.json").exists(), done.stdout + done.stderr
    told: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return told


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_refused_by_name_or_read_rightly(reader: str, found: dict[str, Any]) -> None:
    own = found["readers"][reader]
    assert own["cases"] >= 300 // len(READERS)
    assert own["failures"] == {}


def test_files_are_refused_and_read(found: dict[str, Any]) -> None:
    """Damage is of both kinds: no reader passes by refusing everything, or by taking everything."""
    cases = sum(own["cases"] for own in found["readers"].values())
    refused = sum(own["refused"] for own in found["readers"].values())
    assert cases == 300
    assert 100 < refused < 280


def test_runs_that_are_stopped_end_in_the_same_bits(found: dict[str, Any]) -> None:
    assert Counter(run["kind"] for run in found["runs"]) == {"kill": 3, "disk": 1, "file": 2}
    assert [run["statuses"][0] for run in found["runs"] if run["kind"] == "kill"] == [-9] * 3
    assert [(run["trial"], run["problem"]) for run in found["runs"] if run["problem"]] == []


REPORT = """
| method | FLOPs | ms | frames/s |
| --- | ---: | ---: | ---: |
| LW-DNA | {flops} M | {speed} | {speed} |
"""


def test_runs_may_differ_in_what_a_clock_says_alone(tmp_path: Path) -> None:
    def work_directory(name: str, flops: float, speed: float, frames: int = 2) -> Path:
        (tmp_path / name / "times").mkdir(parents=True)
        (tmp_path / name / "times/face_time.txt").write_text(f"{speed}\n" * frames)
        (tmp_path / name / "report.md").write_text(REPORT.format(flops=flops, speed=speed))
        return tmp_path / name

    one = work_directory("one", 8.7, 1.5)
    assert difference(one, work_directory("slower", 8.7, 9.7)) is None
    assert difference(one, work_directory("larger", 9.7, 1.5)) == "'report.md' differs: other lines"
    assert difference(one, work_directory("longer", 8.7, 1.5, 3)) == (
        "'times/face_time.txt' differs: not as many frames"
    )
