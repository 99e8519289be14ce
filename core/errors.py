"""Errors that the user can repair, on which command lines exit with 2; and outputs that mean nothing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from os import sep
from pathlib import Path

_LISTED = 30
_LONGEST = 1_500  # characters of a message
_HERE = f"{Path(__file__).parent}{sep}"


class NonFiniteOutput(RuntimeError):
    """A network's outputs are not finite, so that their score would mean nothing. The message says what."""


class UserError(ValueError):
    """Wrong usage or bad input. The message is one line: what, where, what is allowed, what to do.

    It may quote a file, which can be long and have several lines: line ends become spaces, and a text of
    more than 1,500 characters loses its middle.
    """

    def __str__(self) -> str:
        text = " ".join(super().__str__().splitlines())
        return text if len(text) <= _LONGEST else f"{text[:1_000]} … {text[-_LONGEST // 3 :]}"


class MissingData(UserError, FileNotFoundError):
    """A data set or file that is not there. The message says what, where it belongs and where to get it."""


def did_you_mean(word: str, known: Iterable[object], also: Iterable[str] = ()) -> str:
    """What to say about a word that is none of `known`: "did you mean 'epochs'? allowed: epochs, batch_size".

    Args:
        word: what the user wrote.
        known: what is allowed, in the order in which to list it; up to 30 are listed.
        also: further words that are allowed and may be meant, but are not listed.
    """
    names = [str(name) for name in known]
    close = " or ".join(f"'{name}'" for name in get_close_matches(word, [*names, *also]))
    listed = ", ".join(names[:_LISTED]) or "none"
    more = f", … ({len(names)} in all)" if len(names) > _LISTED else ""
    return (f"did you mean {close}? " if close else "") + f"allowed: {listed}{more}"


def meant_share(value: float) -> str:
    """What to add where a share was asked for: "; did you mean 0.4?" for 40, "" for what is no percentage."""
    return f"; did you mean {value / 100:g}?" if 2 <= value <= 100 else ""


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first_names(names: Sequence[str], count: int = 3) -> str:
    """The first of many names, for a message of one line, and dots where there are more."""
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def quoted(names: Sequence[str]) -> str:
    """The first eight of many names in quotation marks, and how many more there are."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(f"'{name}'" for name in names[:8]) + more


def one_line(error: BaseException) -> str:
    """What an exception says, without line breaks, at most 300 characters of it."""
    return " ".join(str(error).split())[:300]


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of `core` that led here, so that the user finds it and equal warnings are told apart."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level + 1)


def check_known(what: str, words: Iterable[str], known: Iterable[str]) -> None:
    """Refuse words that are none of `known`.

    Args:
        what: what is wrong with such a word: "unknown method", "network 'unet' has no option".
        words: what the user wrote.
        known: what is allowed.

    Raises:
        UserError: the first word that is unknown, with what may be meant.
    """
    allowed = list(known)
    for word in words:
        if word not in allowed:
            raise UserError(f"{what} '{word}': {did_you_mean(word, allowed)}")
