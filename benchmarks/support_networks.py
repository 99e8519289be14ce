"""The networks of the support table, as listed in `support_networks.txt`, and how they are made."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError

NAMES = Path(__file__).with_name("support_networks.txt")
BATCH = 2


@dataclass(frozen=True)
class Network:
    """A line of support_networks.txt.

    Attributes:
        aside: whether it is kept aside for judging.
        source: "timm" or "torchvision".
        kind: "convolutional", or "hybrid" with attention.
        family: the family that it represents.
        name: of its factory.
        side: pixels of the square input image.
        options: keyword arguments of its factory.
    """

    aside: bool
    source: str
    kind: str
    family: str
    name: str
    side: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """'timm/resnet18'."""
        return f"{self.source}/{self.name}"

    def make(self, seed: int = 0) -> nn.Module:
        """The network with random weights, a function of the seed, in training mode."""
        torch.manual_seed(seed)
        return self.build()

    def build(self) -> nn.Module:
        """The same, from torch's global generator."""
        from super_resolution.torchvision_shim import make_importable

        make_importable()
        if self.source == "timm":
            import timm

            return timm.create_model(self.name, **self.options)
        from torchvision import models

        builder = models.get_model_builder(self.name)
        backbone = {"weights_backbone": None} & inspect.signature(builder).parameters.keys()
        return builder(weights=None, **dict.fromkeys(backbone), **self.options)

    def inputs(self) -> Tensor:
        """A batch of two random images, (2, 3, side, side)."""
        return torch.rand(BATCH, 3, self.side, self.side, generator=torch.Generator().manual_seed(0))


def networks(path: Path = NAMES) -> list[Network]:
    """The lines of a list of networks.

    Raises:
        UserError: a line has other columns; the message names it.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            aside, source, kind, family, name, side, *options = words
            pairs = (option.split("=") for option in options)
            values = {key: ast.literal_eval(value) for key, value in pairs}
            found.append(
                Network({"table": False, "aside": True}[aside], source, kind, family, name, int(side), values)
            )
        except (KeyError, ValueError):
            raise UserError(
                f"{path}:{number}: expected set, source, kind, family, name, side, options"
            ) from None
    return found
