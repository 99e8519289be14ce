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
from numpy.typing import NDArray

from core.graph.labels import FROZEN, Labels, SlotKey, Trace

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Grouping:
    """Elements, groups and slot tables of one trace; indices only, names come with `core.graph.channels`.

    A table says for each row of a slot, or of a factor of a cost, which element it belongs to. A BatchNorm's four
    tensors and its neighbours have the same one, so tables are kept once and referred to by number.
    """

    names: tuple[str, ...]  # of the first module that produces each group
    sizes: tuple[int, ...]  # elements of each group
    steps: tuple[int, ...]  # channels of the naming module per element
    tables: list[IntArray]  # row -> flat element index (groups one after the other), -1 where frozen
    constant: IntArray  # (T,) frozen rows of each table
    multiplicity: IntArray  # (T, G) rows of each table per element of each group
    slots: dict[SlotKey, int]  # number of the slot's table
    factors: dict[int, int]  # id of a factor -> number of its table
    exact: tuple[bool, ...]  # whether nothing runs over a group's channels


def group_labels(trace: Trace, factors: Sequence[Labels]) -> Grouping:
    """Find the free groups.

    Args:
        trace: what the labelled run wrote down.
        factors: label vectors whose row counts costs depend on (activations, tapped outputs); elements of one group
            must be alike in these as well.
    """
    component = _components(trace)
    tables: list[IntArray] = []
    number_of: dict[bytes, int] = {}
    seen: dict[int, int] = {}  # id of a label vector -> number; most vectors are met several times

    def number(labels: Labels) -> int:
        found = seen.get(id(labels))
        if found is None:
            table = component[labels]
            found = seen[id(labels)] = number_of.setdefault(table.tobytes(), len(tables))
            if found == len(tables):
                tables.append(table)
        return found

    slots = {key: number(labels) for key, labels in trace.slots.items()}
    numbered_factors = {id(factor): number(factor) for factor in factors}
    free = _free_components(trace, component)
    classes = _refine(len(free), tables)
    produced = {module: (tables[slots[key]], key) for module, key in trace.producers.items()}
    names, members, steps = _name_groups(trace, produced, classes, free)

    mixed = np.zeros(len(free), dtype=bool)
    for labels in trace.inexact:
        mixed[component[labels]] = True
    element = np.full(len(free), -1, dtype=np.int64)
    sizes = [len(items) for items in members]
    if members:
        element[np.concatenate(members)] = np.arange(sum(sizes))
    tables = [element[table] for table in tables]
    constant, multiplicity = count_rows(tables, sizes)
    return Grouping(
        names=tuple(names),
        sizes=tuple(sizes),
        steps=tuple(steps),
        tables=tables,
        constant=constant,
        multiplicity=multiplicity,
        slots=slots,
        factors=numbered_factors,
        exact=tuple(not mixed[items].any() for items in members),
    )


def count_rows(tables: Sequence[IntArray], sizes: Sequence[int]) -> tuple[IntArray, IntArray]:
    """(constant (T,), multiplicity per group (T, G)) of row -> element tables, all counted at once."""
    columns = len(sizes) + 1  # the last one for frozen rows, which index -1 addresses
    owner = np.repeat(np.arange(columns), [*sizes, 1])
    at = np.repeat(np.arange(len(tables)) * columns, [len(table) for table in tables])
    at += owner[np.concatenate(tables)] if tables else at
    counts = np.bincount(at, minlength=len(tables) * columns).reshape(len(tables), columns)
    return counts[:, -1], counts[:, :-1] // np.asarray(sizes, dtype=np.int64)


def _components(trace: Trace) -> IntArray:
    """label -> component, over the union of all edges.

    Every root hooks onto the smallest root that an edge leads to, then paths are halved until they end at a root. That
    takes a handful of rounds of a few array operations.
    """
    parent = np.arange(trace.next_label)
    left = np.concatenate([a for a, _ in trace.edges]) if trace.edges else parent[:0]
    right = np.concatenate([b for _, b in trace.edges]) if trace.edges else parent[:0]
    while len(left):
        np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(grandparent := parent[parent], parent):
            parent = grandparent
        left, right = parent[left], parent[right]
        apart = left != right
        left, right = left[apart], right[apart]
    is_root = parent == np.arange(len(parent))
    return (np.cumsum(is_root) - 1)[parent]


def _free_components(trace: Trace, component: IntArray) -> NDArray[np.bool_]:
    """Components that a module produces and that nothing freezes.

    A component without a producer (a table of biases, say) has no channel behind it, so it keeps its size.
    """
    free = np.zeros(int(component.max()) + 1, dtype=bool)
    if trace.producers:
        free[component[np.concatenate([trace.slots[key] for key in trace.producers.values()])]] = True
    free[component[FROZEN]] = False
    if trace.frozen:
        free[component[np.concatenate(trace.frozen)]] = False
    return free


def _refine(components: int, tables: Sequence[IntArray]) -> IntArray:
    """component -> class, such that two of one class own equally many rows of every table (partition refinement)."""
    classes = np.zeros(components, dtype=np.int64)
    next_class = 1
    for table in tables:
        first = int(table.min())  # most tables lie in a short range of components
        counts = np.bincount(table - first)
        touched = counts.nonzero()[0]
        own, counts = classes[first + touched], counts[touched]
        keys = own * (int(counts.max()) + 1) + counts
        if (keys == keys[0]).all():  # by far the most frequent case, and no sorting
            classes[first + touched] = next_class
            next_class += 1
            continue
        found, inverse = np.unique(keys, return_inverse=True)
        classes[first + touched] = next_class + inverse
        next_class += len(found)
    return classes


def _name_groups(
    trace: Trace,
    produced: Mapping[str, tuple[IntArray, SlotKey]],
    classes: IntArray,
    free: NDArray[np.bool_],
) -> tuple[list[str], list[IntArray], list[int]]:
    """Names, member components in the order of the naming module's rows, and rows of that module per element."""
    names: list[str] = []
    members: list[IntArray] = []
    steps: list[int] = []
    seen: set[int] = set()
    done: set[int] = set()  # ids of tables; modules that are tied to each other share one
    sizes = np.bincount(classes[free])
    for module, (table, key) in produced.items():
        if id(table) in done:
            continue
        done.add(id(table))
        repeat = trace.conv_groups.get(module, 1) if key in trace.per_group else 1
        rows = table[free[table]]
        labels = classes[rows]
        alike = len(labels) > 0 and (labels == labels[0]).all()
        found = [int(labels[0])] if alike else dict.fromkeys(labels.tolist())
        new = [label for label in found if label not in seen]
        for number, label in enumerate(new):
            own = rows if alike else rows[labels == label]
            elements = own
            if len(own) != sizes[label]:  # several rows of one element
                _, first = np.unique(own, return_index=True)
                elements = own[np.sort(first)]
            seen.add(label)
            if len(elements) < 2:
                continue  # one element can neither grow nor shrink
            names.append(module if len(new) == 1 else f"{module}:{number}")
            members.append(elements)
            steps.append(repeat * len(own) // len(elements))
    return names, members, steps
