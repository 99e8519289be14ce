"""The labelled run: it writes nothing to the model, leaves nothing to collect, and knows torch's output shapes."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.graph.channels import ChannelGraph, trace_channels
from core.graph.labels import FrozenChannelsWarning, TraceError
from core.graph.rules.calls import slid, spread
from core.graph.rules.reduction import _pooled
from tests.toys import TOYS, Net, conv

IMAGE = torch.randn(2, 3, 8, 8)


def quiet(net: nn.Module, inputs: Any, **options: Any) -> ChannelGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenChannelsWarning)
        return trace_channels(net, inputs, **options)


def _clamp_data(n: Any, x: Tensor) -> Tensor:
    n.a.bias.data.clamp_(-0.01, 0.01)
    return n.c(n.a(x))


def _fill_a_buffer(n: Any, x: Tensor) -> Tensor:
    n.a.offset.fill_(7.0)
    n.a.offset[0] = 9.0
    return n.c(n.a(x) + n.a.offset.mean())


def _copy_into_a_parameter(n: Any, x: Tensor) -> Tensor:
    n.a.bias.copy_(torch.zeros(8))
    n.a.bias += 1
    return n.c(n.a(x))


def _replace_data(n: Any, x: Tensor) -> Tensor:
    n.a.bias.data = torch.zeros_like(n.a.bias)
    n.a.count = 3
    n.a.register_buffer("cached", torch.zeros(1), persistent=False)
    return n.c(n.a(x))


def _send_to_the_weights_device(n: Any, x: Tensor) -> Tensor:
    return n.c(n.a(x.to(n.a.weight.device, n.a.weight.dtype)))


@pytest.mark.parametrize(
    "forward",
    [_clamp_data, _fill_a_buffer, _copy_into_a_parameter, _replace_data, _send_to_the_weights_device],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_forward_pass_that_writes_does_not_reach_the_model(
    forward: Callable[..., Tensor], device: str
) -> None:
    net = Net({"a": conv(3, 8), "c": conv(8, 4)}, forward)
    net.a.register_buffer("offset", torch.ones(2))
    net = net.to(device)
    versions = {name: tensor._version for name, tensor in net.state_dict(keep_vars=True).items()}
    tensors = {name: id(tensor) for name, tensor in net.state_dict(keep_vars=True).items()}
    attributes = {name: set(module.__dict__) for name, module in net.named_modules()}
    with torch.no_grad():
        assert set(quiet(net, IMAGE.to(device)).widths) <= {"a"}
    after = net.state_dict(keep_vars=True)
    assert {name: id(tensor) for name, tensor in after.items()} == tensors
    assert {name: tensor._version for name, tensor in after.items()} == versions
    assert not any(tensor.__dict__ for tensor in after.values())
    assert {name: set(module.__dict__) for name, module in net.named_modules()} == attributes
    assert "cached" not in net.a._buffers
    assert "cached" not in net.a._non_persistent_buffers_set


@pytest.mark.parametrize("name", ["residual", "grouped", "squeeze_excite", "dense_block"])
def test_a_labelled_run_leaves_no_cycles_behind(name: str) -> None:
    net, inputs = TOYS[name].build(), TOYS[name].inputs()
    quiet(net, inputs)
    gc.collect()
    gc.disable()
    try:
        quiet(net, inputs)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_compiled_module_is_an_error_whose_remedy_works() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is going out of fashion
        inner = torch.jit.script(nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU()))
    net = Net(
        {"a": conv(3, 8), "m": inner, "b": conv(6, 8), "c": conv(8, 4)}, lambda n, x: n.c(n.b(n.m(n.a(x))))
    )
    with pytest.raises(TraceError, match=r"'m' is a TorchScript module.*freeze=\('m',\)"):
        trace_channels(net, IMAGE)
    assert quiet(net, IMAGE, freeze=("m",)).widths == {"b": 8}


# ---- shapes in closed form ----------------------------------------------------------------------------------------


@given(data=st.data())
def test_grids_of_convolutions_and_pooling_are_torchs(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    kernel, stride, padding, dilation = pair(1, 4), pair(1, 3), pair(0, 2), pair(1, 3)
    size = pair(1, 12)
    extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    image = torch.zeros(1, 1, *size)
    weight = torch.zeros(1, 1, *kernel)
    plain = _shape(lambda: F.conv2d(image, weight, None, stride, padding, dilation))
    assert slid(size, kernel, stride, padding, dilation) == plain
    transposed = _shape(lambda: F.conv_transpose2d(image, weight, None, stride, padding, extra, 1, dilation))
    assert spread(size, kernel, stride, padding, dilation, extra) == transposed
    pooled = _shape(lambda: F.max_pool2d(image, kernel, stride, padding, dilation))
    assert _pooled("max_pool2d", image, (image, kernel, stride, padding, dilation), {}) == pooled
    pooled = _shape(lambda: F.avg_pool2d(image, kernel, stride, padding))
    assert _pooled("avg_pool2d", image, (image, kernel, stride, padding), {}) == pooled


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "extra"),
    [
        ((1, 1), (4, 4), (1, 1), (0, 2), (1, 1), (0, 0)),  # (4, 0)
        ((1, 1), (4, 4), (1, 1), (2, 2), (1, 1), (0, 0)),  # (0, 0)
        ((1, 1), (4, 4), (1, 1), (3, 2), (1, 1), (0, 0)),  # (-2, 0)
        ((1, 2), (2, 2), (1, 1), (1, 1), (1, 1), (0, 0)),  # (0, 1), which another kernel of torch refuses
        ((2, 3), (4, 4), (3, 1), (2, 3), (3, 1), (1, 0)),  # (10, 0)
        ((0, 2), (3, 3), (1, 1), (0, 0), (1, 1), (0, 0)),
        ((2, 2), (3, 3), (0, 1), (0, 0), (1, 1), (0, 0)),
        ((2, 2), (3, 3), (1, 1), (-1, 0), (1, 1), (0, 0)),
        ((2, 2), (3, 3), (1, 1), (0, 0), (0, 1), (0, 0)),
        ((2, 2), (3, 3), (2, 2), (0, 0), (1, 1), (2, 0)),
        ((2, 2), (3, 3), (2, 2), (0, 0), (1, 1), (-1, 0)),
        ((3,), (3,), (1,), (3,), (1,), (0,)),
        ((2, 2, 2), (4, 4, 4), (1, 1, 1), (2, 2, 1), (1, 1, 1), (0, 0, 0)),
    ],
)
def test_grids_at_and_beyond_the_limits_are_torchs(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    extra: tuple[int, ...],
) -> None:
    image, weight = torch.zeros(1, 1, *size), torch.zeros(1, 1, *kernel)
    plain = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(size) - 1]
    found = _shape(lambda: plain(image, weight, None, stride, padding, dilation))
    assert slid(size, kernel, stride, padding, dilation) == found
    found = _shape(lambda: transposed(image, weight, None, stride, padding, extra, 1, dilation))
    assert spread(size, kernel, stride, padding, dilation, extra) == found


def test_an_empty_grid_is_what_torch_returns() -> None:
    assert spread((1, 1), (4, 4), (1, 1), (0, 2), (1, 1), (0, 0)) == [4, 0]


def test_torch_refuses_what_no_network_can_run() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    net[0].stride = (0, 0)  # on the meta device a division by zero
    with pytest.raises(RuntimeError, match="non-positive stride"):
        trace_channels(net, IMAGE)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2, padding=2), nn.Conv2d(8, 4, 1))
    with pytest.raises(RuntimeError, match="pad should be at most half"):
        trace_channels(net, IMAGE)


def _shape(function: Callable[[], Tensor]) -> list[int] | None:
    """The grid of what torch returns; None where it refuses."""
    try:
        return list(function().shape[2:])
    except RuntimeError:
        return None
