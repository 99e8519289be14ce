"""Who has a work directory: one command at a time, and the next one once that has ended, however it has ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from core.errors import UserError
from core.storage import claims
from core.storage.claims import CLAIM_FILE, Claim, Claimed, claimed, take
from core.storage.files import write_json
from tests.core.storage.test_files import no_more_than

ROOT = Path(__file__).resolve().parents[3]
HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom core.storage.claims import claimed\n"
    "with claimed(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


CLAIM = '{"host": "a", "boot": "", "processes": "", "pid": %s, "started": "", "since": "", "command": "", "token": ""}'


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_claim_that_the_disk_has_no_room_for_is_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"File too large: '.*claim\.json'"), no_more_than(4):
        take(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_held_and_let_go(tmp_path: Path) -> None:
    folder = tmp_path / "a/b"
    with claimed(folder):
        claim = json.loads((folder / CLAIM_FILE).read_text())
        assert claim["pid"] == os.getpid()
        assert claim["host"]
        with (
            pytest.raises(
                Claimed, match=rf"b' is in use by process {os.getpid()} on '.*' since 20"
            ) as caught,
            claimed(folder),
        ):
            pass
        assert isinstance(caught.value, UserError)
        assert "\n" not in str(caught.value)
        assert (folder / CLAIM_FILE).exists()
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]
    with pytest.raises(KeyboardInterrupt), claimed(folder):
        raise KeyboardInterrupt
    assert not (folder / CLAIM_FILE).exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="a' is a file"), claimed(tmp_path / "a"):
        pass


def test_a_folder_in_which_nothing_was_written_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), claimed(tmp_path / "new"):
        raise ValueError("wrong")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with claimed(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()


def test_a_running_process_keeps_it_and_a_killed_one_does_not(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(Claimed, match=f"in use by process {process.pid} on "), claimed(tmp_path):
            pass
    finally:
        process.kill()
    deadline = time.monotonic() + 10  # it has ended, but its parent has not asked: its number is still taken
    while Claim(**json.loads((tmp_path / CLAIM_FILE).read_text())).is_over() is False:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    said: list[str] = []
    with claimed(tmp_path, said.append):
        assert json.loads((tmp_path / CLAIM_FILE).read_text())["pid"] == os.getpid()
    assert len(said) == 1
    assert f"process {process.pid} on" in said[0]
    assert said[0].endswith("which has ended: taken over")
    end(process)
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_another_process_has_now_is_told_by_its_start(tmp_path: Path) -> None:
    here = Claim.own()
    if not here.started:
        pytest.skip("this system does not tell when a process was started")
    write_json(tmp_path / CLAIM_FILE, asdict(replace(here, started="1", token="x")))
    with claimed(tmp_path, lambda line: None):
        pass


def test_a_start_of_this_machine_is_told_from_another_machine_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / CLAIM_FILE
    write_json(path, asdict(replace(Claim.own(), boot="another", token="x")))
    with pytest.raises(Claimed, match="cannot be checked from here"), claimed(tmp_path):
        pass  # it has been renewed since this machine was started
    texts = claims._text_of
    monkeypatch.setattr(claims, "_text_of", lambda name: "9 9" if name == "/proc/uptime" else texts(name))
    last = path.stat().st_mtime - 10
    os.utime(path, (last, last))
    with claimed(tmp_path, lambda line: None):
        pass


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"processes": "pid:[1]"}])
def test_of_another_machine_the_user_decides(change: dict[str, str], tmp_path: Path) -> None:
    write_json(tmp_path / CLAIM_FILE, asdict(replace(Claim.own(), pid=2**22 + 1, **change)))
    with (
        pytest.raises(Claimed, match=r"cannot be checked from here: .* remove '.*claim\.json'") as caught,
        claimed(tmp_path),
    ):
        pass
    assert "\n" not in str(caught.value)
    (tmp_path / CLAIM_FILE).unlink()
    with claimed(tmp_path):
        pass


def test_of_another_machine_the_lease_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / CLAIM_FILE
    for age, over in ((200, False), (400, True)):
        write_json(path, asdict(replace(Claim.own(), host="elsewhere", token="x")))
        # A machine whose clock is hours off sees the same, as file times are compared with file times.
        monkeypatch.setattr(time, "time", lambda: 1.0)
        stamp = path.stat().st_mtime - age
        os.utime(path, (stamp, stamp))
        said: list[str] = []
        if not over:
            with pytest.raises(Claimed, match="claimed by process"), claimed(tmp_path, said.append):
                pass
        else:
            with claimed(tmp_path, said.append):
                assert json.loads(path.read_text())["host"] != "elsewhere"
            assert "which has not renewed it for minutes: taken over" in said[0]
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_starts_anew_elsewhere_waits_for_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine failed: nothing there removes the claim, and nothing renews it."""
    path = tmp_path / CLAIM_FILE
    monkeypatch.setattr(claims, "LEASE", 0.3)
    monkeypatch.setattr(claims, "_POLL", 0.02)
    write_json(path, asdict(replace(Claim.own(), host="failed", token="x")))
    said: list[str] = []
    began = time.monotonic()
    with claimed(tmp_path, said.append, wait=True):
        assert json.loads(path.read_text())["host"] != "failed"
    assert time.monotonic() - began > 0.25
    assert "on 'failed' since" in said[0]
    assert (
        "waiting to see whether it renews its claim, 0 s at most; if it no longer runs, remove '" in said[0]
    )
    assert "taken over" in said[1]
    assert len(said) == 2


@pytest.mark.parametrize("what", ["renewed", "removed"])
def test_a_claim_that_is_waited_for_is_renewed_or_removed(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / CLAIM_FILE
    monkeypatch.setattr(claims, "_POLL", 0.02)
    write_json(path, asdict(replace(Claim.own(), host="elsewhere", token="x")))
    renew = (lambda: os.utime(path, (1e9, 1e9))) if what == "renewed" else path.unlink
    timer = threading.Timer(0.1, renew)
    began = time.monotonic()

    def say(line: str) -> None:
        timer.start()

    if what == "renewed":
        with (
            pytest.raises(Claimed, match=r"claimed by process .* on 'elsewhere'"),
            claimed(tmp_path, say, wait=True),
        ):
            pass
    else:
        with claimed(tmp_path, say, wait=True):
            pass
    assert time.monotonic() - began < claims.LEASE / 2
    timer.join()


def test_a_claim_is_renewed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.storage.claims.RENEWED_EVERY", 0.02)
    path = tmp_path / CLAIM_FILE
    with claimed(tmp_path), claimed(tmp_path / "inner"):
        for held in (path, tmp_path / "inner" / CLAIM_FILE):
            os.utime(held, (1.0, 1.0))
            deadline = time.monotonic() + 10
            while held.stat().st_mtime == 1.0:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert not path.exists()


SLEEPER = """
import sys, time
from pathlib import Path
import core.storage.claims as claims
claims.RENEWED_EVERY = 0.05
with claims.claimed(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
    Path(sys.argv[1], "written").touch()
"""


def test_a_process_that_was_taken_over_ends_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLEEPER, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        write_json(tmp_path / CLAIM_FILE, asdict(replace(Claim.own(), token="another")))
        assert process.wait(30) == 3
        assert process.stderr is not None
        assert "has been taken over by process" in process.stderr.read()
    assert [item.name for item in tmp_path.iterdir()] == [CLAIM_FILE]


def test_a_right_to_take_over_that_was_left_does_not_last(tmp_path: Path) -> None:
    """A command was killed between taking the right to take over and doing so."""
    write_json(tmp_path / CLAIM_FILE, asdict(replace(Claim.own(), pid=2**22 + 1, token="x")))
    right = tmp_path / f".{CLAIM_FILE}.x"
    right.touch()
    os.utime(right, (1.0, 1.0))
    with claimed(tmp_path, lambda line: None):
        assert not right.exists()


def test_no_process_has_a_number_beyond_the_systems() -> None:
    assert replace(Claim.own(), pid=10**20).is_over()


@pytest.mark.parametrize("text", ["", '{"host": "a"', "[]", "null", CLAIM % "1e400"])
def test_a_claim_that_was_cut_short_blocks_nobody(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.storage.claims._PATIENCE", 0.1)
    (tmp_path / CLAIM_FILE).write_text(text)
    said: list[str] = []
    with claimed(tmp_path, said.append):
        pass
    assert "killed at once: taken over" in said[0]


def test_a_claim_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    from threading import Timer

    path = tmp_path / CLAIM_FILE
    path.touch()
    later = Timer(0.2, lambda: write_json(path, asdict(replace(Claim.own(), token="x"))))
    later.start()
    with pytest.raises(Claimed, match="in use by"), claimed(tmp_path):
        pass
    later.join()


RACE = """
import sys, time
from pathlib import Path
from core.storage.claims import Claimed, claimed
folder, start = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not start.exists():
    pass
try:
    with claimed(folder, lambda line: None):
        print("mine", flush=True)
        sys.stdin.read()
except Claimed:
    print("theirs", flush=True)
"""


@pytest.mark.parametrize("left", [False, True])
def test_of_several_at_once_one_has_it(left: bool, tmp_path: Path) -> None:
    """Also where all of them find the claim of a process that has ended."""
    folder = tmp_path / "work"
    folder.mkdir()
    if left:
        write_json(folder / CLAIM_FILE, asdict(replace(Claim.own(), pid=2**22 + 1, token="x")))
    command = [sys.executable, "-c", RACE, str(folder), str(tmp_path / "start")]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "start").touch()
    answers = sorted(process.stdout.readline() for process in running if process.stdout is not None)
    assert answers == ["mine\n", "theirs\n", "theirs\n", "theirs\n"]
    for process in running:
        process.communicate()
    assert list(folder.iterdir()) == []


def test_what_a_killed_command_left_half_written_goes_with_its_claim(tmp_path: Path) -> None:
    """Of the folder and those within it, but not of one that another command holds."""
    other = tmp_path / "other"
    (tmp_path / "runs").mkdir()
    names = (".a.safetensors.ab12_xyz.tmp", ".123.channels.png", f".{CLAIM_FILE}.0011223344556677")
    kept = ("a.tmp", ".notes.tmp", ".hidden.json", ".1.2")
    with claimed(other):
        for folder in (tmp_path, tmp_path / "runs", other):
            for name in (*names, *kept):
                (folder / name).touch()
        with claimed(tmp_path):
            left = {path.name for path in tmp_path.iterdir()}
            assert left == {*kept, CLAIM_FILE, "other", "runs"}
            assert {path.name for path in (tmp_path / "runs").iterdir()} == {*kept, names[2]}
            assert {path.name for path in other.iterdir()} == {*kept, *names, CLAIM_FILE}


def test_a_command_killed_while_it_took_over_does_not_keep_the_next_one_waiting(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ended = replace(Claim.own(), pid=gone.pid, token="first")
    write_json(tmp_path / CLAIM_FILE, asdict(ended))
    write_json(tmp_path / f".{CLAIM_FILE}.first", asdict(replace(ended, token="second")))
    with claimed(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [CLAIM_FILE]
