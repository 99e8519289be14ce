"""Rows of four plain decimals to arrays, many files at a time: a few array operations instead of a call per value.

Most of the work is done on the bytes of the text, dozens of them in one instruction. Only the end of each value and the
value itself become arrays with one element per value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VALUES_PER_ROW = 4
MAX_DIGITS = 16
MAX_EXACT = 2**53  # below it float64 holds every integer
MAX_INT32 = 2**31
POWERS_OF_TEN = 10.0 ** np.arange(MAX_DIGITS + 1)
# Padding in front of the text, so that digits before the first value's end are looked for inside it.
PADDING = b"\n" * (MAX_DIGITS + 1)
NONE = np.zeros(0, np.intp)


def parse_rows(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray] | None:
    """Read texts that hold nothing but rows of four plain decimals (or NaN) and one kind of separator.

    A decimal is its digits as an integer divided by a power of ten; both are exact in float64 below 2**53, so the
    division, with its one rounding, gives exactly the number of `float(text)`.

    Args:
        texts: each ends in a newline.

    Returns:
        The rows of all texts, `(rows, 4)`, in the smallest of uint16, int32 and float64 that holds them, and the number
        of rows in each text; None if anything else is found; a slower reader then names it.
    """
    joined = b"".join((PADDING, *texts))
    stops = np.cumsum([len(text) for text in texts])
    missing, signs, points = NONE, NONE, NONE  # positions of NaN, minus and decimal point
    if b"n" in joined or b"N" in joined:
        found = _find_nan(joined)
        if found is None:
            return None
        missing, joined = found, joined.lower().replace(b"nan", b"000")
    if b"-" in joined:
        found = _find_signs(joined)
        if found is None:
            return None
        signs = found
    if b"." in joined:
        found = _find_points(joined)
        if found is None:
            return None
        missing, signs, stops = (marks - np.searchsorted(found, marks) for marks in (missing, signs, stops))
        points = found - np.arange(found.size)  # of the characters that followed them
        joined = joined.replace(b".", b"")
    characters = np.frombuffer(joined, np.uint8)
    if characters.max() > ord("9") or b"/" in joined:
        return None
    is_end = characters < ord("-")
    ends = np.flatnonzero(is_end[len(PADDING) :])
    newlines = ends[VALUES_PER_ROW - 1 :: VALUES_PER_ROW]
    if not _is_table(characters[len(PADDING) :], ends, newlines):
        return None
    values = _integers(characters, is_end, ends)
    if values is None:
        return None
    if points.size:
        divisors = _divisors(points, ends)
        if divisors is None:
            return None
        values = values / divisors
    marked = ends.searchsorted(signs)
    # Integers have neither NaN nor a negative zero.
    if points.size or missing.size or not values.take(marked).all():
        values = values.astype(np.float64, copy=False)
    elif signs.size or values.dtype != np.uint16:
        values = values.astype(np.int32 if values.max() < MAX_INT32 else np.float64, copy=False)
    if signs.size:
        values[marked] *= -1
    if missing.size:
        values[ends.searchsorted(missing)] = np.nan
    rows = newlines.searchsorted(stops)
    rows[1:] -= rows[:-1].copy()
    return values.reshape(-1, VALUES_PER_ROW), rows


def _is_table(characters: np.ndarray, ends: np.ndarray, newlines: np.ndarray) -> bool:
    """Whether three equal separators and a newline follow each other throughout."""
    if not ends.size or ends.size % VALUES_PER_ROW:
        return False
    separator = characters[ends[0]]
    if separator not in b",\t " or (characters.take(newlines) != ord("\n")).any():
        return False
    return int(np.count_nonzero(characters == separator)) == ends.size - newlines.size


def _integers(characters: np.ndarray, is_end: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """The integers whose digits precede `ends`; None if one has no digit, or too many.

    Every position of the text gets the value of the last two digits of a number that would end there, and of the two
    before them, all at once and in bytes. A number is then composed of the last four digits, the four before them, and
    so on.

    Args:
        characters: the padding and the text, which is digits, separators, newlines, and signs in front of digits.
        is_end: which of them are separators and newlines.
        ends: their positions in the text.
    """
    is_digit = characters >= ord("0")
    if np.count_nonzero(is_end[1:] & is_digit[:-1]) != ends.size:
        return None
    is_digit = is_digit.view(np.uint8)  # all operands are bytes, so that NumPy converts nothing
    digits = characters - np.uint8(ord("0"))
    digits *= is_digit
    pairs = digits[:-1] * np.uint8(10)
    pairs += digits[1:]
    is_pair = is_digit[:-1] & is_digit[1:]
    ones, hundreds = pairs[2:], pairs[:-2] * is_pair[1:-1]
    are_five = is_pair[:-3] & is_pair[2:-1]
    are_five &= is_digit[4:]

    def before(place: int, what: np.ndarray, width: int = 4) -> np.ndarray:
        """`what` holds of the `width` characters that end `place` characters before each value's end."""
        return what[len(PADDING) - width - place :].take(ends)

    def fours(place: int) -> np.ndarray:
        return before(place, hundreds) * np.uint16(100) + before(place, ones)

    numbers = fours(0)
    if not are_five.view(bool).any():
        return numbers
    goes_on = before(0, are_five, 5)
    for place in range(4, MAX_DIGITS, 4):
        numbers = numbers + fours(place) * goes_on * 10.0**place
        goes_on &= before(place, are_five, 5)
        if not goes_on.any():
            break
    return None if goes_on.any() or numbers.max() >= MAX_EXACT else numbers


def _find_nan(joined: bytes) -> np.ndarray | None:
    """The positions of values that are the letters of NaN; None if an N is anywhere else."""
    characters = np.frombuffer(joined, np.uint8)
    letters = np.flatnonzero((characters | 32) == ord("n"))
    first, last = letters[::2], letters[1::2]
    if first.size != last.size or (last - first != 2).any() or (characters[first + 1] | 32 != ord("a")).any():
        return None
    whole = (characters[first - 1] < ord("-")) & (characters[last + 1] < ord("-"))
    return first - len(PADDING) if whole.all() else None


def _find_signs(joined: bytes) -> np.ndarray | None:
    """The positions at which a minus begins a value; None if one is anywhere else."""
    characters = np.frombuffer(joined, np.uint8)
    signs = np.flatnonzero(characters == ord("-"))
    return signs - len(PADDING) if (characters[signs - 1] < ord("-")).all() else None


def _find_points(joined: bytes) -> np.ndarray | None:
    """The positions of decimal points; None if neither a digit nor the end of a value follows one."""
    characters = np.frombuffer(joined, np.uint8)
    points = np.flatnonzero(characters == ord("."))
    following = characters[points + 1]
    return None if ((following == ord("-")) | (following == ord("."))).any() else points - len(PADDING)


def _divisors(points: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """The power of ten by which each value's digits are divided; None if a value has two decimal points.

    Args:
        points: positions, in the text without decimal points, of the characters that followed them.
        ends: positions of the values' ends in the same text.
    """
    if points.size == ends.size and (points <= ends).all() and (points[1:] > ends[:-1]).all():
        return POWERS_OF_TEN.take(ends - points)  # every value has one
    value = np.searchsorted(ends, points)
    if (np.diff(value) == 0).any():
        return None
    divisors = np.ones(ends.size)
    divisors[value] = POWERS_OF_TEN.take(ends.take(value) - points)
    return divisors
