"""Floors, ceilings and multiples: how many choices each group may keep, for every way of finding widths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError, did_you_mean, meant_share
from core.graph.channels import ChannelGraph, ChannelGroup

IntArray = NDArray[np.int64]
Fractions = float | Mapping[str, float]


@dataclass(frozen=True)
class Bounds:
    """What the groups of a graph may keep, in choices.

    Attributes:
        low: the least, (G,).
        high: the most, (G,); `low` and a whole number of blocks.
        block: choices that come or go at once, (G,).
    """

    low: IntArray
    high: IntArray
    block: IntArray


def group_bounds(
    graph: ChannelGraph, floor: Fractions = 0.0, ceiling: Fractions = 1.0, round_to: int = 1
) -> Bounds:
    """Low and high of every group, by the rules of `core.widths.selection.search`.

    Args:
        graph: the groups to choose from.
        floor: see `group_fractions`; rounded down to whole blocks, at least one.
        ceiling: likewise; never below the floor.
        round_to: widths in channels are multiples of it; a group that is narrower stays whole.

    Raises:
        UserError: a pattern that fits no group, a fraction outside [0, 1], or a round_to below 1.
    """
    if not isinstance(round_to, int) or round_to < 1:
        raise UserError(f"round_to={round_to!r}: use a whole number of at least 1")
    floors = group_fractions(graph.groups, floor, "floor")
    ceilings = group_fractions(graph.groups, ceiling, "ceiling")
    sizes = graph.sizes
    block = np.array([round_to // math.gcd(group.step, round_to) for group in graph.groups], dtype=np.int64)

    def whole_blocks(fractions: NDArray[np.float64]) -> IntArray:
        return (fractions * sizes / block + 1e-9).astype(np.int64) * block

    low = np.maximum(whole_blocks(floors), block)
    high = np.maximum(whole_blocks(ceilings), low)
    narrow = sizes < block
    return Bounds(np.where(narrow, sizes, low), np.where(narrow, sizes, high), block)


def group_fractions(
    groups: Sequence[ChannelGroup], setting: Fractions, what: Literal["floor", "ceiling"]
) -> NDArray[np.float64]:
    """A floor or ceiling as one fraction per group, (G,).

    Args:
        groups: of the network to choose from.
        setting: one fraction for all groups, or shell-style patterns of their names -> fraction. Of several patterns
            that fit a group the last one counts. A group that none fits has no limit: floor 0 (one channel stays),
            ceiling 1. Put `"*": 0.4` first to limit all others.
        what: "floor" or "ceiling", for messages.

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
            raise UserError(
                f"{what} of group '{name}' is {value}: use a fraction between 0 and 1{meant_share(value)}"
            )
        found.append(float(value))
    return np.array(found)


def _close_groups(groups: Sequence[ChannelGroup], pattern: str) -> str:
    """What may be meant: the groups of the modules that the pattern names, or groups of similar names."""
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
    """A floor or ceiling without the patterns that fit none of the groups, for a network that has lost blocks."""
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
