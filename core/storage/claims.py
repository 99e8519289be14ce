"""Claims: a work directory belongs to one command at a time, which notes that in a file there.

    work_dir/claim.json     host, process and command that write here; made exclusively, removed at the end

A claim is a lease: while its command runs, the file's time is renewed every half minute. A process that is killed
leaves its claim behind. On the same machine the next command sees that the process is gone and takes over at once; a
claim of another machine is over when its lease has run out. The file system needs no locks, only that exactly one of
several processes creates a file, so shared ones serve. Times of files are compared there with each other, not with a
machine's clock.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from core.errors import UserError
from core.storage.files import naming, read_json, remove_partial_writes, write_json

CLAIM_FILE = "claim.json"
RENEWED_EVERY = 30.0  # seconds
LEASE = 300.0  # seconds without a renewal after which a claim is over if its process cannot be checked
_POLL = 0.5  # seconds between looks at a claim that is waited for
_PATIENCE = 2.0  # seconds that a claim may take from its creation to its text
_LOST = 3  # exit status of a process whose claim another command has taken over


class Claimed(UserError):
    """The directory is another command's. The message says whose, and what to do."""


@dataclass(frozen=True)
class Claim:
    """Who writes into a directory.

    Attributes:
        host: name of the machine.
        boot: identifier of the machine's present start, if the system tells: process numbers begin anew with each.
        processes: the process namespace, if the system tells: in another one numbers mean other processes.
        pid: process number.
        started: when the process was started, as the system counts; "" if it does not tell.
        since: when the claim was made.
        command: the command line.
        token: unique to this claim.
    """

    host: str
    boot: str
    processes: str
    pid: int
    started: str
    since: str
    command: str
    token: str

    @classmethod
    def own(cls) -> Claim:
        """The claim of this process."""
        return cls(
            host=socket.gethostname(),
            boot=_text_of("/proc/sys/kernel/random/boot_id"),
            processes=_process_namespace(),
            pid=os.getpid(),
            started=_start_of(os.getpid()) or "",
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            token=secrets.token_hex(8),
        )

    def __str__(self) -> str:
        command = " ".join(self.command.split())[:200]
        return f"process {self.pid} on '{self.host}' since {self.since} ({command})"

    def is_over(self) -> bool | None:
        """Whether its process has ended; None where that cannot be told from here."""
        here = Claim.own()
        # Another start of this machine, or another machine of the same name: images are cloned with theirs.
        if self.host != here.host or self.boot != here.boot:
            return None
        if self.processes != here.processes:
            return None
        start = _start_of(self.pid)
        if start is not None:
            return self.started not in ("", start)
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):  # OverflowError: no process has such a number
            return True
        except OSError:  # it exists, and belongs to another user
            return False
        return bool(self.started)  # it exists without a start: it has ended and waits for its parent


@contextmanager
def claimed(
    folder: str | Path, say: Callable[[str], object] = print, *, wait: bool = False
) -> Iterator[None]:
    """Hold a directory until the block is left, however it is left.

    Args:
        folder: made if it is missing, and removed afterwards if it was made here and nothing was written.
        say: called with a line about a claim that was taken over, or is waited for.
        wait: where it cannot be told whether the holder has ended, wait until its claim is renewed, or its lease has
            run out: a job that is put back into the queue may start anew on another machine than the one that failed.

    Raises:
        Claimed: a process holds it that is running, or may be running elsewhere.
    """
    folder = Path(folder)
    release = take(folder, say, wait=wait)
    try:
        yield
    finally:
        release()


def take(folder: Path, say: Callable[[str], object] = print, *, wait: bool = False) -> Callable[[], None]:
    """Do what `claimed` does at its beginning; returns what it does at its end.

    Raises:
        Claimed: see `claimed`.
        UserError: the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file, not a folder to write into: name another")
    made = not folder.exists()
    path, own = folder / CLAIM_FILE, Claim.own()
    text = json.dumps(asdict(own), indent=2) + "\n"
    while not _create(path, text):
        left = _read_settled(path)
        if left is not None and not _is_over(path, left):
            if not (wait and left.is_over() is None and _ends(path, left, say)):
                raise Claimed(_refusal(folder, _read(path) or left))
            continue
        if _take_over(path, own, left):
            ended = (
                "" if left is None else "has ended" if left.is_over() else "has not renewed it for minutes"
            )
            who = "a command that was killed at once" if left is None else f"{left}, which {ended}"
            say(f"'{folder}' was claimed by {who}: taken over")
            break
    _RENEWAL.add(path, own.token)
    _clear_up(folder)

    def release() -> None:
        _RENEWAL.remove(path)
        current = _read(path)
        if current is not None and current.token == own.token:
            path.unlink(missing_ok=True)
        if made:
            with suppress(OSError):  # it holds what the command wrote
                folder.rmdir()

    return release


def _clear_up(folder: Path) -> None:
    """Remove what killed commands left half written, except in folders that have claims of their own."""
    for mark in folder.glob(f".{CLAIM_FILE}.*"):  # of commands that were taking over
        mark.unlink(missing_ok=True)
    for place, inner, _ in os.walk(folder):
        inner[:] = [name for name in inner if not Path(place, name, CLAIM_FILE).exists()]
        remove_partial_writes(Path(place))


def _is_over(path: Path, claim: Claim) -> bool:
    """Whether a claim is over: its process has ended or, if that cannot be told, its lease has run out."""
    over = claim.is_over()
    return _rest_of(path, claim) < 0 if over is None else over


def _rest_of(path: Path, claim: Claim) -> float:
    """Seconds until the lease of a claim that cannot be checked from here runs out; negative afterwards."""
    return min(LEASE, _uptime_of(claim)) - _seconds_unrenewed(path)


def _ends(path: Path, claim: Claim, say: Callable[[str], object]) -> bool:
    """Wait until a claim that cannot be checked from here is over; False as soon as it is renewed."""
    rest = max(0.0, _rest_of(path, claim)) + _POLL
    say(
        f"'{path.parent}' is claimed by {claim}, which cannot be checked from here: waiting to see whether it renews "
        f"its claim, {rest:.0f} s at most; if it no longer runs, remove '{path}'"
    )
    deadline, renewed = time.monotonic() + rest, _renewed_at(path)
    while time.monotonic() <= deadline and _renewed_at(path) == renewed:
        time.sleep(_POLL)
    return _renewed_at(path) in (renewed, None)


def _renewed_at(path: Path) -> int | None:
    """When a claim was last renewed, in nanoseconds of its file system's clock; None if it is gone."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _uptime_of(claim: Claim) -> float:
    """Seconds since the start of this machine, if a claim may be of an earlier one: it is not renewed since then."""
    here = Claim.own()
    uptime = _text_of("/proc/uptime").split()
    return float(uptime[0]) if uptime and claim.host == here.host and claim.boot != here.boot else LEASE


def _seconds_unrenewed(path: Path) -> float:
    """Seconds since the last renewal, by the clock of the claim's file system; 0 if the claim is gone."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _refusal(folder: Path, holder: Claim) -> str:
    if holder.is_over() is None:
        return (
            f"'{folder}' is claimed by {holder}, which cannot be checked from here: wait for it, or use another "
            f"folder; if it no longer runs, the claim is over {LEASE / 60:g} minutes after its end, or at once if you "
            f"remove '{folder / CLAIM_FILE}'"
        )
    return f"'{folder}' is in use by {holder}: wait for it, or use another folder"


class _Renewal:
    """One thread that renews all claims of this process while there are any."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._held: dict[Path, str] = {}
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, path: Path, token: str) -> None:
        """Renew a claim from now on."""
        with self._change:
            self._held[path] = token
            self._change.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def remove(self, path: Path) -> None:
        """Stop renewing a claim."""
        with self._change:
            self._held.pop(path, None)
            self._change.notify()

    def _run(self) -> None:
        with self._change:
            while self._held:
                self._change.wait(RENEWED_EVERY)
                for path, token in self._held.items():
                    _renew(path, token)
            self._thread = None


_RENEWAL = _Renewal()
if hasattr(os, "register_at_fork"):  # a child has neither its parent's claims nor its thread
    os.register_at_fork(after_in_child=_RENEWAL.forget)


def _renew(path: Path, token: str) -> None:
    """Renew a claim; if another command has it now, end this process at once without writing anything more.

    That can happen only if this process stood still for minutes, as on a laptop that was asleep.
    """
    current = _read(path)
    if current is not None and current.token != token:
        print(f"error: '{path.parent}' has been taken over by {current}: ended, nothing more is written",
              file=sys.stderr, flush=True)  # fmt: skip
        os._exit(_LOST)
    with suppress(OSError):  # a file system may be away for a while; the lease is longer
        os.utime(path)


def _create(path: Path, text: str) -> bool:
    """Create the file with this text; False if it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    except FileNotFoundError:  # another command made the folder too, and has just removed it again
        return _create(path, text)
    try:
        with naming(path), os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:  # a full disk: half a claim would count as one
        path.unlink(missing_ok=True)
        raise
    return True


def _take_over(path: Path, own: Claim, left: Claim | None) -> bool:
    """Replace the claim `left` behind by `own`; False if it is no longer there.

    If several commands find the same claim, the one that creates the file named after it replaces it. A command that
    creates that file later finds another claim.
    """
    right = path.with_name(f".{path.name}.{left.token if left is not None else 'damaged'}")
    if not _create(right, json.dumps(asdict(own))):
        maker = _read(right)
        # Who created it was killed before the next line.
        if (maker is not None and maker.is_over()) or _seconds_unrenewed(right) > LEASE:
            right.unlink(missing_ok=True)
        return False
    try:
        if not path.exists() or _read(path) != left:
            return False
        write_json(path, asdict(own))
        return True
    finally:
        right.unlink(missing_ok=True)


def _read_settled(path: Path) -> Claim | None:
    """The claim in the file; waits for one that is just being written."""
    deadline = time.monotonic() + _PATIENCE
    claim = _read(path)
    while claim is None and path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        claim = _read(path)
    return claim


def _read(path: Path) -> Claim | None:
    try:
        content = read_json(path)
        texts = {name: str(content[name]) for name in _TEXTS}
        return Claim(pid=int(content["pid"]), **texts)
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


_TEXTS = [item.name for item in fields(Claim) if item.name != "pid"]


def _start_of(pid: int) -> str | None:
    """When a process was started; None if it does not run or the system does not tell."""
    # The name, in parentheses, may hold anything; behind the last one come fields 3 (state) to 22 (start) and more.
    rest = _text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return rest[19] if len(rest) > 19 and rest[0] not in "ZX" else None


def _process_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
