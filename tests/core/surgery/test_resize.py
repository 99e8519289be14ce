"""Widening, resizing and cutting: which tensors change, which do not, and what is refused."""

from __future__ import annotations

import warnings
from operator import attrgetter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from classification.models import build
from core.errors import UserError
from core.graph.channels import ChannelGraph, trace_channels
from core.surgery.resize import grouped_convolutions, keep_channels, resize, widen, widened_widths
from tests.properties import examples
from tests.toys import TOYS, Net, channels, conv

IMAGE = torch.randn(2, 3, 8, 8)


def traced(name: str) -> tuple[Net, ChannelGraph]:
    toy = TOYS[name]
    net = toy.build()
    return net, trace_channels(net, toy.inputs())


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def test_cutting_takes_the_kept_rows_and_columns_and_nothing_else() -> None:
    net, graph = traced("batch_norm")
    kept = torch.tensor([True, False, True, True, False, False, True, False])
    cut = keep_channels(net, graph, {"a": kept})
    assert torch.equal(cut.a.weight, net.a.weight[kept])
    assert torch.equal(cut.a.bias, net.a.bias[kept])
    assert torch.equal(cut.b.weight, net.b.weight[kept])
    assert torch.equal(cut.b.running_var, net.b.running_var[kept])
    assert torch.equal(cut.c.weight, net.c.weight[:, kept])
    assert torch.equal(cut.c.bias, net.c.bias)
    assert (cut.a.out_channels, cut.b.num_features, cut.c.in_channels) == (4, 4, 4)
    assert net.a.out_channels == 8
    assert all(tensor.is_contiguous() for tensor in cut.state_dict().values())
    assert cut.a.weight.data_ptr() != net.a.weight.data_ptr()


def test_what_is_not_exact_is_cut_on_request_alone() -> None:
    net, graph = traced("channel_mean")
    masks = {"a": torch.arange(8) < 3}
    with pytest.warns(UserWarning, match=r"1 groups are kept whole.*\(a\); inexact=True cuts them too"):
        kept = keep_channels(net, graph, masks)
    assert shapes(kept) == shapes(net)
    cut = keep_channels(net, graph, masks, inexact=True)
    assert cut.a.weight.shape == (3, 3, 3, 3)
    assert torch.equal(cut.weight, net.weight[:3])


@pytest.mark.parametrize(
    ("name", "widths", "path", "value"),
    [
        ("split_by_a_list", {"a:0": 2, "a:1": 7}, "b.splits", [2, 7]),
        ("split_by_an_attribute", {"a": 12}, "b.width", 3),
        ("split_by_a_fraction", {"a": 6}, "b.expand", 6),
        ("sliced_to_an_attribute", {"b.primary:0": 6}, "b.out_chs", 13),
        ("sliced_from_the_end", {"a:1": 2}, "b.last", 2),
        ("one_attribute_for_two", {"b.u": 5}, "b.part", 5),
        ("filter_of_every_channel", {"a": 11}, "b.channels", 11),
    ],
)
def test_sizes_in_attributes_follow(name: str, widths: dict[str, int], path: str, value: Any) -> None:
    net, graph = traced(name)
    before = attrgetter(path)(net)
    other = resize(net, graph, widths, seed=0)
    assert attrgetter(path)(other) == value
    assert type(attrgetter(path)(other)) is type(before)
    assert attrgetter(path)(net) == before
    assert other(*TOYS[name].inputs()).shape == net(*TOYS[name].inputs()).shape


def test_cutting_nothing_copies_the_network() -> None:
    net, graph = traced("squeeze_excite")
    copied = keep_channels(net, graph, {})
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in copied.state_dict().items())
    x = TOYS["squeeze_excite"].inputs()
    assert torch.equal(copied(*x), net(*x))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"a": torch.zeros(8, dtype=torch.bool)}, "at least one True"),
        ({"a": torch.ones(7, dtype=torch.bool)}, r"shape \(8,\)"),
        ({"a": torch.ones(8)}, "boolean mask"),
        ({"z": torch.ones(8, dtype=torch.bool)}, "no channel group is called 'z'"),
    ],
)
def test_impossible_masks_are_refused(masks: dict[str, torch.Tensor], message: str) -> None:
    net, graph = traced("plain")
    with pytest.raises(UserError, match=message):
        keep_channels(net, graph, masks)


def test_the_depth_multiplier_survives() -> None:
    net, graph = traced("depth_multiplier")
    other = resize(net, graph, {"a": 5}, seed=0)
    assert (other.b.in_channels, other.b.out_channels, other.b.groups) == (5, 10, 5)
    assert other.b.weight.shape == (10, 1, 3, 3)
    assert other(IMAGE).shape == (2, 4, 8, 8)


def test_shrinking_keeps_the_number_of_groups_and_widening_the_group_width() -> None:
    net, graph = traced("grouped")
    narrow = resize(net, graph, {"a": 4}, seed=0)
    assert (narrow.b.groups, narrow.b.weight.shape[:2]) == (2, (4, 2))
    wide = widen(net, graph, 2, seed=0)
    assert (wide.b.groups, wide.b.weight.shape[:2]) == (4, (16, 4))


def test_grouped_convolutions_that_share_channels_grow_alike() -> None:
    # b and d share `a`; d and e share d's output. 4, 6 and 2 groups: only factors k/2 keep all of them whole.
    parts = {
        "a": conv(3, 24),
        "b": conv(24, 24, groups=4),
        "d": conv(24, 12, groups=6),
        "e": conv(12, 8, groups=2),
    }
    net = Net({**parts, "c": conv(8, 4)}, lambda n, x: n.c(n.e(n.d(n.b(n.a(x))))))
    graph = trace_channels(net, IMAGE)
    for factor, growth in ((1.25, 1.0), (1.5, 1.5), (1.9, 1.5), (2.0, 2.0)):
        widths, groups = widened_widths(graph, factor)
        assert groups == {name: int(growth * count) for name, count in {"b": 4, "d": 6, "e": 2}.items()}
        assert widths == {name: int(growth * width) for name, width in graph.widths.items()}
        wide = widen(net, graph, factor, seed=0)
        assert trace_channels(wide, IMAGE).verify(wide, IMAGE) <= 1e-10


def test_grouped_convolutions_are_listed_where_they_are_entered_and_left() -> None:
    _, graph = traced("grouped_uneven")
    assert grouped_convolutions(graph) == {"a": ["b"], "b": ["b"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": {"a": 6}}, "not a positive multiple of 4"),
        ({"widths": {"a": 8}, "conv_groups": {"c": 2}}, "'c' is not a grouped convolution"),
        ({"widths": {"a": 8}, "conv_groups": {"b": 0}}, "positive number of groups"),
        ({"widths": {"a": 8}, "conv_groups": {"b": 2.5}}, "positive number of groups"),
        ({"widths": {"q": 8}}, "no channel group is called 'q'"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, Any], message: str) -> None:
    net, graph = traced("grouped_uneven")
    with pytest.raises(UserError, match=message):
        resize(net, graph, **options)


@pytest.mark.parametrize("factor", [0.5, 0.0, -1.0, float("nan"), float("inf")])
def test_impossible_factors_are_refused(factor: float) -> None:
    net, graph = traced("plain")
    with pytest.raises(UserError, match="at least 1"):
        widen(net, graph, factor)


@examples(25)
@given(
    st.sampled_from(["plain", "pixel_shuffle", "shuffle_unit", "depthwise", "dense_block", "naf_block"]),
    st.floats(1, 4),
)
def test_any_factor_multiplies_whole_choices(name: str, factor: float) -> None:
    net, graph = traced(name)
    wide = widen(net, graph, factor, seed=0)
    expected = {group.name: int(factor * group.size + 1e-9) * group.step for group in graph.groups}
    assert trace_channels(wide, TOYS[name].inputs()).widths == expected
    assert wide(*TOYS[name].inputs()).shape == net(*TOYS[name].inputs()).shape


def test_a_factor_of_one_keeps_every_shape() -> None:
    for name in ("grouped", "tied_weights", "bias_map"):
        net, graph = traced(name)
        assert shapes(widen(net, graph, 1.0, seed=0)) == shapes(net)


def test_shared_weights_stay_shared_and_both_layers_know_their_size() -> None:
    net, graph = traced("tied_weights")
    wide = widen(net, graph, 2, seed=0)
    assert wide.d.weight is wide.b.weight
    for layer in (wide.b, wide.d):
        assert (layer.in_channels, layer.out_channels) == (16, 16)
    assert sum(p.numel() for p in wide.parameters()) == graph.params({"a": 16})


def test_shared_grouped_layers_both_get_their_new_groups() -> None:
    parts = {"a": conv(3, 8), "b": conv(8, 8, groups=2), "d": conv(8, 8, groups=2), "c": conv(8, 4)}
    parts["d"].weight = parts["b"].weight
    net = Net(parts, lambda n, x: n.c(n.d(n.b(n.a(x)))))
    wide = widen(net, trace_channels(net, IMAGE), 2, seed=0)
    assert (wide.b.groups, wide.d.groups) == (4, 4)
    assert wide(IMAGE).shape == (2, 4, 8, 8)


def test_buffers_that_no_layer_resets_repeat_their_rows() -> None:
    net, graph = traced("blur")
    for other, width in ((widen(net, graph, 2, seed=0), 16), (resize(net, graph, {"a": 5}, seed=0), 5)):
        assert torch.equal(other.kernel, torch.full((width, 1, 3, 3), 1 / 9))


def test_resizing_draws_nothing_from_the_model_and_is_a_function_of_the_seed() -> None:
    net, graph = traced("squeeze_excite")
    first, again, other = (resize(net, graph, {"a": 6}, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.a.weight, other.a.weight)
    assert not torch.equal(first.up.bias, net.up.bias)
    assert first.training


@pytest.mark.parametrize("name", ["mobilenetv1", "mobilenetv2"])
def test_relu6_stays_relu6_in_the_widened_network(name: str) -> None:
    with torch.device("meta"):
        net = build(name, 10, dataset="digits")
    graph = trace_channels(net, torch.empty(1, 1, 8, 8, device="meta"))
    for changed in (
        widen(net, graph, 2.0),
        resize(net, graph, {group.name: group.step for group in graph.groups}),
    ):
        for key, module in net.named_modules():
            assert type(changed.get_submodule(key)) is type(module), key
        assert sum(type(module) is nn.ReLU6 for module in changed.modules()) > 20


def test_a_widened_relu6_still_ends_at_six() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 2, 1))
    wide = widen(net, trace_channels(net, IMAGE), 2.0)
    with torch.no_grad():
        wide[0].bias.fill_(100.0)
        assert wide[:2](IMAGE).eq(6).all()


def test_frozen_requires_grad_is_kept() -> None:
    net, graph = traced("plain")
    net.a.weight.requires_grad_(False)
    assert not widen(net, graph, 2, seed=0).a.weight.requires_grad


def test_group_norm_with_a_group_for_every_channel_keeps_that() -> None:
    net, graph = traced("group_norm_of_all")
    assert widen(net, graph, 2, seed=0).b.num_groups == 16
    net, graph = traced("group_norm_of_two")
    assert widen(net, graph, 2, seed=0).b.num_groups == 2


def test_a_number_that_only_happens_to_equal_a_width_stays() -> None:
    class Scaled(nn.Conv2d):
        """A convolution with an attribute of its own that equals its width by chance."""

        def __init__(self) -> None:
            super().__init__(3, 8, 3)
            self.temperature = 8

    net = Net({"a": Scaled(), "c": conv(8, 4)}, lambda n, x: n.c(n.a(x) / n.a.temperature))
    assert widen(net, trace_channels(net, IMAGE), 2, seed=0).a.temperature == 8


def test_a_parameter_used_by_name_and_a_layer_of_the_same_channels() -> None:
    net = Net({"a": conv(3, 8), "scale": channels(8, 1, 8, 1, 1), "c": conv(8, 4)},
              lambda n, x: n.c(F.relu(n.a(x)) * n.scale))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = trace_channels(net, IMAGE)
    assert shapes(resize(net, graph, {"a": 3}, seed=0)) == {
        "scale": (1, 3, 1, 1),
        "a.weight": (3, 3, 3, 3),
        "a.bias": (3,),
        "c.weight": (4, 3, 3, 3),
        "c.bias": (4,),
    }
