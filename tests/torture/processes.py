"""Processes forked from this one, which has imported everything: hundreds of runs cost no start of an interpreter."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

CLOCK = 3_600.0  # seconds of the clock: for what waits and uses no core


def fork(work: Callable[[], int]) -> int:
    """Begin `work` in a process of its own, whose exit status it returns; the number of the process."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = work()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001 - as the interpreter does
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    return pid


def wait(pid: int, seconds: float, sign: Callable[[], object] = lambda: None) -> int | None:
    """Wait for a forked process to end; end it where it does not.

    Args:
        pid: its number.
        seconds: of a core that it may use without a sign of life: a busy machine is no hang.
        sign: changes where it lives.

    Returns:
        Its exit status, negative for a signal; None where it was ended.
    """
    seen, used, since = sign(), 0.0, time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        now = _seconds_of(pid)
        if (new := sign()) != seen:
            seen, used, since = new, now, time.monotonic()
        if now - used > seconds or time.monotonic() - since > CLOCK:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.05)


def _seconds_of(pid: int) -> float:
    """Seconds of a core that a process has used; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_parts(parts: Sequence[Callable[[], int]], count: int) -> Iterator[tuple[int, int]]:
    """Run each part in a process of its own, so many at a time.

    Yields:
        Numbers of parts with their exit statuses, as they end.
    """
    left, running = list(enumerate(parts)), {}
    while left or running:
        while left and len(running) < count:
            number, part = left.pop(0)
            running[fork(part)] = number
        pid, status = os.wait()
        yield running.pop(pid), os.waitstatus_to_exitcode(status)
