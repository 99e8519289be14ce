"""Exchange of width: allocations that move FLOPs from one part of a network to another, at one budget.

Four directions are tried by hand, without any score: early against late layers, and the trunk (channels that several
convolutions produce together, because a residual addition ties them) against the inner channels of blocks.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from core.methods.candidates import FloatArray, limits_of, scale_to_budget
from core.widths.config import ShrinkConfig
from core.widths.space import Space


def trunk_groups(space: Space) -> list[bool]:
    """For every group of the widened network whether several convolutions or linear layers produce it."""
    graph = space.graph
    found = []
    for group in graph.groups:
        producers = 0
        for tensor, dim in group.slots:
            module, _, leaf = tensor.rpartition(".")
            layer = space.wide.get_submodule(module)
            made = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
            producers += (
                leaf == "weight"
                and dim == made
                and module in graph.producers
                and module not in graph.depthwise
            )
        found.append(producers > 1)
    return found


def tilted_shares(space: Space, *, depth: float = 0.0, trunk: float = 0.0) -> FloatArray:
    """Proportions of the baseline's widths, (G,), before they are scaled to a budget.

    Args:
        space: the groups, in the order of execution.
        depth: relative to the baseline, the last group is exp(depth) times as wide as the first; the factors of the
            groups between grow geometrically with their place in the order of execution.
        trunk: trunk groups are exp(trunk) times as wide as the others.
    """
    position = np.linspace(-0.5, 0.5, len(space.graph.groups))
    on_trunk = np.array(trunk_groups(space), dtype=np.float64)
    return np.exp(depth * position + trunk * on_trunk)


def tilted_widths(
    space: Space, config: ShrinkConfig, *, depth: float = 0.0, trunk: float = 0.0
) -> dict[str, int]:
    """The widest network of these proportions within the configuration's limits: group -> channels.

    Raises:
        UserError: see `core.methods.candidates.limits_of`.
    """
    shares = tilted_shares(space, depth=depth, trunk=trunk)
    limits = limits_of(space, config)
    return space.graph.widths_at(scale_to_budget(space.graph, shares[None], limits)[0])
