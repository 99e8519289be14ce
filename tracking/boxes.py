"""Box files: strict text to `(frames, 4)` arrays and back; every malformed line is named by file and line.

Boxes are `x, y, width, height` in pixels, one line per frame, as all single-object tracking benchmarks store them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import UserError
from tracking.decimals import VALUES_PER_ROW, parse_rows

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SEPARATORS = re.compile(r"[,;\s]+")
# Files are parsed together up to this size: fewer array operations than file by file, on arrays that fit a cache.
BLOCK_BYTES = 1 << 17


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


@dataclass(frozen=True)
class BoxFiles:
    """The boxes of many files, one below the other.

    Attributes:
        boxes: `(frames, 4)` float64 of all files; its columns are contiguous.
        lengths: frames in each file.
        notes: `lines` and `header` of each file's `BoxTable`.
    """

    boxes: np.ndarray
    lengths: np.ndarray
    notes: Sequence[tuple[Sequence[int] | None, str | None]]

    def tables(self, sources: Sequence[str]) -> list[BoxTable]:
        """Each file's part, a view, under its name."""
        found = []
        stop = 0
        for source, length, (lines, header) in zip(sources, self.lengths.tolist(), self.notes, strict=True):
            start, stop = stop, stop + length
            lines = None if lines is None else tuple(lines)
            found.append(BoxTable(self.boxes[start:stop], source, lines, header))
        return found


def parse_boxes(data: bytes, source: str) -> BoxTable:
    """Read a box file: comma, tab, semicolon or space between the values, integers or floats, NaN allowed.

    Args:
        data: the bytes of the file.
        source: its name, for messages.

    Raises:
        UserError: the file is empty, is not text, or holds a line that is not four numbers. One heading line
            at the very top is skipped (and reported in `BoxTable.header`); a second one is an error.
    """
    return parse_files([data], [source]).tables([source])[0]


def parse_files(contents: Sequence[bytes], sources: Sequence[str]) -> BoxFiles:
    """`parse_boxes` for many files at once, which is several times faster.

    Args:
        contents: the bytes of each file.
        sources: their names, for messages.

    Raises:
        UserError: see `parse_boxes`.
    """
    texts = [_in_plain_form(data) for data in contents]
    # A row takes eight bytes at least; what is not filled is never touched and takes no memory.
    columns = np.empty((VALUES_PER_ROW, sum(map(len, texts)) // 8 + 1))
    lengths: list[int] = []
    notes: list[tuple[Sequence[int] | None, str | None]] = []
    filled = 0
    for block in _blocks(texts):
        parsed = parse_rows(texts[block])
        if parsed is not None:
            parts, rows = [parsed[0]], parsed[1].tolist()
            notes += [(None, None)] * len(rows)
        else:
            tables = [_parse_alone(*file) for file in zip(contents[block], sources[block], strict=True)]
            parts, rows = [table.boxes for table in tables], [len(table.boxes) for table in tables]
            notes += [(table.lines, table.header) for table in tables]
        for part in parts:
            columns[:, filled : filled + len(part)] = part.T
            filled += len(part)
        lengths += rows
    return BoxFiles(columns[:, :filled].T, np.array(lengths, np.int64), notes)


def _in_plain_form(data: bytes) -> bytes:
    """The text with the newlines and separators that `parse_rows` expects, where they are merely written otherwise."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if b" " in data:
        data = data.replace(b", ", b",").replace(b"\n ", b"\n").lstrip(b" ")
    return data if data.endswith(b"\n") else data + b"\n"


def _blocks(texts: Sequence[bytes]) -> Iterator[slice]:
    """Runs of texts of `BLOCK_BYTES` or, at the end, less."""
    start = size = 0
    for index, text in enumerate(texts, start=1):
        size += len(text)
        if size >= BLOCK_BYTES or index == len(texts):
            yield slice(start, index)
            start, size = index, 0


def _parse_alone(data: bytes, source: str) -> BoxTable:
    """A file of a block in which something is unusual, perhaps in another file."""
    parsed = parse_rows([_in_plain_form(data)])
    return _parse_line_by_line(data, source) if parsed is None else BoxTable(parsed[0], source)


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
    if "_" in field:  # Python's own notation for thousands, no tracker's
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
