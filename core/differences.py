"""Where two nested values differ, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """One place where two values differ; `str` of it is for messages.

    Attributes:
        key: where, with dots for nesting.
        there: the stored value; None where there is none.
        here: the present one, likewise.
    """

    key: str
    there: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.key} is {self.there} there and {self.here} here"


def differences(there: Any, here: Any, where: str = "") -> Iterator[Difference]:
    """Every place at which two values differ, mappings being looked into; in the order of the present one's keys."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in [*here, *(key for key in there if key not in here)]:
            yield from differences(there.get(key), here.get(key), f"{where}.{key}" if where else str(key))
    elif there != here:
        yield Difference(where, there, here)
