"""What the tables of small networks are written with: a network of parts and a function, and what tracing finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE = (2, 3, 8, 8)


class Net(nn.Module):
    """Modules, parameters and buffers (plain tensors) by name, and a forward function of the network and its inputs."""

    def __init__(self, parts: Mapping[str, Any], forward: Callable[..., Any]) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.function = forward

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(self, *inputs, **named)


class Sized(Net):
    """A forward function of the module, which keeps sizes in attributes, and of its inputs."""

    def __init__(
        self, forward: Callable[..., Any], parts: Mapping[str, Any] | None = None, **sizes: Any
    ) -> None:
        super().__init__(parts or {}, forward)
        for name, value in sizes.items():
            setattr(self, name, value)


@dataclass(frozen=True)
class Toy:
    """One network and what tracing it has to find."""

    parts: Callable[[], Mapping[str, Any]]
    forward: Callable[..., Any]
    groups: dict[str, tuple[int, int]]  # name -> (width in channels, channels per choice)
    warns: str | None = None  # what a FrozenChannelsWarning has to say; None: no warning
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)
    options: dict[str, Any] = field(default_factory=dict)
    inexact: tuple[str, ...] = ()  # groups whose masked network differs from the cut one

    def build(self) -> Net:
        """The network, with the same weights every time."""
        torch.manual_seed(0)
        return Net(self.parts(), self.forward)

    def inputs(self, batch: int | None = None) -> tuple[Tensor, ...]:
        """Random inputs, as positional arguments."""
        generator = torch.Generator().manual_seed(1)
        shapes = [(shape if batch is None else (batch, *shape[1:])) for shape in self.shapes]
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def conv(inside: int, out: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inside, out, kernel, padding=kernel // 2, **options)


def channels(count: int, *shape: int) -> nn.Parameter:
    """A parameter that is used directly; its first dimension, or the one given by `shape`, is the channels."""
    return nn.Parameter(torch.rand(shape or (count,)) + 0.5)


def chain(middle: nn.Module | None = None, width: int = 8, inside: int | None = None) -> dict[str, nn.Module]:
    """a: 3 -> width, b: something in between, c: inside -> 4."""
    return {"a": conv(3, width), "b": middle or nn.Identity(), "c": conv(inside or width, 4)}


def in_turn(n: Any, x: Tensor) -> Tensor:
    """c(b(relu(a(x))))."""
    return n.c(n.b(F.relu(n.a(x))))


def between(function: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """c(function(n, a(x)))."""
    return lambda n, x: n.c(function(n, n.a(x)))
