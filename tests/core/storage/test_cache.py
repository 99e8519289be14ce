"""Cache files of tasks: their place, their makers, their names, and what killed processes leave."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import core.storage.files
from core.errors import UserError
from core.storage.cache import FOLDER, cache_folders, decode_in_order, fingerprint, open_or_build
from core.storage.files import atomic_write

FORK = multiprocessing.get_context("fork")
MARK, OTHER = "0123456789abcdef", "fedcba9876543210"


def open_text(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def builder(text: str = "made", calls: list[Path] | None = None) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        if calls is not None:
            calls.append(path)
        with atomic_write(path) as file:
            file.write(text)

    return build


def make(
    *folders: Path, mark: str = MARK, build: Callable[[Path], None] | None = None, **options: Any
) -> str:
    return open_or_build(
        folders, "set", mark, ".txt", open_file=open_text, build=build or builder(), **options
    )


# --- Names and places ---


@pytest.mark.parametrize("change", ["content", "time", "name", "order", "missing", "added", "facts"])
def test_a_fingerprint_tells_what_the_cache_was_made_from(tmp_path: Path, change: str) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
        os.utime(path, ns=(0, 10**18))
    files = [(path.name, path) for path in paths]
    before = fingerprint(files[:2], ("facts", 1))
    assert before == fingerprint(files[:2], ("facts", 1))
    assert re.fullmatch("[0-9a-f]{16}", before)
    facts: tuple[Any, ...] = ("facts", 1)
    chosen = files[:2]
    if change == "content":
        paths[0].write_text("longer")
        os.utime(paths[0], ns=(0, 10**18))
    elif change == "time":
        os.utime(paths[0], ns=(0, 10**18 + 1))
    elif change == "name":
        chosen = [("z", paths[0]), files[1]]
    elif change == "order":
        chosen = files[1::-1]
    elif change == "missing":
        paths[1].unlink()
    elif change == "added":
        chosen = files
    else:
        facts = ("facts", 2)
    assert fingerprint(chosen, facts) != before


def test_moving_a_data_set_keeps_its_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/a").write_text("a")
    before = fingerprint([("a", tmp_path / "here/a")], None)
    (tmp_path / "here").rename(tmp_path / "there")
    assert fingerprint([("a", tmp_path / "there/a")], None) == before


def test_the_user_has_a_place_for_every_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LWDNA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    beside, home = cache_folders(tmp_path / "one/set")
    assert beside == tmp_path / "one/set" / FOLDER
    assert home.parent == tmp_path / "home/lwdna"
    assert home != cache_folders(tmp_path / "two/set")[1]  # two folders of one name
    assert cache_folders(None) == (tmp_path / "home/lwdna",)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folders(None) == (tmp_path / ".cache/lwdna",)
    monkeypatch.setenv("LWDNA_CACHE", str(tmp_path / "own"))
    assert cache_folders(None) == (tmp_path / "own",)


# --- Opening and making ---


def test_a_cache_is_made_once(tmp_path: Path) -> None:
    calls: list[Path] = []
    assert make(tmp_path / "a", tmp_path / "b", build=builder(calls=calls)) == "made"
    assert make(tmp_path / "a", tmp_path / "b", build=builder(calls=calls)) == "made"
    assert calls == [tmp_path / "a" / f"set-{MARK}.txt"]


def test_a_cache_in_a_lesser_place_is_used(tmp_path: Path) -> None:
    assert make(tmp_path / "b", build=builder("theirs")) == "theirs"
    assert make(tmp_path / "a", tmp_path / "b") == "theirs"


def test_a_place_that_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert make(tmp_path / "file", tmp_path / "b") == "made"
    assert (tmp_path / "b" / f"set-{MARK}.txt").exists()
    with pytest.raises(UserError, match=r"'.*file' nor to '.*file/below'; .* in data\.cache$"):
        make(tmp_path / "file", tmp_path / "file/below", setting="data.cache")


def test_outdated_caches_and_leftovers_go_and_others_stay(tmp_path: Path) -> None:
    gone = [f"set-{OTHER}.txt", f".set-{OTHER}.txt.x1y2.tmp", f".set-{MARK}.txt.x1y2.tmp"]
    stay = [f"set-two-{OTHER}.txt", f"set-{OTHER}.npy", "set-mine.txt", f".set-two-{OTHER}.txt.x.tmp"]
    for name in (*gone, *stay):
        (tmp_path / name).write_text("")
    make(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*stay, "set.lock", f"set-{MARK}.txt"}


def test_without_file_locks_nobody_elses_files_are_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / f".set-{OTHER}.txt.x1y2.tmp"
    theirs.write_text("another builder is at it")
    monkeypatch.setattr(core.storage.files, "fcntl", None)
    assert make(tmp_path) == "made"
    assert theirs.exists()


def test_a_file_that_cannot_be_read_back_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"set-{MARK}.txt' cannot be read back"):
        make(tmp_path, build=lambda path: None)


def test_a_builder_that_fails_leaves_no_lock_behind(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise UserError("a broken image")

    with pytest.raises(UserError, match="a broken image"):
        make(tmp_path, build=fail)
    assert make(tmp_path) == "made"


def _build_slowly(folder: Path, queue: Any) -> None:
    def build(path: Path) -> None:
        queue.put("built")
        time.sleep(0.3)
        builder(str(os.getpid()))(path)

    queue.put(make(folder, build=build))


def test_of_several_processes_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    queue = FORK.Queue()
    processes = [FORK.Process(target=_build_slowly, args=(tmp_path, queue), daemon=True) for _ in range(3)]
    for process in processes:
        process.start()
    said = [queue.get(timeout=60) for _ in range(4)]
    for process in processes:
        process.join(60)
    assert said[0] == "built"
    assert len(set(said[1:])) == 1
    assert int(said[1]) in [process.pid for process in processes]


def _die_while_writing(folder: Path) -> None:
    def build(path: Path) -> None:
        with atomic_write(path) as file:
            file.write("half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    make(folder, build=build)


def test_a_killed_maker_leaves_neither_a_cache_nor_a_lock(tmp_path: Path) -> None:
    process = FORK.Process(target=_die_while_writing, args=(tmp_path,), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    assert make(tmp_path) == "made"
    assert not list(tmp_path.glob(".*.tmp"))


# --- Decoding ---


@given(count=st.integers(0, 40), threads=st.integers(0, 5))
def test_results_come_in_order(count: int, threads: int) -> None:
    found = list(decode_in_order(lambda n: n * n, range(count), threads=threads, title="squares"))
    assert found == [n * n for n in range(count)]


def test_few_results_wait_in_memory() -> None:
    started = []
    results = decode_in_order(started.append, range(100), threads=2, title="numbers")
    next(results)
    time.sleep(0.05)
    assert len(started) <= 4
    results.close()


def test_several_threads_decode_at_once() -> None:
    both = threading.Barrier(2, timeout=30)
    assert len(list(decode_in_order(lambda _: both.wait(), range(2), threads=2, title="pair"))) == 2


def test_the_first_failure_ends_the_decoding() -> None:
    def decode(number: int) -> int:
        if number == 3:
            raise UserError("image 3 is broken")
        return number

    results = decode_in_order(decode, range(1000), threads=2, title="numbers")
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match="image 3"):
        next(results)


def test_nothing_is_drawn_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    list(decode_in_order(str, range(3), threads=1, title="numbers"))
    assert capfd.readouterr() == ("", "")
