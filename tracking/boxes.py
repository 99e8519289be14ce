"""Box files: strict text to `(frames, 4)` arrays and back; every malformed line is named by file and line.

Boxes are `x, y, width, height` in pixels, one line per frame, as all single-object tracking benchmarks store them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
NOT_A_NUMBER = re.compile(rb"[nN][aA][nN]")
POWERS_OF_TEN = 10.0 ** np.arange(17)
SEPARATORS = re.compile(r"[,;\s]+")


@dataclass(frozen=True)
class BoxTable:
    """The boxes of one file.

    Attributes:
        boxes: `(frames, 4)` float64, `x, y, width, height` in pixels; not finite where the file says so.
        source: the file (or archive member) that they came from; empty where they stand for a missing file.
        lines: the 1-based line of each row; None when row `i` stands on line `i + 1`.
        header: the text of a heading line that was skipped, or None.
    """

    boxes: np.ndarray
    source: str
    lines: tuple[int, ...] | None = None
    header: str | None = None

    def line(self, row: int) -> int:
        """The 1-based line of the file on which row `row` (0-based) stands."""
        return row + 1 if self.lines is None else self.lines[row]


def parse_boxes(data: bytes, source: str) -> BoxTable:
    """Read a box file: comma, tab, semicolon or space between the values, integers or floats, NaN allowed.

    Args:
        data: the bytes of the file.
        source: its name, for messages.

    Raises:
        UserError: the file is empty, is not text, or holds a line that is not four numbers. One heading line
            at the very top is skipped (and reported in `BoxTable.header`); a second one is an error.
    """
    plain = _parse_plain_decimals(data)
    if plain is not None:
        return BoxTable(plain, source)
    return _parse_line_by_line(data, source)


def _parse_plain_decimals(data: bytes) -> np.ndarray | None:
    """The whole file at once, or None where anything but four plain decimals (or NaN) a line is found.

    A decimal is its digits as an integer divided by a power of ten; both are exact in float64 below 2**53, so the
    one rounding of the division gives the very number that `float(text)` gives.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if b" " in data:
        data = data.replace(b", ", b",").replace(b"\n ", b"\n").lstrip(b" ")
    if not data.endswith(b"\n"):
        data += b"\n"
    characters = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(characters < ord("-")).astype(np.int32)
    kinds = characters[ends]
    if ends.size % 4 or kinds[0] not in b",\t " or (kinds[3::4] != ord("\n")).any():
        return None
    if np.count_nonzero(kinds == kinds[0]) != 3 * (ends.size // 4):
        return None
    not_a_number = None
    if b"n" in data or b"N" in data:
        not_a_number = _find_nan(characters, ends)
        if not_a_number is None:
            return None
        data = NOT_A_NUMBER.sub(b"000", data)
        characters = np.frombuffer(data, np.uint8)
    divisors = None
    if b"." in data:
        dots = np.flatnonzero(characters == ord(".")).astype(np.int32)
        token = np.searchsorted(ends, dots) if dots.size != ends.size else np.arange(ends.size)
        if (np.diff(token) == 0).any() or (dots > ends[token]).any() or (dots[1:] < ends[token[:-1]]).any():
            return None
        divisors = np.ones(ends.size)
        divisors[token] = POWERS_OF_TEN[np.minimum(ends[token] - dots - 1, 16)]
        ends -= (
            np.searchsorted(dots, ends).astype(np.int32)
            if dots.size != ends.size
            else (token + 1).astype(np.int32)
        )
        characters = np.frombuffer(data.replace(b".", b""), np.uint8)
    values = _integers(characters, ends, b"-" in data)
    if values is None:
        return None
    if divisors is not None:
        values /= divisors
    if not_a_number is not None:
        values[not_a_number] = np.nan
    return values.reshape(-1, 4)


def _integers(characters: np.ndarray, ends: np.ndarray, signed: bool) -> np.ndarray | None:
    """The integers that end before the positions `ends`, as float64; None where one is malformed or too long.

    Every position gets the value of the up to four digits that end there, all positions at once and in small types;
    longer numbers are put together from groups of four.
    """
    lengths = np.diff(ends, prepend=np.int32(-1)) - 1
    negative = None
    if signed:
        negative = characters[ends - lengths] == ord("-")
        lengths -= negative
    longest = int(lengths.max())
    digits = characters - np.uint8(ord("0"))
    is_digit = digits <= 9
    if longest > 15 or lengths.min() < 1 or np.count_nonzero(is_digit) != lengths.sum():
        return None
    digits *= is_digit
    twos = digits.copy()
    twos[1:] += digits[:-1] * np.uint8(10)
    twos *= is_digit
    fours = twos.astype(np.uint16)
    fours[2:] += (twos[:-2] * is_digit[1:-1]) * np.uint16(100)
    numbers = fours[ends - 1].astype(np.float64)
    for place in range(4, longest, 4):
        higher = fours[ends - 1 - place] * (lengths > place)
        numbers += higher * 10.0**place  # below 2**53, so exact
    if negative is not None:
        numbers[negative] *= -1
    return numbers


def _find_nan(characters: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """Which values are the three letters of NaN; None where letters make up anything else."""
    found = np.flatnonzero((characters | 32) == ord("n"))
    first, last = found[::2], found[1::2]
    if first.size != last.size or (last - first != 2).any() or (characters[first + 1] | 32 != ord("a")).any():
        return None
    token = np.searchsorted(ends, last)
    starts = np.where(token > 0, ends[token - 1] + 1, 0)
    return token if (ends[token] == last + 1).all() and (starts == first).all() else None


def _parse_line_by_line(data: bytes, source: str) -> BoxTable:
    try:
        text = data.removeprefix(BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{source}: not a text file; expected one line 'x,y,width,height' per frame"
        ) from error
    rows: list[list[float]] = []
    lines: list[int] = []
    header = None
    for number, line in enumerate(text.splitlines(), start=1):
        fields = [field for field in SEPARATORS.split(line.strip()) if field] if "," not in line else None
        if fields is None:
            fields = [field.strip() for field in line.strip().split(",")]
        if not any(fields):
            continue
        values = [_number(field) for field in fields]
        if not rows and header is None and all(value is None for value in values):
            header = line.strip()
            continue
        numbers = [value for value in values if value is not None]
        if len(values) != 4 or len(numbers) != 4:
            kind = "a heading" if not numbers else "not four numbers"
            raise UserError(
                f"{source}, line {number}: {kind}: '{line.strip()[:60]}'; "
                "expected 'x,y,width,height' on every line: repair or remove the line"
            )
        rows.append(numbers)
        lines.append(number)
    if not rows:
        raise UserError(
            f"{source}: empty; expected one line 'x,y,width,height' per frame: run the tracker again"
        )
    ordinary = header is None and lines[-1] == len(lines)
    return BoxTable(np.array(rows, np.float64), source, None if ordinary else tuple(lines), header)


def _number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None


def parse_flags(data: bytes, source: str) -> np.ndarray:
    """Read 0/1 flags, one per frame, on one comma-separated line or one per line; `(frames,)` bool.

    Raises:
        UserError: a value other than a number.
    """
    characters = np.frombuffer(data, np.uint8)
    if characters.size and characters.size % 2 == 0:
        values, separators = characters[::2] - np.uint8(ord("0")), characters[1::2]
        if values.max() <= 1 and ((separators == ord("\n")) | (separators == ord(","))).all():
            return values.astype(bool)
    flags = [_number(field) for field in SEPARATORS.split(data.decode("utf-8", "replace").strip()) if field]
    if not flags or any(flag is None for flag in flags):
        raise UserError(f"{source}: expected a 0 or 1 for each frame")
    return np.array(flags, np.float64) != 0


def format_boxes(boxes: np.ndarray, separator: str = ",", decimals: int = 4) -> str:
    """Boxes as text, one line per frame, `decimals` digits after the point.

    Args:
        boxes: `(frames, 4)`.
        separator: what stands between the values.
        decimals: digits after the point; 0 writes rounded integers.
    """
    rows: Sequence[Sequence[float]] = np.asarray(boxes, np.float64).tolist()
    return "".join(separator.join(f"{value:.{decimals}f}" for value in row) + "\n" for row in rows)
