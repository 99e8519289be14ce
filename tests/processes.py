"""Processes that a test starts, and those that they start: all of them have to end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended and waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def started_by(process: subprocess.Popen[Any], folder: Path, count: int = 2) -> list[int]:
    """The numbers of processes that a process has started, once `count` of them have made a file called by theirs."""
    while len(found := [int(path.name) for path in folder.iterdir()]) < count:
        assert process.poll() is None
        time.sleep(0.02)
    return found


def wait_for_end(pids: Sequence[int], seconds: float = 20) -> None:
    """Until none of these runs any more; fails where that takes longer."""
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_all_end(process: subprocess.Popen[Any], number: str, folder: Path) -> None:
    """Send a signal, by its name, to a process that has started two others (`started_by`): these end as well."""
    found = started_by(process, folder)
    process.send_signal(signal.Signals[number])
    process.wait()
    wait_for_end(found)


def die(folder: Path, times: int) -> str:
    """End this process, as the system does, so many times; then work."""
    done = len(list(folder.iterdir()))
    if done < times:
        (folder / str(done)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return f"after {done} deaths"
