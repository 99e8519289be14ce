"""Small networks on parts of a photograph, as what is exported."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from core.export.subject import Exportable, photographs
from core.storage.description import Origin, header_of


@dataclasses.dataclass(frozen=True)
class Note:
    """A description."""

    model: str
    dataset: str = "photographs"


class Pooled(nn.Module):
    """Any height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(images)).relu().mean((2, 3)))


class Flat(nn.Module):
    """16 x 24 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, 1, 1)
        self.last = nn.Linear(2 * 16 * 24, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.conv(images).flatten(1))


class Squares(nn.Module):
    """Sides that are multiples of four."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(48, 48, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[2] % 4 == images.shape[3] % 4 == 0
        return functional.pixel_shuffle(self.conv(functional.pixel_unshuffle(images, 4)), 4)


class Enlarged(nn.Module):
    """Any height and width; ONNX has no transposed convolution whose padding depends on them."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 3, 2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.up(functional.max_pool2d(images, 2), images.shape[2:])


class Lying(Pooled):
    """Computes something else where it is exported."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 0.01 * torch.compiler.is_exporting()


class Rounded(nn.Module):
    """Whole numbers."""

    def __init__(self, inner: nn.Module, rounded: bool = True) -> None:
        super().__init__()
        self.inner = inner
        self.rounded = rounded

    def forward(self, images: Tensor) -> Tensor:
        values = self.inner(images).clamp(0, 1) * 255
        return values.round().to(torch.uint8) if self.rounded else values


def images(count: int = 3, height: int = 16, width: int = 24) -> Tensor:
    """Parts of a photograph, (N, 3, H, W) in [0, 1]."""
    photo = torch.from_numpy(np.array(Image.open(photographs()[0]).convert("RGB"))).permute(2, 0, 1) / 255
    return torch.stack([photo[:, 40 * row : 40 * row + height, 200 : 200 + width] for row in range(count)])


def subject(graph: nn.Module, **more: Any) -> Exportable:
    """A network as what is exported."""
    options: dict[str, Any] = {
        "task": "toys", "title": type(graph).__name__, "network": graph, "graph": graph.eval(),
        "inputs": {"images": images()}, "outputs": ("out",), "about": {"images": "parts of a photograph", "out": "5"},
        "header": header_of("toys", Note("mine.py:net"), Origin("photographs", "fisher", 3, {"train": {"epochs": 2}})),
        "usage": lambda file: f"print('{file}')",
    }  # fmt: skip
    return Exportable(**{**options, **more})
