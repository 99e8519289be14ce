"""Matrix products of activations, as in attention over positions and global context blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.graph.labels import COMPUTED, LabelMode
from core.graph.rules.calls import execute, unknown
from core.modules import tensors_in


def product(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """matmul, bmm, mm: channels of the rows or of the columns pass; channels that are summed over are tied, inexact.

    Channels on a batch axis, of rows and columns at once, or summed over against an axis that is none freeze: so do
    parameters, of which nothing says which dimension counts channels.
    """
    operands = tensors_in((args, kwargs))
    if len(operands) != 2 or any(
        mode.parameter_name(item) is not None or COMPUTED in item.__dict__ for item in operands
    ):
        return unknown(mode, func, args, kwargs)
    labels = [mode.labels_of(item) for item in operands]
    if any(item.dim() < 2 for item in operands) or any(item is None for item in labels):
        return unknown(mode, func, args, kwargs)
    left, right = labels
    assert left is not None
    assert right is not None
    rows, summed, also, columns = left.shape[-2], left.shape[-1], right.shape[-2], right.shape[-1]
    if left.size > rows * summed or right.size > also * columns:
        return unknown(mode, func, args, kwargs)  # a batch axis
    if (
        rows > 1 < columns
        or (summed > 1) != (also > 1)
        or left.size != max(rows, summed)
        or (right.size != max(also, columns))
    ):
        return unknown(mode, func, args, kwargs)
    result = execute(mode, func, args, kwargs)
    count, factors = result.numel() * operands[0].shape[-1], []
    if summed > 1:
        mode.tie(left.reshape(-1), right.reshape(-1))
        mode.inexact(left)
        factors.append(left.reshape(-1))
        found = np.zeros((1,) * result.dim(), dtype=np.int64)
    elif rows > 1:
        found = left.reshape((1,) * (result.dim() - 2) + (-1, 1))
        factors.append(left.reshape(-1))
    else:
        found = right.reshape((1,) * (result.dim() - 1) + (-1,))
        if columns > 1:
            factors.append(right.reshape(-1))
    for factor in factors:
        count //= factor.size
    mode.count("macs", count, *factors)
    return mode.mark(result, found)
