"""Keys of configurations that were called otherwise: read as before, with a line that says the new name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from core.command_line.config import dump_config, load_config
from core.errors import UserError


@dataclass(frozen=True)
class Place:
    folder: str | None = None


@dataclass(frozen=True)
class Data:
    RENAMED: ClassVar[dict[str, str]] = {"broken": "bad", "cache": "cache.folder"}

    bad: str = "error"
    cache: Place = field(default_factory=Place)


@dataclass(frozen=True)
class Schema:
    data: Data = field(default_factory=Data)


def test_a_file_with_old_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.py"
    path.write_text("data = {'broken': 'skip', 'cache': 'here'}\n")
    for dumped in (False, True):
        assert load_config(path, Schema, dumped=dumped) == Schema(Data("skip", Place("here")))
    assert capsys.readouterr().err.splitlines() == [
        f"note: '{path}': 'data.broken' is now called 'data.bad'",
        f"note: '{path}': 'data.cache' is now called 'data.cache.folder'",
    ]


def test_nothing_is_said_of_todays_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Schema(Data("skip", Place("here")))
    dump_config(config, tmp_path / "new.py")
    assert load_config(tmp_path / "new.py", Schema, ["data.cache.folder=there"]).data.cache == Place("there")
    assert capsys.readouterr().err == ""


def test_old_keys_of_a_file_go_before_those_that_it_builds_on(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("data = dict(bad='error')\n")
    (tmp_path / "own.py").write_text("_base_ = './base.py'\ndata = dict(broken='skip')\n")
    assert load_config(tmp_path / "own.py", Schema).data.bad == "skip"


def test_overrides_with_old_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_config(None, Schema, ["data.broken=skip", "data.cache=some"])
    assert loaded == Schema(Data("skip", Place("some")))
    assert "'data.cache' is now called 'data.cache.folder'" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"unknown key .data.brokem."):
        load_config(None, Schema, ["data.brokem=skip"])
