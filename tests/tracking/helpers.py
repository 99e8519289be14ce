"""The project's folder, and box files as toolkits write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

PROJECT = Path(__file__).resolve().parents[2]


def write_boxes(path: Path, boxes: Any, separator: str = ",") -> Path:
    """A box file as any toolkit might write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.asarray(boxes, float).tolist()
    path.write_text("".join(separator.join(f"{value:g}" for value in row) + "\n" for row in rows))
    return path
