"""From the edges of a labelled run to channel groups, slot tables and closed-form cost terms.

Vocabulary:

    element   a set of rows that stay or go together: a connected component of labels (a residual channel with all its
              producers and readers; the s² rows in front of a pixel shuffle)
    group     elements that are interchangeable: they own equally many rows of every slot
    rows      a slot's size as a function of the group sizes n_g: constant + Σ_g multiplicity_g · n_g
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from core.labels import FROZEN, SlotKey, Trace

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Grouping:
    """Elements, groups and slot tables of one trace; indices only, names come with `core.channels`."""

    names: tuple[str, ...]  # of the first module that produces each group
    sizes: tuple[int, ...]  # elements of each group
    steps: tuple[int, ...]  # channels of the naming module per element
    slots: dict[SlotKey, IntArray]  # row -> flat element index (groups one after the other), -1 where frozen
    slot_rows: dict[SlotKey, tuple[int, IntArray]]  # (constant, multiplicity per group)
    elements: dict[int, IntArray]  # id of a factor -> row -> flat element index
    rows: dict[int, tuple[int, IntArray]]  # id of a factor -> (constant, multiplicity per group)


def group_labels(trace: Trace, factors: Sequence[torch.Tensor]) -> Grouping:
    """Find the free groups.

    Args:
        trace: what the labelled run wrote down.
        factors: label vectors whose row counts costs depend on (activations, tapped outputs); elements of one group
            must be alike in these as well.
    """
    component = _components(trace)
    # A BatchNorm's four tensors and its neighbours have the same table: equal ones become one object.
    tables: dict[bytes, IntArray] = {}

    def table_of(labels: torch.Tensor) -> IntArray:
        table = component[labels.numpy()]
        return tables.setdefault(table.tobytes(), table)

    slot_components = {key: table_of(labels) for key, labels in trace.slots.items()}
    factor_components = [table_of(factor) for factor in factors]
    free = _free_components(trace, component, slot_components)
    classes = _refine(len(free), list(tables.values()))
    names, members, steps = _name_groups(trace, slot_components, classes, free)

    element = np.full(len(free), -1, dtype=np.int64)
    sizes = [len(items) for items in members]
    for offset, items in zip(np.cumsum([0, *sizes])[:-1], members, strict=True):
        element[items] = offset + np.arange(len(items))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    mapped = {id(table): element[table] for table in tables.values()}
    counted = {key: count_rows(table, owner, sizes) for key, table in mapped.items()}
    slots = {key: mapped[id(table)] for key, table in slot_components.items()}
    slot_rows = {key: counted[id(table)] for key, table in slot_components.items()}
    by_factor = [(id(factor), id(table)) for factor, table in zip(factors, factor_components, strict=True)]
    return Grouping(
        names=tuple(names),
        sizes=tuple(sizes),
        steps=tuple(steps),
        slots=slots,
        slot_rows=slot_rows,
        elements={factor: mapped[table] for factor, table in by_factor},
        rows={factor: counted[table] for factor, table in by_factor},
    )


def count_rows(elements: IntArray, owner: IntArray, sizes: Sequence[int]) -> tuple[int, IntArray]:
    """(constant, multiplicity per group) of a row -> element table."""
    inside = elements[elements >= 0]
    counts = np.bincount(owner[inside], minlength=len(sizes)) if len(owner) else np.zeros(0, dtype=np.int64)
    return int(len(elements) - len(inside)), counts // np.asarray(sizes, dtype=np.int64)


def _components(trace: Trace) -> IntArray:
    """label -> component, over the union of all edges.

    Every root hooks onto the smallest root that an edge leads to, then paths are halved until they end at a root; a
    handful of rounds, each a few array operations.
    """
    parent = np.arange(trace.next_label)
    left = torch.cat([a for a, _ in trace.edges]).numpy() if trace.edges else parent[:0]
    right = torch.cat([b for _, b in trace.edges]).numpy() if trace.edges else parent[:0]
    while len(left):
        np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(grandparent := parent[parent], parent):
            parent = grandparent
        left, right = parent[left], parent[right]
        apart = left != right
        left, right = left[apart], right[apart]
    is_root = parent == np.arange(len(parent))
    return (np.cumsum(is_root) - 1)[parent]


def _free_components(
    trace: Trace, component: IntArray, slot_components: Mapping[SlotKey, IntArray]
) -> NDArray[np.bool_]:
    """Components that a module produces and that nothing freezes.

    A component without a producer (a table of biases, say) has no channel behind it, so it keeps its size.
    """
    free = np.zeros(int(component.max()) + 1, dtype=bool)
    for key in trace.producers.values():
        free[slot_components[key]] = True
    free[component[FROZEN]] = False
    if trace.frozen:
        free[component[torch.cat(trace.frozen).numpy()]] = False
    return free


def _refine(components: int, tables: Sequence[IntArray]) -> IntArray:
    """component -> class, such that two of one class own equally many rows of every table (partition refinement)."""
    classes = np.zeros(components, dtype=np.int64)
    next_class = 1
    for table in tables:
        counts = np.bincount(table, minlength=components)
        touched = np.flatnonzero(counts)
        keys = classes[touched] * (int(counts.max()) + 1) + counts[touched]
        if (keys == keys[0]).all():  # by far the most frequent case, and no sorting
            classes[touched] = next_class
            next_class += 1
            continue
        found, inverse = np.unique(keys, return_inverse=True)
        classes[touched] = next_class + inverse
        next_class += len(found)
    return classes


def _name_groups(
    trace: Trace, slot_components: Mapping[SlotKey, IntArray], classes: IntArray, free: NDArray[np.bool_]
) -> tuple[list[str], list[IntArray], list[int]]:
    """Names, member components in the order of the naming module's rows, and rows of that module per element."""
    names: list[str] = []
    members: list[IntArray] = []
    steps: list[int] = []
    seen: set[int] = set()
    for module, key in trace.producers.items():
        table = slot_components[key]
        repeat = trace.conv_groups.get(module, 1) if key in trace.per_group else 1
        new = [int(item) for item in dict.fromkeys(classes[table[free[table]]]) if int(item) not in seen]
        for number, label in enumerate(new):
            own = table[(classes[table] == label) & free[table]]
            _, first = np.unique(own, return_index=True)
            elements = own[np.sort(first)]
            seen.add(label)
            if len(elements) < 2:
                continue  # one element can neither grow nor shrink
            names.append(module if len(new) == 1 else f"{module}:{number}")
            members.append(elements)
            steps.append(repeat * len(own) // len(elements))
    return names, members, steps
