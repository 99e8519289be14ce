"""Width allocations drawn under a closed-form budget, and the best of them by a training-free proxy.

One matrix product prices thousands of allocations (`core.graph.complexity.CostModel`), so all that are drawn meet the
budget and only the proxy costs time. Evolution goes on from the best by exchanging width between two groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from core.errors import UserError
from core.graph.channels import ChannelGraph
from core.surgery.initialise import seeded
from core.surgery.resize import resize
from core.widths.bounds import Bounds
from core.widths.config import ShrinkConfig
from core.widths.proxies import Batches, Proxy
from core.widths.scores import SPREAD
from core.widths.selection import check_reachable, exact_limits
from core.widths.space import Space

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BISECTIONS = 24  # halvings of a common factor: far below one channel


@dataclass(frozen=True)
class ProxyConfig:
    """How allocations are drawn and improved.

    Args:
        candidates: allocations for which the proxy is computed, over all rounds.
        rounds: 1 draws all at random; more keep the best quarter of each round and exchange width between its groups.
        spread: standard deviation of the logarithm of a group's share of width.
    """

    candidates: int = 64
    rounds: int = 4
    spread: float = SPREAD

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.candidates < self.rounds:
            raise UserError("candidates: use at least one round and one candidate in each")


@dataclass(frozen=True)
class Limits:
    """What an allocation may cost and how wide its groups may be, in elements of the widened network.

    Attributes:
        costs: the most that an allocation may cost, by the names of `core.graph.complexity.Cost`.
        bounds: what the groups may keep.
        base: the baseline's elements, (G,), in the widened network's steps; not whole where a grouped convolution has
            larger steps when it is widened.
    """

    costs: dict[str, int]
    bounds: Bounds
    base: FloatArray

    def fits(self, graph: ChannelGraph, sizes: IntArray) -> NDArray[np.bool_]:
        """Which allocations, (N, G), are within all limits, (N,)."""
        within = [graph.cost(kind, sizes) <= limit for kind, limit in self.costs.items()]
        return np.logical_and.reduce(within)


def limits_of(space: Space, config: ShrinkConfig) -> Limits:
    """A configuration's limits in a space; a limit on latency is ignored.

    Raises:
        BudgetError: the floors alone cost more, or the ceilings do not reach the budget.
        UserError: see `core.widths.bounds.group_bounds`.
    """
    graph, widths = space.graph, space.base_graph.widths
    costs, bounds = exact_limits(config.budget, space.baseline), config.bounds(graph)
    check_reachable(graph, bounds, costs, space.baseline)
    base = np.array([widths[group.name] / group.step for group in graph.groups], dtype=np.float64)
    return Limits(costs, bounds, base)


def scale_to_budget(graph: ChannelGraph, shares: FloatArray, limits: Limits) -> IntArray:
    """The widest allocations of the given proportions within the limits, (N, G) elements.

    Args:
        graph: the widened network's groups.
        shares: proportions, (N, G), positive: an allocation is a common factor times its shares times the baseline's
            elements, rounded to whole blocks and kept within the bounds.
        limits: see `Limits`.

    Returns:
        (N, G) whole elements: none is above the budget, and no single block can be added to any within it.
    """
    least, most, block = limits.bounds.low, limits.bounds.high, limits.bounds.block

    def sizes(factors: FloatArray) -> IntArray:
        wanted = np.rint(factors[:, None] * shares * limits.base / block).astype(np.int64) * block
        return np.clip(wanted, least, most)

    low = np.zeros(len(shares))
    high = (most / (shares * limits.base)).max(axis=1) + 1
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = limits.fits(graph, sizes(middle))
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return fill(graph, sizes(low), limits)


def fill(graph: ChannelGraph, sizes: IntArray, limits: Limits) -> IntArray:
    """Add blocks in turns, one to every group that may have one more, while they fit; all allocations at once.

    Groups of one proportion are rounded up together, so scaling alone stops up to one channel per group too early.
    """
    sizes = sizes.copy()
    zeros = np.zeros(len(limits.base), dtype=np.int64)
    curvature = {kind: graph.cost.curvature(kind) for kind in limits.costs}
    marginal = {kind: graph.cost.marginal(kind, zeros) + sizes @ curvature[kind] for kind in limits.costs}
    room = {kind: limit - graph.cost(kind, sizes) for kind, limit in limits.costs.items()}
    grown = True
    while grown:
        grown = False
        for group, (most, block) in enumerate(zip(limits.bounds.high, limits.bounds.block, strict=True)):
            pairs = block * (block - 1) // 2  # each element of a block makes the next ones dearer
            cost = {
                kind: block * marginal[kind][:, group] + pairs * curvature[kind][group, group]
                for kind in room
            }
            fits = sizes[:, group] + block <= most
            for kind, left in room.items():
                fits &= cost[kind] <= left
            sizes[fits, group] += block
            for kind, left in room.items():
                left[fits] -= cost[kind][fits]
                marginal[kind][fits] += block * curvature[kind][group]
            grown = grown or bool(fits.any())
    return sizes


def draw(
    graph: ChannelGraph, limits: Limits, count: int, spread: float, generator: np.random.Generator
) -> IntArray:
    """Random allocations within the budget, (count, G): log-normal shares, scaled to the budget."""
    shares = np.exp(spread * generator.standard_normal((count, len(limits.base))))
    return scale_to_budget(graph, shares, limits)


def exchange(
    graph: ChannelGraph, limits: Limits, parents: IntArray, spread: float, generator: np.random.Generator
) -> IntArray:
    """A child of every parent: one group gets wider and another one narrower, at the same budget, (N, G)."""
    shares = parents / limits.base
    rows = np.arange(len(parents))
    first = generator.integers(0, shares.shape[1], len(parents))
    second = (first + generator.integers(1, max(2, shares.shape[1]), len(parents))) % shares.shape[1]
    step = np.exp(np.abs(spread * generator.standard_normal(len(parents))))
    shares[rows, first] *= step
    shares[rows, second] /= step
    return scale_to_budget(graph, shares, limits)


def best_by_proxy(
    space: Space,
    limits: Limits,
    proxy: Proxy,
    batches: Batches,
    loss_fn: Callable[..., object],
    config: ProxyConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[dict[str, int], list[tuple[float, IntArray]]]:
    """Draw, rank and exchange; every candidate is built with the same seed and sees the same batches.

    Returns:
        (group -> channels of the best candidate, all (proxy, elements) from best to worst).

    Raises:
        UserError: whatever the proxy raises.
    """
    generator = np.random.default_rng(seed)
    kept = list(batches)
    graph = space.graph
    ranked: list[tuple[float, IntArray]] = []
    per_round = [len(part) for part in np.array_split(np.arange(config.candidates), config.rounds)]
    for number, count in enumerate(per_round):
        if number == 0:
            # The proportional allocation is a candidate, so by its own measure the search can do no worse.
            even = scale_to_budget(graph, np.ones((1, len(limits.base))), limits)
            found = np.concatenate([even, draw(graph, limits, count - 1, config.spread, generator)])
        else:
            parents = np.stack([sizes for _, sizes in ranked[: max(1, len(ranked) // 4)]])
            chosen = parents[generator.integers(0, len(parents), count)]
            found = exchange(graph, limits, chosen, config.spread, generator)
        for sizes in found:
            model = built(space, sizes, seed).to(device)
            with seeded(seed):
                ranked.append((proxy(model, kept, loss_fn), sizes))
        ranked.sort(key=lambda item: -item[0])
    return graph.widths_at(ranked[0][1]), ranked


def built(space: Space, sizes: Sequence[int] | IntArray, seed: int) -> nn.Module:
    """A fresh network of the given elements per group."""
    return resize(space.wide, space.graph, space.graph.widths_at(sizes), seed=seed)
