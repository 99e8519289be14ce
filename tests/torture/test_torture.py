"""300 damaged files and three kills, the same for everybody; `make torture` tries thousands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.readers import READERS

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the system has no limits of memory, and no kills"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of all of them, in a process whose memory is limited."""
    out = tmp_path_factory.mktemp("torture") / "found.json"
    words = [
        "--cases",
        "300",
        "--kills",
        "3",
        "--disks",
        "1",
        "--workers",
        "0",
        "--datas",
        "0",
        "--clocks",
        "0",
        "--seed",
        "0",
    ]
    folder = ["--folder", str(out.parent / "files"), "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", "tests.torture", *words, *folder], cwd=ROOT, check=False, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=280)  # fmt: skip
    assert out.exists(), done.stdout + done.stderr
    told: dict[str, Any] = json.loads(out.read_text())
    return told


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_refused_by_name_or_read_rightly(reader: str, found: dict[str, Any]) -> None:
    own = found["readers"][reader]
    assert own["cases"] >= 300 // len(READERS)
    assert own["failures"] == {}


@pytest.mark.slow
def test_files_are_refused_and_read(found: dict[str, Any]) -> None:
    """Neither refuses everything nor takes everything: the damage is of both kinds."""
    cases = sum(own["cases"] for own in found["readers"].values())
    refused = sum(own["refused"] for own in found["readers"].values())
    assert cases == 300
    assert 100 < refused < 280


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_a_run_that_is_stopped_ends_in_the_same_bits(number: int, found: dict[str, Any]) -> None:
    run = found["runs"][number]
    assert run["problem"] is None, run["trial"]
    assert run["kind"] == ("disk" if number == 3 else "kill")
