"""What no run calls and no code mentions frees what it would be fed; what any code may mean does not."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.graph.channels import ChannelGraph, trace_channels
from core.graph.labels import FrozenChannelsWarning
from core.graph.mentions import is_mentioned, mentioned
from core.surgery.resize import resize
from tests.toys import conv

IMAGE = torch.randn(2, 3, 8, 8)


class Base(nn.Module):
    """A head was replaced, and the old one is still there."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head, self.old = conv(3, 8), conv(8, 6), conv(6, 4), conv(6, 7)
        self.never = False

    def body(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def quiet(net: nn.Module) -> ChannelGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenChannelsWarning)
        return trace_channels(net, IMAGE)


def test_a_head_that_was_left_behind_is_told_and_freezes_nothing() -> None:
    net = Base()
    with pytest.warns(
        FrozenChannelsWarning, match="no run called 'old', and no code of the forward pass mentions it"
    ) as told:
        graph = trace_channels(net, IMAGE)
    assert len(told) == 1
    assert graph.widths == {"a": 8, "b": 6}
    assert graph.verify(net, IMAGE) <= 1e-10
    small = resize(net, graph, {"a": 4, "b": 3}, seed=0)
    assert small.old.weight.shape == (7, 6, 3, 3)
    assert small(IMAGE).shape == (2, 4, 8, 8)


def test_a_layer_under_two_names_and_a_parameter() -> None:
    net = Base()
    net.other = net.old
    net.scale = nn.Parameter(torch.ones(6))
    assert quiet(net).widths == {"a": 8, "b": 6}
    net.never_called = nn.ModuleList([conv(6, 2), net.old])
    assert quiet(net).widths == {"a": 8, "b": 6}
    net.body_too = net.old  # a name that code does not mention, of a layer in a list that it does
    net.head, net.listed = nn.Identity(), nn.ModuleList([net.head, net.old])

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.listed[1 if self.never else 0](self.body(x))

    net.__class__ = type("Listed", (Base,), {"forward": forward})
    assert quiet(net).widths == {}


def use(net: Any, x: Tensor) -> Tensor:
    return net.old(x)


class ByHelper(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return use(self, y) if self.never else self.head(y)


class ByMethod(Base):
    def again(self, x: Tensor) -> Tensor:
        return self.old(x)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.again(y) if self.never else self.head(y)


class ByProperty(Base):
    @property
    def last(self) -> nn.Module:
        return self.old if self.never else self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


class ByName(Base):
    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, "ol" + "d" if self.never else "head")(self.body(x))


class ByWord(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self._modules["old" if self.never else "head"](self.body(x))


class ByParent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = Base()

    def forward(self, x: Tensor) -> Tensor:
        y = self.base.body(x)
        return self.base.old(y) if self.base.never else self.base.head(y)


class Helper:
    """An object that is no module and refers to one."""

    def __init__(self, net: nn.Module) -> None:
        self.held = [net]

    def finish(self, x: Tensor) -> Tensor:
        (net,) = self.held
        return net.old(x) if net.never else net.head(x)


class ByObject(Base):
    def __init__(self) -> None:
        super().__init__()
        self.helper = Helper(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.helper.finish(self.body(x))


def by_closure() -> nn.Module:
    net = Base()
    net.finish = lambda y: net.old(y) if net.never else net.head(y)
    net.__class__ = type("ByClosure", (Base,), {"forward": lambda self, x: self.finish(self.body(x))})
    return net


def by_partial() -> nn.Module:
    net = Base()
    net.finish = functools.partial(lambda last, y: last.old(y) if last.never else last.head(y), net)
    net.__class__ = type("ByPartial", (Base,), {"forward": lambda self, x: self.finish(self.body(x))})
    return net


def by_hook() -> nn.Module:
    net = Base()
    net.b.register_forward_hook(
        lambda module, inputs, output: net.old(output)[:, :6] if net.never else output
    )
    return net


MEANT: dict[str, Callable[[], nn.Module]] = {
    "helper": ByHelper,
    "method": ByMethod,
    "property": ByProperty,
    "getattr": ByName,
    "a word": ByWord,
    "parent": ByParent,
    "object": ByObject,
    "closure": by_closure,
    "partial": by_partial,
    "hook": by_hook,
    "torch.fx": lambda: torch.fx.symbolic_trace(Base()),
}


@pytest.mark.parametrize("name", MEANT)
def test_code_that_may_mean_it_is_found(name: str) -> None:
    net = MEANT[name]()
    names = mentioned(net)
    target = next((module for path, module in net.named_modules() if path.endswith("old")), None)
    if name == "torch.fx":
        assert target is None  # which takes along what it has seen alone
    assert names is None or target is None or is_mentioned(net, target, names)
