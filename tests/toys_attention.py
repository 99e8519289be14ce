"""Toys: attention. Heads keep their number, their width shrinks: position p of every head is one choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.toy_parts import Sized, Toy, between, channels, conv


def tokens(function: Any) -> Any:
    """c(a(x) as an image again after function(n, tokens)); 16 tokens of 8 channels."""

    def forward(n: Any, x: Tensor) -> Tensor:
        y = F.max_pool2d(n.a(x), 2)
        b, _, h, w = y.shape
        z = function(n, y.flatten(2).transpose(1, 2))
        return n.c(z.transpose(1, 2).reshape(b, -1, h, w))

    return forward


def parts(attention: nn.Module, inside: int = 8) -> dict[str, nn.Module]:
    return {"a": conv(3, 8), "b": attention, "c": conv(inside, 4)}


def linears(bias: bool = False, **sizes: tuple[int, int]) -> Mapping[str, nn.Module]:
    return {name: nn.Linear(*size, bias=bias) for name, size in sizes.items()}


def vision(n: Any, x: Tensor) -> Tensor:
    """The usual attention (Dosovitskiy et al., 2021); the head's width is the trunk's by the number of heads."""
    b, t, c = x.shape
    q, k, v = n.qkv(x).reshape(b, t, 3, n.heads, c // n.heads).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v)
    return n.proj(y.transpose(1, 2).reshape(b, t, c))


def vision_by_attributes(n: Any, x: Tensor) -> Tensor:
    b, t, _ = x.shape
    q, k, v = n.qkv(x).reshape(b, t, 3, n.heads, n.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    y = ((q @ k.mT) * n.head_dim**-0.5).softmax(-1) @ v
    return n.proj(y.transpose(1, 2).reshape(b, t, n.dim))


def levit(n: Any, x: Tensor) -> Tensor:
    """LeViT's (Graham et al., 2021): keys and values of different widths, a bias per head and distance."""
    b, t, _ = x.shape
    q, k, v = n.qkv(x).view(b, t, n.heads, -1).split([n.key_dim, n.key_dim, n.val_dim], dim=3)
    scores = q.permute(0, 2, 1, 3) @ k.permute(0, 2, 3, 1) * n.key_dim**-0.5
    y = (scores + n.biases[:, n.index]).softmax(-1) @ v.permute(0, 2, 1, 3)
    return n.proj(y.transpose(1, 2).reshape(b, t, n.heads * n.val_dim))


def cross_covariance(n: Any, x: Tensor) -> Tensor:
    """Channels by channels (El-Nouby et al., 2021)."""
    b, t, c = x.shape
    q, k, v = n.qkv(x).reshape(b, t, 3, n.heads, c // n.heads).permute(2, 0, 3, 4, 1).unbind(0)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * n.temperature
    return n.proj((scores.softmax(-1) @ v).permute(0, 3, 1, 2).reshape(b, t, c))


def factorised(n: Any, x: Tensor) -> Tensor:
    """q (kᵀ v): keys by values, both channels (Xu et al., 2021)."""
    b, t, _ = x.shape
    q, k, v = (layer(x).view(b, t, n.heads, -1).transpose(1, 2) for layer in (n.q, n.k, n.v))
    return n.proj((q @ (k.softmax(2).mT @ v)).transpose(1, 2).reshape(b, t, -1))


def normalised_linear(n: Any, x: Tensor) -> Tensor:
    """EfficientViT's (Cai et al., 2023) with another kernel: a value of one, padded on, sums the weights."""
    q, k, v = n.qkv(x).chunk(3, dim=-1)
    out = (F.elu(q) + 1) @ ((F.elu(k) + 1).mT @ F.pad(v, (0, 1), value=1.0))
    return n.proj(out[..., :-1] / (out[..., -1:] + 1e-3))


def relative(n: Any, x: Tensor) -> Tensor:
    """Positions along one axis have vectors of the head's width (Shaw et al., 2018)."""
    b, t, _ = x.shape
    q, k, v = n.qkv(x).reshape(b, t, 3, n.heads, -1).permute(2, 0, 3, 1, 4)
    near = n.table[n.index.long()]
    scores = q @ k.mT * q.shape[-1] ** -0.5 + torch.einsum("bhtc,tsc->bhts", q, near)
    return n.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def one_part(n: Any, x: Tensor) -> Tensor:
    """SHViT's (Yun and Ro, 2024): one part of the channels attends, the rest passes."""
    first, rest = x.split([n.part, n.dim - n.part], dim=-1)
    q, k, v = n.qkv(first).split([n.key_dim, n.key_dim, n.part], dim=-1)
    first = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    return n.proj(torch.cat([first, rest], -1))


def windows(n: Any, y: Tensor) -> Tensor:
    """Halo attention's keys (Vaswani et al., 2021): windows that overlap."""
    return n.b(y).unfold(2, 4, 2).unfold(3, 4, 2).mean((4, 5))


DISTANCES = (torch.arange(16)[:, None] - torch.arange(16)[None]).abs()

ATTENTION: dict[str, Toy] = {
    "attention": Toy(
        lambda: {
            "a": conv(3, 8),
            "q": conv(8, 6, 1),
            "k": conv(8, 6, 1),
            "v": conv(8, 8, 1),
            "c": conv(8, 4),
        },
        between(
            lambda n, y: torch.einsum(
                "bnm,bcm->bcn",
                torch.einsum("bcn,bcm->bnm", n.q(y).flatten(2), n.k(y).flatten(2)).sigmoid(),
                n.v(y).flatten(2),
            ).unflatten(2, (8, 8))
        ),
        {"a": (8, 1), "q": (6, 1), "v": (8, 1)},
        inexact=("q",),
    ),
    "heads_read_off_the_trunk": Toy(
        lambda: parts(Sized(vision, linears(True, qkv=(8, 24), proj=(8, 8)), heads=2)),
        tokens(lambda n, x: x + n.b(x)),
        {"a": (8, 2)},
        inexact=("a",),
    ),
    "heads_in_attributes": Toy(
        lambda: parts(
            Sized(vision_by_attributes, linears(True, qkv=(8, 24), proj=(8, 8)), heads=2, head_dim=4, dim=8)
        ),
        tokens(lambda n, x: x + n.b(x)),
        {"a": (8, 1), "b.qkv": (24, 6)},
        inexact=("b.qkv",),
    ),
    "keys_and_values": Toy(
        lambda: parts(
            Sized(
                levit,
                {**linears(True, qkv=(8, 28), proj=(8, 8)), "biases": channels(2, 2, 16), "index": DISTANCES},
                heads=2,
                key_dim=5,
                val_dim=4,
            )
        ),
        tokens(lambda n, x: x + n.b(x)),
        {"a": (8, 1), "b.qkv:0": (20, 4), "b.qkv:1": (8, 2)},
        inexact=("b.qkv:0",),
    ),
    "cross_covariance": Toy(
        lambda: parts(
            Sized(
                cross_covariance,
                {**linears(True, qkv=(8, 24), proj=(8, 8)), "temperature": channels(2, 2, 1, 1)},
                heads=2,
            )
        ),
        tokens(lambda n, x: x + n.b(x)),
        {"a": (8, 2)},
        inexact=("a",),
    ),
    "factorised": Toy(
        lambda: parts(Sized(factorised, linears(True, q=(8, 6), k=(8, 6), v=(8, 8), proj=(8, 8)), heads=2)),
        tokens(lambda n, x: x + n.b(x)),
        {"a": (8, 1), "b.q": (6, 2), "b.v": (8, 2)},
        inexact=("b.q",),
    ),
    "normalised_linear": Toy(
        lambda: parts(Sized(normalised_linear, linears(True, qkv=(8, 24), proj=(8, 8)))),
        tokens(lambda n, x: x + n.b(x)),
        {"a": (8, 1), "b.qkv": (24, 3)},
        inexact=("b.qkv",),
    ),
    "relative_positions": Toy(
        lambda: parts(
            Sized(
                relative,
                {**linears(True, qkv=(8, 24), proj=(8, 8)), "table": channels(16, 16, 4), "index": DISTANCES},
                heads=2,
            )
        ),
        tokens(lambda n, x: x + n.b(x)),
        {"a": (8, 1), "b.qkv": (24, 6)},
        inexact=("b.qkv",),
    ),
    "one_part_attends": Toy(
        lambda: parts(Sized(one_part, linears(True, qkv=(3, 11), proj=(8, 8)), part=3, dim=8, key_dim=4)),
        tokens(lambda n, x: n.b(x)),
        {"a:0": (3, 1), "a:1": (5, 1), "b.qkv": (8, 2), "b.proj": (8, 1)},
        inexact=("b.qkv",),
    ),
    "products_of_channels_one_by_one": Toy(
        lambda: {"a": conv(3, 8), "b": conv(3, 8), "c": conv(8, 4)},
        lambda n, x: n.c(n.a(x) @ n.b(x)),
        {"a": (8, 1)},
    ),
    "coordinates_in_a_buffer": Toy(
        lambda: {
            "a": conv(3, 8),
            "table": torch.rand(8, 2),
            "bias": nn.Linear(2, 6),
            "last": nn.Linear(6, 8),
            "c": conv(8, 4),
        },
        between(lambda n, y: y + n.last(n.bias(n.table.expand(len(y), 8, 2)).relu()).mT[..., None]),
        {"a": (8, 1), "bias": (6, 1)},
    ),
    "overlapping_windows": Toy(
        lambda: {"a": conv(3, 8), "b": conv(8, 6), "c": conv(6, 4)},
        between(windows),
        {"a": (8, 1), "b": (6, 1)},
    ),
    "scaled_by_an_attribute": Toy(
        lambda: parts(Sized(lambda n, y: torch.cat(y.split(n.width, 1)[::-1], 1) * n.width**-0.5, width=4)),
        between(lambda n, y: n.b(y)),
        {"a": (8, 2)},
        inexact=("a",),
    ),
    "typed_in_heads": Toy(
        lambda: parts(
            Sized(
                lambda n, x: n.proj(
                    F.scaled_dot_product_attention(
                        *n.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
                    )
                    .transpose(1, 2)
                    .flatten(2)
                ),
                linears(True, qkv=(8, 24), proj=(8, 8)),
            )
        ),
        tokens(lambda n, x: x + n.b(x)),
        {"a": (8, 1)},
        r"typed-in size 3, 2, 4",
    ),
    "parameter_as_a_matrix": Toy(
        lambda: {**parts(nn.Identity(), 6), "weight": channels(8, 8, 6)},
        tokens(lambda n, x: x @ n.weight),
        {"a": (8, 1)},
        r"matmul.* with a parameter as a matrix",
    ),
    "an_attribute_of_two_meanings": Toy(
        lambda: parts(
            Sized(
                lambda n, y: y.split(n.width, 1)[0] + F.interpolate(y, n.width)[:, :, :1, :1].sum(), width=4
            ),
            4,
        ),
        between(lambda n, y: n.b(y)),
        {},
        r"the attribute 'width' is also a size that cannot follow",
    ),
    "a_sum_of_attributes": Toy(
        lambda: parts(
            Sized(
                lambda n, y: torch.cat([y.split(n.part, 1)[1], y.view(-1, n.part + 4, 64).view_as(y)], 1),
                part=4,
            ),
            12,
        ),
        between(lambda n, y: n.b(y)),
        {},
        r"'view' with the typed-in size 8",
    ),
}
