"""Toys: what has to keep its widths, and says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.toy_parts import Sized, Toy, between, chain, channels, conv


def linear_head(pool: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda n, x: n.c(pool(F.relu(n.a(x))))


def head(inside: int, out: int = 8) -> Callable[[], dict[str, nn.Module]]:
    return lambda: {"a": conv(3, out), "c": nn.Linear(inside, 5)}


FROZEN: dict[str, Toy] = {
    # ---- what has to keep its widths --------------------------------------------------------------------------------
    "typed_in_view_of_a_scale": Toy(
        lambda: {**chain(), "scale": channels(8)},
        between(lambda n, y: y * n.scale.view(8, 1, 1)),
        {},
        r"computed by 'view' with a typed-in size",
    ),
    "gates_of_experts": Toy(
        lambda: {
            "a": conv(3, 8),
            "gate": nn.Linear(8, 3),
            "experts": nn.ModuleList(conv(8, 6) for _ in range(3)),
            "c": conv(6, 4),
        },
        lambda n, x: n.c(
            (
                torch.stack([expert(y := n.a(x)) for expert in n.experts], 1)
                * n.gate(y.mean((2, 3))).softmax(-1)[:, :, None, None, None]
            ).sum(1)
        ),
        {"a": (8, 1), "experts.0": (6, 1)},
        r"one number for each of several parts",
    ),
    "typed_in_view": Toy(head(512), linear_head(lambda y: y.view(-1, 512)), {}, r"typed-in size 512"),
    "typed_in_split": Toy(
        lambda: chain(None, 8, 3),
        between(lambda n, y: y.split([3, 5], 1)[0]),
        {},
        r"'split' .*typed-in or unequal",
    ),
    "slice": Toy(
        lambda: chain(None, 8, 4), between(lambda n, y: y[:, :4]), {}, r"takes a part of the channels"
    ),
    "size_of_others_for_frozen": Toy(
        chain,
        between(lambda n, y: torch.fft.rfft2(y).abs()[..., :1].reshape(y.shape[0], y.shape[1], 8, 1)),
        {},
        r"'fft_rfft2'",
    ),
    "zeros_as_many_as": Toy(
        lambda: {"a": conv(3, 6), "b": conv(6, 8), "c": conv(8, 4)},
        lambda n, x: n.c(n.b(y := n.a(x)) + torch.cat([y, torch.zeros(len(y), 8 - y.shape[1], 8, 8)], 1)),
        {},
        r"'zeros' with a size that was read off other channels",
    ),
    "slice_of_everything": Toy(
        chain, between(lambda n, y: y[..., :8, :, :]), {}, r"takes a part of the channels"
    ),
    "typed_in_expand": Toy(
        chain,
        between(lambda n, y: y.mean((2, 3), keepdim=True).expand(-1, 8, 8, 8)),
        {},
        r"'expand' with a typed-in size",
    ),
    "typed_in_groups": Toy(
        lambda: {**chain(), "weight": channels(8, 8, 4, 3, 3)},
        between(lambda n, y: F.conv2d(y, n.weight, groups=2)),
        {},
        r"2 typed-in groups",
    ),
    "typed_in_layer_norm": Toy(
        lambda: {**chain(), "weight": channels(8)},
        between(lambda n, y: F.layer_norm(y.permute(0, 2, 3, 1), (8,), n.weight).permute(0, 3, 1, 2)),
        {},
        r"'layer_norm' over the typed-in shape \(8,\)",
    ),
    "constant": Toy(chain, between(lambda n, y: y * torch.ones(1, 8, 1, 1)), {}, r"constant of fixed shape"),
    "rolled": Toy(chain, between(lambda n, y: y.roll(1, 1)), {}, r"'roll'"),
    "pooled_channels": Toy(
        lambda: chain(None, 8, 4),
        between(
            lambda n, y: F.avg_pool1d(y.flatten(2).transpose(1, 2), 2).transpose(1, 2).unflatten(2, (8, 8))
        ),
        {},
        r"'avg_pool1d'",
    ),
    "token_mixing": Toy(
        lambda: {"a": conv(3, 8), "mix": nn.Linear(64, 64), "c": conv(8, 4)},
        between(lambda n, y: n.mix(y.flatten(2)).view(y.shape)),
        {},
        r"expects channels on another axis in 'mix'",
    ),
    "fourier": Toy(
        lambda: chain(conv(8, 6), 8, 6),
        lambda n, x: n.c(torch.fft.rfft2(n.b(F.relu(n.a(x)))).abs()),
        {"a": (8, 1)},
        r"'fft_rfft2' in 'the model's own forward'",
    ),
    "typed_in_weight": Toy(
        lambda: {"a": conv(3, 8), "weight": channels(8, 6, 8, 3, 3), "d": conv(6, 4)},
        lambda n, x: n.d(F.conv2d(n.a(x), n.weight.view(6, 8, 9).view(6, 8, 3, 3))),
        {},
        r"a weight computed by 'view' with a typed-in size",
    ),
    "weight_and_constant": Toy(
        lambda: {"a": conv(3, 8), "weight": channels(8, 6, 8, 3, 3), "d": conv(6, 4)},
        lambda n, x: n.d(F.conv2d(n.a(x), n.weight * torch.ones(6, 1, 1, 1))),
        {"a": (8, 1)},
        r"a weight computed by a constant of fixed shape \(6, 1, 1, 1\)",
    ),
    "ordered_channels": Toy(chain, between(lambda n, y: y.cumsum(1)), {}, r"'cumsum' over a channel axis"),
    "size_of_attribute_and_more": Toy(
        lambda: chain(Sized(lambda n, y: y[:, : n.width + 1], width=4), 8, 5),
        between(lambda n, y: n.b(y)),
        {},
        r"up to a typed-in border",
    ),
    "attribute_that_follows_and_is_typed_in": Toy(
        lambda: chain(
            Sized(
                lambda n, y: torch.cat(
                    [n.u((p := y.split([n.part, 8 - n.part], 1))[0])[:, : n.part], p[1]], 1
                ),
                {"u": conv(3, 5)},
                part=3,
            )
        ),
        between(lambda n, y: n.b(y)),
        {"b.u": (2, 1)},  # rows that nobody reads
        r"the attribute 'part' is also a size that cannot follow in 'b'",
    ),
}
