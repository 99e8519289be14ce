"""`make matrix`: which Pythons and torches it takes, and that it says what was not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import matrix


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_bounds_are_the_projects(tmp_path: Path) -> None:
    python, (newest, oldest) = matrix.supported()
    assert python == (3, 11)
    assert newest.pins == ("torch<2.14",)
    assert oldest.pins == ("torch==2.6.*", "torchvision==0.21.*")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nrequires-python = ">=3.11"\ndependencies = ["torch>=2.6"]\n'
    )
    with pytest.raises(ValueError, match=r"without both bounds: 'torch>=2\.6'"):
        matrix.supported(tmp_path / "pyproject.toml")


def test_of_every_minor_version_the_newest_python_that_starts(tmp_path: Path) -> None:
    versions = ("3.10.9", "3.11.2", "3.11.7", "3.11.4", "3.13.0")
    paths = [program(tmp_path / text, f"echo {text.replace('.', ' ')}") for text in versions]
    paths.append(program(tmp_path / "3.12.1", "exit 1"))  # Debian's, without venv
    found = matrix.interpreters((3, 11), iter(paths))
    assert {minor: str(one) for minor, one in found.items()} == {(3, 11): "3.11.7", (3, 13): "3.13.0"}
    assert found[3, 11].path == tmp_path / "3.11.7"


def test_what_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    python = matrix.Interpreter((3, 12, 1), tmp_path / "python")
    monkeypatch.setattr(matrix, "candidates", lambda: iter(()))
    assert matrix.main([]) == 1
    assert "Python 3.11: not at hand, the oldest that is supported\n" in capsys.readouterr().out

    def make(python: matrix.Interpreter, torch: matrix.Torch) -> tuple[Path | None, str]:
        return (tmp_path, "") if torch.name == "newest" else (None, "ERROR: No matching distribution found")

    outcomes = iter([(True, "torch 2.13.0: 12 passed"), (False, "torch 2.13.0: 1 failed")])
    monkeypatch.setattr(matrix, "interpreters", lambda oldest, paths: {(3, 12): python})
    monkeypatch.setattr(matrix, "environment", make)
    monkeypatch.setattr(matrix, "run", lambda program, tests: next(outcomes))
    assert matrix.main([]) == 0
    told = capsys.readouterr().out
    assert "Python 3.12.1, newest torch 2.13.0: 12 passed: passed\n" in told
    assert "the oldest torch (torch==2.6.*): not to be had: ERROR: No matching distribution found" in told
    assert "Python 3.14: not at hand" in told
    assert matrix.main([]) == 1
