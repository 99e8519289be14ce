"""Small networks, one per operation and combination, with channel groups that were derived by hand.

A toy is its modules and a forward function of them; `groups` says, for every free group, its width in channels and the
channels per independent choice. Whatever is not listed has to keep its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

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


@dataclass(frozen=True)
class Toy:
    """One network and what tracing it has to find."""

    parts: Callable[[], Mapping[str, Any]]
    forward: Callable[..., Any]
    groups: dict[str, tuple[int, int]]  # name -> (width in channels, channels per choice)
    warns: str | None = None  # what a FrozenChannelsWarning has to say; None: no warning
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)
    options: dict[str, Any] = field(default_factory=dict)

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


def squeeze_excite(n: Any, x: Tensor) -> Tensor:
    y = n.a(x)
    batch, count, _, _ = y.size()
    gate = n.up(F.relu(n.down(F.adaptive_avg_pool2d(y, 1).view(batch, count))))
    return n.c(y * gate.sigmoid().view(batch, count, 1, 1).expand_as(y))


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


def dense_block(n: Any, x: Tensor) -> Tensor:
    y = n.a(x)
    y = torch.cat([y, n.b(F.relu(n.norm1(y)))], 1)
    y = torch.cat([y, n.d(F.relu(n.norm2(y)))], 1)
    return n.c(y)


def u_net(n: Any, x: Tensor) -> Tensor:
    skip = n.a(x)
    y = n.up(F.relu(n.b(F.max_pool2d(skip, 2))))
    return n.c(torch.cat([y, skip], 1))


def in_place(n: Any, x: Tensor) -> Tensor:
    y = n.a(x)
    y += n.b(x)
    y.mul_(n.d(x).sigmoid_())
    return n.c(F.relu_(y))


def drop_path(n: Any, x: Tensor) -> Tensor:
    y = n.a(x)
    mask = y.new_empty((y.shape[0],) + (1,) * (y.dim() - 1)).fill_(0.8)
    return n.c(y + n.b(y).div(0.8) * mask)


def looks_at_image(n: Any, x: Tensor) -> Tensor:
    y = n.a(x)
    for _ in range(2 if x.abs().max().item() > 1e-9 else 1):
        y = y + n.b(F.relu(y))
    return n.c(y)


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


def linear_head(pool: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda n, x: n.c(pool(F.relu(n.a(x))))


def head(inside: int, out: int = 8) -> Callable[[], dict[str, nn.Module]]:
    return lambda: {"a": conv(3, out), "c": nn.Linear(inside, 5)}


def tied_weights() -> dict[str, nn.Module]:
    parts = {"a": conv(3, 8), "b": conv(8, 8), "d": conv(8, 8), "c": conv(8, 4)}
    parts["d"].weight = parts["b"].weight
    return parts


TOYS: dict[str, Toy] = {
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
    ),  # fmt: skip
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
    ),  # fmt: skip
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
    ),  # fmt: skip
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
        {"a": (8, 1), "b": (8, 1)},
    ),
    "looks_at_image": Toy(
        lambda: {"a": conv(3, 8), "b": conv(8, 8), "c": conv(8, 4)}, looks_at_image, {"a": (8, 1)}
    ),
    # ---- what has to keep its widths --------------------------------------------------------------------------------
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
        lambda: {**chain(), "d": conv(8, 4)},
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
    "slice_of_everything": Toy(chain, between(lambda n, y: y[..., :8, :, :]), {}, r"takes a part of the channels"),
    "typed_in_expand": Toy(
        lambda: chain(),
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
    "efficient_channel_attention": Toy(
        lambda: {"a": conv(3, 8), "across": nn.Conv1d(1, 1, 3, padding=1), "c": conv(8, 4)},
        between(lambda n, y: y * n.across(y.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]),
        {},
        r"expects channels on another axis in 'across'",
    ),
    "token_mixing": Toy(
        lambda: {"a": conv(3, 8), "mix": nn.Linear(64, 64), "c": conv(8, 4)},
        between(lambda n, y: n.mix(y.flatten(2)).view(y.shape)),
        {},
        r"expects channels on another axis in 'mix'",
    ),
    "channel_mean": Toy(
        lambda: {**chain(), "weight": channels(8)},
        between(lambda n, y: (y - y.mean(1, keepdim=True)) * n.weight[:, None, None]),
        {},
        r"'mean' over a channel axis",
    ),
    "looks_at_channels": Toy(
        chain, between(lambda n, y: y if y.max() > 1e9 else -y), {}, r"'max' over a channel axis"
    ),
    "fourier": Toy(
        lambda: chain(conv(8, 6), 8, 6),
        lambda n, x: n.c(torch.fft.rfft2(n.b(F.relu(n.a(x)))).abs()),
        {"a": (8, 1)},
        r"'fft_rfft2' in 'the model's own forward'",
    ),
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
                torch.einsum("bcn,bcm->bnm", n.q(y).flatten(2), n.k(y).flatten(2)).softmax(-1),
                n.v(y).flatten(2),
            ).unflatten(2, (8, 8))
        ),
        {"a": (8, 1)},
        r"'einsum'",
    ),  # fmt: skip
    "normalised_weight": Toy(
        lambda: {"a": conv(3, 8), "b": weight_norm(conv(8, 6)), "d": conv(6, 5), "c": conv(5, 4)},
        between(lambda n, y: F.relu(n.d(n.b(y)))),
        {"d": (5, 1)},
        r"with a computed weight in 'b'",
    ),
}
