"""Crops against NumPy's edge padding and torch's bilinear resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from torch.nn import functional

from tracking.dimp.crops import cut


@given(
    width=st.integers(1, 24),
    height=st.integers(1, 24),
    x=st.integers(-60, 80),
    y=st.integers(-60, 80),
    size=st.integers(2, 30),
)
def test_the_border_is_repeated(width: int, height: int, x: int, y: int, size: int) -> None:
    image = np.random.default_rng(width * 31 + height).integers(0, 256, (3, height, width), np.uint8)
    # A square of as many pixels as the crop has: nothing is resized.
    crop, frame = cut(torch.from_numpy(image), x, y, size, size)
    reach = 120
    padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    left, top = x - (size - 1) // 2 + reach, y - (size - 1) // 2 + reach
    assert crop.dtype == torch.float32
    assert (crop.numpy() == padded[:, top : top + size, left : left + size]).all()
    assert (frame.x, frame.y) == (left - reach + (size - 1) / 2, top - reach + (size - 1) / 2)


@pytest.mark.parametrize(("side", "size"), [(150, 144), (61, 144), (263, 144), (2, 64)])
def test_resizing_is_torchs(side: int, size: int) -> None:
    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1)
    crop, _ = cut(image, 250, 260, side, size)
    left, top = 250 - (side - 1) // 2, 260 - (side - 1) // 2
    patch = image[None, :, top : top + side, left : left + side].float()
    expected = functional.interpolate(patch, (size, size), mode="bilinear", align_corners=False)[0]
    assert (crop - expected).abs().max() < 0.02
