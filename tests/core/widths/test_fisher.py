"""Per-sample scores against every sample's own gradient, and against per-sample gates written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from core.errors import UserError
from core.graph.channels import ChannelGraph, trace_channels
from core.surgery.gates import LATENTS, attach_gates
from core.widths.fisher import fisher
from core.widths.scores import score_channels
from tests.toys import TOYS, Net, conv

# Without batch norm, samples do not see each other: a sample's share is the gradient of its own loss.
INDEPENDENT = ["residual", "squeeze_excite", "grouped", "depthwise", "transposed", "pixel_shuffle", "u_net",
               "tied_weights", "module_twice"]  # fmt: skip
SAMPLES = 5


def prepared(name: str) -> tuple[Any, ChannelGraph, tuple[torch.Tensor, ...], torch.Tensor]:
    toy = TOYS[name]
    net = toy.build().double()
    inputs = tuple(item.double() for item in toy.inputs(SAMPLES))
    graph = trace_channels(net, inputs)
    generator = torch.Generator().manual_seed(2)
    return net, graph, inputs, torch.randn(net(*inputs).shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_fisher_is_the_sum_of_squares_of_every_samples_own_gradient(name: str) -> None:
    net, graph, inputs, targets = prepared(name)
    gated = attach_gates(net, graph).train()
    z = getattr(gated, LATENTS).z
    expected = torch.zeros_like(z)
    for n in range(SAMPLES):
        one = tuple(item[n : n + 1] for item in inputs)
        (gradient,) = torch.autograd.grad(F.mse_loss(gated(*one), targets[n : n + 1]), z)
        expected += gradient.square() / SAMPLES
    found = score_channels(net, graph, [(inputs, targets)], F.mse_loss, score="fisher")
    flat = torch.cat(list(found.values())).double()
    assert float(expected.max()) > 0
    torch.testing.assert_close(flat, expected, rtol=1e-5, atol=1e-6 * float(expected.max()))


def normed() -> tuple[Net, torch.Tensor, torch.Tensor]:
    net = Net({"a": conv(3, 8, bias=False), "norm": torch.nn.BatchNorm2d(8, eps=1e-20), "c": conv(8, 4)},
              lambda n, x: n.c(n.norm(n.a(x)).relu_())).double()  # fmt: skip
    torch.manual_seed(1)
    return net, torch.randn(6, 3, 8, 8).double(), torch.randn(6, 4, 8, 8).double()


def test_behind_batch_norm_shares_are_those_of_per_sample_gates() -> None:
    """Gates of their own for every sample, on what a produces and on what c reads, differentiated by hand."""
    net, image, target = normed()
    graph = trace_channels(net, image)
    reference = copy.deepcopy(net).train()
    out = torch.ones(6, 8, 1, 1, dtype=torch.float64, requires_grad=True)
    inside = torch.ones(6, 8, 1, 1, dtype=torch.float64, requires_grad=True)
    loss = F.mse_loss(reference.c(reference.norm(reference.a(image) * out).relu() * inside), target)
    produced, read = (6 * g[..., 0, 0] for g in torch.autograd.grad(loss, [out, inside]))
    # The producer's share of z · dL/dz is zero: the loss does not change when a filter is scaled ...
    assert produced.sum(0).abs().max() < 1e-10 * produced.abs().max()
    assert produced.abs().max() > 1e-3 * read.abs().max()  # ... but the single samples' shares are not
    both = score_channels(net, graph, [(image, target)], F.mse_loss, score="fisher")["a"].double()
    readers = score_channels(net, graph, [(image, target)], F.mse_loss, score="fisher-readers")["a"].double()
    torch.testing.assert_close(both, (produced + read).square().mean(0), rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(readers, read.square().mean(0), rtol=1e-5, atol=1e-12)


def test_the_signed_sum_of_the_shares_is_the_gradient_score() -> None:
    net, image, target = normed()
    graph = trace_channels(net, image)
    gradient = score_channels(net, graph, [(image, target)], F.mse_loss)["a"].double()
    reference = copy.deepcopy(net).train()
    (by_weight,) = torch.autograd.grad(F.mse_loss(reference(image), target), [reference.c.weight])
    torch.testing.assert_close(
        gradient, (reference.c.weight.detach() * by_weight).sum((0, 2, 3)).abs(), rtol=1e-5, atol=1e-12
    )
    fisher_score = score_channels(net, graph, [(image, target)], F.mse_loss, score="fisher-readers")[
        "a"
    ].double()
    assert (fisher_score >= gradient.square() * (1 - 1e-6)).all()  # Jensen: the mean of squares is the larger


def test_a_score_is_the_mean_over_all_samples_of_all_batches() -> None:
    net, graph, inputs, targets = prepared("residual")
    whole = score_channels(net, graph, [(inputs, targets)], F.mse_loss, score="fisher")
    cut = [(tuple(i[s] for i in inputs), targets[s]) for s in (slice(0, 2), slice(2, 5))]
    parts = score_channels(net, graph, cut, F.mse_loss, score="fisher")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-9)


def test_scoring_leaves_the_model_alone_and_hypernetworks_are_refused() -> None:
    net, graph, inputs, targets = prepared("residual")
    state = copy.deepcopy(net.state_dict())
    score_channels(net, graph, [(inputs, targets)], F.mse_loss, score="fisher")
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with pytest.raises(UserError, match="defined for plain gates"):
        score_channels(net, graph, [(inputs, targets)], F.mse_loss, score="fisher", latents="hypernetwork")
    with pytest.raises(UserError, match="no batch"):
        fisher(copy.deepcopy(net), graph, [], F.mse_loss)


def test_a_weight_outside_of_layers_is_named() -> None:
    net = Net(
        {"a": conv(3, 8), "w": torch.nn.Parameter(torch.randn(4, 8, 1, 1))},
        lambda n, x: F.conv2d(n.a(x), n.w),
    )
    image = torch.randn(2, 3, 8, 8)
    graph = trace_channels(net, image)
    with pytest.raises(UserError, match="'w' belongs to none"):
        score_channels(net, graph, [(image, torch.zeros(2, 4, 8, 8))], F.mse_loss, score="fisher")


def test_a_computed_weight_is_named() -> None:
    """Its layer's gradient is that of what was computed, not of the parameter."""
    toy = TOYS["standardised"]
    net, inputs = toy.build(), toy.inputs()
    graph = trace_channels(net, inputs)
    with pytest.raises(UserError, match=r"'b\.weight' belongs to none: use the score gradient"):
        score_channels(net, graph, [(inputs, torch.zeros(2, 4, 8, 8))], F.mse_loss, score="fisher")
