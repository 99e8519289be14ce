"""Gates on channels: nothing changes at 1, a channel is really off at 0, and z · dL/dz is the sum of W · dL/dW."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.graph.channels import ChannelGraph, trace_channels
from core.surgery.gates import LATENTS, attach_gates, detach, governed_weights
from core.surgery.resize import keep_channels
from core.surgery.verification import random_keep, randomise_
from core.widths.scores import governed_sums
from tests.toys import TOYS, Net, conv

# Statistics over channels see zeros where a cut network has none: masking is not cutting there.
OVER_CHANNELS = {"group_norm_of_one", "group_norm_of_two", "group_norm_bare", "cat_and_group_norm",
                 "layer_norm_last", "layer_norm_bare", "naf_block", "convnext_block", "layer_norm_by_an_attribute",
                 "layer_norm_by_its_weight"}  # fmt: skip
QUIET = [name for name, toy in TOYS.items() if toy.groups and toy.warns is None]


def prepared(name: str) -> tuple[Net, ChannelGraph, tuple[Tensor, ...]]:
    """A toy in double precision and eval mode, with random biases and statistics."""
    toy = TOYS[name]
    net = toy.build().double().eval()
    randomise_(net, 0)
    inputs = tuple(item.double() for item in toy.inputs())
    return net, trace_channels(net, inputs), inputs


def spread(graph: ChannelGraph, seed: int = 0) -> Tensor:
    """A latent vector away from 0 and 1."""
    return (
        torch.rand(int(graph.offsets[-1]), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        + 0.5
    )


@pytest.mark.parametrize("name", QUIET)
def test_gates_of_one_change_nothing(name: str) -> None:
    net, graph, inputs = prepared(name)
    gated = attach_gates(net, graph)
    assert torch.equal(gated(*inputs), net(*inputs))
    assert getattr(gated, LATENTS).z.numel() == sum(group.size for group in graph.groups)


# A weight norm divides by the norm of a row, so that a gate of exactly zero leaves no number.
CUT_BY_ZERO = [
    name
    for name in QUIET
    if name not in OVER_CHANNELS
    and not TOYS[name].inexact
    and "weight_norm" not in name
    and name != "two_norms"
]


@pytest.mark.parametrize("name", CUT_BY_ZERO)
def test_a_gate_of_zero_is_a_cut(name: str) -> None:
    net, graph, inputs = prepared(name)
    keep = random_keep(graph, 0.6, 0)
    gated = attach_gates(net, graph)
    with torch.no_grad():
        for group, z in getattr(gated, LATENTS).split(getattr(gated, LATENTS).z).items():
            z.mul_(keep[group])
        torch.testing.assert_close(
            gated(*inputs), keep_channels(net, graph, keep)(*inputs), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("name", sorted(OVER_CHANNELS))
def test_statistics_over_channels_are_the_only_exception(name: str) -> None:
    net, graph, inputs = prepared(name)
    keep = random_keep(graph, 0.6, 0)
    gated = attach_gates(net, graph)
    with torch.no_grad():
        for group, z in getattr(gated, LATENTS).split(getattr(gated, LATENTS).z).items():
            z.mul_(keep[group])
        assert not torch.allclose(gated(*inputs), keep_channels(net, graph, keep)(*inputs), rtol=1e-6)
    assert graph.verify(net, inputs) <= 1e-10  # which takes the statistics over the kept channels


@pytest.mark.parametrize("name", QUIET)
def test_z_times_its_gradient_is_the_governed_sum(name: str) -> None:
    """Method.md 0.6, at latents that are not 1 and behind all norms in training mode."""
    net, graph, inputs = prepared(name)
    # In training mode every call moves the vectors of a spectral norm.
    gated = attach_gates(net.train("spectral" not in name and name != "two_norms"), graph)
    z = getattr(gated, LATENTS).z
    with torch.no_grad():
        z.copy_(spread(graph))
    torch.manual_seed(1)
    target = torch.randn_like(net(*inputs))
    (gradient,) = torch.autograd.grad(F.mse_loss(gated(*inputs), target), z)

    plain = detach(gated)
    weights = {key: plain.get_parameter(key) for key in governed_weights(net, graph)}
    found = torch.autograd.grad(F.mse_loss(plain(*inputs), target), list(weights.values()))
    products = {key: weight.detach() * g for (key, weight), g in zip(weights.items(), found, strict=True)}
    expected = z.detach() * gradient
    torch.testing.assert_close(
        governed_sums(graph, products.items()), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
    )
    assert float(expected.abs().max()) > 0


def test_the_gradient_against_finite_differences() -> None:
    net, graph, inputs = prepared("squeeze_excite")
    gated = attach_gates(net, graph)
    z = getattr(gated, LATENTS).z
    with torch.no_grad():
        z.copy_(spread(graph))
    (gradient,) = torch.autograd.grad(gated(*inputs).square().mean(), z)
    with torch.no_grad():
        for index in range(z.numel()):
            values = []
            for step in (1e-5, -1e-5):
                z[index] += step
                values.append(gated(*inputs).square().mean())
                z[index] -= step
            assert float(gradient[index]) == pytest.approx(float(values[0] - values[1]) / 2e-5, rel=1e-5)


def test_behind_batch_norm_in_training_mode_the_producers_share_is_zero() -> None:
    """The norm divides the scale of its input out again: Σ W · dL/dW over a producer's rows vanishes."""
    net, graph, inputs = prepared("batch_norm")
    net.b.eps = 1e-20
    with torch.no_grad():
        net.a.bias.zero_()  # a bias is not scaled by the gate
    shares = {}
    for mode in (True, False):
        output = net.train(mode)(*inputs)
        producer, reader = torch.autograd.grad(output.square().mean(), [net.a.weight, net.c.weight])
        shares[mode] = (
            governed_sums(graph, [("a.weight", net.a.weight.detach() * producer)]),
            governed_sums(graph, [("c.weight", net.c.weight.detach() * reader)]),
        )
    # The ReLU stands in front of the norm here and is as free of scale as the norm.
    assert shares[True][0].abs().max() < 1e-10 * shares[True][1].abs().max()
    assert shares[False][0].abs().max() > 1e-3 * shares[False][1].abs().max()


def test_a_hand_written_gate() -> None:
    net, graph, _ = prepared("plain")
    gated = attach_gates(net, graph)
    z = spread(graph)
    with torch.no_grad():
        getattr(gated, LATENTS).z.copy_(z)
    assert torch.equal(gated.a.weight, net.a.weight * z[:, None, None, None])
    assert torch.equal(gated.c.weight, net.c.weight * z[None, :, None, None])
    assert torch.equal(gated.a.bias, net.a.bias)


def test_latents_by_group_and_by_row() -> None:
    net, graph, _ = prepared("dense_block")
    latents = getattr(attach_gates(net, graph), LATENTS)
    with torch.no_grad():
        latents.z.copy_(spread(graph))
    assert {name: part.numel() for name, part in latents.split(latents.z).items()} == graph.widths
    assert torch.equal(latents.of("b"), latents.z[8:12])
    assert latents.gather(torch.tensor([0, -1])).tolist() == [latents.z[0].item(), 1.0]


@pytest.mark.parametrize("bake", [True, False])
def test_detaching_gives_back_a_plain_network(bake: bool) -> None:
    net, graph, inputs = prepared("squeeze_excite")
    gated = attach_gates(net, graph)
    with torch.no_grad():
        getattr(gated, LATENTS).z.copy_(spread(graph))
    before = gated(*inputs)
    plain = detach(gated, bake=bake)
    assert [type(module) for module in plain.modules()] == [type(module) for module in net.modules()]
    assert list(plain.state_dict()) == list(net.state_dict())
    assert torch.allclose(plain(*inputs), before if bake else net(*inputs), rtol=1e-12)
    assert torch.equal(gated(*inputs), before)  # the gated network still works
    again = detach(gated, bake=bake)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), again.parameters(), strict=True))


def test_attaching_does_not_touch_the_model() -> None:
    net, graph, _ = prepared("residual")
    state = copy.deepcopy(net.state_dict())
    gated = attach_gates(net, graph)
    with torch.no_grad():
        for parameter in gated.parameters():
            parameter.fill_(3.0)
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_tied_weights_are_gated_in_both_places_and_stay_tied() -> None:
    net, graph, inputs = prepared("tied_weights")
    gated = attach_gates(net, graph)
    with torch.no_grad():
        getattr(gated, LATENTS).z.copy_(spread(graph))
    assert torch.equal(gated.b.weight, gated.d.weight)
    assert not torch.equal(gated.b.weight, net.b.weight)
    plain = detach(gated)
    assert plain.b.weight is plain.d.weight
    assert torch.allclose(plain(*inputs), gated(*inputs), rtol=1e-12)


def test_a_step_of_an_optimiser_moves_latents_and_weights() -> None:
    net, graph, inputs = prepared("grouped")
    gated = attach_gates(net, graph)
    names = [name for name, _ in gated.named_parameters()]
    assert names.count(f"{LATENTS}.z") == 1
    optimiser = torch.optim.SGD(gated.parameters(), lr=0.1)
    before = {name: parameter.detach().clone() for name, parameter in gated.named_parameters()}
    gated(*inputs).square().mean().backward()
    optimiser.step()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in gated.named_parameters())


def test_frozen_dimensions_are_not_gated() -> None:
    net = Net({"a": conv(3, 8), "c": nn.Linear(8, 5)}, lambda n, x: n.c(n.a(x).mean((2, 3))))
    graph = trace_channels(net, torch.zeros(1, 3, 8, 8))
    tables = governed_weights(net, graph)
    assert {name: sorted(found) for name, found in tables.items()} == {"a.weight": [0], "c.weight": [1]}
