"""Toys: operations that move channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.toy_parts import Toy, between, chain, conv, in_turn


def shuffle_unit(n: Any, x: Tensor) -> Tensor:
    """ShuffleNetV2: half of the channels passes, half is transformed, both are interleaved."""
    left, right = n.a(x).chunk(2, dim=1)
    y = torch.cat([left, n.d(F.relu(n.b(right)))], dim=1)
    batch, count, height, width = y.shape
    return n.c(
        y.view(batch, 2, count // 2, height, width)
        .transpose(1, 2)
        .contiguous()
        .view(batch, -1, height, width)
    )


def dense_block(n: Any, x: Tensor) -> Tensor:
    y = n.a(x)
    y = torch.cat([y, n.b(F.relu(n.norm1(y)))], 1)
    y = torch.cat([y, n.d(F.relu(n.norm2(y)))], 1)
    return n.c(y)


def u_net(n: Any, x: Tensor) -> Tensor:
    skip = n.a(x)
    y = n.up(F.relu(n.b(F.max_pool2d(skip, 2))))
    return n.c(torch.cat([y, skip], 1))


def selective_kernel(n: Any, x: Tensor) -> Tensor:
    """SKNet: two branches, weighted by a softmax over the branches."""
    both = torch.stack([n.a(x), n.b(x)], dim=1)
    weight = n.up(n.down(both.sum(1).mean((2, 3), keepdim=True)))
    weight = weight.view(weight.shape[0], 2, -1, 1, 1).softmax(1)
    return n.c((both * weight).sum(1))


def padded_shortcut(n: Any, x: Tensor) -> Tensor:
    """ResNet's option A: the shortcut has two zero channels on either side."""
    y = n.a(x)
    return n.c(F.relu(n.b(y)) + F.pad(y, (0, 0, 0, 0, 2, 2)))


def by_hand_pixel_shuffle(n: Any, y: Tensor) -> Tensor:
    batch, count, height, width = y.shape
    y = y.view(batch, count // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(batch, count // 4, 2 * height, 2 * width)


MOVEMENT: dict[str, Toy] = {
    "global_context": Toy(  # Cao et al., 2019: positions are summed over, channels pass
        lambda: {"a": conv(3, 8), "attend": conv(8, 1, 1), "c": conv(8, 4)},
        between(
            lambda n, y: (
                y
                + torch.matmul(y.flatten(2)[:, None], n.attend(y).flatten(2).softmax(2)[..., None]).view(
                    *y.shape[:2], 1, 1
                )
            )
        ),
        {"a": (8, 1)},
    ),
    "columns_of_a_product": Toy(
        lambda: {"a": conv(3, 8), "attend": conv(8, 1, 1), "c": nn.Linear(8, 4)},
        lambda n, x: n.c((n.attend(y := n.a(x)).flatten(2) @ y.flatten(2).mT).squeeze(1)),
        {"a": (8, 1)},
    ),
    # ---- data movement ----------------------------------------------------------------------------------------------
    "cat": Toy(
        lambda: {"a": conv(3, 8), "b": conv(3, 6), "norm": nn.BatchNorm2d(14), "c": conv(14, 4)},
        lambda n, x: n.c(n.norm(torch.cat([n.a(x), n.b(x)], dim=1))),
        {"a": (8, 1), "b": (6, 1)},
    ),
    "cat_with_image": Toy(
        lambda: {"a": conv(3, 8), "c": conv(11, 4)},
        lambda n, x: n.c(torch.cat((x, n.a(x)), -3)),
        {"a": (8, 1)},
    ),
    "cat_over_space": Toy(
        lambda: {"a": conv(3, 8), "b": conv(3, 8), "c": conv(8, 4)},
        lambda n, x: n.c(torch.cat([n.a(x), n.b(x)], dim=2)),
        {"a": (8, 1)},
    ),
    "cat_and_group_norm": Toy(
        lambda: {"a": conv(3, 8), "b": conv(3, 8), "norm": nn.GroupNorm(2, 16), "c": conv(16, 4)},
        lambda n, x: n.c(n.norm(torch.cat([n.a(x), n.b(x)], 1))),
        {"a": (8, 1)},
    ),
    # Every channel of `a` is read twice, once with its sign changed.
    "crelu": Toy(
        lambda: chain(None, 8, 16), between(lambda n, y: torch.cat([y, -y], 1).relu()), {"a": (8, 1)}
    ),
    "repeated": Toy(lambda: chain(None, 8, 16), between(lambda n, y: y.repeat(1, 2, 1, 1)), {"a": (8, 1)}),
    "interleaved": Toy(
        lambda: chain(None, 8, 16), between(lambda n, y: y.repeat_interleave(2, 1)), {"a": (8, 1)}
    ),
    "flipped": Toy(chain, between(lambda n, y: y.flip(1)), {"a": (8, 1)}),
    "dense_block": Toy(
        lambda: {
            "a": conv(3, 8),
            "norm1": nn.BatchNorm2d(8),
            "b": conv(8, 4),
            "norm2": nn.BatchNorm2d(12),
            "d": conv(12, 5),
            "c": conv(17, 4),
        },
        dense_block,
        {"a": (8, 1), "b": (4, 1), "d": (5, 1)},
    ),
    "u_net": Toy(
        lambda: {"a": conv(3, 8), "b": conv(8, 6), "up": nn.ConvTranspose2d(6, 8, 2, 2), "c": conv(16, 4)},
        u_net,
        {"a": (8, 1), "b": (6, 1), "up": (8, 1)},
    ),
    # Both halves have to shrink alike, so that chunk(2) cuts in the middle: {p, p + 4}.
    "chunk_gate": Toy(
        lambda: chain(None, 8, 4),
        between(lambda n, y: (h := y.chunk(2, 1))[0] * h[1].sigmoid()),
        {"a": (8, 2)},
    ),
    "split_by_size": Toy(
        lambda: chain(None, 8, 4),
        between(lambda n, y: torch.add(*torch.split(y, y.shape[1] // 2, dim=1))),
        {"a": (8, 2)},
    ),
    "shuffle_unit": Toy(
        lambda: {"a": conv(3, 8), "b": conv(4, 6), "d": conv(6, 4), "c": conv(8, 4)},
        shuffle_unit,
        {"a": (8, 2), "b": (6, 1)},
    ),
    "channel_shuffle": Toy(lambda: chain(nn.ChannelShuffle(2)), in_turn, {"a": (8, 2)}),
    "pixel_shuffle": Toy(lambda: chain(nn.PixelShuffle(2), 16, 4), in_turn, {"a": (16, 4)}),
    "pixel_shuffle_by_hand": Toy(lambda: chain(None, 16, 4), between(by_hand_pixel_shuffle), {"a": (16, 4)}),
    "pixel_unshuffle": Toy(lambda: chain(nn.PixelUnshuffle(2), 8, 32), in_turn, {"a": (8, 1)}),
    "interpolate_and_pad": Toy(
        chain,
        between(
            lambda n, y: F.pad(F.interpolate(y, scale_factor=2, mode="bilinear"), (1, 1, 2, 2), "reflect")
        ),
        {"a": (8, 1)},
    ),
    # a's channels meet rows 2..9 of b; b's rows 0, 1, 10 and 11 meet zeros and keep their number.
    # A size that was read off one activation and given to another ties the two.
    "size_of_others": Toy(
        lambda: {"a": conv(3, 8), "b": conv(3, 16), "c": conv(8, 4)},
        lambda n, x: n.c((y := n.a(x)) + n.b(x).view(y.shape[0], 2, y.shape[1], 8, 8).sum(1)),
        {"a": (8, 1)},
    ),
    "quotient_of_others": Toy(
        lambda: {"a": conv(3, 8), "b": conv(3, 4), "c": conv(8, 4), "d": conv(4, 4)},
        lambda n, x: n.c(y := n.a(x)) + n.d(n.b(x).reshape(y.shape[0], y.shape[1] // 2, 8, 8)),
        {"a": (8, 2)},
    ),
    "padded_shortcut": Toy(
        lambda: {"a": conv(3, 8), "b": conv(8, 12), "c": conv(12, 4)}, padded_shortcut, {"a": (8, 1)}
    ),
    "stacked": Toy(
        lambda: {"a": conv(3, 8), "b": conv(3, 8), "c": conv(8, 4)},
        lambda n, x: n.c(torch.stack([n.a(x), n.b(x)]).sum(0)),
        {"a": (8, 1)},
    ),
    "selective_kernel": Toy(
        lambda: {
            "a": conv(3, 8),
            "b": conv(3, 8, 5),
            "down": conv(8, 4, 1),
            "up": conv(4, 16, 1),
            "c": conv(8, 4),
        },
        selective_kernel,
        {"a": (8, 1), "down": (4, 1)},
    ),
}
