"""Rows of a table by integers: `bias_table[index]`, `rel_pos[distance.long()]`, `x[:, order]`.

Integer tensors carry no channels. The axes that they index keep their sizes; all others, taken whole, keep their
channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.graph.labels import LabelMode, Labels, SlotKey
from core.graph.rules.axes import operand, put
from core.graph.rules.blocks import varying
from core.graph.rules.calls import execute, unknown
from core.graph.rules.computed import Computed, computed, mark
from core.modules import axis_shape

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def rows_of_table(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`table[index, ...]` with at least one tensor among the indices."""
    source, given = args
    found = _whole_axes(source, given if isinstance(given, tuple) else (given,))
    if found is None:
        return unknown(mode, func, args, kwargs)
    result = execute(mode, func, args, kwargs)
    layers = computed(mode, source)
    if layers is not None:
        kept: dict[SlotKey, Labels] = {}
        for key, labels in layers.layers.items():
            axes = varying(labels)
            if len(axes) == 1 and axes[0] in found and key not in layers.reasons:
                kept[key] = labels.reshape(axis_shape(found[axes[0]], result.dim()))
            else:
                mode.freeze(labels)
        return mark(mode, result, Computed(kept, layers.zero))
    if mode.labels_of(source) is None:
        return mode.mark(result, None)
    vectors: list[Labels | None] = [None] * result.dim()
    for axis, vector in enumerate(operand(mode, source).vectors):
        if vector is not None and axis in found:
            vectors[found[axis]] = vector
        elif vector is not None:
            mode.freeze_and_warn(
                [vector], "channels in an order, or a choice, that a tensor of integers gives"
            )
    return put(mode, result, vectors)


def _whole_axes(source: Tensor, items: tuple[Any, ...]) -> dict[int, int] | None:
    """Axes that are taken whole -> where they lie in the result, by NumPy's rules; None where these do not apply."""
    taken = [item for item in items if item is not None]
    items = items if any(item is Ellipsis for item in items) else (*items, Ellipsis)
    spread = source.dim() - sum(item is not Ellipsis for item in taken)
    at = next(number for number, item in enumerate(items) if item is Ellipsis)
    items = (*items[:at], *[slice(None)] * spread, *items[at + 1 :])
    tables = [number for number, item in enumerate(items) if isinstance(item, (Tensor, int))]
    tensors = [item for item in items if isinstance(item, Tensor)]
    if any(isinstance(item, (bool, list)) for item in items) or any(
        t.dtype not in _INTEGERS for t in tensors
    ):
        return None
    rank = len(np.broadcast_shapes(*(tuple(tensor.shape) for tensor in tensors)))
    together = tables == list(range(tables[0], tables[-1] + 1))
    out = 0 if together else rank
    axis, whole = 0, {}
    for number, item in enumerate(items):
        if number in tables:
            out += rank if together and number == tables[0] else 0
            axis += 1
        elif item is None:
            out += 1
        else:
            if item == slice(None):
                whole[axis] = out
            out, axis = out + 1, axis + 1
    return whole
