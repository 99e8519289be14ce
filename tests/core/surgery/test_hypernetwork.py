"""DHP's hypernetwork against its equations written out, and a zeroed channel that is really off."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from core.graph.channels import trace_channels
from core.surgery.gates import LATENTS, detach
from core.surgery.hypernetwork import attach_hypernetwork, soft_threshold_
from core.surgery.resize import keep_channels
from core.surgery.verification import random_keep
from tests.toys import TOYS, Net, conv

IMAGE = torch.randn(2, 3, 8, 8, dtype=torch.float64)


def three_layers() -> Net:
    torch.manual_seed(0)
    net = Net(
        {"a": conv(3, 5), "b": conv(5, 6), "c": conv(6, 2)}, lambda n, x: n.c(F.relu(n.b(F.relu(n.a(x)))))
    )
    return net.double()


def shaken(net: Net, embedding: int = 4) -> Net:
    """A hypernetwork whose biases are as large as its weights, as after some training."""
    graph = trace_channels(net, IMAGE)
    hyper = attach_hypernetwork(net, graph, embedding=embedding, seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in hyper.named_parameters():
            if "parametrizations" in name:
                parameter.add_(torch.randn_like(parameter))
    return hyper


@pytest.mark.parametrize("layer", ["a", "b", "c"])
def test_the_weight_is_the_written_out_equation(layer: str) -> None:
    hyper = shaken(three_layers())
    latents = getattr(hyper, LATENTS)
    module = getattr(hyper, layer)
    b0, w1, b1, w2, b2 = (getattr(module.parametrizations.weight, f"original{i}").detach() for i in range(5))
    ones = {"image": torch.ones(3), "output": torch.ones(2)}
    z = {**ones, "a": latents.of("a").detach(), "b": latents.of("b").detach()}
    inside, out = {"a": ("image", "a"), "b": ("a", "b"), "c": ("b", "output")}[layer]
    expected = torch.zeros_like(module.weight)
    for j in range(expected.shape[0]):
        for i in range(expected.shape[1]):
            latent = z[out][j] * z[inside][i] + b0[j, i]
            embedded = latent * w1[j, i] + b1[j, i]
            for position in range(9):
                expected[j, i, position // 3, position % 3] = (
                    w2[j, i, position] @ embedded + b2[j, i, position]
                )
    torch.testing.assert_close(module.weight, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "residual",
        "squeeze_excite",
        "grouped",
        "depthwise",
        "transposed",
        "pixel_shuffle",
        "dense_block",
        "tied_weights",
        "module_twice",
        "flattened_head",
        "u_net",
    ],
)
def test_a_zeroed_channel_is_really_off_with_nonzero_biases(name: str) -> None:
    toy = TOYS[name]
    net = toy.build().double().eval()
    inputs = tuple(item.double() for item in toy.inputs())
    graph = trace_channels(net, inputs)
    hyper = attach_hypernetwork(net, graph, seed=1)
    keep = random_keep(graph, 0.6, 0)
    torch.manual_seed(2)
    with torch.no_grad():
        for key, parameter in hyper.named_parameters():
            if "parametrizations" in key:
                parameter.add_(0.1 * torch.randn_like(parameter))
        latents = getattr(hyper, LATENTS)
        for group, z in latents.split(latents.z).items():
            z.mul_(keep[group])
        cut = keep_channels(detach(hyper), graph, keep)
        torch.testing.assert_close(hyper(*inputs), cut(*inputs), rtol=1e-10, atol=1e-10)


def test_tied_weights_have_one_hypernetwork() -> None:
    toy = TOYS["tied_weights"]
    net = toy.build()
    hyper = attach_hypernetwork(net, trace_channels(net, toy.inputs()), seed=0)
    assert torch.equal(hyper.b.weight, hyper.d.weight)
    assert sum("b.parametrizations.weight.original0" in name for name, _ in hyper.named_parameters()) == 1
    plain = detach(hyper)
    assert plain.b.weight is plain.d.weight


def test_fresh_latents_and_parameters_have_dhps_distributions() -> None:
    net = Net(
        {"a": conv(3, 64), "b": conv(64, 128), "c": conv(128, 2)}, lambda n, x: n.c(n.b(n.a(x)))
    ).double()
    hyper = attach_hypernetwork(net, trace_channels(net, IMAGE), embedding=8, seed=0)
    b0, w1, b1, w2, b2 = (getattr(hyper.b.parametrizations.weight, f"original{i}") for i in range(5))
    assert not b0.any()
    assert not b1.any()
    assert not b2.any()
    assert (tuple(w1.shape), tuple(w2.shape)) == ((128, 64, 8), (128, 64, 9, 8))
    assert w1.abs().max().item() == pytest.approx(math.sqrt(3), rel=1e-3)
    assert w2.abs().max().item() == pytest.approx(math.sqrt(3 / (8 * 64 * 9)), rel=1e-3)
    z = getattr(hyper, LATENTS).z.detach()
    assert z.mean().item() == pytest.approx(0, abs=0.3)
    assert z.std().item() == pytest.approx(1, rel=0.2)
    # Var(O) = E[z_out²] E[z_in²] · m · 1 · 1 / (m C k²), with the drawn latents
    scale = math.sqrt(float(z[:64].square().mean() * z[64:].square().mean()))
    assert hyper.b.weight.std().item() == pytest.approx(scale / math.sqrt(64 * 9), rel=0.1)


def test_the_number_of_parameters_per_weight() -> None:
    """Method.md 1.1: (2 m + 1) / k² + m + 1 parameters per weight."""
    for embedding, per_weight in ((8, 17 / 9 + 9), (2, 5 / 9 + 3)):
        hyper = attach_hypernetwork(
            three_layers(), trace_channels(three_layers(), IMAGE), embedding=embedding, seed=0
        )
        count = sum(parameter.numel() for parameter in hyper.b.parametrizations.weight.parameters())
        assert count == pytest.approx(per_weight * 5 * 6 * 9)


def test_classifiers_stay_ordinary_but_are_masked() -> None:
    toy = TOYS["pooled_head"]
    net = toy.build()
    hyper = attach_hypernetwork(net, trace_channels(net, toy.inputs()), seed=0)
    assert torch.equal(hyper.c.weight, net.c.weight)
    with torch.no_grad():
        getattr(hyper, LATENTS).of("a")[2] = 0.0
    assert not hyper.c.weight[:, 2].any()
    assert torch.equal(hyper.c.weight[:, 3], net.c.weight[:, 3])


def test_hypernetworks_are_a_function_of_the_seed() -> None:
    net = three_layers()
    graph = trace_channels(net, IMAGE)
    first, again, other = (attach_hypernetwork(net, graph, seed=seed)(IMAGE) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_proximal_step() -> None:
    net = three_layers()
    latents = getattr(attach_hypernetwork(net, trace_channels(net, IMAGE), seed=0), LATENTS)
    with torch.no_grad():
        latents.of("a").copy_(torch.tensor([0.5, -0.2, 0.05, -0.05, 1.0], dtype=torch.float64))
        latents.of("b").copy_(torch.tensor([0.01, 0.0, 0.0, -0.01, 0.02, 0.0], dtype=torch.float64))
    soft_threshold_(latents, 0.1, keep={"a": 2, "b": 3})
    assert latents.of("a").tolist() == pytest.approx([0.4, -0.1, 0.0, 0.0, 0.9])
    assert latents.of("b").tolist() == pytest.approx([0.01, 0, 0, -0.01, 0.02, 0])  # at its least: left alone
    soft_threshold_(latents, 0.1, keep=2)
    assert latents.of("a").tolist() == pytest.approx([0.3, 0.0, 0.0, 0.0, 0.8], abs=1e-9)
    assert not latents.of("b").any()
