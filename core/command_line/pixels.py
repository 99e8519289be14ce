"""`--max-pixels`, of the commands that read images that somebody gave them."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.errors import UserError
from core.storage.images import MAX_PIXELS, PIXELS_VARIABLE


def add_max_pixels(parser: ArgumentParser) -> None:
    """Add `--max-pixels`; `limited` obeys it."""
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help=f"refuse larger images (default: ${PIXELS_VARIABLE}, else {MAX_PIXELS})",
    )


def limited(command: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    """`command` under the limit that its arguments name; also processes that it starts obey that.

    The command raises UserError where the limit is below 1.
    """

    def run(options: Namespace) -> int:
        with _pixel_limit(options.max_pixels):
            return command(options)

    return run


@contextmanager
def _pixel_limit(number: int | None) -> Iterator[None]:
    if number is not None and number < 1:
        raise UserError(f"--max-pixels is {number}: use at least 1")
    before = os.environ.get(PIXELS_VARIABLE)
    if number is not None:
        os.environ[PIXELS_VARIABLE] = str(number)
    try:
        yield
    finally:
        if number is not None:
            del os.environ[PIXELS_VARIABLE]
            if before is not None:
                os.environ[PIXELS_VARIABLE] = before
