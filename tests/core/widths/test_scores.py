"""Channel scores: the gradient criterion against gates and autograd, several batches, seeds, own scores, errors."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from core.graph.channels import ChannelGraph, trace_channels
from core.surgery.gates import LATENTS, attach_gates
from core.surgery.hypernetwork import attach_hypernetwork
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from core.widths.scores import governed_sums, score_channels
from core.widths.selection import search
from tests.toys import TOYS, Net, conv

NAMES = ["residual", "squeeze_excite", "grouped", "depthwise", "transposed", "pixel_shuffle", "dense_block",
         "tied_weights", "module_twice", "layer_scale", "convnext_block", "naf_block", "batch_norm"]  # fmt: skip


def prepared(name: str) -> tuple[Net, ChannelGraph, list[tuple[Any, Tensor]]]:
    """A toy in double precision, its groups, and three batches with targets."""
    toy = TOYS[name]
    net = toy.build().double()
    inputs = [item.double() for item in toy.inputs()]
    shape = net(*inputs).shape
    generator = torch.Generator().manual_seed(3)
    batches = []
    for _ in range(3):
        fresh = tuple(torch.randn(item.shape, generator=generator, dtype=torch.float64) for item in inputs)
        batches.append((fresh, torch.randn(shape, generator=generator, dtype=torch.float64)))
    return net, trace_channels(net, tuple(inputs)), batches


def flat(scores: dict[str, Tensor]) -> Tensor:
    return torch.cat(list(scores.values())).double()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_and_sensitivity_are_the_gates_gradients(name: str) -> None:
    net, graph, batches = prepared(name)
    gated = attach_gates(net, graph).train()
    z = getattr(gated, LATENTS).z
    expected = torch.zeros_like(z)
    for inputs, targets in batches:
        (gradient,) = torch.autograd.grad(F.mse_loss(gated(*inputs), targets), z)
        expected += gradient.abs() / len(batches)
    for score in ("gradient", "sensitivity"):
        found = score_channels(net, graph, batches, F.mse_loss, score=score)
        assert [(key, value.shape) for key, value in found.items()] == [
            (g.name, (g.size,)) for g in graph.groups
        ]
        assert all(value.dtype == torch.float32 for value in found.values())
        torch.testing.assert_close(flat(found), expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


def test_hypernetwork_scores_differ_by_the_random_latents() -> None:
    net, graph, batches = prepared("residual")
    options: dict[str, Any] = {"latents": "hypernetwork", "seed": 5}
    gradient = flat(score_channels(net, graph, batches, F.mse_loss, score="gradient", **options))
    sensitivity = flat(score_channels(net, graph, batches, F.mse_loss, score="sensitivity", **options))
    magnitude = flat(score_channels(net, graph, batches, F.mse_loss, score="magnitude", **options))
    z = getattr(attach_hypernetwork(net, graph, seed=5), LATENTS).z.detach()
    torch.testing.assert_close(magnitude, z.abs(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sensitivity, gradient * magnitude, rtol=1e-4, atol=1e-9)
    assert not torch.allclose(sensitivity, gradient, rtol=0.1)


def test_the_hypernetworks_gradient_is_a_governed_sum_divided_by_z() -> None:
    """Method.md 0.6: with zero biases, as at the start, z · dL/dz = Σ W · dL/dW of the generated weights."""
    net, graph, batches = prepared("squeeze_excite")
    hyper = attach_hypernetwork(net, graph, seed=5).train()
    weights = {f"{key}.weight": hyper.get_submodule(key).weight for key in ("a", "down", "up", "c")}
    plain = copy.deepcopy(net).train()
    with torch.no_grad():
        for key, weight in weights.items():
            plain.get_parameter(key).copy_(weight)
    inputs, targets = batches[0]
    leaves = {key: plain.get_parameter(key) for key in weights}
    gradients = torch.autograd.grad(F.mse_loss(plain(*inputs), targets), list(leaves.values()))
    products = [(key, leaf.detach() * g) for (key, leaf), g in zip(leaves.items(), gradients, strict=True)]
    found = flat(
        score_channels(
            net, graph, batches[:1], F.mse_loss, score="sensitivity", latents="hypernetwork", seed=5
        )
    )
    torch.testing.assert_close(found, governed_sums(graph, products).abs(), rtol=1e-5, atol=1e-8)


def test_magnitude_is_the_mean_absolute_weight_of_what_a_channel_governs() -> None:
    net, graph, _ = prepared("plain")
    found = score_channels(net, graph, iter(()), F.mse_loss, score="magnitude")["a"]
    for c in range(8):
        governed = torch.cat([net.a.weight[c].reshape(-1), net.c.weight[:, c].reshape(-1)]).detach()
        assert float(found[c]) == pytest.approx(float(governed.abs().mean()), rel=1e-6)


def test_a_score_is_the_mean_over_the_batches() -> None:
    net, graph, batches = prepared("residual")
    single = [flat(score_channels(net, graph, [batch], F.mse_loss)) for batch in batches]
    torch.testing.assert_close(
        flat(score_channels(net, graph, batches, F.mse_loss)),
        torch.stack(single).mean(0),
        rtol=1e-5,
        atol=1e-9,
    )


def test_uniform_ranks_and_random_draws() -> None:
    net, graph, _ = prepared("residual")
    uniform = score_channels(net, graph, [], F.mse_loss, score="uniform")
    for group in graph.groups:
        values = uniform[group.name]
        kept = [int((values > threshold).sum()) / group.size for threshold in (0.25, 0.5, 0.75)]
        assert kept == pytest.approx([0.75, 0.5, 0.25], abs=1 / group.size)
    first, again, other = (
        flat(score_channels(net, graph, [], F.mse_loss, score="random", seed=seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= first.min() < first.max() < 1


def test_an_own_score_gets_everything_and_may_not_harm_the_model() -> None:
    net, graph, batches = prepared("residual")
    seen: dict[str, Any] = {}

    def own(model: nn.Module, groups: ChannelGraph, data: Any, loss_fn: Any) -> dict[str, Tensor]:
        seen.update(graph=groups, batches=list(data), loss=loss_fn)
        with torch.no_grad():
            model.a.weight.zero_()
        return {group.name: torch.arange(group.size, dtype=torch.float64) for group in groups.groups}

    found = score_channels(net, graph, batches, F.mse_loss, score=own)
    assert found["a"].tolist() == list(range(8))
    assert seen == {"graph": graph, "batches": batches, "loss": F.mse_loss}
    assert net.a.weight.any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": torch.ones(8)}, r"group 'b': need shape \(6,\), got None"),
        ({"a": torch.ones(8), "b": torch.ones(5)}, r"group 'b': need shape \(6,\), got \(5,\)"),
        ({"a": torch.full((8,), float("nan")), "b": torch.ones(6)}, "group 'a' holds NaN"),
        ({"a": torch.full((8,), float("inf")), "b": torch.ones(6)}, "group 'a' holds NaN or infinity"),
    ],
)
def test_own_scores_are_checked(values: dict[str, Tensor], message: str) -> None:
    net, graph, batches = prepared("residual")
    with pytest.raises(UserError, match=message):
        score_channels(net, graph, batches, F.mse_loss, score=lambda *_: values)


@pytest.mark.parametrize(
    ("options", "batches", "message"),
    [
        ({"score": "taylor"}, None, "unknown score 'taylor', allowed: gradient, sensitivity"),
        ({"latents": "slices"}, None, "unknown latents 'slices'"),
        ({}, [], "no batch to score channels with"),
    ],
)
def test_wrong_usage(options: dict[str, Any], batches: list | None, message: str) -> None:
    net, graph, given = prepared("residual")
    with pytest.raises(UserError, match=message):
        score_channels(net, graph, given if batches is None else batches, F.mse_loss, **options)


@pytest.mark.parametrize("latents", ["gate", "hypernetwork"])
def test_a_loss_that_is_not_finite_is_refused(latents: Any) -> None:
    net, graph, batches = prepared("residual")
    calls = iter([1.0, float("nan")])
    with pytest.raises(UserError, match="loss of batch 1 is nan"):
        score_channels(net, graph, batches, lambda y, t: F.mse_loss(y, t) * next(calls), latents=latents)


@pytest.mark.parametrize("latents", ["gate", "hypernetwork"])
def test_scoring_changes_neither_the_model_nor_the_random_state(latents: Any) -> None:
    net, graph, batches = prepared("batch_norm")
    net.eval()
    state = copy.deepcopy(net.state_dict())
    random_state = torch.random.get_rng_state()
    score_channels(net, graph, batches, F.mse_loss, latents=latents)
    assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert not net.training
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_dropout_is_seeded() -> None:
    net = Net({"a": conv(3, 8), "drop": nn.Dropout(0.5), "c": conv(8, 4)}, lambda n, x: n.c(n.drop(n.a(x))))
    image = torch.randn(2, 3, 8, 8)
    graph = trace_channels(net, image)
    batches = [(image, torch.zeros(2, 4, 8, 8))]
    first, again, other = (
        score_channels(net, graph, batches, F.mse_loss, seed=seed)["a"] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batches_may_be_a_stream_and_losses_may_come_with_parts() -> None:
    net, graph, batches = prepared("residual")
    taken = []

    def stream() -> Iterator[Any]:
        for batch in batches:
            taken.append(1)
            yield batch

    found = score_channels(net, graph, stream(), lambda y, t: (F.mse_loss(y, t), {"part": 1.0}))
    assert len(taken) == 3
    assert torch.equal(flat(found), flat(score_channels(net, graph, batches, F.mse_loss)))


def test_weights_that_the_loss_does_not_reach_score_zero() -> None:
    net = Net({"a": conv(3, 8), "b": conv(3, 8), "c": conv(8, 4), "d": conv(8, 4)},
              lambda n, x: torch.cat([n.c(n.a(x)), n.d(n.b(x))], 1))  # fmt: skip
    image = torch.randn(2, 3, 8, 8)
    graph = trace_channels(net, image)
    found = score_channels(
        net, graph, [(image, torch.zeros(2, 4, 8, 8))], lambda y, t: F.mse_loss(y[:, :4], t)
    )
    assert found["a"].min() > 0
    assert not found["b"].any()


def test_behind_batch_norm_in_training_mode_only_readers_score() -> None:
    net = Net({"a": conv(3, 8, bias=False), "norm": nn.BatchNorm2d(8, eps=1e-20), "c": conv(8, 4)},
              lambda n, x: n.c(n.norm(n.a(x)).relu())).double()  # fmt: skip
    image, target = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randn(4, 4, 8, 8, dtype=torch.float64)
    graph = trace_channels(net, image)
    found = score_channels(net, graph, [(image, target)], F.mse_loss)["a"].double()
    reader = copy.deepcopy(net).train()
    (gradient,) = torch.autograd.grad(F.mse_loss(reader(image), target), [reader.c.weight])
    torch.testing.assert_close(
        found, (reader.c.weight.detach() * gradient).sum((0, 2, 3)).abs(), rtol=1e-5, atol=1e-9
    )


def branches(*kernels: int) -> Net:
    """Parallel branches 3 -> 200 -> 4 that are added up: the FLOPs of each are linear in its width."""
    parts = {}
    for number, kernel in enumerate(kernels):
        parts |= {f"a{number}": conv(3, 200, kernel), f"b{number}": conv(200, 4, 1)}

    def forward(net: Any, x: Tensor) -> Tensor:
        outputs = [getattr(net, f"b{i}")(F.relu(getattr(net, f"a{i}")(x))) for i in range(len(kernels))]
        return sum(outputs[1:], outputs[0])

    return Net(parts, forward)


@pytest.mark.parametrize("score", ["diminishing-returns", "fisher-diminishing-returns"])
def test_diminishing_returns_reach_the_closed_form_optimum(score: str) -> None:
    """max Σ a log w under Σ c w = B: every group gets the part a / Σ a of the budget."""
    torch.manual_seed(0)
    net, image = branches(1, 3, 5), torch.randn(6, 3, 8, 8)
    graph = trace_channels(net, image)
    targets = torch.randn_like(net(image))
    scores = score_channels(net, graph, [(image, targets)], F.mse_loss, score=score)
    worth = np.ones(3)
    if score.startswith("fisher"):
        fisher = score_channels(net, graph, [(image, targets)], F.mse_loss, score="fisher")
        worth = np.sqrt([float(fisher[name].sum()) for name in graph.names])
        for name in graph.names:  # the best channel by fisher comes first
            assert int(scores[name].argmax()) == int(fisher[name].argmax())
        assert worth.max() / worth.min() > 1.1
    found = search(graph, scores, Budget(flops=0.1, convention="macs"), graph.price(), allocation="per-flop")
    price = graph.cost.marginal("macs", graph.sizes)  # constant
    expected = worth / worth.sum() * found.limits["macs"] / price
    assert 0 < expected.max() < 200
    # What is too little for one more channel of the dearest branch is filled by others.
    for name, want, own in zip(graph.names, expected, price, strict=True):
        assert found.widths[name] == pytest.approx(want, abs=1 + price.max() / own)


def test_drawn_widths_keep_their_proportions_under_any_threshold() -> None:
    net, graph, _ = prepared("dense_block")
    scores = score_channels(net, graph, [], F.mse_loss, score="random", seed=4)
    slopes = [
        float(value[0] - value[1]) * group.size
        for group, value in zip(graph.groups, scores.values(), strict=True)
    ]
    assert len(set(slopes)) == len(slopes) > 1
    for group, value, slope in zip(graph.groups, scores.values(), slopes, strict=True):
        expected = 1 - slope * (torch.arange(group.size) + 0.5) / group.size
        torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-5)


def test_scores_that_are_shares_or_worths_refuse_allocations_that_say_nothing_to_them() -> None:
    for score in ("random", "uniform"):
        with pytest.raises(UserError, match=f"'{score}' says nothing to allocation='per-flop'"):
            ShrinkConfig(score=score, allocation="per-flop")
    with pytest.raises(UserError, match="use allocation='per-flop' or allocation='equalised'"):
        ShrinkConfig(score="diminishing-returns")
