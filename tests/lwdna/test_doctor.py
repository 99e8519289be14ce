"""`lwdna doctor`: what it finds here, and what it says where something is missing."""

from __future__ import annotations

import ctypes
import errno
import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from core.storage.system_libraries import LIBRARIES
from lwdna import checks, doctor
from lwdna.checks import Check
from lwdna.doctor import main


def named(found: Iterable[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_all_sections_as_json_and_as_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--work-dir", str(tmp_path / "w"), "--data-root", str(tmp_path / "data")]
    status = main([*words, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] == (status == 0) == all(check["state"] != "fails" for check in told["checks"])
    sections = list(dict.fromkeys(check["section"] for check in told["checks"]))
    assert sections == ["versions", "devices", "system libraries", "decoders", "data", "folders"]
    names = {check["name"]: check for check in told["checks"]}
    assert names["torch"]["found"] == version("torch")
    assert names["data root"]["state"] == "note"
    assert "there: digits" in names["classification"]["found"]
    assert "scikit-image" not in names["classification: imagenet"]["remedy"]
    assert str(tmp_path / "data/imagenet/train") in names["classification: imagenet"]["remedy"]
    assert "there: demo" in names["tracking"]["found"]
    assert main(words) == status
    lines = capsys.readouterr().out
    assert all(f"\n{section}\n" in f"\n{lines}" for section in sections)
    assert not list(tmp_path.iterdir())


def test_packages_that_are_missing_old_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_package("numpy>=2,<3") == Check("versions", "numpy", "ok", version("numpy"))
    old = checks.check_package("numpy>=99")
    assert (old.state, old.found) == ("fails", f"{version('numpy')}, allowed is >=99")
    none = checks.check_package("no-such-package>=1")
    assert (none.state, none.found, none.remedy) == (
        "fails",
        "not installed",
        "pip install 'no-such-package>=1'",
    )

    def broken(name: str) -> Any:
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(checks, "import_module", broken)
    slim = checks.check_package("opencv-python>=4")
    assert slim.state == "fails"
    assert "cannot be imported: libGL.so.1: cannot open" in slim.found
    assert slim.remedy == LIBRARIES[0].remedy


def test_opencv_without_its_windows_does_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(name: str) -> str:
        if name == "opencv-python-headless":
            return "5.0.0.93"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checks, "version", release)
    assert checks.check_package("opencv-python>=4.10,<6").state == "ok"
    assert checks.check_package("opencv-python>=6").state == "fails"
    assert checks.check_package("numpy>=2").found == "not installed"


def test_its_own_requirements_are_those_of_the_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needed, extras = checks.requirements()
    assert any(line.startswith("torch>=") for line in needed)
    assert {"export", "timm", "peers"} <= extras.keys()
    assert "all" not in extras  # it names others alone
    installed = [
        *needed,
        *(f'{line}; extra == "{extra}"' for extra, lines in extras.items() for line in lines),
    ]
    monkeypatch.setattr(checks, "requires", lambda name: [*installed, 'lwdna[timm]; extra == "all"'])
    monkeypatch.setattr(checks, "__file__", str(tmp_path / "lwdna/checks.py"))
    again, more = checks.requirements()
    assert again == needed
    assert more.keys() == extras.keys()

    def none(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checks, "requires", none)
    assert checks.requirements() == ([], {})


@pytest.mark.parametrize("opencv", [True, False])
def test_libraries_of_the_system(opencv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libGL all depends on whether this OpenCV wants it."""

    def load(name: str) -> None:
        if "libGL" in name or "turbojpeg" in name:
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(checks, "_imports", lambda module: opencv)
    monkeypatch.setattr("sys.platform", "linux")
    found = named(checks.check_libraries())
    assert found["libGL.so.1"].state == ("note" if opencv else "fails")
    assert found["libGL.so.1"].remedy == ("" if opencv else LIBRARIES[0].remedy)
    assert found["libturbojpeg.so.0"].state == "note"
    assert "libturbojpeg0" in found["libturbojpeg.so.0"].remedy
    assert found["libglib-2.0.so.0"].state == "ok"


def test_folders_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWDNA_CACHE", str(tmp_path / "cache"))
    found = named(checks.check_folders(tmp_path / "w"))
    assert {check.state for check in found.values()} <= {"ok", "note"}
    assert "GiB free, written at" in found["caches"].found
    (tmp_path / "file").write_text("")
    blocked = named(checks.check_folders(tmp_path / "file/w"))["work directories"]
    assert blocked.state == "fails"
    assert f"'{tmp_path / 'file'}': Not a directory" in blocked.found
    assert "--work-dir" in blocked.remedy

    def full(folder: Path, most: int) -> float:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checks, "write_speed", full)
    failed = named(checks.check_folders(tmp_path / "w"))
    assert [check.state for check in failed.values()] == ["fails", "fails"]
    assert "No space left on device" in failed["caches"].found
    assert "$LWDNA_CACHE" in failed["caches"].remedy


def test_a_slow_or_full_disk_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "write_speed", lambda folder, most: 5e6)
    slow = named(checks.check_folders(tmp_path))["work directories"]
    assert (slow.state, "5 MB/s" in slow.found, "local disk" in slow.remedy) == ("note", True, True)
    monkeypatch.setattr(checks, "_LEAST_FREE", 2**60)
    assert "make room" in named(checks.check_folders(tmp_path))["work directories"].remedy


def test_the_smallest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SMOKE", {"classification": doctor.SMOKE["classification"]})
    (check,) = doctor.smoke("cpu")
    assert (check.state, check.name) == ("ok", "classification")


def test_a_run_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "SMOKE", {"nothing": (), "--help": ()})  # of the command lwdna
    first, other = doctor.smoke("cpu")
    assert (first.state, other.state) == ("fails", "fails")
    assert first.found.startswith("exit status 2 after ")
    assert first.found.endswith("(lwdna --help)")
    assert other.found.startswith("exit status 0 after ")  # and nothing was compared
    monkeypatch.setattr(doctor, "checks", lambda options: iter([first]))
    assert main([]) == 1
    assert "1 fail; 0 notes, 0 ok" in capsys.readouterr().out


def test_every_task_has_a_smallest_run() -> None:
    from lwdna.__main__ import TASKS

    assert doctor.SMOKE.keys() == TASKS.keys()
