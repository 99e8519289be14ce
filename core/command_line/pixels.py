"""`--max-pixels`, for commands that read the user's images."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from core.errors import UserError
from core.storage.images import MAX_PIXELS, PIXELS_VARIABLE
from core.workers import environment_with


def add_max_pixels(parser: ArgumentParser) -> None:
    """Add `--max-pixels`; `limited` obeys it."""
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help=f"refuse larger images (default: ${PIXELS_VARIABLE}, else {MAX_PIXELS})",
    )


def limited(command: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    """`command` under the limit in its arguments, which processes that it starts obey as well.

    The command raises UserError if the limit is below 1.
    """

    def run(options: Namespace) -> int:
        number = options.max_pixels
        if number is not None and number < 1:
            raise UserError(f"--max-pixels is {number}: use at least 1")
        with environment_with({} if number is None else {PIXELS_VARIABLE: str(number)}):
            return command(options)

    return run
