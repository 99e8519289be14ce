"""A classifier of the digits that a run has trained, and digits as image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from classification.data.sampling import occurrence
from classification.run import main

FAST = ["--train-limit", "150", "--epochs", "3", "--no-progress", "--cfg-options", "train.batch_size=50"]


def train(folder: Path, *more: str) -> Path:
    """A run's work directory."""
    assert main([*FAST, *more, "--work-dir", str(folder)]) == 0
    return folder


def held_out_digits() -> tuple[np.ndarray, np.ndarray]:
    """The held-out digits (N, 8, 8), 0 to 16, and their labels."""
    digits = load_digits()
    held_out = occurrence(digits.target) % 5 == 4
    return digits.images[held_out], digits.target[held_out]


def write_digits(folder: Path, images: np.ndarray, enlarge: int = 1) -> list[Path]:
    """PNGs of 8 bits, every pixel a square of `enlarge` pixels a side."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, image in enumerate(images):
        pixels = np.rint(image * 255 / 16).astype(np.uint8)
        files.append(folder / f"{number:03}.png")
        Image.fromarray(pixels.repeat(enlarge, 0).repeat(enlarge, 1)).save(files[-1])
    return files
