"""Photographs for tests, read by Pillow alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

from core.export.subject import photographs


def astronaut() -> np.ndarray:
    """A colour photograph, (512, 512, 3), uint8."""
    return np.array(Image.open(photographs()[0]).convert("RGB"))
