"""The proof itself: it accepts right plans, and it must be able to fail on every wrong one."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.graph.channels import ChannelGraph, trace_channels
from core.graph.labels import FrozenChannelsWarning
from core.surgery.verification import (
    UntestedGroupsWarning,
    VerificationError,
    random_keep,
    randomise_,
    verify,
)
from tests.toys import TOYS, Net, conv

MUTATED = [
    "residual",
    "squeeze_excite",
    "dense_block",
    "depthwise",
    "grouped",
    "pixel_shuffle",
    "naf_block",
    "tied_weights",
]


def traced(name: str) -> tuple[Net, ChannelGraph]:
    toy = TOYS[name]
    net = toy.build()
    return net, trace_channels(net, toy.inputs())


def slots() -> list[tuple[str, tuple[str, int]]]:
    return [
        (name, key)
        for name in MUTATED
        for key, table in traced(name)[1].slots.items()
        if (table >= 0).any() and not key[0].endswith("num_batches_tracked")
    ]


def holds(graph: ChannelGraph, net: Net, inputs: Any, seed: int) -> bool:
    try:
        graph.verify(net, inputs, seed=seed)
    except VerificationError:
        return False
    return True


@pytest.mark.parametrize(("name", "key"), slots())
def test_a_single_wrong_slot_is_found(name: str, key: tuple[str, int]) -> None:
    """Reverse the rows of one slot, as a tracer that mixed up channels would."""
    net, graph = traced(name)
    table = graph.slots[key]
    broken = dataclasses.replace(graph, slots={**graph.slots, key: table[::-1].copy()})
    inputs = TOYS[name].inputs()
    assert graph.verify(net, inputs) <= 1e-10
    assert any(
        not holds(broken, net, inputs, seed) for seed in range(3)
    )  # a keep may be a palindrome by chance


@pytest.mark.parametrize(("name", "key"), slots())
def test_a_forgotten_slot_is_found(name: str, key: tuple[str, int]) -> None:
    """Leave one slot as it is: the cut network has to stop running or compute something else."""
    net, graph = traced(name)
    frozen = np.full_like(graph.slots[key], -1)
    broken = dataclasses.replace(graph, slots={**graph.slots, key: frozen})
    with pytest.raises(VerificationError):
        broken.verify(net, TOYS[name].inputs())


def test_the_difference_is_relative_to_the_largest_output() -> None:
    net, graph = traced("residual")
    inputs = TOYS["residual"].inputs()
    found = []
    for scale in (1.0, 1e6):
        with torch.no_grad():
            net.c.weight.mul_(scale)
        found.append(verify(graph, net, inputs))
    assert max(found) <= 1e-12


def test_verification_does_not_touch_the_model_and_repeats_itself() -> None:
    net, graph = traced("batch_norm")
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    inputs = TOYS["batch_norm"].inputs()
    assert graph.verify(net.train(), inputs, seed=4) == graph.verify(net.train(), inputs, seed=4)
    assert net.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_keeps_are_random_and_never_empty_or_whole() -> None:
    _, graph = traced("dense_block")
    for keep in (0.0, 0.01, 0.5, 1.0):
        for mask, group in zip(random_keep(graph, keep, 0).values(), graph.groups, strict=True):
            assert 1 <= int(mask.sum()) <= group.size - 1
    masks = [tuple(random_keep(graph, 0.5, seed)["a"].tolist()) for seed in range(8)]
    assert len(set(masks)) > 4
    assert random_keep(graph, 0.5, 3)["a"].tolist() == list(masks[3])


def test_statistics_are_randomised_so_that_mistakes_show() -> None:
    net, _ = traced("batch_norm")
    randomise_(net, 0)
    for tensor in (net.b.weight, net.b.bias, net.b.running_mean, net.b.running_var, net.a.bias):
        assert tensor.min() >= 0.5
        assert tensor.unique().numel() == tensor.numel()


def test_both_modes_are_checked_and_a_mistake_in_training_alone_is_found() -> None:
    parts = {"a": conv(3, 8), "norm": nn.BatchNorm2d(8), "c": conv(8, 4), "aux": conv(8, 5)}

    def forward(n: Any, x: Tensor) -> Any:
        y = n.norm(n.a(x)).relu()
        return (n.c(y), n.aux(y)) if n.training else n.c(y)

    net, image = Net(parts, forward), torch.randn(2, 3, 8, 8)
    graph = trace_channels(net, image)
    proof = graph.verify(net, image)
    assert set(proof.modes) == {"evaluation", "training"}
    assert proof == max(proof.modes.values()) <= 1e-10
    assert not proof.unchecked
    key = ("aux.weight", 1)
    broken = dataclasses.replace(graph, slots={**graph.slots, key: graph.slots[key][::-1].copy()})
    assert any(not holds(broken, net, image, seed) for seed in range(3))
    broken = dataclasses.replace(graph, slots={**graph.slots, key: np.full_like(graph.slots[key], -1)})
    with pytest.raises(VerificationError, match="does not run in training mode"):
        broken.verify(net, image)


DRAWN = {
    "dropout": lambda n, y: F.dropout(y, 0.5, n.training),
    "dropout in place": lambda n, y: F.dropout2d(y, 0.5, n.training, inplace=True),
    "alpha dropout": lambda n, y: F.alpha_dropout(y, 0.5, n.training),
    "noise": lambda n, y: y + torch.randn_like(y) if n.training else y,
    "noise in place": lambda n, y: y + y.new_empty(y.shape).normal_() if n.training else y,
    "paths": lambda n, y: y * y.new_empty(len(y), 1, 1, 1).bernoulli_(0.5) / 0.5 if n.training else y,
    "slopes": lambda n, y: F.rrelu(y, training=n.training),
    "order": lambda n, y: y[torch.randperm(len(y))] if n.training else y,
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_in_training_does_not_hide_that_masked_equals_cut(name: str) -> None:
    net = Net({"a": conv(3, 8), "c": conv(8, 4)}, lambda n, x: n.c(DRAWN[name](n, n.a(x))))
    image = torch.randn(4, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenChannelsWarning)
        graph = trace_channels(net, image)
    state = torch.random.get_rng_state()
    proof = graph.verify(net, image)
    assert proof <= 1e-10
    assert set(proof.modes) == {"evaluation", "training"}
    assert torch.equal(torch.random.get_rng_state(), state)


def test_attention_with_dropout_is_compared_without_it() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = conv(3, 8), conv(8, 4)
            self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            tokens = y.flatten(2).transpose(1, 2)
            z = F.scaled_dot_product_attention(tokens, tokens, tokens, None, 0.5 if self.training else 0.0)
            return self.c((self.attention(tokens, tokens, tokens)[0] + z).transpose(1, 2).reshape(y.shape))

    net, image = nn.Sequential(conv(3, 6), conv(6, 3), Block()), torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenChannelsWarning)
        graph = trace_channels(net, image)
    assert set(graph.verify(net, image).modes) == {"evaluation", "training"}


def test_a_mode_that_does_not_run_is_said() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.c(n.a(x))
        if not n.training and x.dtype == torch.float64:
            raise RuntimeError("an operator is missing")
        return y

    net, image = Net({"a": conv(3, 8), "c": conv(8, 4)}, forward), torch.randn(2, 3, 8, 8)
    graph = trace_channels(net, image)
    with pytest.warns(UserWarning, match="evaluation mode is not verified.*an operator is missing"):
        proof = graph.verify(net, image)
    assert (set(proof.modes), set(proof.unchecked)) == ({"training"}, {"evaluation"})
    with (
        pytest.warns(UserWarning, match="not verified"),
        pytest.raises(VerificationError, match="nothing is"),
    ):
        graph.verify(net, torch.randn(2, 5, 8, 8))


def test_outputs_that_are_not_finite_prove_nothing() -> None:
    net = Net({"a": conv(3, 8), "c": conv(8, 4)}, lambda n, x: n.c(n.a(x)).abs().neg().log())
    image = torch.randn(2, 3, 8, 8)
    with pytest.raises(VerificationError, match="not finite in evaluation mode"):
        trace_channels(net, image).verify(net, image)
    some = Net({"a": conv(3, 8), "c": conv(8, 4)}, lambda n, x: n.c(n.a(x)).log())  # NaN where it is negative
    graph = trace_channels(some, image)
    assert graph.verify(some, image) <= 1e-10
    wrong = dataclasses.replace(
        graph, slots={**graph.slots, ("c.weight", 1): graph.slots["c.weight", 1][::-1].copy()}
    )
    assert any(not holds(wrong, some, image, seed) for seed in range(3))


def test_a_tolerance_can_be_missed() -> None:
    net, graph = traced("plain")
    with pytest.raises(VerificationError, match=r"differ by .*allowed -1e\+00"):
        verify(graph, net, TOYS["plain"].inputs(), tolerance=-1.0)


def test_several_outputs_of_which_channels_are_free() -> None:
    parts = TOYS["u_net"].parts()
    net = Net(
        {name: parts[name] for name in "abc"}, lambda n, x: (y := n.a(x), n.b(y), n.c(torch.cat([y, y], 1)))
    )
    graph = trace_channels(net, TOYS["u_net"].inputs(), outputs="free")
    assert graph.widths == {"a": 8, "b": 6, "c": 4}
    assert graph.verify(net, TOYS["u_net"].inputs()) <= 1e-10


def test_groups_whose_sum_cannot_run_over_the_kept_channels_are_untested_and_still_have_to_run() -> None:
    """Three more than the number of channels: what the sum counts for at another width, a size does not remember."""
    net = Net(
        {"a": conv(3, 8), "b": conv(8, 6), "c": conv(6, 4)},
        lambda n, x: n.c(n.b(y := n.a(x)) / (y.shape[1] + 3)),
    )
    image = torch.randn(2, 3, 8, 8)
    graph = trace_channels(net, image)
    with pytest.warns(UntestedGroupsWarning, match=r"untested: 1 of 2 groups \('a'\).*a sum of sizes"):
        proof = graph.verify(net, image)
    assert proof <= 1e-10
    assert (proof.untested, proof.over_kept) == (("a",), ())
    key = ("b.weight", 1)
    broken = dataclasses.replace(
        graph, slots={name: table for name, table in graph.slots.items() if name != key}
    )
    with pytest.raises(VerificationError, match="the cut network does not run"):
        broken.verify(net, image)


OVER_CHANNELS = [
    "one_mean_of_two",
    "spatial_attention",
    "channels_first_layer_norm",
    "standardised",
    "attention",
    "cross_covariance",
    "divided_by_the_root_of_a_size",
]


@pytest.mark.parametrize("name", OVER_CHANNELS)
def test_a_wrong_slot_of_a_group_that_is_not_exact_is_found(name: str) -> None:
    net, graph = traced(name)
    inputs = TOYS[name].inputs()
    proof = graph.verify(net, inputs)
    assert proof.untested == proof.over_kept == tuple(graph.inexact) != ()
    keys = [
        key for group in graph.groups if not group.exact for key in group.slots if key[0].endswith("weight")
    ]
    for key in keys:
        broken = dataclasses.replace(graph, slots={**graph.slots, key: graph.slots[key][::-1].copy()})
        assert any(not holds(broken, net, inputs, seed) for seed in range(3)), key


def test_a_group_that_is_wrongly_called_exact_is_found() -> None:
    for name in ("channel_mean", "standardised", "divided_by_a_size"):
        net, graph = traced(name)
        groups = [dataclasses.replace(group, exact=True) for group in graph.groups]
        with pytest.raises(VerificationError, match="masked and cut outputs differ"):
            dataclasses.replace(graph, groups=groups).verify(net, TOYS[name].inputs())
