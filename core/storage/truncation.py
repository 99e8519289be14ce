"""Is an image file whole, and how large does it say it is? Some decoders fill what is missing with grey, silently."""

from __future__ import annotations

import re
from collections.abc import Iterator

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# In entropy-coded data 0xFF is followed by 0x00 (a stuffed zero), by a restart marker or by fill bytes.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE = 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of frame headers


def find_truncation(content: bytes) -> str | None:
    """How a JPEG or PNG file is cut short, in words; None if it is whole or of another format."""
    if not content:
        return "the file is empty"
    if content.startswith(JPEG):
        return None if _jpeg_is_whole(content) else "truncated JPEG (no end-of-image marker)"
    if content.startswith(PNG):
        return None if _PNG_END in content else "truncated PNG (no IEND chunk)"
    return None


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height that the first frame header of a JPEG names; None if there is none."""
    for marker, place in _segments(content):
        if marker in _FRAMES:
            header = content[place + 3 : place + 7]  # length and bits stand before
            return int.from_bytes(header[2:], "big"), int.from_bytes(header[:2], "big")
    return None


def _jpeg_is_whole(content: bytes) -> bool:
    return any(marker == _END_OF_IMAGE for marker, _ in _segments(content))


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Walk the marker segments: a search for a marker would find that of an embedded thumbnail.

    Yields:
        The marker, and the position of its length.
    """
    position = 2
    while match := _NEXT_MARKER.search(content, position):
        position = match.end()
        yield content[position - 1], position
        position += int.from_bytes(content[position : position + 2], "big")
