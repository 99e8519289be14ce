"""What tracing refuses or freezes, what it says about it, and that the remedy which it names works."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from core.graph.channels import ChannelGraph, trace_channels
from core.graph.labels import FrozenChannelsWarning, TraceError
from tests.toys import Net, channels, conv

IMAGE = torch.randn(2, 3, 8, 8)


class Twice(torch.autograd.Function):
    """2 x, computed where no torch function can be seen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(2 * x.numpy())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Doubler(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Twice.apply(x)


def quiet(net: nn.Module, inputs: Any, **options: Any) -> ChannelGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenChannelsWarning)
        return trace_channels(net, inputs, **options)


def remedy(message: str) -> tuple[str, ...]:
    """The modules that a message proposes to freeze."""
    match = re.search(r"freeze=\('([^']*)',\)", message)
    assert match, message
    return (match[1],)


# ---- unknown origin ----------------------------------------------------------------------------------------------


def test_an_autograd_function_is_an_error_that_names_the_place_and_the_remedy() -> None:
    net = Net(
        {"a": conv(3, 8), "twice": Doubler(), "b": conv(8, 6), "c": conv(6, 4)},
        lambda n, x: n.c(F.relu(n.b(n.twice(n.a(x))))),
    )
    with pytest.raises(
        TraceError, match=r"tensor of unknown origin, shape \(2, 8, 8, 8\), reaches '(twice|b)'"
    ) as error:
        trace_channels(net, IMAGE)
    assert "freeze=" in str(error.value)
    assert "\n" not in str(error.value)
    graph = trace_channels(net, IMAGE, freeze=("twice",))
    assert graph.widths == {"b": 6}
    assert graph.verify(net, IMAGE) <= 1e-10


# ---- parameters that cannot be tied ------------------------------------------------------------------------------


class Mixer(nn.Module):
    """Uses a table of parameters in a way that no channel dimension explains."""

    def __init__(self) -> None:
        super().__init__()
        self.table = channels(8, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.table.cumsum(0)[-1].view(1, -1, 1, 1)


def test_a_parameter_that_cannot_be_tied_is_an_error_whose_remedy_works() -> None:
    net = Net(
        {"a": conv(3, 8), "mix": Mixer(), "b": conv(8, 6), "c": conv(6, 4)},
        lambda n, x: n.c(F.relu(n.b(n.mix(n.a(x))))),
    )
    with pytest.raises(TraceError, match=r"'mix.table' of shape \(8, 8\) is used in 'mix'") as error:
        trace_channels(net, IMAGE)
    graph = trace_channels(net, IMAGE, freeze=remedy(str(error.value)))
    assert graph.widths == {"b": 6}
    assert graph.verify(net, IMAGE) <= 1e-10


def test_the_remedy_is_usable_where_the_model_itself_is_at_fault() -> None:
    net = Net(
        {"a": conv(3, 8), "table": channels(8, 8, 8), "c": conv(8, 4)},
        lambda n, x: n.c(n.a(x) * n.table.cumsum(0)[-1].view(1, -1, 1, 1)),
    )
    with pytest.raises(TraceError, match=r"'table' of shape \(8, 8\) is used in 'the model itself'") as error:
        trace_channels(net, IMAGE)
    assert remedy(str(error.value)) == ("table",)  # a parameter may be named where no module will do
    graph = trace_channels(net, IMAGE, freeze=("table",))
    assert graph.widths == {}


def test_one_error_names_all_that_cannot_be_tied_and_one_remedy_for_all() -> None:
    parts = {"a": conv(3, 8), "mix": Mixer(), "b": conv(8, 8), "more": Mixer(), "table": channels(8, 8, 8)}
    net = Net(
        {**parts, "d": conv(8, 6), "c": conv(6, 4)},
        lambda n, x: n.c(n.d(n.more(n.b(n.mix(n.a(x)))) * n.table.cumsum(0)[-1].view(1, -1, 1, 1))),
    )
    with pytest.raises(TraceError) as error:
        trace_channels(net, IMAGE)
    for name in ("mix.table", "more.table", "table"):
        assert f"parameter '{name}' of shape (8, 8)" in str(error.value)
    pasted = re.search(r"freeze=(\(.*?\))", str(error.value))
    assert pasted
    assert ast.literal_eval(pasted[1]) == ("mix", "more", "table")
    graph = trace_channels(net, IMAGE, freeze=ast.literal_eval(pasted[1]))
    assert graph.widths == {"d": 6}
    assert graph.verify(net, IMAGE) <= 1e-10


def test_a_parameter_of_an_unknown_operation_keeps_its_size_even_if_it_is_used_later() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.a(x).mean((2, 3))
        z = torch.addmm(torch.zeros(8, device=y.device, dtype=y.dtype), y, n.weight)
        return n.c(F.relu(F.linear(z, n.weight)))

    net = Net({"a": conv(3, 8), "weight": channels(8, 8, 8), "c": nn.Linear(8, 4)}, forward)
    with pytest.warns(FrozenChannelsWarning, match="'addmm'"):
        graph = trace_channels(net, IMAGE)
    assert graph.widths == {}
    assert graph.verify(net, IMAGE) <= 1e-10


# ---- operations without a rule -----------------------------------------------------------------------------------


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x.flatten(2), x.flatten(2)).flatten(1)


def test_an_unknown_operation_warns_with_its_name_and_place_once() -> None:
    net = Net(
        {"a": conv(3, 8), "deep": nn.ModuleDict({"inner": Inner()}), "c": nn.Linear(64, 4)},
        lambda n, x: n.c(n.deep["inner"](n.a(x)) + n.deep["inner"](n.a(x))),
    )
    with pytest.warns(FrozenChannelsWarning) as caught:
        graph = trace_channels(net, IMAGE)
    assert [str(item.message) for item in caught] == [
        "no channel rule for operation 'cdist' in 'deep.inner': the channels that it touches keep their widths"
    ]
    assert graph.widths == {}
    assert graph.verify(net, IMAGE) <= 1e-10


def test_an_unknown_operation_on_the_image_is_nobodys_business() -> None:
    net = Net(
        {"a": conv(6, 8), "c": conv(8, 4)},
        lambda n, x: n.c(n.a(torch.view_as_real(torch.fft.rfft2(x)).permute(0, 1, 4, 2, 3).flatten(1, 2))),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trace_channels(net, IMAGE).widths == {"a": 8}


def test_freezing_a_module_silences_its_warning() -> None:
    net = Net({"a": conv(3, 8), "inner": Inner(), "c": nn.Linear(64, 4)}, lambda n, x: n.c(n.inner(n.a(x))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trace_channels(net, IMAGE, freeze=("inner",)).widths == {}


def _assign(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, 0] = 0.0
    return y


UNSAFE: dict[str, Callable[[Tensor], Tensor]] = {
    "cumsum": lambda y: y.cumsum(1),
    "softmax": lambda y: y.softmax(1),
    "argsort": lambda y: y.sort(1).values,
    "topk": lambda y: y.topk(8, 1).values,
    "local response": lambda y: F.local_response_norm(y, 3),
    "gather": lambda y: y[:, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])],
    "every second": lambda y: torch.cat([y[:, ::2], y[:, 1::2]], 1),
    "assignment": _assign,
    "unbind": lambda y: torch.stack(y.unbind(1)[::-1], 1),
    "outer product": lambda y: (
        (y.mean((2, 3))[:, :, None] * y.mean((2, 3))[:, None]).mean(2)[..., None, None] + y
    ),
    "glu": lambda y: F.glu(y, 1).repeat(1, 2, 1, 1),
    "roll": lambda y: y.roll(3, dims=1),
    "roll everything": lambda y: y.roll(1),
    "constant of the right shape": lambda y: y * torch.linspace(1, 2, 8)[:, None, None],
    "two ways to follow": lambda y: (
        y.reshape(2, y.shape[1] // 2, -1, 8, 8).transpose(1, 2).reshape(2, -1, 8, 8)
    ),
    "pooling over channels": lambda y: F.max_pool1d(y.flatten(2).mT, 3, 1, 1).mT.unflatten(2, (8, 8)),
    "interpolation over channels": lambda y: (
        F.interpolate(
            y.flatten(2).mT, scale_factor=1.0, mode="linear", recompute_scale_factor=True
        ).mT.unflatten(2, (8, 8))
        + F.avg_pool1d(y.flatten(2).mT, 3, 1, 1).mT.unflatten(2, (8, 8))
    ),
    "shuffle by an odd way": lambda y: y.view(2, 2, 4, 8, 8).flip(1).view(2, 8, 8, 8),
    "norm over channels": F.normalize,
    "layer norm of everything": lambda y: F.layer_norm(y, y.shape[1:]),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_mixes_channels_is_never_silently_wrong(name: str) -> None:
    """Whatever the plan is, it has to be provable, and channels that keep their widths have to be told."""
    net = Net({"a": conv(3, 8), "c": conv(8, 4)}, lambda n, x: n.c(UNSAFE[name](n.a(x))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = trace_channels(net, IMAGE)
    for seed, keep in enumerate((0.6, 0.3)):
        assert graph.verify(net, IMAGE, keep=keep, seed=seed) <= 1e-10
    assert graph.widths or any(issubclass(item.category, FrozenChannelsWarning) for item in caught)


# ---- arguments of the trace --------------------------------------------------------------------------------------


def two_heads() -> Net:
    return Net({"a": conv(3, 8), "b": conv(8, 6), "c": conv(8, 4)}, lambda n, x: (n.c(y := n.a(x)), n.b(y)))


def test_two_outputs_need_a_word_from_the_user() -> None:
    with pytest.raises(TraceError, match=r"returns 2 tensors.*outputs='freeze'.*outputs='free'"):
        trace_channels(two_heads(), IMAGE)
    frozen = trace_channels(two_heads(), IMAGE, outputs="freeze")
    assert frozen.widths == {"a": 8}
    free = trace_channels(two_heads(), IMAGE, outputs="free")
    assert free.widths == {"a": 8, "c": 4, "b": 6}
    for graph in (frozen, free):
        assert graph.verify(two_heads(), IMAGE) <= 1e-10


def test_taps_tell_the_widths_that_others_read() -> None:
    net = two_heads()
    graph = trace_channels(net, IMAGE, taps=("a", "b"), outputs="free")
    assert graph.width_of("a") == 8
    assert graph.width_of("b") == 6
    assert graph.width_of("b", {"b": 3}) == 3
    assert graph.width_of("a", {"b": 3}) == 8


def test_a_tap_behind_a_concatenation_counts_both_parts() -> None:
    net = Net(
        {"a": conv(3, 8), "b": conv(3, 6), "relu": nn.ReLU(), "c": conv(17, 4)},
        lambda n, x: n.c(n.relu(torch.cat([n.a(x), x, n.b(x)], 1))),
    )
    graph = trace_channels(net, IMAGE, taps=("relu",))
    assert graph.width_of("relu") == 17
    assert graph.width_of("relu", {"a": 4, "b": 7}) == 4 + 3 + 7
    with pytest.raises(UserError, match=r"'a\.relu' is not tapped"):
        graph.width_of("a.relu")


def test_ties_make_two_widths_one() -> None:
    net = Net(
        {"a": conv(3, 8), "b": conv(3, 8), "d": conv(3, 6), "c": conv(22, 4)},
        lambda n, x: n.c(torch.cat([n.a(x), n.b(x), n.d(x)], 1)),
    )
    assert trace_channels(net, IMAGE).widths == {"a": 8, "b": 8, "d": 6}
    graph = trace_channels(net, IMAGE, ties=(("a", "b"),))
    assert graph.widths == {"a": 8, "d": 6}
    assert graph.group("a").slots["b.weight", 0] == 1
    assert graph.verify(net, IMAGE) <= 1e-10
    with pytest.raises(TraceError, match="'a' has 8 channels and 'd' 6"):
        trace_channels(net, IMAGE, ties=(("a", "d"),))


@pytest.mark.parametrize("option", [{"freeze": ("x.*",)}, {"taps": ("x.*",)}, {"ties": (("a", "x.*"),)}])
def test_names_that_the_model_does_not_have_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"x\.\*"):
        trace_channels(two_heads(), IMAGE, outputs="free", **option)


def test_freeze_takes_patterns_and_leaves_what_it_names_as_it_is() -> None:
    net = nn.Sequential(conv(3, 8), nn.Sequential(conv(8, 6), conv(6, 5)), conv(5, 7), conv(7, 4))
    assert trace_channels(net, IMAGE).widths == {"0": 8, "1.0": 6, "1.1": 5, "2": 7}
    for pattern in ("1", "1.*"):
        assert trace_channels(net, IMAGE, freeze=(pattern,)).widths == {"2": 7}


def test_other_mistakes_are_told_in_one_line() -> None:
    net = nn.Sequential(conv(3, 8), conv(8, 4))
    with pytest.raises(UserError, match="unknown outputs 'all': allowed: single, freeze, free"):
        trace_channels(net, IMAGE, outputs="all")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="holds no tensor"):
        trace_channels(net, ())
    with pytest.raises(TraceError, match="returns no tensor"):
        trace_channels(Net({"a": conv(3, 8)}, lambda n, x: n.a(x).shape), IMAGE)
    with pytest.raises(RuntimeError, match="expected input"):  # torch's own words about a wrong input
        trace_channels(net, torch.zeros(1, 5, 8, 8))


def test_a_typed_in_size_that_no_trace_can_see_is_found_by_verify() -> None:
    from core.surgery.verification import VerificationError

    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.a(x)
        return n.c(y / len(y[0]))  # a number that changes with the width: masked and cut differ

    net = Net({"a": conv(3, 8), "c": conv(8, 4)}, forward)
    with pytest.raises(VerificationError, match="masked and cut outputs differ"):
        trace_channels(net, IMAGE).verify(net, IMAGE)
