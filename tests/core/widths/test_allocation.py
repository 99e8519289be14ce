"""Score per FLOP: against a brute-force greedy knapsack, against enumeration, and the optimum's condition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.errors import UserError
from core.graph.channels import ChannelGraph, trace_channels
from core.widths.allocation import greedy_order
from core.widths.budget import Budget
from core.widths.shrinkage import search, shrink
from tests.properties import examples
from tests.toys import TOYS

NAMES = ["residual", "squeeze_excite", "dense_block", "u_net", "pixel_shuffle", "grouped_uneven"]


def graph_of(name: str) -> ChannelGraph:
    toy = TOYS[name]
    return trace_channels(toy.build(), toy.inputs())


GRAPHS = {name: graph_of(name) for name in NAMES}


def random_scores(graph: ChannelGraph, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.size, generator=generator) for group in graph.groups}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["macs", "paper", "params"])
def test_marginal_costs_are_differences_of_the_closed_form(name: str, kind: str) -> None:
    graph = GRAPHS[name]
    generator = np.random.default_rng(0)
    sizes = np.array([generator.integers(1, size + 1) for size in graph.sizes])
    marginal, curvature = graph.cost.marginal(kind, sizes), graph.cost.curvature(kind)
    assert np.array_equal(curvature, curvature.T)
    for g in range(len(sizes)):
        more = sizes.copy()
        more[g] += 1
        assert marginal[g] == graph.cost(kind, more) - graph.cost(kind, sizes)
        assert np.array_equal(graph.cost.marginal(kind, more), marginal + curvature[g])


@examples(60)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 10**6), block=st.sampled_from([1, 2, 3]))
def test_the_order_is_that_of_a_brute_force_greedy_knapsack(name: str, seed: int, block: int) -> None:
    graph = GRAPHS[name]
    scores = [
        value.double().sort(descending=True).values.numpy() for value in random_scores(graph, seed).values()
    ]
    blocks = [value[: (len(value) - 1) // block * block].reshape(-1, block).mean(1) for value in scores]
    low, size = np.ones(len(blocks), dtype=np.int64), np.full(len(blocks), block)
    expected, counts, taken = [], low.copy(), [0] * len(blocks)
    while any(taken[g] < len(blocks[g]) for g in range(len(blocks))):
        best, group = -1.0, -1
        for g in range(len(blocks)):
            if taken[g] == len(blocks[g]):
                continue
            more = counts.copy()
            more[g] += block
            price = int(graph.cost("paper", more) - graph.cost("paper", counts))
            if blocks[g][taken[g]] / price > best * (1 + 1e-12):
                best, group = blocks[g][taken[g]] / price, g
        expected.append(group)
        counts[group] += block
        taken[group] += 1
    assert greedy_order(graph, "paper", low, size, blocks).tolist() == expected


def best_total(graph: ChannelGraph, scores: dict[str, Tensor], limit: int) -> float:
    """The largest sum of kept scores within the limit, by trying all widths."""
    sums = [
        torch.cat([torch.zeros(1), scores[g.name].sort(descending=True).values.cumsum(0)])
        for g in graph.groups
    ]
    every = np.array(list(itertools.product(*(range(1, g.size + 1) for g in graph.groups))))
    fits = every[graph.cost("paper", every) <= limit]
    return max(sum(float(s[n]) for s, n in zip(sums, row)) for row in fits.tolist())


@pytest.mark.parametrize("seed", range(8))
def test_score_per_flop_keeps_more_score_than_a_threshold(seed: int) -> None:
    graph = GRAPHS["squeeze_excite"]
    scores = random_scores(graph, seed)
    limit = Budget(flops=0.5).limits(graph.price())["paper"]
    best = best_total(graph, scores, int(limit))
    totals = {}
    for rule in ("threshold", "per-flop", "equalised"):
        found = search(graph, scores, Budget(flops=0.5), graph.price(), allocation=rule)
        assert graph.flops(found.widths, "paper") == found.cost.paper <= limit
        totals[rule] = sum(float(scores[name][mask].sum()) for name, mask in found.keep.items())
    assert totals["threshold"] <= max(totals["per-flop"], totals["equalised"]) + 1e-6
    assert 0.9 * best < totals["per-flop"] <= best + 1e-5
    assert 0.9 * best < totals["equalised"] <= best + 1e-5


def test_equalised_widths_have_equal_score_per_flop_at_the_threshold() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 200, 3), torch.nn.ReLU(), torch.nn.Conv2d(200, 300, 3, stride=2),
        torch.nn.ReLU(), torch.nn.Conv2d(300, 4, 3),
    )  # fmt: skip
    graph = trace_channels(net, torch.zeros(1, 3, 16, 16))
    scores = random_scores(graph, 3)
    found = search(graph, scores, Budget(flops=0.4), graph.price(), allocation="equalised")
    price = graph.cost.marginal("paper", graph.elements(found.widths))
    last = [float(scores[g.name][found.keep[g.name]].min()) / price[i] for i, g in enumerate(graph.groups)]
    assert last[0] == pytest.approx(last[1], rel=0.1)
    threshold = search(graph, scores, Budget(flops=0.4), graph.price())
    assert found.widths["0"] < threshold.widths["0"]  # behind the stem a channel is read at every pixel: dear


def test_shrink_takes_and_records_the_rule() -> None:
    toy = TOYS["residual"]
    options = {"score": "random-scores", "floor": 0.2}
    found = shrink(
        toy.build(), toy.inputs(), (), torch.nn.functional.mse_loss, allocation="per-flop", **options
    )
    plain = shrink(toy.build(), toy.inputs(), (), torch.nn.functional.mse_loss, **options)
    assert found.found_by["allocation"] == "per-flop"
    assert plain.found_by["allocation"] == "threshold"
    assert found.costs[0].paper <= 0.9 * found.costs[1].paper


def test_an_unknown_rule_is_refused() -> None:
    graph = GRAPHS["residual"]
    with pytest.raises(UserError, match="unknown allocation 'greedy'"):
        search(graph, random_scores(graph, 0), Budget(flops=0.5), graph.price(), allocation="greedy")  # type: ignore[arg-type]
