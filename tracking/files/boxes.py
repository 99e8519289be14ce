"""Box files: strict text to `(frames, 4)` arrays and back; every malformed line is named by file and line.

Boxes are `x, y, width, height` in pixels, one line per frame, as all single-object tracking benchmarks store them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import UserError
from tracking.files.decimals import parse_rows

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONGEST_LINE = 10_000  # characters: a line of many millions would be split into as many pieces
SEPARATORS = re.compile(r"[,;\s]+")


@dataclass(frozen=True)
class BoxTable:
    """The boxes of one file.

    Attributes:
        boxes: `(frames, 4)`, `x, y, width, height` in pixels, int32 if the files that are read together hold only whole
            numbers, else float64; not finite where the file says so.
        source: the file (or archive member) of the boxes; empty if they stand for a missing file.
        lines: the 1-based line of each row; None when row `i` stands on line `i + 1`.
        header: the text of a heading line that was skipped, or None.
    """

    boxes: np.ndarray
    source: str
    lines: tuple[int, ...] | None = None
    header: str | None = None

    def line(self, row: int) -> int:
        """The 1-based line in the file of row `row` (0-based)."""
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
    plain = parse_plain_boxes([data])
    if plain is None:
        return _parse_line_by_line(data, source)
    return BoxTable(plain[0].astype(np.float64, copy=False), source)


def parse_plain_boxes(contents: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray] | None:
    """The boxes of several files at once, if all of them hold plain decimals only; see `decimals.parse_rows`."""
    texts = [data if data.endswith(b"\n") else data + b"\n" for data in contents]
    # Files that are read together are mostly written alike: the first shows which form to try first.
    if _plain_form(texts[0]) == texts[0] and (found := parse_rows(texts)) is not None:
        return found
    forms = [_plain_form(text) for text in texts]
    return None if forms == texts else parse_rows(forms)


def _plain_form(text: bytes) -> bytes:
    """The text with the newlines and separators that `parse_rows` expects, if it only writes these differently."""
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    if b" " in text:
        text = text.replace(b", ", b",").replace(b"\n ", b"\n").lstrip(b" ")
    return text


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
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"{source}, line {number}: {len(line):,} characters, which are not four numbers: repair the file"
            )
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
    if "_" in field:  # Python's own notation for thousands, which no tracker uses
        return None
    try:
        return float(field)
    except ValueError:
        return None


def parse_flags(data: bytes, source: str) -> np.ndarray:
    """Read 0/1 flags, one per frame, on one comma-separated line or one per line; `(frames,)` bool.

    Raises:
        UserError: a value other than a number.
    """
    marks, separators = data[::2], data[1::2]
    if data and not marks.strip(b"01") and not separators.strip(b",\n"):
        return np.frombuffer(marks, np.uint8) == ord("1")
    flags = [_number(field) for field in SEPARATORS.split(data.decode("utf-8", "replace").strip()) if field]
    if not flags or any(flag is None for flag in flags):
        raise UserError(f"{source}: expected a 0 or 1 for each frame")
    return np.array(flags, np.float64) != 0


def format_boxes(boxes: np.ndarray, separator: str = ",", decimals: int = 4) -> str:
    """Boxes as text, one line per frame, `decimals` digits after the point.

    Args:
        boxes: `(frames, 4)`.
        separator: written between the values.
        decimals: digits after the point; 0 writes rounded integers.
    """
    rows: Sequence[Sequence[float]] = np.asarray(boxes, np.float64).tolist()
    return "".join(separator.join(f"{value:.{decimals}f}" for value in row) + "\n" for row in rows)
