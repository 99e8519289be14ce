"""Atomic writes and data roots: a killed or failed write leaves the old file; what is missing is told in one line."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from core.errors import MissingData, UserError
from core.storage.data import data_root, require
from core.storage.files import (
    LARGEST_JSON,
    atomic_write,
    from_words,
    naming,
    read_json,
    read_text,
    refuse_overwriting,
    write_json,
    write_with,
)

ROOT = Path(__file__).parents[3]


def test_text_and_bytes(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "new" / "deep" / "a.txt") as file:
        file.write("größer × 2\n")
    assert (tmp_path / "new/deep/a.txt").read_bytes() == "größer × 2\n".encode()
    with atomic_write(tmp_path / "b.bin", "wb") as file:
        file.write(b"\x00\xff")
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [10, 200_000])  # what waits for the end, and what is written in between
def test_a_disk_that_takes_no_more_names_the_file_and_keeps_the_old_one(size: int, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(OSError, match=rf"File too large: '{re.escape(str(path))}'"), no_more_than(4):
        write_json(path, "x" * size)
    with pytest.raises(OSError, match=rf"File too large: '{re.escape(str(path))}'"), no_more_than(4):
        write_with(path, lambda temporary: temporary.write_bytes(bytes(size)))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_the_disks_own_errors_get_a_name(tmp_path: Path) -> None:
    for error in (
        OSError(errno.EPIPE, "Broken pipe"),
        OSError(errno.ENOSPC, "No space left on device", "other"),
    ):
        with pytest.raises(OSError, match=r"pipe|space") as caught, naming(tmp_path / "mine"):
            raise error
        assert caught.value is error


def test_readers_see_the_old_file_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import sys, time\nfrom core.storage.files import atomic_write\n"
        f"with atomic_write({str(path)!r}) as file:\n"
        "    file.write('half'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert path.read_text() == "old"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


def test_json_is_readable_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"name": "größer", "values": [1, 2.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "größer", "values": [1, 2.5, None]}
    assert "größer" in path.read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        write_json(path, {"value": {1, 2}})
    assert json.loads(path.read_text(encoding="utf-8"))["values"] == [1, 2.5, None]
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_that_json_does_not_have_are_words_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    values = {"psnr": [math.inf, (-math.inf, np.float64("inf"))], "error": math.nan, "finite": 1e308}
    write_json(path, values)
    read = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert read == {"psnr": ["inf", ["-inf", "inf"]], "error": "nan", "finite": 1e308}
    again = from_words(read)
    assert again["psnr"] == [math.inf, [-math.inf, math.inf]]
    assert math.isnan(again["error"])
    assert from_words({"name": "infinite", "none": None}) == {"name": "infinite", "none": None}


def test_libraries_that_insist_on_a_name_get_one_with_the_same_suffix(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    names = []

    def write(temporary: Path) -> None:
        names.append(temporary)
        temporary.write_bytes(b"picture")

    write_with(path, write)
    assert path.read_bytes() == b"picture"
    assert names[0].suffix == ".png"
    assert names[0].parent == path.parent

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_with(path, fail)
    assert path.read_bytes() == b"picture"
    assert list(tmp_path.iterdir()) == [path]


def test_writes_do_not_wait(tmp_path: Path) -> None:
    start = time.perf_counter()
    for number in range(20):
        write_json(tmp_path / "a.json", {"number": number})
    assert time.perf_counter() - start < 10
    assert json.loads((tmp_path / "a.json").read_text()) == {"number": 19}


def test_the_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWDNA_DATA", "/from/environment")
    assert data_root() == Path("/from/environment")
    assert data_root("/from/argument") == Path("/from/argument")
    assert data_root("~/x") == Path.home() / "x"
    monkeypatch.setenv("LWDNA_DATA", "")
    assert data_root() == Path("data")
    monkeypatch.delenv("LWDNA_DATA")
    assert data_root() == Path("data")


def test_missing_data_says_what_where_and_whence(tmp_path: Path) -> None:
    assert require(tmp_path, "a folder", "nowhere") == tmp_path
    with pytest.raises(MissingData) as error:
        require(tmp_path / "train", "Tiny-ImageNet's training images", "cs231n.stanford.edu")
    message = str(error.value)
    for part in (
        "Tiny-ImageNet's training images",
        str(tmp_path / "train"),
        "cs231n.stanford.edu",
        "--data-root",
    ):
        assert part in message
    assert "\n" not in message
    assert isinstance(error.value, UserError)
    assert isinstance(error.value, FileNotFoundError)


@pytest.mark.parametrize("other", ["a.mp4", "./b/../a.mp4", "link.mp4", "hard.mp4", "folder/a.mp4"])
def test_no_file_is_written_over_one_that_is_read(tmp_path: Path, other: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.mp4").write_bytes(b"input")
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    (tmp_path / "hard.mp4").hardlink_to(tmp_path / "a.mp4")
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"--out '.*' is the video that is read"):
        refuse_overwriting([("--out", tmp_path / other)], [("the video that is read", tmp_path / "a.mp4")])
    refuse_overwriting([("--out", tmp_path / "new.mp4")], [("the video that is read", tmp_path / "a.mp4")])
    refuse_overwriting([("--out", None)], [("nothing", None)])


def test_no_two_outputs_are_one_file_and_none_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "dangling.txt").symlink_to("later.txt")
    for first, second in (("a.txt", "link/a.txt"), ("dangling.txt", "later.txt")):
        with pytest.raises(UserError, match=r"--save '.*' is the file that --out names"):
            refuse_overwriting([("--out", tmp_path / first), ("--save", tmp_path / second)], [])
    with pytest.raises(UserError, match="is a folder"):
        refuse_overwriting([("--out", tmp_path)], [])


def test_nothing_is_written_into_a_folder_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img/1.png").write_bytes(b"input")
    (tmp_path / "link.png").symlink_to("img/1.png")
    read = [("the folder that is read", tmp_path / "img")]
    for output in ("img/1.png", "img/new.txt", "link.png"):
        with pytest.raises(UserError, match="lies in the folder that is read"):
            refuse_overwriting([("--out", tmp_path / output)], read)
    refuse_overwriting([("--out", tmp_path / "img/deeper/a.txt")], read)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "Expecting"),
        (b"\xff", "utf-8"),
        (b"[" * 10**5, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "digits"),
        (b" " * 101 + b"1", "larger than 0 MiB"),
    ],
)
def test_json_that_is_none_or_absurd_is_a_value_error(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_json(path, most=100 if "larger" in reason else LARGEST_JSON)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")
    write_json(path, {"a": [1, "x"]})
    assert read_json(path) == {"a": [1, "x"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_that_windows_has_written(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\r\n"größe": 1\r\n}', encoding=encoding)
    assert read_json(path) == {"größe": 1}


@pytest.mark.parametrize(
    ("name", "kept"),
    [("größe".encode(), "größe"), (b"gr\xf6\xdfe", "gr\\udcf6\\udcdfe"), (b"\xffa", "\\udcffa")],
)
def test_names_that_are_no_text_here_are_written(tmp_path: Path, name: bytes, kept: str) -> None:
    write_json(tmp_path / "a.json", [name.decode("ascii", "surrogateescape")])
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == f'[\n  "{kept}"\n]\n'


def test_a_full_disk_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with pytest.raises(OSError) as caught:
        write_with(tmp_path / "a.bin", write)
    assert caught.value.filename == str(tmp_path / "a.bin")


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 250}.json"  # a name that leaves no room for a temporary one's
    with pytest.raises(OSError) as caught:
        write_json(path, 1)
    assert caught.value.filename == str(path)


def test_a_folder_in_the_place_of_a_file_is_damage(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, reason in ((tmp_path, "it is a folder"), (tmp_path / "loop", "it is no file")):
        with pytest.raises(ValueError, match=reason):
            read_json(path)
        with pytest.raises(UserError, match=rf"'{path}' cannot be read: {reason}; get it again"):
            read_text(path, "get it again")


def test_texts_are_utf8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("größe", encoding="utf-8-sig")
    assert read_text(path, "get it again") == "größe"
    path.write_text("größe", encoding="latin-1")
    with pytest.raises(UserError, match=r"a\.txt' is no text in UTF-8 \(.*\); get it again"):
        read_text(path, "get it again")
    with pytest.raises(MissingData, match=r"none\.txt' not found; get it again"):
        read_text(tmp_path / "none.txt", "get it again")
