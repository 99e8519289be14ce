"""The search for widths under a budget, by the scores of all channels (LW-DNA, section 3).

The search is exact. Costs are closed forms of the widths, so a global threshold is bisected over the sorted scores;
then channels below it are added in the order of their scores while they fit. At the end no single channel fits any
more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import UserError, check_known
from core.graph.channels import ChannelGraph
from core.graph.complexity import Cost
from core.widths.allocation import ALLOCATIONS, Allocation, AllocationRule, equalise
from core.widths.bounds import Bounds, Fractions, IntArray, group_bounds
from core.widths.budget import Budget, BudgetError

SIZES_IN_TIME = 256  # for the clock to choose from, where every size is a search of its own
LEAST_SHARE_TOLD = 0.001  # of frozen FLOPs; a refused budget mentions no less
LAYERS_TOLD = 8


@dataclass(frozen=True)
class SearchResult:
    """What the search kept.

    Attributes:
        keep: group -> boolean mask over its choices.
        widths: group -> channels kept.
        at_floor: groups that kept only what their floor guarantees.
        at_ceiling: groups that kept all they may.
        cost: of the result, with its latency if that is limited.
        limits: the absolute limits, see `Budget.limits`.
    """

    keep: dict[str, Tensor]
    widths: dict[str, int]
    at_floor: list[str]
    at_ceiling: list[str]
    cost: Cost
    limits: dict[str, float]


@dataclass(frozen=True)
class _Blocks:
    """What the search may add, in the order of scores: blocks of `size[g]` choices on top of `low[g]`."""

    low: IntArray  # (G,) choices that the floor guarantees
    size: IntArray  # (G,) choices per block: 1, or what makes widths multiples of round_to
    group: IntArray  # (B,) group of each block, in the order in which they are taken

    def counts(self, taken: int) -> IntArray:
        """Choices per group with the first `taken` blocks."""
        return self.low + self.size * np.bincount(self.group[:taken], minlength=len(self.low))


def search(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    budget: Budget,
    baseline: Cost,
    *,
    floor: Fractions = 0.0,
    ceiling: Fractions = 1.0,
    round_to: int = 1,
    allocation: Allocation = "threshold",
    measure: Callable[[dict[str, int]], float] | None = None,
) -> SearchResult:
    """Keep the best channels under a budget.

    Args:
        graph: groups of the network to choose from (the widened one).
        scores: group -> (size,); higher is kept longer; ties are broken by the order of groups and channels.
        budget: upper limits; fractions refer to `baseline`.
        baseline: cost of the baseline, with its latency if that is limited.
        floor: least fraction of each group of `graph` to keep (LW-DNA's `--remain_percentage`), or patterns -> fraction
            (`core.widths.bounds`); rounded down to whole channels (to multiples of round_to), at least one.
        ceiling: largest fraction to keep, likewise.
        round_to: widths in channels are multiples of it; a group that is narrower stays whole.
        allocation: how score and cost are weighed; see `core.widths.allocation`.
        measure: widths -> seconds; needed for a latency limit. If this limit binds, no single channels are added at the
            end: clocks are too noisy to tell whether one fits.

    Raises:
        BudgetError: a limit is below what floors leave, or no limit is below what ceilings allow.
        UserError: a fraction outside [0, 1], a pattern that fits no group, a round_to below 1, an unknown allocation,
            or a latency limit without `measure`.
    """
    check_known("unknown allocation", [allocation], ALLOCATIONS)
    limits = budget.limits(baseline)
    exact = exact_limits(budget, baseline)
    bounds = group_bounds(graph, floor, ceiling, round_to)
    task = _Exact(graph, bounds, exact, budget.priced, ALLOCATIONS[allocation])
    if measure is None and "latency" in limits:
        raise UserError("a latency budget needs a way to measure: pass measure= (shrink() does)")
    check_reachable(graph, bounds, exact, baseline, binding="latency" not in limits)
    if measure is None or "latency" not in limits:
        counts, measured = task.counts(scores), None
    else:
        counts, measured = _in_time(task, scores, measure, limits["latency"], cast(float, baseline.latency))
    widths = graph.widths_at(counts)
    return SearchResult(
        keep=best_choices(graph, scores, counts),
        widths=widths,
        at_floor=[name for name, n, low in zip(graph.names, counts, bounds.low, strict=True) if n == low],
        at_ceiling=[
            name for name, n, high in zip(graph.names, counts, bounds.high, strict=True) if n == high
        ],
        cost=replace(graph.price(widths), latency=measured),
        limits=limits,
    )


def exact_limits(budget: Budget, baseline: Cost) -> dict[str, int]:
    """The limits in closed form, by the names of `Cost`: all but the latency."""
    limits = budget.limits(replace(baseline, latency=0.0))
    return {kind: int(limit) for kind, limit in limits.items() if kind != "latency"}


@dataclass(frozen=True)
class _Exact:
    """A search under limits in closed form."""

    graph: ChannelGraph
    bounds: Bounds
    limits: dict[str, int]  # by the names of `Cost`
    priced: str  # the cost that scores are weighed with
    rule: AllocationRule

    def fits(self, counts: IntArray) -> bool:
        """Whether a network with these choices per group is within all limits."""
        return all(int(self.graph.cost(kind, counts)) <= limit for kind, limit in self.limits.items())

    def counts(self, scores: Mapping[str, Tensor]) -> IntArray:
        """Choices per group, (G,), of the best network within the limits."""
        if self.rule.repriced:  # a common divisor of a group's scores does not change the order within it
            by_score = replace(self, rule=ALLOCATIONS["threshold"])
            scores = equalise(self.graph, self.priced, scores, by_score.counts)
        blocks = self.blocks(scores)
        return _fill(blocks, self.fits, self.taken(blocks))

    def blocks(self, scores: Mapping[str, Tensor]) -> _Blocks:
        """The blocks that may be added to the floors, in the rule's order."""
        low, high, size = self.bounds.low, self.bounds.high, self.bounds.block
        values = [
            _ranked(scores[name])[1][least:most].reshape(-1, block).mean(axis=1)
            for name, least, most, block in zip(self.graph.names, low, high, size, strict=True)
        ]
        return _Blocks(low, size, self.rule.order(self.graph, self.priced, low, size, values))

    def taken(self, blocks: _Blocks) -> int:
        """How many of the blocks, in their order, are within the limits."""
        return largest(lambda number: self.fits(blocks.counts(number)), 0, len(blocks.group))


def check_reachable(
    graph: ChannelGraph, bounds: Bounds, limits: Mapping[str, int], baseline: Cost, *, binding: bool = True
) -> None:
    """Refuse limits below what floors leave and, where no other limit binds, above what ceilings allow.

    Args:
        graph: the groups to choose from.
        bounds: what they may keep.
        limits: in closed form, by the names of `Cost`.
        baseline: cost that the message compares with.
        binding: whether there are no other limits.

    Raises:
        BudgetError: with the reachable range.
    """
    lowest, highest = (
        {kind: int(graph.cost(kind, counts)) for kind in limits} for counts in (bounds.low, bounds.high)
    )
    tight = [kind for kind, limit in limits.items() if lowest[kind] > limit]
    loose = binding and all(highest[kind] < limit for kind, limit in limits.items())
    for kind in tight or (list(limits) if loose else []):
        low, high, base, limit = lowest[kind], highest[kind], getattr(baseline, kind), limits[kind]
        unit = kind if kind == "params" else f"flops (convention {kind})"
        raise BudgetError(
            f"a budget of {limit:,} {unit} ({limit / base:.3f} of the baseline) cannot be reached: with these "
            f"floors and ceilings networks have between {low:,} ({low / base:.3f}) and {high:,} "
            f"({high / base:.3f}); change the budget, {'floor' if tight else 'widen or ceiling'} or round_to"
            f"{_frozen(graph, kind)}"
        )


def _frozen(graph: ChannelGraph, kind: str) -> str:
    """How frozen channels narrow the budgets that can be reached; "" if there are none."""
    layers = graph.frozen_layers
    share = 0.0 if kind == "params" else graph.frozen_share("paper" if kind == "paper" else "macs")
    if (kind == "params" and not layers) or (kind != "params" and share < LEAST_SHARE_TOLD):
        return ""
    if not layers:  # weights of no layer: several experts in one parameter, say
        return f"; no width changes {share:.1%} of the FLOPs (trace_channels says why)"
    listed = ", ".join(layers[:LAYERS_TOLD]) + (", …" if len(layers) > LAYERS_TOLD else "")
    part = "" if kind == "params" else f" with {share:.1%} of the FLOPs"
    return (
        f"; {len(layers)} layers{part} keep their widths, as nothing can change their channels: {listed} "
        f"(trace_channels says why)"
    )


def _in_time(
    task: _Exact,
    scores: Mapping[str, Tensor],
    measure: Callable[[dict[str, int]], float],
    limit: float,
    baseline: float,
) -> tuple[IntArray, float]:
    """Choices per group within the exact limits and a measured one, and the latency that was measured."""
    filled = task.counts(scores)
    counts_at: Callable[[int], IntArray]
    if task.rule.repriced:  # prices follow the widths: every size is a search of its own, without the clock
        least, most = (int(task.graph.cost(task.priced, counts)) for counts in (task.bounds.low, filled))
        last = SIZES_IN_TIME

        def searched(number: int) -> IntArray:
            allowed = least + (most - least) * number // last
            smaller = replace(task, limits={**task.limits, task.priced: allowed})
            return filled if number == last else smaller.counts(scores)

        counts_at = searched
    else:
        blocks = task.blocks(scores)
        last, counts_at = task.taken(blocks), blocks.counts
    number, seconds = _bisect_latency(task, counts_at, last, measure, limit, baseline)
    counts = counts_at(number)
    if number == last and (filled != counts).any():
        # The clock does not bind, so the other limits are filled up, if the result as a whole is still in time.
        # Where it binds, its noise makes adding channel by channel meaningless.
        whole = measure(task.graph.widths_at(filled))
        if whole <= limit:
            return filled, whole
    return counts, seconds


def _ranked(scores: Tensor) -> tuple[IntArray, NDArray[np.float64]]:
    """(choices, their scores), best first; ties in the order of channels."""
    values = scores.double().numpy()
    order = np.argsort(-values, kind="stable")
    return order, values[order]


def largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number in [low, high] that fits, for a monotone `fits` that holds at `low`."""
    if fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fill(blocks: _Blocks, fits: Callable[[IntArray], bool], taken: int) -> IntArray:
    """Add, in the order of scores, what still fits. A group that once did not fit never fits again: costs only grow."""
    counts = blocks.counts(taken)
    rest = blocks.group[taken:]
    while len(rest):

        def fits_with(number: int) -> bool:
            extra = np.bincount(rest[:number], minlength=len(counts))  # noqa: B023
            return fits(counts + blocks.size * extra)  # noqa: B023

        number = largest(fits_with, 0, len(rest))
        counts = counts + blocks.size * np.bincount(rest[:number], minlength=len(counts))
        if number == len(rest):
            break
        rest = rest[number:]
        rest = rest[rest != rest[0]]
    return counts


def _bisect_latency(
    task: _Exact,
    counts_at: Callable[[int], IntArray],
    last: int,
    measure: Callable[[dict[str, int]], float],
    limit: float,
    baseline: float,
) -> tuple[int, float]:
    """The largest number, up to `last`, whose network's measured latency is within the limit; and that latency."""
    seen: dict[int, float] = {}

    def seconds(number: int) -> float:
        if number not in seen:
            seen[number] = measure(task.graph.widths_at(counts_at(number)))
        return seen[number]

    if seconds(0) > limit:
        raise out_of_time(task.graph, task.bounds, measure, seconds(0), limit, baseline)
    best = largest(lambda number: seconds(number) <= limit, 0, last)
    return best, seconds(best)


def out_of_time(
    graph: ChannelGraph,
    bounds: Bounds,
    measure: Callable[[dict[str, int]], float],
    least: float,
    limit: float,
    baseline: float,
) -> BudgetError:
    """The error for a latency limit that the narrowest network exceeds.

    Args:
        graph: the groups to choose from.
        bounds: what they may keep.
        measure: widths -> seconds.
        least: seconds of the narrowest network.
        limit: allowed seconds.
        baseline: seconds of the baseline.
    """
    high = measure(graph.widths_at(bounds.high))
    return BudgetError(
        f"a latency of {limit * 1e3:.3g} ms ({limit / baseline:.3f} of the baseline) cannot be reached: with these "
        f"floors and ceilings networks take between {least * 1e3:.3g} ms ({least / baseline:.3f}) and "
        f"{high * 1e3:.3g} ms ({high / baseline:.3f}); change the budget, floor or round_to"
    )


def best_choices(graph: ChannelGraph, scores: Mapping[str, Tensor], counts: IntArray) -> dict[str, Tensor]:
    """The `counts` (G,) choices of each group with the best scores, as boolean masks: group -> (size,)."""
    masks = {}
    for group, number in zip(graph.groups, counts, strict=True):
        mask = np.zeros(group.size, dtype=bool)
        mask[_ranked(scores[group.name])[0][:number]] = True
        masks[group.name] = torch.from_numpy(mask)
    return masks
