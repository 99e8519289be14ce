"""Toys: weights that are computed from a parameter, whose channels stay free."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from tests.toy_parts import Sized, Toy, between, chain, channels, conv


class Standardised(nn.Conv2d):
    """A convolution whose weight has mean 0 and variance 1 in every row (Qiao et al., 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return self._conv_forward(x, (self.weight - mean) / (std + 1e-5), self.bias)


class ScaledAndStandardised(nn.Conv2d):
    """The same by batch normalisation's kernel, with a gain for every row (Brock et al., 2021)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gain = channels(self.out_channels, self.out_channels, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        rows = F.batch_norm(rows, None, None, weight=(self.gain * 0.7).view(-1), training=True, momentum=0.0)
        return self._conv_forward(x, rows.reshape_as(self.weight), self.bias)


def old_weight_norm(layer: nn.Module) -> nn.Module:
    """Weight norm by a hook, whose deprecation is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


class Equalise:
    """A hook that scales a weight by its fan-in before every call."""

    def __call__(self, layer: nn.Module, inputs: Any) -> None:
        weight = layer.weight_orig
        layer.weight = weight * (2 / weight.data[0].numel()) ** 0.5


def equalised(layer: nn.Module) -> nn.Module:
    weight = layer._parameters.pop("weight")
    layer.register_parameter("weight_orig", weight)
    layer.weight = weight.data
    layer.register_forward_pre_hook(Equalise())
    return layer


def with_weight(*shape: int) -> Callable[[], dict[str, Any]]:
    return lambda: {"a": conv(3, 8), "weight": channels(0, *shape), "c": conv(6, 4)}


def normed(layer: type[nn.Conv2d]) -> Callable[[], dict[str, Any]]:
    return lambda: {"a": conv(3, 8), "b": layer(8, 6, 3, padding=1), "c": conv(6, 4)}


BOTH = {"a": (8, 1), "b": (6, 1)}
OWN = {"a": (8, 1), "weight": (6, 1)}

COMPUTED: dict[str, Toy] = {
    "weight_norm": Toy(
        lambda: {"a": conv(3, 8), "b": weight_norm(conv(8, 6)), "c": conv(6, 4)},
        between(lambda n, y: n.b(y)),
        BOTH,
    ),
    "weight_norm_without_bias": Toy(
        lambda: {"a": conv(3, 8), "b": weight_norm(conv(8, 6, bias=False)), "c": conv(6, 4)},
        between(lambda n, y: n.b(y)),
        BOTH,
    ),
    "weight_norm_of_a_linear_layer": Toy(
        lambda: {"a": conv(3, 8), "b": weight_norm(nn.Linear(8, 6)), "c": nn.Linear(6, 4)},
        lambda n, x: n.c(n.b(n.a(x).mean((2, 3)))),
        BOTH,
    ),
    "weight_norm_in_groups": Toy(
        lambda: {"a": conv(3, 8), "b": weight_norm(conv(8, 8, groups=2)), "c": conv(8, 4)},
        between(lambda n, y: n.b(y)),
        {"a": (8, 2)},
    ),
    "weight_norm_depthwise": Toy(
        lambda: {"a": conv(3, 8), "b": weight_norm(conv(8, 8, groups=8)), "c": conv(8, 4)},
        between(lambda n, y: n.b(y)),
        {"a": (8, 1)},
    ),
    "spectral_norm": Toy(
        lambda: {"a": conv(3, 8), "b": spectral_norm(conv(8, 6)), "c": conv(6, 4)},
        between(lambda n, y: n.b(y)),
        BOTH,
    ),
    "spectral_norm_transposed": Toy(
        lambda: {
            "a": conv(3, 8),
            "b": spectral_norm(nn.ConvTranspose2d(8, 6, 2, stride=2)),
            "c": conv(6, 4),
        },
        between(lambda n, y: n.b(y)),
        BOTH,
    ),
    "spectral_norm_of_a_linear_layer": Toy(
        lambda: {"a": conv(3, 8), "b": spectral_norm(nn.Linear(8, 6)), "c": nn.Linear(6, 4)},
        lambda n, x: n.c(n.b(n.a(x).mean((2, 3)))),
        BOTH,
    ),
    "old_spectral_norm": Toy(
        lambda: {"a": conv(3, 8), "b": nn.utils.spectral_norm(conv(8, 6)), "c": conv(6, 4)},
        between(lambda n, y: n.b(y)),
        BOTH,
    ),
    "old_weight_norm": Toy(
        lambda: {"a": conv(3, 8), "b": old_weight_norm(conv(8, 6)), "c": conv(6, 4)},
        between(lambda n, y: n.b(y)),
        BOTH,
    ),
    "equalised_by_a_hook": Toy(
        lambda: {"a": conv(3, 8), "b": equalised(conv(8, 6)), "c": conv(6, 4)},
        between(lambda n, y: n.b(y)),
        BOTH,
        inexact=("a",),
    ),
    "standardised": Toy(normed(Standardised), between(lambda n, y: n.b(y)), BOTH, inexact=("a",)),
    "standardised_in_groups": Toy(
        lambda: {"a": conv(3, 8), "b": Standardised(8, 8, 3, padding=1, groups=2), "c": conv(8, 4)},
        between(lambda n, y: n.b(y)),
        {"a": (8, 2)},
        inexact=("a",),
    ),
    "standardised_depthwise": Toy(
        lambda: {"a": conv(3, 8), "b": Standardised(8, 8, 3, padding=1, groups=8), "c": conv(8, 4)},
        between(lambda n, y: n.b(y)),
        {"a": (8, 1)},
    ),
    "scaled_and_standardised": Toy(
        normed(ScaledAndStandardised), between(lambda n, y: n.b(y)), BOTH, inexact=("a",)
    ),
    "scaled": Toy(with_weight(6, 8, 3, 3), between(lambda n, y: F.conv2d(y, n.weight * 0.5, padding=1)), OWN),
    "scaled_by_its_fan": Toy(
        with_weight(6, 8, 3, 3),
        between(lambda n, y: F.conv2d(y, n.weight / n.weight[0].numel() ** 0.5, padding=1)),
        OWN,
        inexact=("a",),
    ),
    "demeaned_by_columns": Toy(
        with_weight(6, 8, 1, 1),
        between(lambda n, y: F.conv2d(y, n.weight - n.weight.mean(0, keepdim=True))),
        OWN,
        inexact=("weight",),
    ),
    "divided_by_its_norm": Toy(
        with_weight(6, 8, 3, 3),
        between(lambda n, y: F.conv2d(y, n.weight / n.weight.norm(), padding=1)),
        OWN,
    ),
    "viewed": Toy(
        with_weight(6, 8, 1, 1),
        between(lambda n, y: F.conv2d(y, n.weight.view(n.weight.size(0), -1)[:, :, None, None])),
        OWN,
    ),
    "channels_last_weight": Toy(
        with_weight(3, 3, 8, 6),
        between(lambda n, y: F.conv2d(y, n.weight.permute(3, 2, 0, 1), padding=1)),
        {"a": (8, 1), "weight": (6, 1)},
    ),
    "weight_and_mask": Toy(
        lambda: {**with_weight(6, 8, 3, 3)(), "mask": torch.ones(6, 8, 3, 3).triu()},
        between(lambda n, y: F.conv2d(y, n.weight * n.mask, padding=1)),
        OWN,
    ),
    "computed_gain": Toy(
        lambda: {**chain(), "gain": channels(8), "mean": torch.zeros(8), "var": torch.ones(8)},
        between(lambda n, y: F.batch_norm(y, n.mean, n.var, n.gain * 2)),
        {"a": (8, 1)},
    ),
    "mean_of_a_table": Toy(
        lambda: {**chain(), "table": channels(8, 5, 8)},
        between(lambda n, y: y * n.table.mean(0).view(1, -1, 1, 1)),
        {"a": (8, 1)},
    ),
    "scaled_map": Toy(
        lambda: {**chain(), "table": channels(8, 8, 8, 8)},
        between(lambda n, y: y + n.table * 2),
        {"a": (8, 1)},
    ),
    "expanded_filter": Toy(
        lambda: {**chain(), "blur": torch.ones(1, 1, 3, 3) / 9},
        between(
            lambda n, y: F.conv2d(y, n.blur.expand(y.shape[1], -1, -1, -1), padding=1, groups=y.shape[1])
        ),
        {"a": (8, 1)},
    ),
    "filter_of_every_channel": Toy(
        lambda: chain(
            Sized(
                lambda n, y: F.conv2d(y, n.blur, padding=1, groups=n.channels),
                {"blur": torch.ones(8, 1, 3, 3) / 9},
                channels=8,
            )
        ),
        between(lambda n, y: n.b(y)),
        {"a": (8, 1)},
    ),
    "standardised_by_layer_norm": Toy(
        with_weight(6, 8, 3, 3),
        between(
            lambda n, y: F.conv2d(
                y, F.layer_norm(n.weight.flatten(1), (n.weight[0].numel(),)).view_as(n.weight), padding=1
            )
        ),
        OWN,
        inexact=("a",),
    ),
    "standardised_in_views": Toy(  # as in mmcv's conv_ws_2d
        with_weight(6, 8, 3, 3),
        between(
            lambda n, y: F.conv2d(y, n.weight - n.weight.view(n.weight.size(0), -1).mean(1).view(-1, 1, 1, 1))
        ),
        OWN,
        inexact=("a",),
    ),
    "low_rank_update": Toy(
        lambda: {**with_weight(6, 8, 1, 1)(), "up": channels(6, 6, 2), "down": channels(8, 2, 8)},
        between(lambda n, y: F.conv2d(y, n.weight + (n.up @ n.down)[:, :, None, None])),
        OWN,
    ),
    "kernel_padded": Toy(
        lambda: {**with_weight(6, 8, 3, 3)(), "point": channels(6, 6, 8, 1, 1)},
        between(lambda n, y: F.conv2d(y, n.weight + F.pad(n.point, (1, 1, 1, 1)), padding=1)),
        OWN,
    ),
    "two_norms": Toy(
        lambda: {"a": conv(3, 8), "b": spectral_norm(weight_norm(conv(8, 6))), "c": conv(6, 4)},
        between(lambda n, y: n.b(y)),
        BOTH,
    ),
}
