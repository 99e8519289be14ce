"""Is an image file whole? Some decoders fill what is missing with grey and say nothing."""

from __future__ import annotations

import re

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# In entropy-coded data 0xFF is followed by 0x00 (a stuffed zero), by a restart marker or by fill bytes.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE = 0xD9


def find_truncation(content: bytes) -> str | None:
    """Say in words how a JPEG or PNG file is cut short, or None where it is whole or of another format."""
    if not content:
        return "the file is empty"
    if content.startswith(JPEG):
        return None if _jpeg_is_whole(content) else "truncated JPEG (no end-of-image marker)"
    if content.startswith(PNG):
        return None if _PNG_END in content else "truncated PNG (no IEND chunk)"
    return None


def _jpeg_is_whole(content: bytes) -> bool:
    """Walk the marker segments: a search for the end marker would find an embedded thumbnail's."""
    position = 2
    while match := _NEXT_MARKER.search(content, position):
        position = match.end()
        if content[position - 1] == _END_OF_IMAGE:
            return True
        position += int.from_bytes(content[position : position + 2], "big")
    return False
