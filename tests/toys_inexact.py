"""Toys: operations over channels, which leave them free; cut networks compute something else than masked ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.toy_parts import Sized, Toy, between, chain, channels, conv


def spatial_attention(n: Any, y: Tensor) -> Tensor:
    """Convolutional block attention's second half (Woo et al., 2018)."""
    return y * n.b(torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)).sigmoid()


def response_norm(n: Any, y: Tensor) -> Tensor:
    """Global response normalisation (Woo et al., 2023)."""
    strength = y.norm(p=2, dim=(2, 3), keepdim=True)
    return y * (strength / (strength.mean(1, keepdim=True) + 1e-6)) * n.gamma + y


def norm_over_channels(n: Any, y: Tensor) -> Tensor:
    """Layer normalisation of channels that lie in front."""
    mean, variance = y.mean(1, keepdim=True), y.var(1, keepdim=True, unbiased=False)
    return (y - mean) / (variance + 1e-6).sqrt() * n.weight[:, None, None]


A = {"a": (8, 1)}

INEXACT: dict[str, Toy] = {
    "efficient_channel_attention": Toy(
        lambda: {"a": conv(3, 8), "across": nn.Conv1d(1, 1, 3, padding=1), "c": conv(8, 4)},
        between(lambda n, y: y * n.across(y.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]),
        A,
        inexact=("a",),
    ),
    "channel_mean": Toy(
        lambda: {**chain(), "weight": channels(8)},
        between(lambda n, y: (y - y.mean(1, keepdim=True)) * n.weight[:, None, None]),
        A,
        inexact=("a",),
    ),
    "looks_at_channels": Toy(chain, between(lambda n, y: y if y.max() > 1e9 else -y), A, inexact=("a",)),
    "spatial_attention": Toy(
        lambda: {"a": conv(3, 8), "b": conv(2, 1), "c": conv(8, 4)},
        between(spatial_attention),
        A,
        inexact=("a",),
    ),
    "response_norm": Toy(
        lambda: {**chain(), "gamma": channels(8, 1, 8, 1, 1)}, between(response_norm), A, inexact=("a",)
    ),
    "channels_first_layer_norm": Toy(
        lambda: {**chain(), "weight": channels(8)}, between(norm_over_channels), A, inexact=("a",)
    ),
    "normalised": Toy(chain, between(lambda n, y: F.normalize(y, dim=1)), A, inexact=("a",)),
    "softmax_over_channels": Toy(chain, between(lambda n, y: y.softmax(1) * y), A, inexact=("a",)),
    "sum_of_all": Toy(chain, between(lambda n, y: y / y.square().sum().sqrt()), A, inexact=("a",)),
    "one_mean_of_two": Toy(
        lambda: {"a": conv(3, 8), "b": conv(3, 6), "d": conv(3, 5), "c": conv(19, 4)},
        lambda n, x: n.c(
            torch.cat([y := n.a(x), z := n.b(x), n.d(x)], 1) - torch.cat([y, z], 1).mean(1, keepdim=True)
        ),
        {"a": (8, 1), "b": (6, 1), "d": (5, 1)},
        inexact=("a", "b"),
    ),
    "divided_by_a_size": Toy(chain, between(lambda n, y: y / y.shape[1]), A, inexact=("a",)),
    "divided_by_the_root_of_a_size": Toy(
        chain, between(lambda n, y: y * y.shape[1] ** -0.5), A, inexact=("a",)
    ),
    "sum_of_products": Toy(
        lambda: {**chain(), "d": conv(3, 8)},
        lambda n, x: n.c(
            (y := n.a(x)) * (y.flatten(2).mT @ n.d(x).flatten(2)).mean((1, 2)).view(-1, 1, 1, 1)
        ),
        A,
        inexact=("a",),
    ),
    "divided_by_a_count": Toy(chain, between(lambda n, y: y / y[0].numel()), A, inexact=("a",)),
    "local_response_norm": Toy(
        lambda: chain(nn.LocalResponseNorm(3, alpha=1.0)), between(lambda n, y: n.b(y)), A, inexact=("a",)
    ),
    "rms_norm": Toy(
        lambda: chain(nn.RMSNorm(8)),
        between(lambda n, y: n.b(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        A,
        inexact=("a",),
    ),
    "divided_by_the_root_of_an_attribute": Toy(
        lambda: chain(Sized(lambda n, y: y.flatten(2).view(-1, n.dim, 8, 8) * n.dim**-0.5, dim=8)),
        between(lambda n, y: n.b(y)),
        A,
        inexact=("a",),
    ),
}
