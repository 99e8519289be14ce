"""Attention: the ties that products make, proved in numbers, and timm's hybrids."""

from __future__ import annotations

import dataclasses
import types
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.graph.channels import ChannelGraph, trace_channels
from core.graph.complexity import count
from core.graph.labels import FrozenChannelsWarning
from core.surgery.resize import resize
from core.surgery.verification import UntestedGroupsWarning, VerificationError
from tests.toy_parts import Sized
from tests.toys_attention import DISTANCES, linears, parts, tokens


def traced(net: nn.Module, inputs: Tensor) -> ChannelGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenChannelsWarning)
        return trace_channels(net, inputs, outputs="freeze")


def called_exact(graph: ChannelGraph) -> ChannelGraph:
    """The graph as if nothing ran over channels, so that the proof looks at all groups."""
    return dataclasses.replace(
        graph, groups=tuple(dataclasses.replace(group, exact=True) for group in graph.groups)
    )


def heads(n: Any, x: Tensor, width: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    b, t, c = x.shape
    width = c // n.heads if width is None else width
    q, k, v = n.qkv(x).reshape(b, t, 3, n.heads, width).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def merged(n: Any, y: Tensor) -> Tensor:
    return n.proj(y.transpose(1, 2).flatten(2))


def by_matmul(n: Any, x: Tensor) -> Tensor:
    q, k, v = heads(n, x)
    return merged(n, (q @ k.mT * n.scale).softmax(-1) @ v)


def by_einsum(n: Any, x: Tensor) -> Tensor:
    q, k, v = heads(n, x, n.head_dim)
    scores = torch.einsum("bhnc,bhmc->bhnm", q, k) * n.scale
    return merged(n, torch.einsum("...nm,...mc->...nc", scores.softmax(-1), v))


def by_bmm(n: Any, x: Tensor) -> Tensor:
    q, k, v = (item.flatten(0, 1) for item in heads(n, x))
    y = torch.bmm((torch.bmm(q, k.mT) * n.scale).softmax(-1), v)
    return merged(n, y.unflatten(0, (x.shape[0], n.heads)))


def by_torch(n: Any, x: Tensor) -> Tensor:
    q, k, v = heads(n, x)
    bias = n.biases[:, n.index]
    return merged(n, F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=n.scale))


def by_positions(n: Any, x: Tensor) -> Tensor:
    q, k, v = heads(n, x)
    near = torch.einsum("bhnc,nmc->bhnm", q, n.table[n.index])
    return merged(n, (q @ k.mT * n.scale + near).softmax(-1) @ v)


def linear(n: Any, x: Tensor) -> Tensor:
    q, k, v = heads(n, x, n.head_dim)
    return merged(n, q @ (k.mT @ v))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("function", [by_matmul, by_einsum, by_bmm, by_torch, by_positions, linear])
def test_products_tie_the_right_channels(function: Any, residual: bool) -> None:
    """Without biases and with a constant scale nothing but the ties can make masked and cut networks differ."""
    torch.manual_seed(0)
    tables: dict[str, Any] = {}
    if function is by_torch:
        tables = {"biases": nn.Parameter(torch.randn(2, 16)), "index": DISTANCES}
    elif function is by_positions:
        tables = {"table": nn.Parameter(torch.randn(16, 4)), "index": DISTANCES}
    attention = Sized(
        function, {**linears(qkv=(8, 24), proj=(8, 8)), **tables}, heads=2, head_dim=4, scale=0.7
    )
    whole = Sized(tokens(lambda n, x: x + n.b(x) if residual else n.b(x)), parts(attention))
    x = torch.randn(2, 3, 8, 8)
    graph = traced(whole, x)
    group = graph.group("a" if function in (by_matmul, by_bmm, by_torch, by_positions) else "b.qkv")
    assert group.slots["b.qkv.weight", 0] == 6  # position p of two heads of q, k and v
    assert not group.exact
    assert group.size == 4
    for seed, keep in enumerate((0.3, 0.6, 0.9)):
        assert called_exact(graph).verify(whole, x, keep=keep, seed=seed) <= 1e-10


def test_default_scale_is_not_called_exact_and_differs() -> None:
    torch.manual_seed(0)
    attention = Sized(
        lambda n, x: merged(n, F.scaled_dot_product_attention(*heads(n, x, n.head_dim))),
        linears(qkv=(8, 24), proj=(8, 8)),
        heads=2,
        head_dim=4,
    )
    net, x = Sized(tokens(lambda n, x: n.b(x)), parts(attention)), torch.randn(2, 3, 8, 8)
    graph = traced(net, x)
    assert list(graph.inexact) == ["b.qkv"]
    with pytest.raises(VerificationError, match="differ"):
        called_exact(graph).verify(net, x, keep=0.3)


# Name -> side of the image, of every kind of attention one.
HYBRIDS = {
    "mobilevit_xxs": 64,
    "levit_128s": 224,
    "coat_lite_tiny": 64,
    "pvt_v2_b0": 64,
    "edgenext_xx_small": 64,
    "efficientvit_b0": 64,
    "efficientvit_m0": 96,
    "fastvit_sa12": 64,
    "shvit_s1": 96,
    "xcit_nano_12_p16_224": 64,
    "mobilenetv4_hybrid_medium_075": 64,
    "tiny_vit_5m_224": 64,
}


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids_have_free_trunks_and_shrink(name: str, timm: types.ModuleType) -> None:
    torch.manual_seed(0)
    side = HYBRIDS[name]
    options = {"img_size": side} if name.startswith("coat_") else {}
    net, x = timm.create_model(name, **options), torch.randn(2, 3, side, side)
    graph = traced(net, x)
    assert graph.flops() == count(net, x)
    rest = float(graph.cost("macs", graph.sizes * 0)) / float(graph.cost("macs", graph.sizes))
    assert rest < 0.06  # of multiply-accumulates that depend on no free channel
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntestedGroupsWarning)
        assert graph.verify(net, x) <= 1e-10
    widths = {group.name: max(1, group.size // 2) * group.step for group in graph.groups}
    half = resize(net, graph, widths, seed=0)
    assert graph.flops(widths) == count(half, x)
    half(x).square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in half.parameters() if p.grad is not None)
