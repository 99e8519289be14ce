"""What a video file's own structure says: is it whole, and does it hold frames that are not to be shown?

OpenCV stops at the end of what it can read and does not say why. AVI (RIFF), MP4 and MOV (ISO/IEC 14496-12) and
Matroska/WebM (RFC 9559) all store the lengths of their parts.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EBML, _SEGMENT, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_TRACKS, _TRACK, _NUMBER = b"\x16\x54\xae\x6b", b"\xae", b"\xd7"
# Matroska's elements: those of a segment, those of a cluster, and those of a cluster that hold a number (8 bytes).
_IN_SEGMENT = {
    b"\x11\x4d\x9b\x74",  # SeekHead
    b"\x15\x49\xa9\x66",  # Info
    _TRACKS,
    _CLUSTER,
    b"\x1c\x53\xbb\x6b",  # Cues
    b"\x10\x43\xa7\x70",  # Chapters
    b"\x19\x41\xa4\x69",  # Attachments
    b"\x12\x54\xc3\x67",  # Tags
    b"\xec",  # Void
    b"\xbf",  # CRC-32
}
_SIMPLE_BLOCK, _BLOCK_GROUP = b"\xa3", b"\xa0"
_NUMBERS = {b"\xe7", b"\xa7", b"\xab"}  # Timestamp, Position, PrevSize
_IN_CLUSTER = {_SIMPLE_BLOCK, _BLOCK_GROUP, *_NUMBERS, b"\x58\x54", b"\xaf", b"\xec", b"\xbf"}
_MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")

Data = mmap.mmap | bytes


@dataclass(frozen=True)
class Structure:
    """A video file as its container describes it.

    Attributes:
        damage: how it is cut short or damaged, in words; None if no damage shows or the format is another one.
        trimmed: whether an edit list begins after the first stored frame, so that fewer are shown than are stored.
        stored: frames in its index, if it has one to compare with its contents.
        misplaced: numbers, from 1, of the frames that do not lie where the index has them.
    """

    damage: str | None = None
    trimmed: bool = False
    stored: int | None = None
    misplaced: tuple[int, ...] = ()


def read_structure(path: str | Path) -> Structure:
    """Read the structure of a video file: only the lengths of its parts, not the pictures.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        if not file.read(1):
            return Structure("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] == b"RIFF":
                stored, misplaced, place = _avi_index(data)
                damage = f"the file is damaged at byte {place:,}" if misplaced else None
                return Structure(_riff_damage(data) or damage, stored=stored, misplaced=misplaced)
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


def _riff_chunks(data: Data, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start of the content and end of each chunk; for a list, its own kind, and the content behind that."""
    while start + 8 <= stop:
        kind, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        content, end = start + 8, start + 8 + size
        if kind in (b"LIST", b"RIFF"):
            kind, content = data[content : content + 4], content + 4
        yield kind, content, end
        start = end + end % 2


def _avi_index(data: Data) -> tuple[int | None, tuple[int, ...], int]:
    """Video frames in an AVI's index, which of them do not lie where it says, and the first such place.

    A reader that finds no chunk where one should begin looks for the next one, and counts as if none was between.
    """
    parts = {kind: (start, end) for kind, start, end in _riff_chunks(data, 12, len(data))}
    at = data.rfind(b"idx1")  # if bytes are missing, it is not where the chunks before it say
    if at < 0:
        return None, (), 0
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    streams = [start for kind, start, _ in _riff_chunks(data, *parts.get(b"hdrl", (0, 0))) if kind == b"strl"]
    video = next((n for n, start in enumerate(streams) if data[start + 8 : start + 12] == b"vids"), 0)
    entries = [
        (data[entry : entry + 2], *struct.unpack("<II", data[entry + 8 : entry + 16]))
        for entry in range(at + 8, min(at + 8 + size, len(data)) - 15, 16)
        if data[entry : entry + 4] in (b"%02ddc" % video, b"%02ddb" % video)
    ]
    if not entries:
        return None, (), 0

    if b"movi" not in parts:  # the start of the list of frames is damaged, and so is the first frame
        return len(entries), tuple(range(1, len(entries) + 1)), 12

    def misplaced(base: int) -> list[int]:
        return [
            number
            for number, (stream, offset, length) in enumerate(entries, 1)
            if data[base + offset : base + offset + 2] != stream
            or data[base + offset + 4 : base + offset + 8] != length.to_bytes(4, "little")
        ]

    # Offsets count from the list's kind or, with some writers, from the file's beginning.
    base = min((parts[b"movi"][0] - 4, 0), key=lambda base: len(misplaced(base)))
    wrong = misplaced(base)
    return len(entries), tuple(wrong), base + entries[wrong[0] - 1][1] if wrong else 0


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
    if b"moov" not in kinds:
        return "the file is cut short: its table of frames (moov) is missing"
    pictures = sum(end - start for kind, start, end in _boxes(data, 0, len(data)) if kind == b"mdat")
    listed = _listed_bytes(data)
    if listed > pictures:
        return f"its table of frames lists {listed:,} bytes of pictures, but it holds {pictures:,}"
    return None


def _video_tracks(data: Data) -> Iterator[tuple[int, int]]:
    """Start and end of the content of each track that shows pictures."""
    moov = _find_box(data, 0, len(data), b"moov")
    for kind, start, end in _boxes(data, *moov) if moov else ():
        handler = _find_box(data, start, end, b"mdia", b"hdlr") if kind == b"trak" else None
        if handler is not None and data[handler[0] + 8 : handler[0] + 12] == b"vide":
            yield start, end


def _listed_bytes(data: Data) -> int:
    """Bytes of all pictures, by the tables of their sizes."""
    total = 0
    for start, end in _video_tracks(data):
        sizes = _find_box(data, start, end, b"mdia", b"minf", b"stbl", b"stsz")
        if sizes is None:
            continue
        one, count = struct.unpack(">II", data[sizes[0] + 4 : sizes[0] + 12])
        table = data[sizes[0] + 12 : min(sizes[0] + 12 + 4 * count, sizes[1])]
        total += one * count if one else sum(size for (size,) in struct.iter_unpack(">I", table))
    return total


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
    """Whether the video's edit list skips stored frames; one that only undoes the decoder's delay does not."""
    for start, end in _video_tracks(data):
        edits = _find_box(data, start, end, b"edts", b"elst")
        if edits is None:
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
    place = _matroska_fault(data, start, len(data) if end is None else end, _IN_SEGMENT, set())
    return None if place is None else f"the file is damaged at byte {place:,}"


def _matroska_fault(data: Data, start: int, end: int, allowed: set[bytes], tracks: set[int]) -> int | None:
    """Where the first impossible element between `start` and `end` begins; None if there is none.

    Args:
        data: the file.
        start: of the first element.
        end: of the last.
        allowed: identifiers of elements that may lie here.
        tracks: numbers of the tracks met so far.
    """
    while start < end:
        found = _element(data, start)
        if found is None or found[0] not in allowed or (found[2] is not None and found[2] > end):
            return start
        kind, content, stop = found
        if stop is None:  # a live recording: its content has no known end
            return None
        if kind in _NUMBERS and stop - content > 8:
            return start
        if kind == _TRACKS:
            tracks |= _track_numbers(data, content, stop)
        if kind == _SIMPLE_BLOCK and tracks and (data[content] & 0x80) and data[content] & 0x7F not in tracks:
            return start
        if kind == _CLUSTER:
            fault = _matroska_fault(data, content, stop, _IN_CLUSTER, tracks)
            if fault is not None:
                return fault
        start = stop
    return None


def _track_numbers(data: Data, start: int, end: int) -> set[int]:
    """The numbers of the tracks in the element Tracks."""
    numbers = set()
    for kind, content, stop in _elements(data, start, end):
        if kind == _TRACK:
            numbers |= {
                int.from_bytes(data[a:b], "big")
                for kind, a, b in _elements(data, content, stop)
                if kind == _NUMBER
            }
    return numbers


def _elements(data: Data, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Identifier, start of the content and end of each element up to the first that is damaged."""
    while (
        start < end
        and (found := _element(data, start)) is not None
        and found[2] is not None
        and found[2] <= end
    ):
        yield found[0], found[1], found[2]
        start = found[2]
