"""Is an image file whole? Some decoders fill what is missing with grey and say nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# In entropy-coded data 0xFF is followed by 0x00 (a stuffed zero), by a restart marker or by fill bytes.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE = 0xD9
_NO_FRAMES = (0xC4, 0xC8, 0xCC)  # of 0xC0 to 0xCF: Huffman tables, an extension, arithmetic coding


def find_truncation(content: bytes) -> str | None:
    """Say in words how a JPEG or PNG file is cut short, or None where it is whole or of another format."""
    if not content:
        return "the file is empty"
    if content.startswith(JPEG):
        return None if _jpeg_is_whole(content) else "truncated JPEG (no end-of-image marker)"
    if content.startswith(PNG):
        return None if _PNG_END in content else "truncated PNG (no IEND chunk)"
    return None


def jpeg_components(content: bytes) -> int | None:
    """Colour components of a JPEG by its frame header: 1 is grey, 3 are YCbCr or RGB, 4 are CMYK; None without one."""
    for marker, position in _markers(content):
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            # Behind the marker: length (2 bytes), bits (1), height (2), width (2), components (1).
            return content[position + 7] if position + 7 < len(content) else None
    return None


def _jpeg_is_whole(content: bytes) -> bool:
    """Walk the marker segments: a search for the end marker would find an embedded thumbnail's."""
    for marker, _ in _markers(content):
        if marker == _END_OF_IMAGE:
            return True
    return False


def _markers(content: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG behind its first, each with the position after it."""
    position = 2
    while match := _NEXT_MARKER.search(content, position):
        position = match.end()
        yield content[position - 1], position
        position += int.from_bytes(content[position : position + 2], "big")
