"""The search for widths under a budget, by the scores of all channels (LW-DNA, section 3).

The search is exact. Costs are closed forms of the widths, so a global threshold is bisected over the sorted scores;
below it, channels that still fit are added in the order of their scores, until no single channel fits any more. So no
removal and no addition of one channel gets closer to the budget from below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import UserError, did_you_mean
from core.graph.channels import ChannelGraph, ChannelGroup
from core.graph.complexity import Cost
from core.widths.allocation import ALLOCATIONS, Allocation, equalise, greedy_order
from core.widths.budget import Budget, BudgetError

IntArray = NDArray[np.int64]
Fractions = float | Mapping[str, float]
_Ranking = tuple[IntArray, NDArray[np.float64]]  # choices of a group, best first, and their scores


@dataclass(frozen=True)
class SearchResult:
    """What the search kept.

    Attributes:
        keep: group -> boolean mask over its choices.
        widths: group -> channels kept.
        at_floor: groups that kept only what their floor guarantees.
        at_ceiling: groups that kept all they may.
        cost: of the result; its latency where that is limited.
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
    high: IntArray  # (G,) choices that the ceiling allows
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
        baseline: what the baseline costs, its latency included where that is limited.
        floor: least fraction of each group of `graph` to keep (method.md 1.2.4: rho), or patterns -> fraction, see
            `group_fractions`; rounded down to whole channels (to multiples of round_to), at least one.
        ceiling: largest fraction to keep, likewise.
        round_to: widths in channels are multiples of it; a group that is narrower stays whole.
        allocation: how score and cost are weighed; see `core.widths.allocation`.
        measure: widths -> seconds; needed for a latency limit. Where that limit is the one that binds, single channels
            that might still fit are not added: clocks are too noisy for that.

    Raises:
        BudgetError: a limit is below what floors leave, or no limit is below what ceilings allow.
        UserError: a fraction outside [0, 1], a pattern that fits no group, a round_to below 1, an unknown allocation,
            or a latency limit without `measure`.
    """
    if allocation not in ALLOCATIONS:
        raise UserError(f"unknown allocation '{allocation}', {did_you_mean(allocation, ALLOCATIONS)}")
    limits = budget.limits(baseline)
    priced = budget.priced
    if allocation == "equalised":
        # Masks follow the order within each group, which a common divisor does not change.
        scores = equalise(
            graph,
            priced,
            scores,
            lambda tried: _kept(search(graph, tried, budget, baseline, floor=floor, ceiling=ceiling,
                                       round_to=round_to, measure=measure)),
        )  # fmt: skip
    ranking = [_ranked(scores[group.name]) for group in graph.groups]
    blocks = _blocks(graph, ranking, floor, ceiling, round_to, priced if allocation == "per-flop" else None)
    exact = {kind: limit for kind, limit in limits.items() if kind != "latency"}

    def costs(counts: IntArray) -> dict[str, int]:
        return {kind: int(graph.cost(kind, counts)) for kind in exact}

    def fits(counts: IntArray) -> bool:
        return all(cost <= exact[kind] for kind, cost in costs(counts).items())

    if measure is None and "latency" in limits:
        raise UserError("a latency budget needs a way to measure: pass measure= (shrink() does)")
    everything = len(blocks.group)
    _check_reachable(costs(blocks.low), costs(blocks.high), exact, baseline, binding="latency" not in limits)
    taken = largest(lambda number: fits(blocks.counts(number)), 0, everything)
    measured: float | None = None
    if measure is None or "latency" not in limits:
        counts = _fill(blocks, fits, taken)
    else:
        fast, measured = _bisect_latency(
            blocks, measure, graph.widths_at, taken, limits["latency"], cast(float, baseline.latency)
        )
        counts = blocks.counts(fast)
        if fast == taken:
            # The clock does not bind, so the other limits are filled up, if the clock agrees to the result as a whole.
            # Where it binds, its noise makes adding channel by channel meaningless.
            filled = _fill(blocks, fits, taken)
            seconds = measured if (filled == counts).all() else measure(graph.widths_at(filled))
            if seconds <= limits["latency"]:
                counts, measured = filled, seconds
    widths = graph.widths_at(counts)
    return SearchResult(
        keep=_masks(graph, ranking, counts),
        widths=widths,
        at_floor=[g.name for g, n, low in zip(graph.groups, counts, blocks.low, strict=True) if n == low],
        at_ceiling=[
            g.name for g, n, high in zip(graph.groups, counts, blocks.high, strict=True) if n == high
        ],
        cost=replace(graph.price(widths), latency=measured),
        limits=limits,
    )


def _kept(result: SearchResult) -> IntArray:
    return np.array([int(mask.sum()) for mask in result.keep.values()], dtype=np.int64)


def group_fractions(
    groups: Sequence[ChannelGroup], setting: Fractions, what: Literal["floor", "ceiling"]
) -> NDArray[np.float64]:
    """A floor or ceiling as one fraction per group, (G,).

    Args:
        groups: of the network to choose from.
        setting: one fraction for all groups, or shell-style patterns of their names -> fraction. Of several patterns
            that fit a group the last one counts. A group that none fits has no limit: floor 0 (one channel stays),
            ceiling 1. Put `"*": 0.4` first for a limit of all the others.
        what: which of the two.

    Raises:
        UserError: a pattern that fits no group, or a fraction outside [0, 1].
    """
    patterns = setting if isinstance(setting, Mapping) else {"*": setting}
    names = [group.name for group in groups]
    for pattern, value in patterns.items():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{what}: no channel group fits '{pattern}', {_close_groups(groups, pattern)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(f"{what} of '{pattern}' is {value!r}: use a fraction between 0 and 1")
    found = []
    for name in names:
        matches = [value for pattern, value in patterns.items() if fnmatchcase(name, pattern)]
        value = matches[-1] if matches else (0.0 if what == "floor" else 1.0)
        if not 0 <= value <= 1:
            raise UserError(f"{what} of group '{name}' is {value}: use a fraction between 0 and 1")
        found.append(float(value))
    return np.array(found)


def _close_groups(groups: Sequence[ChannelGroup], pattern: str) -> str:
    """What may be meant: the groups of the modules that the pattern names, or others of such a name."""
    owners = [
        group.name
        for group in groups
        if any(fnmatchcase(tensor.rpartition(".")[0], pattern) for tensor, dim in group.slots if dim == 0)
    ]
    if owners:
        return f"whose channels belong to {', '.join(map(repr, owners))}: a group bears the name of one of its layers"
    names = [group.name for group in groups]
    parts = [name.split(".") for name in names]
    within = {".".join([*part[:depth], "*"]): None for part in parts for depth in range(1, len(part))}
    return did_you_mean(pattern, names, within)


def fitting(setting: Fractions, groups: Sequence[ChannelGroup]) -> Fractions:
    """A floor or ceiling without the patterns that fit none of the groups, for what is left of a network."""
    if not isinstance(setting, Mapping):
        return setting
    return {
        pattern: value
        for pattern, value in setting.items()
        if any(fnmatchcase(group.name, pattern) for group in groups)
    }


def unlimited(setting: Fractions, groups: Sequence[ChannelGroup]) -> list[str]:
    """The groups that no pattern of a floor or ceiling fits."""
    patterns = setting if isinstance(setting, Mapping) else {"*": setting}
    return [
        group.name for group in groups if not any(fnmatchcase(group.name, pattern) for pattern in patterns)
    ]


def _whole_blocks(fraction: float, size: int, block: int) -> int:
    return int(fraction * size / block + 1e-9) * block


def _ranked(scores: Tensor) -> _Ranking:
    """(choices, their scores), best first; ties in the order of channels."""
    values = scores.double().numpy()
    order = np.argsort(-values, kind="stable")
    return order, values[order]


def _blocks(
    graph: ChannelGraph,
    ranking: Sequence[_Ranking],
    floor: Fractions,
    ceiling: Fractions,
    round_to: int,
    priced: str | None = None,
) -> _Blocks:
    """Blocks by falling score, or, with the kind of cost `priced`, by the knapsack's greedy rule."""
    if not isinstance(round_to, int) or round_to < 1:
        raise UserError(f"round_to={round_to!r}: use a whole number of at least 1")
    low, high, sizes, groups, values = [], [], [], [], []
    floors, ceilings = (
        group_fractions(graph.groups, floor, "floor"),
        group_fractions(graph.groups, ceiling, "ceiling"),
    )
    for index, (group, (_, ranked)) in enumerate(zip(graph.groups, ranking, strict=True)):
        block = round_to // math.gcd(group.step, round_to)
        least = max(_whole_blocks(floors[index], group.size, block), block)
        most = max(_whole_blocks(ceilings[index], group.size, block), least)
        if group.size < block:
            least = most = group.size
        mean = ranked[least:most]
        if block > 1 and len(mean):
            mean = mean.reshape(-1, block).mean(axis=1)
        low.append(least)
        high.append(most)
        sizes.append(block)
        groups.append(np.full(len(mean), index, dtype=np.int64))
        values.append(mean)
    if priced is not None:
        order = greedy_order(graph, priced, np.array(low), np.array(sizes), values)
    else:
        order = np.concatenate(groups)[np.argsort(-np.concatenate(values), kind="stable")]
    return _Blocks(np.array(low), np.array(high), np.array(sizes), order)


def _check_reachable(
    lowest: Mapping[str, int],
    highest: Mapping[str, int],
    limits: Mapping[str, float],
    baseline: Cost,
    binding: bool,
) -> None:
    too_tight = [kind for kind, limit in limits.items() if lowest[kind] > limit]
    too_loose = bool(limits) and binding and all(highest[kind] < limit for kind, limit in limits.items())
    for kind in too_tight or (list(limits) if too_loose else []):
        low, high, base = lowest[kind], highest[kind], getattr(baseline, kind)
        unit = kind if kind == "params" else f"flops (convention {kind})"
        raise BudgetError(
            f"a budget of {int(limits[kind]):,} {unit} ({limits[kind] / base:.3f} of the baseline) cannot be reached: "
            f"with these floors and ceilings networks have between {low:,} ({low / base:.3f}) and {high:,} "
            f"({high / base:.3f}); change the budget, {'floor' if too_tight else 'widen or ceiling'} or round_to"
        )


def largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number in [low, high] that fits, for a monotone `fits` that holds at `low`."""
    if fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fill(blocks: _Blocks, fits: Callable[[IntArray], bool], taken: int) -> IntArray:
    """Add, in the order of scores, what still fits. A group that once did not fit never does again: costs only grow."""
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
    blocks: _Blocks,
    measure: Callable[[dict[str, int]], float],
    widths_of: Callable[[IntArray], dict[str, int]],
    taken: int,
    limit: float,
    baseline: float,
) -> tuple[int, float]:
    """The largest prefix, up to `taken` blocks, whose measured latency is within the limit; and that latency."""
    seen: dict[int, float] = {}

    def seconds(number: int) -> float:
        if number not in seen:
            seen[number] = measure(widths_of(blocks.counts(number)))
        return seen[number]

    if seconds(0) > limit:
        low, high = seconds(0), measure(widths_of(blocks.high))
        raise BudgetError(
            f"a latency of {limit * 1e3:.2f} ms ({limit / baseline:.3f} of the baseline) cannot be reached: with these "
            f"floors and ceilings networks take between {low * 1e3:.2f} ms ({low / baseline:.3f}) and "
            f"{high * 1e3:.2f} ms ({high / baseline:.3f}); change the budget, floor or round_to"
        )
    best = largest(lambda number: seconds(number) <= limit, 0, taken)
    return best, seconds(best)


def _masks(graph: ChannelGraph, ranking: Sequence[_Ranking], counts: IntArray) -> dict[str, Tensor]:
    masks = {}
    for group, (order, _), number in zip(graph.groups, ranking, counts, strict=True):
        mask = np.zeros(group.size, dtype=bool)
        mask[order[:number]] = True
        masks[group.name] = torch.from_numpy(mask)
    return masks
