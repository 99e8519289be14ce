"""Depth and width in one objective: a block goes if its FLOPs are worth more as width elsewhere.

With w_g the widths of the groups and n_s the blocks of stage s that can be left out,

    J = Σ_g a_g log w_g + c Σ_s log(1 + n_s)

is maximised under the budget. a_g is 1 for groups outside of such blocks. The groups within the blocks of a stage share
one weight, which is the sum of theirs at full depth. So a block that goes takes no weight with it: the first sum counts
how wide the blocks are, and only the second one, with c, how many there are. At full depth this is
`diminishing-returns`. As there, the j-th channel of a group is worth a_g / j, per FLOP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.graph.channels import ChannelGraph
from core.surgery.depth import blocks_to_lift
from core.widths.budget import BudgetError
from core.widths.selection import SearchResult
from core.widths.space import Space


@dataclass(frozen=True)
class Stages:
    """The blocks that can be left out, by the trunk to which they are added.

    Attributes:
        blocks: the blocks of each stage, in the order of execution.
        inner: block -> the groups that lie within it.
    """

    blocks: tuple[tuple[str, ...], ...]
    inner: Mapping[str, Sequence[str]]

    def left(self, removed: Sequence[str]) -> list[int]:
        """How many blocks of each stage remain."""
        return [sum(block not in removed for block in stage) for stage in self.blocks]


def stages_of(space: Space) -> Stages:
    """Blocks belong to one stage if the same outer groups pass through them and their own groups are equally wide."""
    graph = space.base_graph
    inner = blocks_to_lift(space.model, space.inputs, graph)
    found: dict[tuple[object, ...], list[str]] = {}
    for block, names in inner.items():
        through = tuple(
            group.name
            for group in graph.groups
            if group.name not in names and any(tensor.startswith(f"{block}.") for tensor, _ in group.slots)
        )
        widths = tuple(sorted(graph.widths[name] for name in names))
        found.setdefault((through, widths), []).append(block)
    return Stages(tuple(tuple(blocks) for blocks in found.values()), inner)


def weights(stages: Stages, graph: ChannelGraph, removed: Sequence[str]) -> dict[str, float]:
    """a_g of every group that is left."""
    within = {
        name: len(stage) / left
        for stage, left in zip(stages.blocks, stages.left(removed), strict=True)
        for block in stage
        if block not in removed
        for name in stages.inner[block]
    }
    return dict.fromkeys(graph.names, 1.0) | within


def worths(graph: ChannelGraph, weight: Mapping[str, float]) -> dict[str, Tensor]:
    """a_g / j for the j-th choice of every group, (size,) each."""
    return {group.name: weight[group.name] / torch.arange(1.0, group.size + 1) for group in graph.groups}


def objective(stages: Stages, widths: Mapping[str, int], weight: Mapping[str, float],
              removed: Sequence[str], depth: float) -> float:  # fmt: skip
    """J (see the top of this file); `depth` is c."""
    wide = sum(weight[name] * math.log(width) for name, width in widths.items())
    return wide + depth * sum(math.log(1 + left) for left in stages.left(removed))


def deepen_or_widen(
    full: Space,
    depth: float,
    opened: Callable[[Sequence[str]], Space],
    found: Callable[[Space, Mapping[str, Tensor]], SearchResult],
) -> tuple[Space, SearchResult, float]:
    """From full depth on, leave out the block whose removal raises J most, until none does; always the last of a stage.

    A stage whose blocks had groups of their own keeps one block, whose groups carry the stage's weight.

    Args:
        full: the space at full depth.
        depth: c.
        opened: blocks -> the space without these blocks.
        found: (space, scores) -> the widths within the budget.

    Returns:
        (the space without the blocks, its widths, J).

    Raises:
        BudgetError: the budget cannot be met at full depth.
    """
    stages = stages_of(full)

    def valued(space: Space) -> tuple[Space, SearchResult, float]:
        weight = weights(stages, space.graph, space.removed)
        result = found(space, worths(space.graph, weight))
        return space, result, objective(stages, result.widths, weight, space.removed, depth)

    best = valued(full)
    while True:
        removed = best[0].removed
        candidates = []
        for stage, left in zip(stages.blocks, stages.left(removed), strict=True):
            if left < 2:
                continue
            last = [block for block in stage if block not in removed][-1]
            gone = {*removed, last}
            space = opened([block for block in stages.inner if block in gone])
            try:
                candidates.append(valued(space))
            except BudgetError:  # the rest cannot fill the budget, or floors keep it above
                continue
        better = max(candidates, key=lambda item: item[2], default=best)
        if better[2] <= best[2]:
            return best
        best = better
