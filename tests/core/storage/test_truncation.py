"""Cut files are found, whatever they hold."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import skimage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.storage.truncation import find_truncation

PHOTO = np.asarray(Image.open(Path(skimage.data_dir) / "chelsea.png").convert("RGB"))[:240, :320]


def encode(image: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_every_truncation_of_a_jpeg_is_found(options: dict[str, object]) -> None:
    content = encode(PHOTO[:32, :32], **options)
    assert find_truncation(content) is None
    assert all(find_truncation(content[:length]) for length in range(3, len(content)))


def test_an_embedded_thumbnail_does_not_hide_a_truncation() -> None:
    thumbnail = encode(PHOTO[:16, :16])
    content = encode(PHOTO, exif=b"Exif\0\0" + thumbnail)
    cut = content[: len(content) // 2]
    assert thumbnail in cut  # its end marker is there
    assert find_truncation(content) is None
    assert "truncated JPEG" in str(find_truncation(cut))


@given(st.binary(max_size=64))
def test_any_bytes_are_looked_at(content: bytes) -> None:
    find_truncation(b"\xff\xd8\xff" + content)
