"""Toys: layers with parameters, heads, element-wise operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.toy_parts import Toy, between, chain, conv, in_turn


def squeeze_excite(n: Any, x: Tensor) -> Tensor:
    y = n.a(x)
    batch, count, _, _ = y.size()
    gate = n.up(F.relu(n.down(F.adaptive_avg_pool2d(y, 1).view(batch, count))))
    return n.c(y * gate.sigmoid().view(batch, count, 1, 1).expand_as(y))


def in_place(n: Any, x: Tensor) -> Tensor:
    y = n.a(x)
    y += n.b(x)
    y.mul_(n.d(x).sigmoid_())
    return n.c(F.relu_(y))


def drop_path(n: Any, x: Tensor) -> Tensor:
    y = n.a(x)
    mask = y.new_empty((y.shape[0],) + (1,) * (y.dim() - 1)).fill_(0.8)
    return n.c(y + n.b(y).div(0.8) * mask)


def linear_head(pool: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda n, x: n.c(pool(F.relu(n.a(x))))


def head(inside: int, out: int = 8) -> Callable[[], dict[str, nn.Module]]:
    return lambda: {"a": conv(3, out), "c": nn.Linear(inside, 5)}


LAYERS: dict[str, Toy] = {
    # ---- parametric layers ------------------------------------------------------------------------------------------
    "plain": Toy(chain, in_turn, {"a": (8, 1)}),
    "batch_norm": Toy(lambda: chain(nn.BatchNorm2d(8)), in_turn, {"a": (8, 1)}),
    "batch_norm_bare": Toy(
        lambda: chain(nn.BatchNorm2d(8, affine=False, track_running_stats=False)), in_turn, {"a": (8, 1)}
    ),
    "instance_norm": Toy(lambda: chain(nn.InstanceNorm2d(8, affine=True)), in_turn, {"a": (8, 1)}),
    "instance_norm_bare": Toy(lambda: chain(nn.InstanceNorm2d(8)), in_turn, {"a": (8, 1)}),
    "group_norm_of_one": Toy(lambda: chain(nn.GroupNorm(1, 8)), in_turn, {"a": (8, 1)}),
    "group_norm_of_two": Toy(lambda: chain(nn.GroupNorm(2, 8)), in_turn, {"a": (8, 2)}),
    "group_norm_of_all": Toy(lambda: chain(nn.GroupNorm(8, 8)), in_turn, {"a": (8, 1)}),
    "group_norm_bare": Toy(lambda: chain(nn.GroupNorm(4, 8, affine=False)), in_turn, {"a": (8, 4)}),
    "layer_norm_last": Toy(
        lambda: chain(nn.LayerNorm(8)),
        between(lambda n, y: n.b(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        {"a": (8, 1)},
    ),
    "layer_norm_bare": Toy(
        lambda: chain(nn.LayerNorm(8, elementwise_affine=False)),
        between(lambda n, y: n.b(y.movedim(1, -1)).movedim(-1, 1)),
        {"a": (8, 1)},
    ),
    "prelu_of_channels": Toy(lambda: chain(nn.PReLU(8)), lambda n, x: n.c(n.b(n.a(x))), {"a": (8, 1)}),
    "prelu_of_one": Toy(lambda: chain(nn.PReLU()), lambda n, x: n.c(n.b(n.a(x))), {"a": (8, 1)}),
    "sigmoid_keeps_no_zero": Toy(lambda: chain(nn.Sigmoid()), in_turn, {"a": (8, 1)}),
    # Position p of both groups is one choice, input and output alike: {p, p + 4}.
    "grouped": Toy(lambda: chain(conv(8, 8, groups=2)), in_turn, {"a": (8, 2)}),
    # 8 -> 12 in 4 groups: input positions {p + 2k}, output positions {q + 3k}, two groups of channels.
    "grouped_uneven": Toy(lambda: chain(conv(8, 12, groups=4), 8, 12), in_turn, {"a": (8, 4), "b": (12, 4)}),
    # With frozen channels on the other side, groups cannot be added; they get wider.
    "grouped_output": Toy(lambda: {**chain(), "c": conv(8, 4, groups=2)}, in_turn, {"a": (8, 2)}),
    "grouped_input": Toy(
        lambda: {**chain(), "a": conv(4, 8, groups=2)}, in_turn, {"a": (8, 2)}, shapes=((2, 4, 8, 8),)
    ),
    "grouped_two_ways": Toy(
        lambda: chain(nn.Sequential(conv(8, 8, groups=2), conv(8, 8, groups=4))), in_turn, {"a": (8, 4)}
    ),
    "depthwise": Toy(lambda: chain(conv(8, 8, groups=8)), in_turn, {"a": (8, 1)}),
    "depth_multiplier": Toy(lambda: chain(conv(8, 16, groups=8), 8, 16), in_turn, {"a": (8, 1)}),
    "transposed": Toy(
        lambda: chain(nn.ConvTranspose2d(8, 6, 2, stride=2), 8, 6), in_turn, {"a": (8, 1), "b": (6, 1)}
    ),
    "transposed_grouped": Toy(
        lambda: chain(nn.ConvTranspose2d(8, 6, 2, groups=2), 8, 6), in_turn, {"a": (8, 2), "b": (6, 2)}
    ),
    "transposed_depthwise": Toy(lambda: chain(nn.ConvTranspose2d(8, 8, 2, groups=8)), in_turn, {"a": (8, 1)}),
    "one_dimension": Toy(
        lambda: {"a": nn.Conv1d(3, 6, 3), "b": nn.BatchNorm1d(6), "c": nn.Conv1d(6, 2, 1)},
        in_turn,
        {"a": (6, 1)},
        shapes=((2, 3, 9),),
    ),
    "three_dimensions": Toy(
        lambda: {"a": nn.Conv3d(3, 6, 3), "b": nn.BatchNorm3d(6), "c": nn.Conv3d(6, 2, 1)},
        in_turn,
        {"a": (6, 1)},
        shapes=((1, 3, 4, 4, 4),),
    ),
    "reflected_borders": Toy(
        lambda: chain(conv(8, 8, padding_mode="reflect")), in_turn, {"a": (8, 1), "b": (8, 1)}
    ),
    # ---- heads ------------------------------------------------------------------------------------------------------
    "pooled_head": Toy(head(8), linear_head(lambda y: F.adaptive_avg_pool2d(y, 1).flatten(1)), {"a": (8, 1)}),
    "flattened_head": Toy(head(8 * 64), linear_head(lambda y: torch.flatten(y, 1)), {"a": (8, 1)}),
    "viewed_head": Toy(
        head(8 * 16), linear_head(lambda y: F.max_pool2d(y, 2).view(y.size(0), -1)), {"a": (8, 1)}
    ),
    "maxima_head": Toy(
        head(8), linear_head(lambda y: y.amax((2, 3)) + y.max(3).values.max(2)[0]), {"a": (8, 1)}
    ),
    "mean_head": Toy(
        head(8), linear_head(lambda y: y.mean([2, 3], keepdim=True).squeeze(-1).squeeze(-1)), {"a": (8, 1)}
    ),
    "normed_head": Toy(
        lambda: {"a": conv(3, 8), "b": nn.Linear(8, 6), "norm": nn.BatchNorm1d(6), "c": nn.Linear(6, 5)},
        lambda n, x: n.c(F.relu(n.norm(n.b(n.a(x).mean((2, 3)))))),
        {"a": (8, 1), "b": (6, 1)},
    ),
    # ---- element-wise -----------------------------------------------------------------------------------------------
    "residual": Toy(
        lambda: {"a": conv(3, 8), "b": conv(8, 6), "d": conv(6, 8), "c": conv(8, 4)},
        lambda n, x: n.c(F.relu((y := n.a(x)) + n.d(F.relu(n.b(y))))),
        {"a": (8, 1), "b": (6, 1)},
    ),
    "three_branches": Toy(
        lambda: {
            "a": conv(3, 8),
            "b": conv(3, 8, 1),
            "norm": nn.BatchNorm2d(8),
            "d": conv(3, 8),
            "c": conv(8, 4),
        },
        lambda n, x: n.c(torch.maximum(n.a(x) - n.norm(n.b(x)), torch.where(x.sum() > 0, n.d(x), n.a(x)))),
        {"a": (8, 1)},
    ),
    "highway": Toy(
        lambda: {"a": conv(3, 8), "b": conv(8, 8), "gate": conv(8, 8), "c": conv(8, 4)},
        lambda n, x: n.c((g := n.gate(y := n.a(x)).sigmoid()) * n.b(y) + (1 - g) * y),
        {"a": (8, 1)},
    ),
    "squeeze_excite": Toy(
        lambda: {"a": conv(3, 8), "down": nn.Linear(8, 4), "up": nn.Linear(4, 8), "c": conv(8, 4)},
        squeeze_excite,
        {"a": (8, 1), "down": (4, 1)},
    ),
    "global_context": Toy(
        lambda: {"a": conv(3, 8), "c": conv(8, 4)},
        between(lambda n, y: y - y.mean((2, 3), keepdim=True) + y.amax((2, 3))[:, :, None, None]),
        {"a": (8, 1)},
    ),
    "spatial_attention": Toy(
        lambda: {"a": conv(3, 8), "map": conv(8, 1, 7), "c": conv(8, 4)},
        between(lambda n, y: y * n.map(y).sigmoid()),
        {"a": (8, 1)},
    ),
    "spatial_softmax": Toy(
        chain, between(lambda n, y: y.flatten(2).softmax(-1).view_as(y) * y), {"a": (8, 1)}
    ),
    "in_place": Toy(
        lambda: {"a": conv(3, 8), "b": conv(3, 8), "d": conv(3, 8), "c": conv(8, 4)}, in_place, {"a": (8, 1)}
    ),
    "drop_path": Toy(lambda: {"a": conv(3, 8), "b": conv(8, 8), "c": conv(8, 4)}, drop_path, {"a": (8, 1)}),
    "image_to_output": Toy(
        lambda: {"a": conv(3, 8), "c": conv(8, 3)}, lambda n, x: x + n.c(F.relu(n.a(x))), {"a": (8, 1)}
    ),
}
