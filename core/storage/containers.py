"""What a video file's own structure says: is it whole, and do frames lie in it that are not to be shown?

OpenCV stops at the end of what it can read and does not say why. AVI (RIFF), MP4 and MOV (ISO/IEC 14496-12) and
Matroska/WebM (RFC 9559) all write down how long their parts are.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EBML, _SEGMENT, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")

Data = mmap.mmap | bytes


@dataclass(frozen=True)
class Structure:
    """A video file as its container describes it.

    Attributes:
        damage: how it is cut short or damaged, in words; None where nothing shows, or the format is another one.
        trimmed: an edit list begins the video after its first stored frame, so that fewer are shown than are stored.
    """

    damage: str | None = None
    trimmed: bool = False


def read_structure(path: str | Path) -> Structure:
    """Read the structure of a video file; only the lengths of its parts are looked at, not the pictures.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        if not file.read(1):
            return Structure("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] == b"RIFF":
                return Structure(_riff_damage(data))
            if data[4:8] in _MP4_STARTS:
                return Structure(_mp4_damage(data), _is_trimmed(data))
            if data[:4] == _EBML:
                return Structure(_matroska_damage(data))
    return Structure()


def _cut(size: int, wanted: int) -> str:
    return f"the file is cut short: {size:,} of at least {wanted:,} bytes are there"


def _riff_damage(data: Data) -> str | None:
    position = 0
    while data[position : position + 4] == b"RIFF":  # files of more than a gigabyte have several
        end = position + 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        if end > len(data):
            return _cut(len(data), end)
        if end == position + 8:
            return "its recording was never finished"
        position = end + end % 2
    return None


def _boxes(data: Data, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start of the content and end of each box of an MP4 file; the last end may lie beyond `stop`."""
    while start + 8 <= stop:
        length, kind, content = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], 8
        if length == 1:
            length, content = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        end = stop if length == 0 else start + max(length, content)
        yield kind, start + content, end
        start = end


def _mp4_damage(data: Data) -> str | None:
    kinds = set()
    for kind, _, end in _boxes(data, 0, len(data)):
        if end > len(data):
            return _cut(len(data), end)
        kinds.add(kind)
    return None if b"moov" in kinds else "the file is cut short: its table of frames (moov) is missing"


def _find_box(data: Data, start: int, stop: int, *kinds: bytes) -> tuple[int, int] | None:
    """Content of the first box at a path of kinds, as (start, end)."""
    place = (start, stop)
    for wanted in kinds:
        found = next(((a, b) for kind, a, b in _boxes(data, *place) if kind == wanted), None)
        if found is None:
            return None
        place = found
    return place


def _is_trimmed(data: Data) -> bool:
    """Whether the video's edit list skips stored frames; one that only takes back the decoder's delay does not."""
    moov = _find_box(data, 0, len(data), b"moov")
    for kind, start, end in _boxes(data, *moov) if moov else ():
        handler = _find_box(data, start, end, b"mdia", b"hdlr") if kind == b"trak" else None
        edits = _find_box(data, start, end, b"edts", b"elst") if handler else None
        if handler is None or edits is None or data[handler[0] + 8 : handler[0] + 12] != b"vide":
            continue
        wide = data[edits[0]] == 1
        size = 20 if wide else 12
        starts = []
        for entry in range(edits[0] + 8, min(edits[1], len(data)) - size + 1, size):
            field = data[entry + 8 : entry + 16] if wide else data[entry + 4 : entry + 8]
            starts.append(int.from_bytes(field, "big", signed=True))
        starts = [start for start in starts if start != -1]  # an empty edit only delays the start
        offsets = _find_box(data, start, end, b"mdia", b"minf", b"stbl", b"ctts")
        first = int.from_bytes(data[offsets[0] + 12 : offsets[0] + 16], "big", signed=True) if offsets else 0
        return len(starts) > 1 or any(start > max(first, 0) for start in starts)
    return False


def _element(data: Data, start: int) -> tuple[bytes, int, int | None] | None:
    """Identifier, start of the content and end of the EBML element at `start`; no end where its size is unknown, and
    None where no element begins.
    """
    head = data[start : start + 12]
    if not head or head[0] < 0x10:
        return None
    width = 9 - head[0].bit_length()
    rest = head[width:]
    if not rest or rest[0] == 0:
        return None
    size_width = 9 - rest[0].bit_length()
    size = int.from_bytes(rest[:size_width], "big") - (1 << 7 * size_width)
    content = start + width + size_width
    unknown = size == (1 << 7 * size_width) - 1
    return head[:width], content, None if unknown else content + size


def _matroska_damage(data: Data) -> str | None:
    header = _element(data, 0)
    segment = _element(data, header[2]) if header is not None and header[2] is not None else None
    if segment is None or segment[0] != _SEGMENT:
        return "its header is damaged"
    _, start, end = segment
    if end is not None and end > len(data):
        return _cut(len(data), end)
    waiting = [(start, len(data) if end is None else end)]
    while waiting:
        start, end = waiting.pop()
        while start < end:
            found = _element(data, start)
            if found is None or (found[2] is not None and found[2] > end):
                return f"the file is damaged at byte {start:,}"
            if found[2] is None:  # a live recording: what is inside has no known end
                break
            if found[0] == _CLUSTER:
                waiting.append((found[1], found[2]))
            start = found[2]
    return None
