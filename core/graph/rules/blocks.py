"""Arrays of labels that stand for more than they hold: an axis along which they do not vary has size 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.graph.labels import FROZEN, Labels


def varying(labels: Labels) -> list[int]:
    """The axes along which labels vary."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


def expanded(labels: Labels, axis: int, size: int) -> Labels:
    """Labels that vary along one axis at most, as a vector along it, (size,)."""
    return np.broadcast_to(labels.reshape(-1), (size,)) if labels.size == 1 else labels.reshape(-1)


def compress(labels: Labels) -> Labels:
    """Narrow every axis along which `labels` does not vary to size 1."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1:
            first = labels[(slice(None),) * axis + (slice(0, 1),)]
            if labels.strides[axis] == 0 or (labels == first).all():
                labels = first
    return labels


def reshaped(labels: Labels, shape: Sequence[int], target: Sequence[int]) -> Labels:
    """What `view` and `reshape` of a tensor of one shape to another do to its labels, (as `shape`) -> (as `target`).

    Both shapes are cut into the shortest runs of axes that hold equally many entries, so that only what a run merges or
    splits is written out, and not the whole tensor.
    """
    new: list[int] = []
    sizes: list[int] = []  # of the labels, where runs are written out
    i = j = 0
    while i < len(shape) or j < len(target):
        start_i, start_j = i, j
        left = right = 1
        if i < len(shape):
            left, i = shape[i], i + 1
        if j < len(target):
            right, j = target[j], j + 1
        while left != right:
            if left < right and i < len(shape):
                left, i = left * shape[i], i + 1
            elif j < len(target):
                right, j = right * target[j], j + 1
            else:
                left, i = left * shape[i], i + 1
        if all(size == 1 for size in labels.shape[start_i:i]):
            sizes += [1] * (i - start_i)
            new += [1] * (j - start_j)
        else:
            sizes += shape[start_i:i]
            new += target[start_j:j]
    return compress(np.broadcast_to(labels, sizes).reshape(new))


def padded(labels: Labels, widths: Sequence[int]) -> Labels:
    """Frozen labels around those that vary along a padded axis; negative widths, as in `F.pad`, take labels away."""
    widths = [*widths, *[0] * (2 * labels.ndim - len(widths))]
    for axis in range(labels.ndim):
        before, after = widths[2 * (labels.ndim - 1 - axis) : 2 * (labels.ndim - axis)]
        if (before or after) and labels.shape[axis] > 1:
            kept = labels.take(range(max(-before, 0), labels.shape[axis] + min(after, 0)), axis)
            spec = [(0, 0)] * labels.ndim
            spec[axis] = (max(before, 0), max(after, 0))
            labels = np.pad(kept, spec, constant_values=FROZEN)
    return labels
