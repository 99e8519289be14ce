"""The proof itself: it accepts right plans, and it must be able to fail on every wrong one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from core.graph.channels import ChannelGraph, trace_channels
from core.surgery.verification import VerificationError, random_keep, randomise_, verify
from tests.toys import TOYS, Net

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
