"""Toys: parts of a channel axis whose sizes follow: they were read off attributes of modules or off other sizes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.toy_parts import Sized, Toy, between, chain, channels, conv


def hierarchical(n: Any, y: Tensor) -> Tensor:
    """Res2Net's block (Gao et al., 2019): every part goes through a convolution together with the one before."""
    first, second, third, rest = y.split(n.width, 1)
    second = n.u(second)
    return torch.cat([first, second, n.v(third + second), rest], 1)


def ghost(n: Any, y: Tensor) -> Tensor:
    """GhostNet's module (Han et al., 2020): half of the features are cheap functions of the other half."""
    y = n.primary(y)
    return torch.cat([y, n.cheap(y)], 1)[:, : n.out_chs]


SIZES: dict[str, Toy] = {
    "split_by_an_attribute": Toy(
        lambda: chain(Sized(hierarchical, {"u": conv(2, 2), "v": conv(2, 2)}, width=2)),
        between(lambda n, y: n.b(y)),
        {"a": (8, 4), "b.v": (2, 1)},
    ),
    "split_by_a_list": Toy(
        lambda: chain(
            Sized(
                lambda n, y: torch.cat([n.u(y.split(n.splits, 1)[0]), y.split(n.splits, 1)[1]], 1),
                {"u": conv(3, 3, groups=3)},
                splits=[3, 5],
            )
        ),
        between(lambda n, y: n.b(y)),
        {"a:0": (3, 1), "a:1": (5, 1)},
    ),
    "split_by_a_fraction": Toy(
        lambda: chain(
            Sized(
                lambda n, y: torch.cat([n.u(y.split(n.expand // 2, 1)[0]), y], 1), {"u": conv(4, 6)}, expand=8
            ),
            inside=14,
        ),
        between(lambda n, y: n.b(y)),
        {"a": (8, 2), "b.u": (6, 1)},
    ),
    "split_by_parts_of_a_size": Toy(
        lambda: chain(None, 8, 4),
        between(lambda n, y: torch.mul(*y.split(y.shape[1] // 2, 1))),
        {"a": (8, 2)},
    ),
    "sliced_to_an_attribute": Toy(
        lambda: chain(
            Sized(ghost, {"primary": conv(8, 5, 1), "cheap": conv(5, 5, groups=5)}, out_chs=9), inside=9
        ),
        between(lambda n, y: n.b(y)),
        {"a": (8, 1), "b.primary:0": (4, 1)},
    ),
    "sliced_at_half": Toy(
        lambda: chain(None, 8, 4),
        between(lambda n, y: y[:, : y.shape[1] // 2] * y[:, y.shape[1] // 2 :]),
        {"a": (8, 2)},
    ),
    "sliced_from_the_end": Toy(
        lambda: chain(Sized(lambda n, y: y[:, -n.last :] + n.u(y), {"u": conv(8, 3)}, last=3), inside=3),
        between(lambda n, y: n.b(y)),
        {"a:0": (5, 1), "a:1": (3, 1)},
    ),
    "narrowed": Toy(
        lambda: chain(Sized(lambda n, y: y.narrow(1, 0, n.first), first=3), inside=3),
        between(lambda n, y: n.b(y)),
        {"a:0": (3, 1), "a:1": (5, 1)},
    ),
    "sliced_to_the_size_of_others": Toy(
        lambda: {"a": conv(3, 8), "d": conv(3, 5), "c": conv(5, 4)},
        lambda n, x: n.c(n.a(x)[:, : (z := n.d(x)).shape[1]] + z),
        {"a:0": (5, 1), "a:1": (3, 1)},
    ),
    "gated_linear_unit": Toy(lambda: chain(None, 8, 4), between(lambda n, y: F.glu(y, 1)), {"a": (8, 2)}),
    "gated_linear_layer": Toy(
        lambda: chain(nn.GLU(dim=1), 8, 4), between(lambda n, y: n.b(y)), {"a": (8, 2)}
    ),
    "viewed_by_an_attribute": Toy(
        lambda: chain(
            Sized(lambda n, y: y * n.scale.view(n.dim, 1, 1), {"scale": channels(8)}, dim=8),
        ),
        between(lambda n, y: n.b(y)),
        {"a": (8, 1)},
    ),
    "activation_viewed_by_an_attribute": Toy(
        lambda: chain(Sized(lambda n, y: y.flatten(2).view(-1, n.dim, 8, 8), dim=8)),
        between(lambda n, y: n.b(y)),
        {"a": (8, 1)},
    ),
    "attribute_of_a_layer": Toy(
        lambda: chain(None, 8, 8),
        between(lambda n, y: y.mean((2, 3)).view(-1, n.a.out_channels, 1, 1) * y),
        {"a": (8, 1)},
    ),
    "one_attribute_for_two": Toy(
        lambda: {
            "b": Sized(
                lambda n, x: torch.cat([n.u(x)[:, : n.part], n.v(x)[:, : n.part]], 1),
                {"u": conv(3, 6), "v": conv(3, 6)},
                part=6,
            ),
            "c": conv(12, 4),
        },
        lambda n, x: n.c(n.b(x)),
        {"b.u": (6, 1)},
    ),
    "cross_stage": Toy(  # YOLOv8's C2f: one attribute for both halves
        lambda: chain(
            Sized(
                lambda n, y: n.out(torch.cat([*(p := n.u(y).split((n.half, n.half), 1)), n.v(p[1])], 1)),
                {"u": conv(8, 6, 1), "v": conv(3, 5), "out": conv(11, 8, 1)},
                half=3,
            )
        ),
        between(lambda n, y: n.b(y)),
        {"a": (8, 1), "b.u": (6, 2), "b.v": (5, 1), "b.out": (8, 1)},
    ),
    "split_into_a_part_and_the_rest": Toy(
        lambda: chain(
            Sized(
                lambda n, y: torch.cat([n.u((p := y.split([n.part, y.shape[1] - n.part], 1))[0]), p[1]], 1),
                {"u": conv(3, 6)},
                part=3,
            ),
            inside=11,
        ),
        between(lambda n, y: n.b(y)),
        {"a:0": (3, 1), "a:1": (5, 1), "b.u": (6, 1)},
    ),
    "layer_norm_by_an_attribute": Toy(
        lambda: chain(
            Sized(
                lambda n, y: F.layer_norm(y.permute(0, 2, 3, 1), (n.dim,), n.weight).permute(0, 3, 1, 2),
                {"weight": channels(8)},
                dim=8,
            )
        ),
        between(lambda n, y: n.b(y)),
        {"a": (8, 1)},
    ),
    "layer_norm_by_its_weight": Toy(
        lambda: {**chain(), "weight": channels(8)},
        between(
            lambda n, y: F.layer_norm(y.permute(0, 2, 3, 1), n.weight.shape, n.weight).permute(0, 3, 1, 2)
        ),
        {"a": (8, 1)},
    ),
}
