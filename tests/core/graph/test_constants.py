"""A tensor that existed before the run is a constant, wherever it lies and whatever it is called."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.graph import tracing
from core.graph.channels import ChannelGraph, trace_channels
from core.graph.complexity import count
from core.graph.labels import FrozenChannelsWarning
from core.surgery.resize import resize
from tests.toys import Net, conv

pytestmark = pytest.mark.usefixtures("unfrozen")
IMAGE = torch.randn(2, 3, 8, 8)
MEAN = torch.tensor([0.5, 0.4, 0.3])
SCALES = torch.rand(8)
KERNEL = torch.ones(3, 1, 3, 3) / 9
MARK = "_lwdna_labels"


def silent(net: nn.Module, inputs: Any = IMAGE) -> ChannelGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return trace_channels(net, inputs)


def two(forward: Callable[..., Any], **attributes: Any) -> Net:
    """a: 3 -> 8, c: 8 -> 4, and attributes that are no buffers."""
    net = Net({"a": conv(3, 8), "c": conv(8, 4)}, forward)
    for name, value in attributes.items():
        net.__dict__[name] = value
    return net


@lru_cache
def grid(height: int, width: int) -> Tensor:
    """Made in the first run, and kept."""
    return torch.arange(height * width).view(1, 1, height, width) / 7


def cached(n: Any, x: Tensor) -> Tensor:
    if n.grid is None or n.grid.shape[-2:] != x.shape[-2:]:
        n.grid = torch.arange(x.shape[-1], device=x.device).float().expand(1, 1, *x.shape[-2:])
    return n.c(n.a(x) + n.grid)


FREE: dict[str, Net] = {
    "attribute": two(lambda n, x: n.c(n.a((x - n.mean.view(1, 3, 1, 1)) / n.std)), mean=MEAN.clone(),
                     std=torch.ones(1, 3, 1, 1)),
    "global": two(lambda n, x: n.c(n.a(x - MEAN[:, None, None]))),
    "indexed": two(lambda n, x: n.c(n.a(x - n.mean[None, :, None, None])), mean=MEAN),
    "scalar": two(lambda n, x: n.c(n.a(x) * n.scale), scale=torch.tensor(2.0)),
    "broadcast": two(lambda n, x: n.c(n.a(x) * n.scale), scale=torch.rand(1, 1, 8, 8)),
    "one channel": two(lambda n, x: n.c(n.a(x) * n.scale), scale=torch.rand(2, 1, 1, 1)),
    "list": two(lambda n, x: n.c(n.a(x) + n.levels[0] * n.levels[1]["b"]),
                levels=[torch.ones(1), {"b": torch.ones(1)}]),
    "double": two(lambda n, x: n.c((n.a(x) * n.scale).to(x.dtype)), scale=torch.rand(8, 8, dtype=torch.float64)),
    "like another": two(lambda n, x: n.c(n.a(x).type_as(x)) * n.scale.to(x), scale=torch.tensor([2.0]).double()),
    "whole": two(lambda n, x: n.c(n.a(x) + n.offset), offset=torch.arange(8)),
    "mask": two(lambda n, x: n.c(torch.where(n.mask, n.a(x), torch.zeros(()))), mask=torch.rand(8, 8) > 0.5),
    "value": two(lambda n, x: n.c(n.a(x)[..., :: int(n.stride[0])]), stride=torch.tensor([2, 4])),
    "values": two(lambda n, x: n.c(sum(n.a(x) * s.item() for s in n.stride)), stride=torch.tensor([2.0, 4.0])),
    "listed": two(lambda n, x: n.c(n.a(x) * n.stride.tolist()[1]), stride=torch.tensor([2, 4])),
    "decided": two(lambda n, x: n.c(n.a(x) if n.stride.max() > 3 else x), stride=torch.tensor([2, 4])),
    "computed": two(lambda n, x: n.c(n.a(x) * (n.stride * 2).exp().cumsum(0)[1]), stride=torch.tensor([0.1, 0.2])),
    "functional cache": two(lambda n, x: n.c(n.a(x) + grid(*x.shape[-2:]))),
    "cached": two(cached, grid=None),
    "numpy": two(lambda n, x: n.c(n.a(x) * torch.from_numpy(np.ones((8, 8), np.float32)))),
    "batch of values": two(lambda n, x: n.c(n.a(x) if x.sum() < 1e9 else x) * n.scale, scale=torch.rand(8, 8)),
    "global kernel": two(lambda n, x: n.c(n.a(F.conv2d(x.float(), KERNEL, padding=1, groups=3)))),
    "constant kernel on the image": two(lambda n, x: n.c(n.a(F.conv2d(x, n.blur, padding=1, groups=3))),
                                        blur=torch.ones(3, 1, 3, 3) / 9),
}  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_constants_that_meet_no_channels_leave_them_free(name: str) -> None:
    net = FREE[name]
    graph = silent(net)
    assert graph.widths == {"a": 8}
    assert graph.verify(net, IMAGE) <= 1e-10
    assert resize(net, graph, {"a": 5}, seed=0)(IMAGE).shape[1] == 4
    assert set(graph.verify(net, IMAGE).modes) == {"evaluation", "training"}


@pytest.mark.parametrize("name", ["attribute", "global", "broadcast", "list"])
def test_costs_of_networks_with_constants_can_be_counted(name: str) -> None:
    assert count(FREE[name], IMAGE) == silent(FREE[name]).flops()


def test_nothing_is_written_to_a_constant() -> None:
    for _ in range(2):
        silent(FREE["global"])
        silent(FREE["decided"])
    net = two(
        lambda n, x: n.c(n.a(x)) * (n.seen.add_(1).mul_(0) + 1) + SCALES.mul_(1)[0], seen=torch.zeros(1)
    )
    version = SCALES._version
    silent(net)
    assert net.seen.item() == 0
    assert SCALES._version == version
    for tensor in (MEAN, SCALES, net.seen, FREE["attribute"].std):
        assert MARK not in tensor.__dict__


FROZEN = {
    "attribute": (lambda n, x: n.c(n.a(x) * n.scales.view(1, 8, 1, 1)), r"'scales' of fixed shape \(1, 8, 1, 1\)"),
    "inside": (lambda n, x: n.c(n.a(x) * n.table["s"][0][:, None, None]), r"'table' of fixed shape \(8, 1, 1\)"),
    "like another": (lambda n, x: n.c(n.a(x) * n.scales.to(x)[None, :, None, None]), r"'scales' of fixed"),
    "global": (lambda n, x: n.c(n.a(x) * SCALES[:, None, None]), r"'SCALES' of fixed shape \(8, 1, 1\)"),
    "computed": (lambda n, x: n.c(n.a(x) * n.scales.exp()[None, :, None, None]), r"'scales' of fixed"),
    "on values": (lambda n, x: n.c(n.a(x) * n.scales.view(8, 1, 1) if x.new_ones(1) < 2 else x), r"'scales' of fixed"),
}  # fmt: skip


@pytest.mark.parametrize("name", FROZEN)
def test_a_constant_with_a_channel_axis_freezes_and_is_named(name: str) -> None:
    forward, message = FROZEN[name]

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = conv(3, 8), conv(8, 4)
            self.scales = torch.rand(8)
            self.table = {"s": [torch.rand(8)]}

        def forward(self, x: Tensor) -> Tensor:
            return forward(self, x)

    net = nn.Sequential(conv(3, 6), conv(6, 3), Named())
    message = "a constant " + message.replace("'scales'", "'2.scales'").replace("'table'", "'2.table'")
    with pytest.warns(FrozenChannelsWarning, match=message) as caught:
        graph = trace_channels(net, IMAGE)
    assert len(caught) == 1
    assert graph.widths == {"0": 6, "1": 3}
    assert graph.verify(net, IMAGE) <= 1e-10


def test_constants_of_a_model_on_the_meta_device() -> None:
    with torch.device("meta"):
        net = two(
            lambda n, x: n.c(n.a(x - n.mean) + n.offset), mean=torch.zeros(1, 3, 1, 1), offset=torch.zeros(1)
        )
    assert silent(net, torch.zeros(2, 3, 8, 8, device="meta")).widths == {"a": 8}


@pytest.mark.parametrize("catches", [False, True])
def test_constants_are_looked_for_where_the_device_does_not_tell(
    catches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with values meets a global constant, also where the network catches whatever is raised there."""

    def forward(n: Net, x: Tensor) -> Tensor:
        x = n.a(x) if x.sum() < 1e9 else x
        try:
            return n.c(x * SCALES[:, None, None])
        except BaseException:
            if not catches:
                raise
            return n.c(x)

    looked = []

    def alive() -> list[Tensor]:
        looked.append(SCALES)
        return [SCALES]

    monkeypatch.setattr(tracing, "_alive", alive)
    with pytest.warns(FrozenChannelsWarning, match=r"a constant of fixed shape \(8, 1, 1\)"):
        graph = trace_channels(two(forward), IMAGE)
    assert graph.widths == {}
    assert len(looked) == 4  # in both modes, on both branches
    assert MARK not in SCALES.__dict__


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_constants_are_not_looked_for_where_none_can_be(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes ten times as long as the trace: the inputs of a widths file lie on the meta device."""

    def looked() -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(tracing, "_alive", looked)
    net = two(
        lambda n, x: n.c(n.a((x - n.mean) / x.new_ones(1)) + n.offset),
        mean=MEAN[:, None, None],
        offset=MEAN[:1],
    )
    assert silent(net.to(device), IMAGE.to("meta")).widths == {"a": 8}
    with_values = two(lambda n, x: n.c(n.a(x) if x.sum() < 1e9 else x) * n.scale, scale=SCALES)
    assert silent(with_values).widths == {"a": 8}


def test_what_a_plain_list_of_layers_holds_is_a_constant() -> None:
    """Layers in a plain list are no part of the model: no optimiser finds their weights, so they keep their size."""
    net = two(lambda n, x: n.c(F.relu(n.layers[0](n.a(x)))), layers=[conv(8, 8)])
    with pytest.warns(FrozenChannelsWarning, match="'conv2d' with a computed weight"):
        assert trace_channels(net, IMAGE).widths == {}


# ---- a head as in YOLO --------------------------------------------------------------------------------------------


class Detect(nn.Module):
    """Raw maps in training; in evaluation boxes, decoded by grids that are kept as attributes."""

    def __init__(self, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.outputs, self.anchors = classes + 5, 2
        self.stride = torch.tensor([2.0, 4.0])
        self.sizes = torch.rand(2, 2, 2)
        self.grid = [torch.empty(0) for _ in widths]
        self.m = nn.ModuleList(nn.Conv2d(width, self.outputs * self.anchors, 1) for width in widths)

    def forward(self, x: list[Tensor]) -> Any:
        decoded = []
        for i, layer in enumerate(self.m):
            x[i] = layer(x[i])
            batch, _, ny, nx = x[i].shape
            x[i] = x[i].view(batch, self.anchors, self.outputs, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
            if self.training:
                continue
            if self.grid[i].shape[2:4] != x[i].shape[2:4]:
                yv, xv = torch.meshgrid([torch.arange(ny), torch.arange(nx)], indexing="ij")
                self.grid[i] = torch.stack((xv, yv), 2).view(1, 1, ny, nx, 2).float()
            y = x[i].sigmoid()
            y[..., 0:2] = (y[..., 0:2] * 2.0 - 0.5 + self.grid[i]) * self.stride[i]
            y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * self.sizes[i].view(1, -1, 1, 1, 2)
            decoded.append(y.view(batch, -1, self.outputs))
        return x if self.training else (torch.cat(decoded, 1), x)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.SiLU()), conv(8, 12)
        self.top = conv(12, 10)
        self.detect = Detect(3, (12, 10))

    def forward(self, x: Tensor) -> Any:
        y = F.max_pool2d(self.down(self.stem(x)), 2)
        return self.detect([y, F.max_pool2d(self.top(y), 2)])


def test_a_head_that_decodes_in_evaluation_and_lists_its_levels() -> None:
    net = Detector()
    with pytest.warns(
        FrozenChannelsWarning, match=r"'getitem' takes a part of the channels up to a typed-in .* in 'detect'"
    ) as caught:
        graph = trace_channels(net, IMAGE, outputs="freeze")
    assert len(caught) == 2  # a part, and an assignment to it
    assert graph.widths == {"stem.0": 8, "down": 12, "top": 10}
    proof = graph.verify(net, IMAGE)
    assert proof <= 1e-10
    assert set(proof.modes) == {"evaluation", "training"}
    built = resize(net, graph, {"stem.0": 4, "down": 6, "top": 5}, seed=0)
    assert [level.shape for level in built(IMAGE)] == [level.shape for level in net.train()(IMAGE)]
    assert built.eval()(IMAGE)[0].shape == net.eval()(IMAGE)[0].shape
    assert built.detect.grid[0].device.type == "cpu"
