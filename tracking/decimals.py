"""Rows of four plain decimals to arrays, many files at a time: a few array operations instead of a call per value."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

VALUES_PER_ROW = 4
NOT_A_NUMBER = re.compile(rb"[nN][aA][nN]")
MAX_DIGITS = 15  # below 2**53, so exact in float64
POWERS_OF_TEN = 10.0 ** np.arange(MAX_DIGITS + 1)
# In front of the text, so that the digits looked for before the first values' ends lie inside it.
PADDING = b"\n" * (MAX_DIGITS + 1)
NONE = np.zeros(0, np.intp)


def parse_rows(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray] | None:
    """Read texts that hold nothing but rows of four plain decimals (or NaN) and one kind of separator.

    A decimal is its digits as an integer divided by a power of ten; both are exact in float64 below 2**53, so the
    one rounding of the division gives the very number that `float(text)` gives.

    Args:
        texts: each ends in a newline.

    Returns:
        The rows of all texts, `(rows, 4)`, float32 where that holds them exactly and float64 where not, and the number
        of rows in each text; None where anything else is found, which is for a slower reader to name.
    """
    joined = b"".join((PADDING, *texts))
    characters = np.frombuffer(joined, np.uint8)[len(PADDING) :]
    ends = np.flatnonzero(characters < ord("-"))
    newlines = ends[VALUES_PER_ROW - 1 :: VALUES_PER_ROW]
    if not _is_table(characters, ends, newlines):
        return None
    stops = np.cumsum([len(text) for text in texts])
    rows = np.diff(np.searchsorted(newlines, stops), prepend=0)  # before the marks go and the ends move
    lengths = ends.copy()
    np.subtract(ends[1:], ends[:-1], out=lengths[1:])
    lengths[1:] -= 1
    negative, missing, divisors = NONE, NONE, None
    if b"n" in joined or b"N" in joined:
        missing, found = _find_nan(characters, ends, lengths)
        if not found:
            return None
        joined = NOT_A_NUMBER.sub(b"000", joined)
    if b"-" in joined:
        negative, found = _find_signs(characters, ends, lengths)
        if not found:
            return None
        lengths[negative] -= 1
    if b"." in joined:
        divisors = _find_points(characters, ends, lengths)
        if divisors is None:
            return None
        joined = joined.replace(b".", b"")
    values = _integers(joined, ends, lengths)
    if values is None:
        return None
    # float32 holds every number of four digits and a sign (of zero, too): half the memory to go through.
    values = values.astype(np.promote_types(values.dtype, np.float32), copy=False)
    values[negative] *= -1
    if divisors is not None:
        values = values / divisors
    values[missing] = np.nan
    return values.reshape(-1, VALUES_PER_ROW), rows


def _is_table(characters: np.ndarray, ends: np.ndarray, newlines: np.ndarray) -> bool:
    """Whether three equal separators and a newline follow each other throughout."""
    if not ends.size or ends.size % VALUES_PER_ROW:
        return False
    separator = characters[ends[0]]
    if separator not in b",\t " or (characters.take(newlines) != ord("\n")).any():
        return False
    return int(np.count_nonzero(characters == separator)) == ends.size - newlines.size


def _integers(joined: bytes, ends: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
    """The integers of `lengths` digits that end before the positions `ends`; None where one is malformed or too long.

    Every position of the text gets the value of the one or two digits that end there, all at once and in bytes; a
    number is then put together from the pairs that end at its end, two places before it, and so on.
    """
    digits = np.frombuffer(joined, np.uint8) - np.uint8(ord("0"))
    is_digit = digits <= 9
    longest = int(lengths.max())
    if longest > MAX_DIGITS or lengths.min() < 1 or np.count_nonzero(is_digit) != lengths.sum():
        return None
    digits *= is_digit
    pairs = np.empty_like(digits)
    np.multiply(digits[:-1], 10, out=pairs[1:])
    pairs[1:] += digits[1:]

    def pairs_before(place: int) -> np.ndarray:
        found = pairs[len(PADDING) - 1 - place :].take(ends)
        if place:
            found *= lengths > place  # shorter numbers have none: what stands there is the number before
        return found

    def fours_before(place: int) -> np.ndarray:
        return pairs_before(place) + pairs_before(place + 2) * np.uint16(100)

    numbers = fours_before(0) if longest > 2 else pairs_before(0)
    for place in range(4, longest, 4):
        numbers = numbers + fours_before(place) * 10.0**place
    return numbers


def _find_nan(characters: np.ndarray, ends: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, bool]:
    """Which values are the three letters of NaN, and whether the letter N is in nothing else."""
    letters = np.flatnonzero((characters | 32) == ord("n"))
    first, last = letters[::2], letters[1::2]
    if first.size != last.size or (last - first != 2).any() or (characters[first + 1] | 32 != ord("a")).any():
        return NONE, False
    value = np.searchsorted(ends, last)
    whole = (ends[value] == last + 1) & (ends[value] - lengths[value] == first)
    return value, bool(whole.all())


def _find_signs(characters: np.ndarray, ends: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, bool]:
    """Which values begin with a minus, and whether there is none anywhere else."""
    signs = np.flatnonzero(characters == ord("-"))
    value = np.searchsorted(ends, signs)
    return value, bool((ends[value] - lengths[value] == signs).all())


def _find_points(characters: np.ndarray, ends: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
    """The power of ten by which each value's digits are divided; None where a value has two decimal points.

    Moves `ends` and shortens `lengths`, in place, to what they are without the points.
    """
    points = np.flatnonzero(characters == ord("."))
    every = points.size == ends.size
    value = np.arange(ends.size) if every else np.searchsorted(ends, points)
    digits = ends[value] - points - 1
    if (digits < 0).any() or (digits >= lengths[value]).any() or (np.diff(value) == 0).any():
        return None
    divisors = np.ones(ends.size)
    divisors[value] = POWERS_OF_TEN[np.minimum(digits, MAX_DIGITS)]
    lengths[value] -= 1
    ends -= value + 1 if every else np.searchsorted(points, ends)
    return divisors
