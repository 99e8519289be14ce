"""How a command line ends: its errors as one line on the error stream, and an exit status. Imports no torch.

0    done
1    the run failed or was interrupted
2    wrong usage or bad input
"""

from __future__ import annotations

import os
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence

from core.errors import UserError

FAILURES = (RuntimeError, OSError, MemoryError, ValueError)  # of a run; UserError is a ValueError
RESUME = "the same command with --resume goes on where it stopped"


def run_command(command: Callable[[], int], debug: bool, interrupted: str = RESUME) -> int:
    """Call `command`, which returns an exit status, and turn errors into one line and a status of their own.

    Args:
        command: the work.
        debug: show the traceback of an error too.
        interrupted: what to tell somebody who has interrupted it.
    """
    try:
        status = command()
        sys.stdout.flush()  # here, where a reader that has gone can be dealt with
        return status
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return 1
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) has what it wanted. Python writes what is left once more at exit: to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except FAILURES as error:
        if debug:
            traceback.print_exc()
        line = str(error).strip().splitlines()
        print(
            f"failed: {type(error).__name__}: {line[0] if line else ''} (--debug shows where)",
            file=sys.stderr,
        )
        return 1


def run_parsed(
    parser: ArgumentParser,
    command: Callable[[Namespace], int],
    argv: Sequence[str] | None,
    interrupted: str = RESUME,
) -> int:
    """A command line from its words to its exit status; `parser` knows `--debug`.

    Args:
        parser: the command line.
        command: takes the parsed arguments and returns an exit status.
        argv: the words; None for those of this process.
        interrupted: as in `run_command`.
    """
    arguments = parser.parse_args(argv)
    return run_command(lambda: command(arguments), arguments.debug, interrupted)
