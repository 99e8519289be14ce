"""Toys: shared and bare parameters, whole blocks, control flow."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.toy_parts import IMAGE, Toy, between, chain, channels, conv


def naf_block(n: Any, x: Tensor) -> Tensor:
    """NAFNet: channel-last LayerNorm, chunk-and-multiply gate, simplified channel attention, a scaled skip."""
    y = n.a(x)
    z = n.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    left, right = n.spatial(n.widen(z)).chunk(2, dim=1)
    z = left * right
    z = z * n.attend(F.adaptive_avg_pool2d(z, 1))
    return n.c(y + n.out(z) * n.beta)


def convnext_block(n: Any, x: Tensor) -> Tensor:
    y = n.a(x)
    z = n.norm(n.spatial(y).permute(0, 2, 3, 1))
    z = n.gamma * n.second(F.gelu(n.first(z)))
    return n.c(y + z.permute(0, 3, 1, 2))


def looks_at_image(n: Any, x: Tensor) -> Tensor:
    y = n.a(x)
    for _ in range(2 if x.abs().max().item() > 1e-9 else 1):
        y = y + n.b(F.relu(y))
    return n.c(y)


def tied_weights() -> dict[str, nn.Module]:
    parts = {"a": conv(3, 8), "b": conv(8, 8), "d": conv(8, 8), "c": conv(8, 4)}
    parts["d"].weight = parts["b"].weight
    return parts


BLOCKS: dict[str, Toy] = {
    # ---- shared and bare parameters ---------------------------------------------------------------------------------
    # The second use reads what the first wrote, so its rows and columns are one dimension.
    "module_twice": Toy(
        lambda: {"a": conv(3, 8), "b": conv(8, 8), "c": conv(8, 4)},
        lambda n, x: n.c(F.relu(n.b(F.relu(n.b(n.a(x)))))),
        {"a": (8, 1)},
    ),
    "tied_weights": Toy(tied_weights, lambda n, x: n.c(n.d(F.relu(n.b(n.a(x))))), {"a": (8, 1)}),
    "layer_scale": Toy(
        lambda: {**chain(), "scale": channels(8, 8, 1, 1)}, between(lambda n, y: y * n.scale), {"a": (8, 1)}
    ),
    "bias_map": Toy(
        lambda: {**chain(), "map": channels(8, 1, 8, 8, 8)}, between(lambda n, y: y + n.map), {"a": (8, 1)}
    ),
    "buffer": Toy(
        lambda: {**chain(), "mean": torch.rand(1, 8, 1, 1) + 1},
        between(lambda n, y: y - n.mean),
        {"a": (8, 1)},
    ),
    "blur": Toy(
        lambda: {**chain(), "kernel": torch.ones(8, 1, 3, 3) / 9},
        between(lambda n, y: F.conv2d(y, n.kernel, stride=2, groups=y.shape[1])),
        {"a": (8, 1)},
    ),
    "functional_weight": Toy(
        lambda: {"weight": nn.Parameter(torch.randn(8, 3, 3, 3)), "c": conv(8, 4)},
        lambda n, x: n.c(F.conv2d(x, n.weight, padding=1)),
        {"weight": (8, 1)},
    ),
    # ---- whole blocks -----------------------------------------------------------------------------------------------
    "naf_block": Toy(
        lambda: {
            "a": conv(3, 8),
            "norm": nn.LayerNorm(8),
            "widen": conv(8, 12, 1),
            "spatial": conv(12, 12, groups=12),
            "attend": conv(6, 6, 1),
            "out": conv(6, 8, 1),
            "beta": channels(8, 1, 8, 1, 1),
            "c": conv(8, 4),
        },
        naf_block,
        {"a": (8, 1), "widen": (12, 2)},
    ),
    "convnext_block": Toy(
        lambda: {
            "a": conv(3, 8),
            "spatial": conv(8, 8, 7, groups=8),
            "norm": nn.LayerNorm(8),
            "first": nn.Linear(8, 32),
            "second": nn.Linear(32, 8),
            "gamma": channels(8),
            "c": conv(8, 4),
        },
        convnext_block,
        {"a": (8, 1), "first": (32, 1)},
    ),
    "modulated": Toy(
        lambda: {"a": conv(3, 8), "film": nn.Linear(5, 16), "c": conv(8, 4)},
        lambda n, x, style: n.c(n.a(x) * (s := n.film(style)[..., None, None].chunk(2, 1))[0] + s[1]),
        {"a": (8, 1)},
        shapes=(IMAGE, (2, 5)),
    ),
    # ---- control flow -----------------------------------------------------------------------------------------------
    "branches_on_sizes": Toy(
        lambda: {"a": conv(3, 8), "b": conv(8, 8), "d": conv(8, 6), "c": conv(8, 4)},
        between(lambda n, y: n.b(y) if y.shape[-1] > 4 else n.d(y)),
        {},
        r"no run in evaluation or training mode called 'd'",
    ),
    "looks_at_image": Toy(
        lambda: {"a": conv(3, 8), "b": conv(8, 8), "c": conv(8, 4)},
        looks_at_image,
        {"a": (8, 1)},
        r"'item' reads a number",
    ),
}
