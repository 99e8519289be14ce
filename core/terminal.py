"""The one bar that commands show while they wait, on the terminal's error stream; nothing where that is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

Advance = Callable[[int, int], None]
"""Called on progress with (done, in all); in all is 0 where it is not known."""


@contextmanager
def bar(title: str) -> Iterator[Advance]:
    """A bar until the block is left."""
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=max(total, done))


def watched(items: Iterable[T], title: str, total: int | None) -> Generator[T, None, None]:
    """The items, with a bar that advances when the next one is asked for."""
    with bar(title) as advance:
        for done, item in enumerate(items, 1):
            yield item
            advance(done, total or 0)
