"""Sizes that a forward method reads off one activation and gives to an operation on another.

`y.view(b, c, 1, 1)` with `c` read off `x` says that `y` has as many channels as `x`, now and after every resizing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.graph.attributes import SizeOfAttribute, follow_attribute
from core.graph.labels import FROZEN, LabelMode, Labels, SizeOfChannels, instances_in


def follows(size: Any) -> bool:
    """Does a size change with the channels: computed from a channel size, or given as -1?"""
    return isinstance(size, SizeOfChannels) or size == -1


def given_sizes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Any]:
    """The sizes that `view`, `reshape` and `expand` take, one by one or as one sequence."""
    sizes = kwargs.get("shape", kwargs.get("size", args[1:]))
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes


def marks_in(value: Any) -> list[SizeOfChannels]:
    """All channel sizes in nested arguments."""
    return instances_in(value, SizeOfChannels)


def agree(mode: LabelMode, labels: Labels, axis: int, size: Any, name: str) -> None:
    """Make the channels of `labels` along `axis` follow those that `size` was read off.

    Sizes of the tensor's own channels agree by themselves. Channels of others are tied: one to one, or, for a
    quotient c // g, position p of each of the g parts to p. Where neither fits, both keep their widths.
    """
    if not isinstance(size, SizeOfChannels):
        return
    if np.isin(labels, size.labels).all():
        return
    here = labels.shape[axis]
    if here == 1 or not follow(mode, size, mode.vector(labels, axis, here)):
        freeze_sizes(mode, [labels], [size], name)


def follow(mode: LabelMode, size: SizeOfChannels | SizeOfAttribute, rows: Labels) -> bool:
    """Make `size`, at which a channel axis is cut, count `rows`, (abs(size),), after every resizing.

    Returns:
        Whether that is possible; if not, nothing is tied.
    """
    if isinstance(size, SizeOfAttribute):
        return follow_attribute(mode, size, rows)
    counted = size.labels
    if (
        len(rows) != abs(int(size))
        or not size.proportional
        or max(rows.size, counted.size) % min(rows.size, counted.size)
    ):
        return False
    mode.tie_by_part(rows, counted)
    return True


def freeze_sizes(
    mode: LabelMode, labels: Sequence[Labels], sizes: Sequence[SizeOfChannels], name: str
) -> None:
    """Freeze, with a warning, the channels that any of the sizes were read off."""
    reason = f"'{name}' with a size that was read off other channels"
    mode.freeze_and_warn([*labels, *(size.labels for size in sizes if (size.labels != FROZEN).any())], reason)
