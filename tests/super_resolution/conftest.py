"""What the super-resolution tests share: benchmark images and photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from core.storage.data import data_root


@pytest.fixture(scope="session")
def benchmark_root() -> Path:
    """The data root, where it holds the benchmark sets."""
    root = data_root()
    if not (root / "benchmark/Set5").is_dir() or not (root / "benchmark/Set14").is_dir():
        pytest.skip(f"no benchmark/Set5 and benchmark/Set14 under '{root}'; set $LWDNA_DATA")
    return root


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A colour photograph, 451 x 300, uint8."""
    return np.asarray(Image.open(Path(skimage.data_dir) / "chelsea.png").convert("RGB"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small networks run no faster on more threads, and results stay the same everywhere."""
    torch.set_num_threads(1)
