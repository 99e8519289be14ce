"""Which channel comes next when channels do not cost the same.

A threshold over scores keeps the best channels whatever they cost. A channel of an early, large feature map costs many
times as much as one of a late, small map, so the knapsack's greedy rule asks for the most score per FLOP:

    threshold   by score (LW-DNA, section 3)
    per-flop    greedily by score divided by the cost of the channel at the widths reached so far
    equalised   by score divided by the cost of a channel of its group at the resulting widths, so that at the end one
                more FLOP gains the same score in every group (the condition of a constrained optimum)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.graph.channels import ChannelGraph

Allocation = Literal["threshold", "per-flop", "equalised"]
MOST_ROUNDS = 30  # of `equalise`; it settles in about ten

IntArray = NDArray[np.int64]


def by_score(
    graph: ChannelGraph, kind: str, low: IntArray, size: IntArray, values: Sequence[NDArray[np.float64]]
) -> IntArray:
    """Blocks by falling score, whatever they cost; among equals by the order of groups. See `greedy_order`."""
    groups = np.repeat(np.arange(len(values)), [len(value) for value in values])
    return groups[np.argsort(-np.concatenate(values), kind="stable")]


def greedy_order(
    graph: ChannelGraph, kind: str, low: IntArray, size: IntArray, values: Sequence[NDArray[np.float64]]
) -> IntArray:
    """The order in which the knapsack's greedy rule adds blocks of choices.

    Args:
        graph: the groups and their costs.
        kind: the cost to divide by: "macs", "paper" or "params".
        low: choices of each group at the start, (G,).
        size: choices per block, (G,).
        values: for each group the scores of its blocks, best first.

    Returns:
        The group of each added block, (sum of blocks,). At every step it is the group whose next block has the largest
        score per cost at the widths reached so far; among equals the first group.
    """
    counts = low.astype(np.float64)
    curvature = graph.cost.curvature(kind).astype(np.float64)
    marginal = graph.cost.marginal(kind, low).astype(np.float64)  # of one more choice in each group
    own = np.diagonal(curvature)
    taken = np.zeros(len(low), dtype=np.int64)
    lengths = np.array([len(value) for value in values])
    following = np.array([value[0] if len(value) else -np.inf for value in values])
    order = np.empty(int(lengths.sum()), dtype=np.int64)
    for position in range(len(order)):
        # b more choices of one group cost b times the first of them, and each is dearer than the one before by `own`.
        cost = size * marginal + own * size * (size - 1) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(cost > 0, following / cost, np.where(np.isneginf(following), -np.inf, np.inf))
        group = int(np.argmax(ratio))
        order[position] = group
        taken[group] += 1
        counts[group] += size[group]
        marginal += size[group] * curvature[group]
        following[group] = values[group][taken[group]] if taken[group] < lengths[group] else -np.inf
    return order


def equalise(
    graph: ChannelGraph,
    kind: str,
    scores: Mapping[str, Tensor],
    found: Callable[[Mapping[str, Tensor]], IntArray],
) -> dict[str, Tensor]:
    """Scores divided by the cost of a channel of their group at the widths to which they lead.

    Widths decide costs and costs decide widths; the fixed point is reached by repeated search, each time with the
    geometric mean of the costs before and after, which keeps two groups from taking turns.

    Args:
        graph: the groups and their costs.
        kind: the cost to divide by.
        scores: group -> (size,).
        found: scores -> choices per group, (G,), that a search under the budget keeps.

    Returns:
        Group -> (size,): scores whose order gives the equalised widths.
    """
    price = np.maximum(graph.cost.marginal(kind, graph.sizes), 1).astype(np.float64)
    seen: IntArray | None = None
    priced: dict[str, Tensor] = {}
    for _ in range(MOST_ROUNDS):
        priced = {
            group.name: scores[group.name].double() / price[index] for index, group in enumerate(graph.groups)
        }
        counts = found(priced)
        if seen is not None and np.array_equal(counts, seen):
            break
        seen = counts
        price = np.sqrt(price * np.maximum(graph.cost.marginal(kind, counts), 1))
    return priced


@dataclass(frozen=True)
class AllocationRule:
    """One way of weighing score and cost.

    Attributes:
        order: (graph, kind of cost, low, block sizes, scores of each group's blocks) -> group of each added block.
        repriced: whether scores are first divided by costs at the widths to which they lead; see `equalise`.
    """

    order: Callable[[ChannelGraph, str, IntArray, IntArray, Sequence[NDArray[np.float64]]], IntArray]
    repriced: bool = False


ALLOCATIONS: dict[Allocation, AllocationRule] = {
    "threshold": AllocationRule(by_score),
    "per-flop": AllocationRule(greedy_order),
    "equalised": AllocationRule(by_score, repriced=True),
}
