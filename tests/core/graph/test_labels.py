"""Channel groups of small networks against groups derived by hand, and the proof that they are right."""

from __future__ import annotations

import copy
import gc
import re
import warnings
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.graph.channels import ChannelGraph, trace_channels
from core.graph.labels import FrozenChannelsWarning
from core.surgery.resize import keep_channels, resize, widen
from core.surgery.verification import UntestedGroupsWarning, mask_channels, random_keep
from tests.toys import TOYS, Net, Toy, conv

FREE = [name for name, toy in TOYS.items() if toy.groups]


def trace(toy: Toy, net: nn.Module, inputs: Any) -> ChannelGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenChannelsWarning)
        return trace_channels(net, inputs, **toy.options)


def found(graph: ChannelGraph) -> dict[str, tuple[int, int]]:
    return {group.name: (group.width, group.step) for group in graph.groups}


@pytest.mark.parametrize("name", TOYS)
def test_groups_are_those_derived_by_hand(name: str) -> None:
    toy = TOYS[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = trace_channels(toy.build(), toy.inputs(), **toy.options)
    messages = [str(item.message) for item in caught if issubclass(item.category, FrozenChannelsWarning)]
    assert found(graph) == toy.groups
    assert all(any(message.startswith(note.cause) for note in graph.notes) for message in messages)
    assert bool(graph.notes) == bool(messages)
    assert tuple(graph.inexact) == toy.inexact
    if toy.warns is None:
        assert not messages
    else:
        assert any(re.search(toy.warns, message) for message in messages)


@pytest.mark.parametrize("name", TOYS)
def test_masked_equals_cut(name: str) -> None:
    toy = TOYS[name]
    net, inputs = toy.build(), toy.inputs()
    graph = trace(toy, net, inputs)
    for seed, keep in enumerate((0.6, 0.3, 0.9)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UntestedGroupsWarning)
            proof = graph.verify(net, inputs, keep=keep, seed=seed)
        assert proof <= 1e-10
        assert proof.untested == proof.over_kept == toy.inexact


# looks_at_channels takes the other branch only for values that no toy has.
INEXACT = [name for name, toy in TOYS.items() if toy.inexact and name != "looks_at_channels"]


@pytest.mark.parametrize("name", INEXACT)
def test_inexact_groups_do_differ_masked_and_cut(name: str) -> None:
    toy = TOYS[name]
    net, inputs = toy.build().double().eval(), tuple(x.double() for x in toy.inputs())
    graph = trace(toy, net, inputs)
    for group in toy.inexact:
        masks = {group: random_keep(graph, 0.6, 0)[group]}
        with torch.no_grad():
            whole = mask_channels(net, graph, masks)(*inputs)
            cut = keep_channels(net, graph, masks, inexact=True)(*inputs)
        assert not torch.allclose(whole, cut, rtol=1e-4)


@pytest.mark.parametrize("factor", [2.0, 1.5])
@pytest.mark.parametrize("name", FREE)
def test_widened_networks_run_and_have_the_same_groups(name: str, factor: float) -> None:
    toy = TOYS[name]
    net, inputs = toy.build(), toy.inputs()
    wide = widen(net, trace(toy, net, inputs), factor, seed=0)
    graph = trace(toy, wide, inputs)
    grown = {group: width for group, (width, _) in found(graph).items()}
    if factor == 2.0:
        assert grown == {group: 2 * width for group, (width, _) in toy.groups.items()}
    else:  # whole choices, and whole groups of grouped convolutions
        for group, (width, _) in toy.groups.items():
            assert width <= grown[group] <= factor * width
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntestedGroupsWarning)
        assert graph.verify(wide, inputs) <= 1e-10


@pytest.mark.parametrize("name", FREE)
def test_networks_at_other_widths_run_and_cost_what_the_closed_form_says(name: str) -> None:
    toy = TOYS[name]
    net, inputs = toy.build(), toy.inputs()
    graph = trace(toy, net, inputs)
    generator = torch.Generator().manual_seed(2)
    widths = {
        group.name: int(torch.randint(1, 2 * group.size, (), generator=generator)) * group.step
        for group in graph.groups
    }
    other = resize(net, graph, widths, seed=0)
    again = trace(toy, other, inputs)
    for group, width in again.widths.items():  # a group of one choice is not free any more
        assert width == widths[group]
    assert graph.params(widths) == sum(parameter.numel() for parameter in other.parameters())
    assert graph.flops(widths) == again.flops()
    assert graph.flops(widths, "paper") == again.flops(convention="paper")


@pytest.mark.parametrize("name", FREE)
def test_attributes_of_layers_agree_with_their_weights(name: str) -> None:
    toy = TOYS[name]
    net, inputs = toy.build(), toy.inputs()
    wide = widen(net, trace(toy, net, inputs), 2, seed=0)
    wide(*inputs)  # in which hooks compute their weights
    for layer in wide.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            out, inside = layer.out_channels, layer.in_channels
            rows = (inside, out // layer.groups) if layer.transposed else (out, inside // layer.groups)
            assert layer.weight.shape[:2] == rows
        elif isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features)
        elif isinstance(layer, nn.modules.batchnorm._NormBase) and layer.weight is not None:
            assert layer.weight.shape == (layer.num_features,)
        elif isinstance(layer, nn.GroupNorm) and layer.affine:
            assert layer.weight.shape == (layer.num_channels,)
        elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
            assert layer.weight.shape == tuple(layer.normalized_shape)


@pytest.mark.parametrize("name", TOYS)
def test_a_batch_of_one_and_a_second_trace_give_the_same_plan(name: str) -> None:
    toy = TOYS[name]
    net = toy.build()
    plan = trace(toy, net, toy.inputs()).to_json()
    assert trace(toy, net, toy.inputs()).to_json() == plan
    if name == "low_rank_update":  # a product of weights is calculated once, for however many images
        return
    assert trace(toy, net, toy.inputs(batch=1)).to_json() == plan
    if name != "typed_in_view":  # 4 images are one row of 4 * 512
        assert trace(toy, net, toy.inputs(batch=4)).to_json() == plan


@pytest.mark.parametrize("name", ["squeeze_excite", "looks_at_image", "tied_weights", "batch_norm"])
def test_the_model_is_not_touched(name: str) -> None:
    toy = TOYS[name]
    net = toy.build().train()
    net.a.register_forward_hook(lambda *_: None)
    state = copy.deepcopy(net.state_dict())
    shape = {key: (type(module), list(module.__dict__)) for key, module in net.named_modules()}
    hooks = {
        key: (len(module._forward_hooks), len(module._forward_pre_hooks))
        for key, module in net.named_modules()
    }
    inputs = toy.inputs()
    graph = trace(toy, net, inputs)
    graph.verify(net, inputs)
    widen(net, graph, 2, seed=0)
    assert net.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items())
    assert {key: (type(module), list(module.__dict__)) for key, module in net.named_modules()} == shape
    assert hooks == {
        key: (len(module._forward_hooks), len(module._forward_pre_hooks))
        for key, module in net.named_modules()
    }
    assert all("_lwdna" not in key for tensor in (*net.parameters(), *inputs) for key in tensor.__dict__)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_nothing_keeps_a_traced_model_alive() -> None:
    toy = TOYS["squeeze_excite"]
    net = toy.build()
    alive = weakref.ref(net)
    weight = weakref.ref(net.a.weight)
    graph = trace(toy, net, toy.inputs())
    del net
    gc.collect()
    assert alive() is None
    assert weight() is None
    assert graph.widths == {"a": 8, "down": 4}


def test_tracing_neither_reads_nor_leaves_global_state() -> None:
    toy = TOYS["residual"]
    plan = trace(toy, toy.build(), toy.inputs()).to_json()
    for name in ("grouped", "dense_block", "attention"):
        trace(TOYS[name], TOYS[name].build(), TOYS[name].inputs())
    net, inputs = toy.build(), toy.inputs()
    random_state = torch.random.get_rng_state()
    graph = trace(toy, net, inputs)
    graph.verify(net, inputs)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert torch.is_grad_enabled()
    assert graph.to_json() == plan


@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "dictionary"])
def test_forms_of_example_inputs(form: str) -> None:
    net = Net({"a": conv(3, 8), "c": conv(8, 4)}, lambda n, image: n.c(n.a(image)))
    image = torch.randn(2, 3, 8, 8)
    inputs = {"tensor": image, "tuple": (image,), "list": [image], "dictionary": {"image": image}}[form]
    graph = trace_channels(net, inputs)
    assert graph.widths == {"a": 8}
    assert graph.verify(net, inputs) <= 1e-10


def test_nested_inputs_and_outputs() -> None:
    def forward(n: Any, pair: tuple[Tensor, dict[str, Tensor]]) -> dict[str, list[Tensor]]:
        return {"out": [n.c(n.a(pair[0]) + n.b(pair[1]["depth"]))]}

    net = Net({"a": conv(3, 8), "b": conv(1, 8), "c": conv(8, 4)}, forward)
    inputs = ((torch.randn(2, 3, 8, 8), {"depth": torch.randn(2, 1, 8, 8)}),)
    graph = trace_channels(net, inputs)
    assert graph.widths == {"a": 8}
    assert graph.verify(net, inputs) <= 1e-10


def test_a_mask_of_whole_numbers_may_be_an_input() -> None:
    net = Net({"a": conv(3, 8), "c": conv(8, 4)}, lambda n, x, mask: n.c(n.a(x).masked_fill(mask == 0, 0.0)))
    inputs = (torch.randn(2, 3, 8, 8), torch.randint(0, 2, (2, 1, 8, 8)))
    graph = trace_channels(net, inputs)
    assert graph.widths == {"a": 8}
    assert graph.verify(net, inputs) <= 1e-10


def test_half_precision_networks() -> None:
    net = TOYS["residual"].build().bfloat16()
    inputs = (torch.randn(2, 3, 8, 8, dtype=torch.bfloat16),)
    graph = trace_channels(net, inputs)
    assert found(graph) == TOYS["residual"].groups
    assert graph.verify(net, inputs) <= 1e-10
    assert all(parameter.dtype == torch.bfloat16 for parameter in widen(net, graph, 2, seed=0).parameters())


@pytest.mark.parametrize("name", [name for name in TOYS if not name.startswith("looks_at")])
def test_tracing_needs_no_arithmetic(name: str) -> None:
    """On the meta device there are no values, so a plan that comes out was found from shapes alone."""
    toy = TOYS[name]
    plan = trace(toy, toy.build(), toy.inputs()).to_json()
    inputs = tuple(item.to("meta") for item in toy.inputs())
    with torch.device("meta"):
        net = toy.build()
    assert trace(toy, net, inputs).to_json() == plan
