"""Where OpenCV cannot be imported, as in containers without libGL, a command's first line says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import UserError
from core.storage.system_libraries import LIBRARIES, library_of
from lwdna.__main__ import TASKS

ROOT = Path(__file__).parents[2]
LOADER = "libGL.so.1: cannot open shared object file: No such file or directory"


@pytest.fixture
def slim(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose `import cv2` fails as the loader lets it fail."""
    (tmp_path / "cv2.py").write_text(f"raise ImportError({LOADER!r})\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "words",
    [
        *([f"{task}.{verb}", "--help"] for task, verbs in TASKS.items() for verb in verbs),
        ["lwdna", "tracking", "track"],
        ["benchmarks.micro", "pricing"],
    ],
    ids=" ".join,
)
def test_the_first_error_is_ours(words: list[str], slim: dict[str, str]) -> None:
    done = run(slim, "-m", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(
        "error: OpenCV needs libGL.so.1, which this system lacks: apt-get install libgl1 "
    )
    assert "dnf install mesa-libGL" in done.stderr


def test_what_needs_no_images_runs(slim: dict[str, str]) -> None:
    for words in (
        ["-m", "lwdna", "--version"],
        ["-m", "core.channels", "--help"],
        ["-c", "import classification"],
    ):
        assert run(slim, *words).returncode == 0


def test_who_imports_the_reader_gets_the_same_line_as_an_error(slim: dict[str, str]) -> None:
    caught = "try:\n import core.storage.images\nexcept ImportError as error:\n print(type(error).__mro__, error)\n"
    told = run(slim, "-c", caught).stdout
    assert "OpenCV needs libGL.so.1" in told
    assert f"{UserError.__module__}.{UserError.__name__}" in told


def test_an_opencv_that_is_not_there_at_all(slim: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ModuleNotFoundError(\"No module named 'cv2'\")\n")
    done = run(slim, "-m", "classification.run")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: OpenCV cannot be imported (No module named 'cv2'): pip install opencv-python"
    )


def test_a_library_is_known_by_what_the_loader_says() -> None:
    for library in LIBRARIES:
        assert library_of(ImportError(f"{library.file}: cannot open shared object file")) is library
    other = library_of(ImportError("libSM.so.6: cannot open shared object file: No such file or directory"))
    assert other is not None
    assert other.file == "libSM.so.6"
    assert library_of(ImportError("No module named 'cv2'")) is None
