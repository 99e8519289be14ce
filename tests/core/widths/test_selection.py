"""The search hits budgets exactly and keeps the best channels."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.errors import UserError
from core.graph.channels import ChannelGraph, ChannelGroup, trace_channels
from core.graph.labels import FrozenChannelsWarning
from core.widths.bounds import group_fractions
from core.widths.budget import Budget, BudgetError
from core.widths.shrinkage import SearchResult, search
from tests.properties import examples
from tests.toys import TOYS, Net, conv

SEARCHED = [
    "residual",
    "squeeze_excite",
    "dense_block",
    "u_net",
    "naf_block",
    "pixel_shuffle",
    "grouped_uneven",
    "normed_head",
]


def graph_of(name: str) -> ChannelGraph:
    toy = TOYS[name]
    return trace_channels(toy.build(), toy.inputs())


GRAPHS = {name: graph_of(name) for name in SEARCHED}


def random_scores(graph: ChannelGraph, seed: int, levels: int | None = None) -> dict[str, Tensor]:
    """Scores for every group; with `levels`, of that many different values, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for group in graph.groups:
        value = torch.rand(group.size, generator=generator)
        scores[group.name] = value if levels is None else (value * levels).floor()
    return scores


def fits(graph: ChannelGraph, widths: dict[str, int], limits: dict[str, float]) -> bool:
    found = graph.price(widths)
    return all(getattr(found, kind) <= limit for kind, limit in limits.items())


def block_of(group: Any, round_to: int) -> int:
    """Channels that come or go at once."""
    return int(np.lcm(group.step, round_to))


@examples(150)
@given(
    name=st.sampled_from(SEARCHED),
    seed=st.integers(0, 10**6),
    levels=st.sampled_from([None, 1, 3]),
    flops=st.none() | st.floats(0.05, 1.0),
    params=st.none() | st.floats(0.05, 1.0),
    floor=st.sampled_from([0.0, 0.3, 0.5]),
    ceiling=st.sampled_from([1.0, 0.8]),
    round_to=st.sampled_from([1, 2, 4]),
)
def test_no_single_channel_gets_closer_from_below(
    name: str, seed: int, levels: int | None, flops: float | None, params: float | None,
    floor: float, ceiling: float, round_to: int,
) -> None:  # fmt: skip
    assume(flops is not None or params is not None)
    graph = GRAPHS[name]
    scores = random_scores(graph, seed, levels)
    budget = Budget(flops=flops, params=params)
    try:
        found = search(graph, scores, budget, graph.price(), floor=floor, ceiling=ceiling, round_to=round_to)
    except BudgetError:
        assume(False)
        raise
    assert fits(graph, found.widths, found.limits)
    for group in graph.groups:
        width, block = found.widths[group.name], block_of(group, round_to)
        low = max(int(floor * group.width / block + 1e-9), 1) * block
        high = max(int(ceiling * group.width / block + 1e-9) * block, low)
        if group.width < block:
            low = high = group.width
        assert low <= width <= high
        assert width % block == 0 or width == group.width
        assert (group.name in found.at_floor) == (width == low)
        assert (group.name in found.at_ceiling) == (width == high)
        if width + block <= high:  # adding is over the budget; removing is further below, as costs only grow
            assert not fits(graph, found.widths | {group.name: width + block}, found.limits)
        if width - block >= 1:
            fewer = found.widths | {group.name: width - block}
            assert graph.flops(fewer, "paper") < graph.flops(found.widths, "paper")
            assert graph.params(fewer) < graph.params(found.widths)
    assert_masks(graph, scores, found)


def assert_masks(graph: ChannelGraph, scores: dict[str, Tensor], found: SearchResult) -> None:
    """The mask of every group keeps as many choices as its width says, and the best of them."""
    for group in graph.groups:
        mask, score = found.keep[group.name], scores[group.name]
        assert int(mask.sum()) * group.step == found.widths[group.name]
        if not mask.all():
            assert score[mask].min() >= score[~mask].max()


@pytest.mark.parametrize("name", ["residual", "naf_block", "pixel_shuffle"])
def test_against_every_possible_network(name: str) -> None:
    """Brute force: among all networks that take a prefix of the ranking, the found one starts with the longest."""
    graph = GRAPHS[name]
    scores = random_scores(graph, 7)
    limit = int(0.6 * graph.flops(convention="paper"))
    ranking = sorted(
        (
            (float(value), g, i)
            for g, group in enumerate(graph.groups)
            for i, value in enumerate(scores[group.name])
        ),
        reverse=True,
    )
    best = [max(range(group.size), key=lambda i: scores[group.name][i]) for group in graph.groups]
    longest: list[int] = []
    for length in range(len(ranking) + 1):
        counts = [1] * len(graph.groups)
        for _, g, i in ranking[:length]:
            counts[g] += i != best[g]
        if int(graph.cost("paper", np.array(counts))) <= limit:
            longest = counts
    found = search(graph, scores, Budget(flops=str(limit)), graph.price())
    kept = [found.widths[group.name] // group.step for group in graph.groups]
    assert all(number >= least for number, least in zip(kept, longest, strict=True))
    # And no network at all that contains it fits.
    for more in itertools.product(*(range(n, g.size + 1) for n, g in zip(kept, graph.groups, strict=True))):
        if list(more) != kept:
            assert int(graph.cost("paper", np.array(more))) > limit


@examples(40)
@given(st.sampled_from(SEARCHED), st.integers(0, 10**6), st.floats(0.3, 0.95), st.floats(0.0, 0.3))
def test_a_larger_budget_never_gives_a_cheaper_network(
    name: str, seed: int, flops: float, more: float
) -> None:
    graph = GRAPHS[name]
    scores = random_scores(graph, seed)
    try:
        small = search(graph, scores, Budget(flops=flops), graph.price())
    except BudgetError:
        assume(False)
        raise
    large = search(graph, scores, Budget(flops=min(flops + more, 1.0)), graph.price())
    # Filling up what is left can give single channels to other groups; the gap to each budget stays below one channel.
    widest = max(
        graph.flops(convention="paper") - graph.flops({group.name: group.width - group.step}, "paper")
        for group in graph.groups
    )
    assert large.cost.paper + widest >= small.cost.paper


def test_ties_are_broken_by_the_order_of_groups_and_channels() -> None:
    graph = GRAPHS["dense_block"]
    scores = {group.name: torch.ones(group.size) for group in graph.groups}
    first = search(graph, scores, Budget(flops=0.6), graph.price())
    again = search(graph, scores, Budget(flops=0.6), graph.price())
    assert first.widths == again.widths
    assert all(torch.equal(first.keep[name], again.keep[name]) for name in first.keep)
    for mask in first.keep.values():
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)


def test_scaling_all_scores_changes_nothing() -> None:
    graph = GRAPHS["u_net"]
    scores = random_scores(graph, 3)
    tiny = {name: value * 1e-20 for name, value in scores.items()}
    budget = Budget(flops=0.5, params=0.6)
    assert (
        search(graph, scores, budget, graph.price()).widths
        == search(graph, tiny, budget, graph.price()).widths
    )


def test_several_budgets_hold_at_once_and_one_of_them_binds() -> None:
    graph = GRAPHS["dense_block"]
    scores = random_scores(graph, 1)
    for flops, params in ((0.5, 0.9), (0.9, 0.5), (0.6, 0.6)):
        found = search(graph, scores, Budget(flops=flops, params=params), graph.price())
        assert found.cost.paper <= flops * graph.flops(convention="paper")
        assert found.cost.params <= params * graph.params()
        assert set(found.limits) == {"macs", "paper", "params"}


@pytest.mark.parametrize("what", ["floor", "ceiling"])
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("layer1.*", r"no channel group fits 'layer1\.\*', allowed: "),
        ("A", r"no channel group fits 'A', allowed: "),
        ("", "no channel group fits '', allowed: "),
    ],
)
def test_a_pattern_that_fits_no_group_is_named_with_close_ones(what: str, pattern: str, message: str) -> None:
    graph = GRAPHS["residual"]
    scores = random_scores(graph, 0)
    fractions = {"*": 0.5, pattern: 0.3}
    with pytest.raises(UserError, match=f"^{what}: {message}"):
        search(graph, scores, Budget(flops=0.9), graph.price(), **{what: fractions})


@pytest.mark.parametrize("value", ["0.4", None, True, float("nan"), 1.01])
def test_a_fraction_by_pattern_is_a_number_between_zero_and_one(value: object) -> None:
    with pytest.raises(UserError, match=r"floor of .* is .*: use a fraction between 0 and 1"):
        group_fractions(GRAPHS["residual"].groups, {"*": value}, "floor")
    with pytest.raises(UserError, match=r"is 40: use a fraction between 0 and 1; did you mean 0\.4\?"):
        group_fractions(GRAPHS["residual"].groups, 40, "floor")


def test_close_patterns_of_whole_stages_and_owners_of_tied_layers_are_named() -> None:
    groups = [
        ChannelGroup("layer1.0.conv1", 8, 1, {("layer1.0.conv1.weight", 0): 1}),
        ChannelGroup("conv1", 8, 1, {("conv1.weight", 0): 1, ("layer1.0.conv2.weight", 0): 1}),
    ]
    with pytest.raises(UserError, match=r"did you mean 'layer1\.\*'"):
        group_fractions(groups, {"layr1.*": 0.3}, "floor")
    with pytest.raises(UserError, match=r"'layer1.0.conv2', whose channels belong to 'conv1'"):
        group_fractions(groups, {"layer1.0.conv2": 0.3}, "floor")
    assert group_fractions(groups, {"layer1.*": 0.3}, "floor").tolist() == [0.3, 0.0]
    assert group_fractions(groups, {"layer1.*": 0.3}, "ceiling").tolist() == [0.3, 1.0]
    assert group_fractions(groups, {"*": 0.4, "layer1.*": 0.3}, "floor").tolist() == [0.3, 0.4]


def test_floors_and_ceilings_by_pattern_and_the_last_match_counts() -> None:
    graph = GRAPHS["squeeze_excite"]
    scores = random_scores(graph, 1)
    options = {"floor": {"*": 0.0, "down": 1.0}, "ceiling": {"a": 0.5}}
    found = search(graph, scores, Budget(flops=0.5), graph.price(), **options)
    assert found.widths["down"] == 4
    assert found.widths["a"] == 4
    assert "down" in found.at_floor
    assert "a" in found.at_ceiling


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"budget": Budget(flops=0.1), "floor": 0.8},
            BudgetError,
            r"between .* \(0\.\d+\) and .* \(1\.000\)",
        ),
        ({"budget": Budget(params="1")}, BudgetError, "params .* cannot be reached"),
        ({"budget": Budget(flops=5.0)}, BudgetError, "cannot be reached"),
        ({"budget": Budget(flops=0.5), "floor": 1.5}, UserError, "floor of group 'a' is 1.5"),
        ({"budget": Budget(flops=0.5), "ceiling": -0.1}, UserError, "ceiling of group 'a' is -0.1"),
        ({"budget": Budget(flops=0.5), "round_to": 0}, UserError, "round_to=0"),
        ({"budget": Budget(flops=0.5), "round_to": 2.5}, UserError, "round_to=2.5"),
        ({"budget": Budget(latency=0.5)}, UserError, "latency budget needs a way to measure"),
    ],
)
def test_impossible_searches_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    graph = GRAPHS["residual"]
    with pytest.raises(error, match=message) as caught:
        search(
            graph,
            random_scores(graph, 0),
            options.pop("budget"),
            replace(graph.price(), latency=1.0),
            **options,
        )
    assert "\n" not in str(caught.value)


def test_the_reachable_range_in_the_message_is_right() -> None:
    graph = GRAPHS["residual"]
    scores = random_scores(graph, 0)
    with pytest.raises(BudgetError) as caught:
        search(graph, scores, Budget(flops=0.1), graph.price(), floor=0.5)
    least = graph.flops({"a": 4, "b": 3}, "paper")
    assert f"{least:,}" in str(caught.value)
    assert f"{graph.flops(convention='paper'):,}" in str(caught.value)
    assert search(graph, scores, Budget(flops=str(least)), graph.price(), floor=0.5).widths == {
        "a": 4,
        "b": 3,
    }
    with pytest.raises(BudgetError):
        search(graph, scores, Budget(flops=str(least - 1)), graph.price(), floor=0.5)


def test_a_latency_budget_takes_the_longest_prefix_that_is_fast_enough() -> None:
    graph = GRAPHS["dense_block"]
    scores = random_scores(graph, 4)
    asked: list[dict[str, int]] = []

    def measure(widths: dict[str, int]) -> float:
        asked.append(widths)
        return sum(widths.values()) * 1e-3

    found = search(
        graph, scores, Budget(latency="10ms"), replace(graph.price(), latency=0.02), measure=measure
    )
    assert sum(found.widths.values()) == 10
    assert found.cost.latency == pytest.approx(0.01)
    assert len(asked) <= 2 + np.ceil(np.log2(17))
    kept = torch.cat([scores[name][mask] for name, mask in found.keep.items()])
    dropped = torch.cat([scores[name][~mask] for name, mask in found.keep.items()])
    best = {float(value.max()) for value in scores.values()}
    assert sum(float(value) < float(dropped.max()) for value in kept if float(value) not in best) == 0
    both = search(
        graph,
        scores,
        Budget(latency="15ms", params=0.5),
        replace(graph.price(), latency=0.02),
        measure=measure,
    )
    assert both.cost.params <= 0.5 * graph.params()
    assert both.cost.latency <= 0.015


@pytest.mark.parametrize("params", [None, 0.9])
def test_equalised_widths_ask_the_clock_as_often_as_others(params: float | None) -> None:
    graph = GRAPHS["u_net"]
    scores, asked = random_scores(graph, 4), []

    def measure(widths: dict[str, int]) -> float:
        asked.append(widths)
        return graph.price(widths).macs / graph.price().macs

    budget = Budget(latency=0.5, params=params)
    found = search(
        graph, scores, budget, replace(graph.price(), latency=1.0), allocation="equalised", measure=measure
    )
    assert len(asked) <= 11
    assert found.widths in asked
    assert found.cost.latency == measure(found.widths)
    assert 0.35 < found.cost.latency <= 0.5
    # What it is equalised at is what it gives: the exact search for that cost finds the same.
    again = search(graph, scores, Budget(flops=str(found.cost.paper)), graph.price(), allocation="equalised")
    assert again.widths == found.widths


def test_an_unreachable_latency_names_both_ends_of_the_range() -> None:
    graph = GRAPHS["residual"]  # a: 8 channels, b: 6

    def measure(widths: dict[str, int]) -> float:
        return sum(widths.values()) * 1e-3

    with pytest.raises(BudgetError) as caught:
        search(graph, random_scores(graph, 4), Budget(latency="5ms"), replace(graph.price(), latency=0.02), floor=0.5,
               ceiling={"a": 0.75}, measure=measure)  # fmt: skip
    message = str(caught.value)
    assert "a latency of 5 ms (0.250 of the baseline) cannot be reached" in message
    assert "between 7 ms (0.350) and 12 ms (0.600)" in message
    assert "\n" not in message


def test_a_latency_that_does_not_bind_leaves_the_other_limits_filled() -> None:
    graph = GRAPHS["dense_block"]
    scores, baseline = random_scores(graph, 1), replace(graph.price(), latency=1.0)
    without = search(graph, scores, Budget(flops=0.6), baseline)
    cut = search(graph, scores, Budget(flops=0.6, latency=1.0), baseline, measure=lambda widths: 0.5)
    assert cut.widths == without.widths
    assert cut.cost == replace(without.cost, latency=0.5)

    # A clock by which just the filled-up network is too slow: what was measured to be fast enough stays.
    def slow_when_full(widths: dict[str, int]) -> float:
        return 2.0 if widths == without.widths else 0.5

    held = search(graph, scores, Budget(flops=0.6, latency=1.0), baseline, measure=slow_when_full)
    assert held.widths != without.widths
    assert all(held.widths[name] <= width for name, width in without.widths.items())
    assert held.cost.latency == 0.5


def test_a_budget_that_weights_of_no_layer_make_impossible_says_so() -> None:
    """Kernels of four experts in one flat parameter, mixed for every image, as CondConv does."""
    parts = {"stem": conv(3, 6), "a": conv(6, 8), "gate": nn.Linear(8, 4), "b": conv(64, 8), "c": conv(8, 4),
             "kernels": nn.Parameter(torch.randn(4, 64 * 8 * 9))}  # fmt: skip

    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.a(n.stem(x))
        kernel = (n.gate(y.mean((0, 2, 3)))[None].softmax(-1) @ n.kernels).view(64, 8, 3, 3)
        return n.c(n.b(nn.functional.conv2d(y, kernel, padding=1)))

    with pytest.warns(FrozenChannelsWarning, match="computed weight|as a matrix"):
        graph = trace_channels(Net(parts, forward), torch.zeros(1, 3, 8, 8))
    assert graph.frozen_layers == []
    with pytest.raises(BudgetError, match=rf"no width changes {graph.frozen_share():.1%} of the FLOPs"):
        search(graph, random_scores(graph, 0), Budget(flops=0.5), graph.price())


def test_a_budget_that_frozen_layers_make_impossible_says_so() -> None:
    parts = {"a": conv(3, 8), "b": conv(8, 64), "d": conv(64, 64), "c": conv(64, 4)}
    net = Net(parts, lambda n, x: n.c(n.d(n.b(n.a(x)))))
    graph = trace_channels(net, torch.zeros(1, 3, 8, 8), freeze=("d",))
    assert graph.frozen_layers == ["d", "c"]
    frozen = 64 * 9 * (64 * 64 + 64 * 4)
    assert graph.frozen_share() == pytest.approx(frozen / (frozen + 64 * 9 * (3 * 8 + 8 * 64)))
    with pytest.raises(
        BudgetError, match=rf"2 layers with {graph.frozen_share():.1%} of the FLOPs keep .*: d, c"
    ):
        search(graph, random_scores(graph, 0), Budget(flops=0.5), graph.price())
