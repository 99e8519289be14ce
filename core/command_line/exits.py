"""How a command line ends: its errors as one line on the error stream, and an exit status. Imports no torch.

0    done
1    the run failed
2    wrong usage or bad input
3    another command has taken the work directory over (`core.storage.claims`)
75   SIGTERM, SIGUSR1 or SIGUSR2: what is done is kept, and the same command goes on (EX_TEMPFAIL of sysexits.h)
130  Ctrl-C
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from core.errors import UserError
from core.interruption import Preempted, watch_for_interruption

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("benchmarks", "classification", "core", "lwdna", "super_resolution", "tracking")
FAILURES = (RuntimeError, OSError, MemoryError, ValueError)  # of a run; UserError is a ValueError
RESUME = "the same command with --resume goes on where it stopped"
FAILED, BAD_INPUT, PREEMPTED, INTERRUPTED = 1, 2, 75, 130


def run_command(
    command: Callable[[], int], debug: bool, interrupted: str = RESUME, *, unread: bool = False
) -> int:
    """Call `command`, which returns an exit status; errors become one line and a status of their own.

    Args:
        command: the work.
        debug: show the traceback of an error too.
        interrupted: what to tell the user who interrupted it.
        unread: go on to the end if nobody reads the output any more (`| head`): the results are files.
    """
    with _streams(unread), _threads(debug), _warnings(debug), watch_for_interruption():
        try:
            status = command()
            sys.stdout.flush()  # here, where its errors can be handled
            return status
        except KeyboardInterrupt as error:
            by_system = isinstance(error, Preempted)
            how = f"stopped by {error}" if by_system else "interrupted"
            print(f"{how}; {interrupted}", file=sys.stderr)
            return PREEMPTED if by_system else INTERRUPTED
        except UserError as error:
            if debug:
                traceback.print_exc()
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        except BrokenPipeError:  # the reader (head, less) has what it wanted
            return 0
        except FAILURES as error:
            if debug:
                traceback.print_exc()
            line = str(error).strip().splitlines()
            print(
                f"failed: {type(error).__name__}: {line[0] if line else ''} (--debug shows where)",
                file=sys.stderr,
            )
            return FAILED


def run_parsed(
    parser: ArgumentParser,
    command: Callable[[Namespace], int],
    argv: Sequence[str] | None,
    interrupted: str = RESUME,
    *,
    unread: bool = False,
) -> int:
    """A command line from its words to its exit status; `parser` knows `--debug`.

    Args:
        parser: the command line.
        command: takes the parsed arguments and returns an exit status.
        argv: the words; None for those of this process.
        interrupted: as in `run_command`.
        unread: likewise.
    """
    with _streams(unread):  # for --help too
        if "" in (sys.argv[1:] if argv is None else argv):  # as a path it would be the current folder
            print("error: an argument is empty: is a variable of the shell not set?", file=sys.stderr)
            return BAD_INPUT
        arguments = parser.parse_args(argv)
        return run_command(lambda: command(arguments), arguments.debug, interrupted, unread=unread)


@contextmanager
def _instead(module: ModuleType, name: str, function: Callable[..., object]) -> Iterator[None]:
    """A function of another module that is replaced until the block is left."""
    before = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, before)


def _threads(debug: bool) -> AbstractContextManager[None]:
    """Failures in threads of libraries (a full disk in TensorBoard's) as one line, too."""

    def tell(failed: threading.ExceptHookArgs) -> None:
        print(f"failed in {failed.thread and failed.thread.name}: {failed.exc_type.__name__}: {failed.exc_value}",
              file=sys.stderr)  # fmt: skip

    return nullcontext() if debug else _instead(threading, "excepthook", tell)


def _warnings(debug: bool) -> AbstractContextManager[None]:
    """Warnings of our own code as one line, too: Python would print a line of the source beside them.

    Those of kinds of our own are about a network, which a command looks at in several places: one says all.
    """
    usual = warnings.formatwarning
    said: set[tuple[type[Warning], str]] = set()

    def told(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        try:
            ours = Path(filename).relative_to(_ROOT).parts[0] in _PACKAGES
        except ValueError:
            ours = False
        if category.__module__.partition(".")[0] in _PACKAGES:
            if (category, str(message)) in said:
                return ""
            said.add((category, str(message)))
        return f"warning: {message}\n" if ours else usual(message, category, filename, lineno, line)

    return nullcontext() if debug else _instead(warnings, "formatwarning", told)


class _Output:
    """A standard stream that names itself if it cannot be written to.

    Python itself would report that twice, without a name, the second time at exit.
    """

    def __init__(self, stream: Any, name: str, unread: bool) -> None:
        self._stream, self._name, self._unread = stream, name, unread

    def write(self, text: str) -> int:
        """As streams do."""
        with self._told():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As streams do."""
        with self._told():
            self._stream.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)  # all output goes there from now on
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if not isinstance(error, BrokenPipeError):
                raise OSError(error.errno, error.strerror, self._name) from error
            if not self._unread:
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _streams(unread: bool) -> Iterator[None]:
    """Standard streams that a command can print to: closed ones (`>&-`) swallow all, and every name is printable."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # otherwise the next opened file would become C libraries' standard output
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # to the process' end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    before = sys.stdout, sys.stderr
    sys.stdout = _Output(sys.stdout, "<stdout>", unread)
    sys.stderr = _Output(sys.stderr, "<stderr>", unread=True)
    try:
        yield
    finally:
        for own in (sys.stdout, sys.stderr):
            with suppress(OSError):  # already reported; Python would report it again at exit
                own.flush()
        sys.stdout, sys.stderr = before
