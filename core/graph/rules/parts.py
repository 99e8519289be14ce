"""Parts of a channel axis: slices and splits, whose borders follow the channels or freeze them, and gated units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from core.graph.attributes import RestOfAttribute, SizeOfAttribute, follow_attribute
from core.graph.labels import FROZEN, LabelMode, Labels, SizeOfChannels, frozen_labels
from core.graph.rules.blocks import compress, varying
from core.graph.rules.calls import argument, canonical, execute, on_labels, unknown
from core.graph.rules.sizes import agree, follow
from core.graph.rules.tables import rows_of_table
from core.modules import tensors_in


def index(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Slices, select, narrow: a part of a channel axis is free where its borders follow the channels.

    A border follows where it was read off a size (`x[:, : x.shape[1] // 2]`) or off an attribute of a module
    (`x[:, : self.out_chs]`). Typed-in borders freeze the axis, also where they take everything today (`x[:, :24]` of
    24 channels).
    """
    source = args[0]
    if len(tensors_in((args, kwargs))) > 1:
        table = canonical(func) == "__getitem__" and len(tensors_in(args[:1])) == 1
        return (rows_of_table if table else unknown)(mode, func, args, kwargs)
    labels = mode.labels_of(source)
    result = execute(mode, func, args, kwargs)
    if labels is None:
        return mode.mark(result, None)
    part = compress(on_labels(func, np.broadcast_to(labels, source.shape), args, kwargs))
    name = canonical(func)
    borders = _borders(labels, name, args, kwargs)
    if borders is None and part.size == labels.size:
        return mode.mark(result, part)
    if borders is None or not _borders_follow(mode, labels, *borders):
        mode.freeze_and_warn(
            [labels], f"'{name.strip('_')}' takes a part of the channels up to a typed-in border ({_ADVICE})"
        )
        part = frozen_labels(result)
    return mode.mark(result, part)


_ADVICE = "read it off a size or an attribute of the module in forward, and it follows"


def _borders(
    labels: Labels, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int, list[Any]] | None:
    """(channel axis, the borders of its slice that are not its ends); None where no plain slice cuts it."""
    axes = varying(labels)
    if name == "narrow":
        axis, start = argument(args, kwargs, 1, "dim") % labels.ndim, argument(args, kwargs, 2, "start")
        if axes != [axis]:
            return None if axis not in axes else (axis, [1])
        whole = type(start) is int and start == 0
        return axis, [argument(args, kwargs, 3, "length")] if whole else [1]
    if name != "__getitem__":
        return None
    items = args[1] if isinstance(args[1], tuple) else (args[1],)
    # None adds an axis, an ellipsis stands for as many as are missing.
    taken = [item for item in items if item is not None]
    if Ellipsis in taken:
        at = taken.index(Ellipsis)
        taken[at : at + 1] = [slice(None)] * (labels.ndim - len(taken) + 1)
    for axis, item in enumerate(taken):
        if isinstance(item, slice) and axis in axes:
            borders = [border for border in (item.start, item.stop) if border is not None]
            if item.start is not None and type(item.start) is int and item.start == 0:
                borders = borders[1:]
            if borders:
                return axis, borders if item.step in (None, 1) and len(axes) == 1 else [1]
    return None


def _borders_follow(mode: LabelMode, labels: Labels, axis: int, borders: Sequence[Any]) -> bool:
    """Tie each border to the number of channels before it (behind it, where it counts from the end)."""
    vector = labels.reshape(-1)

    def follows_cut(border: Any) -> bool:
        part = vector[border:] if border < 0 else vector[:border]
        if not isinstance(border, (SizeOfAttribute, SizeOfChannels)):
            return bool((part == FROZEN).all())  # padded there, and so again after every resizing
        return follow(mode, border, part)

    return all(map(follows_cut, borders))


def divide(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """chunk, split, tensor_split, unbind: pieces of a channel axis whose sizes follow are free.

    Equal pieces by number (`chunk(2)`) are tied; pieces whose sizes were read off attributes or channel sizes follow
    these one by one, so that unequal ones may shrink apart; typed-in sizes freeze.
    """
    source, name = args[0], canonical(func)
    labels = mode.labels_of(source)
    results = execute(mode, func, args, kwargs)
    if labels is None:
        return mode.mark_all(results, None)
    axis = argument(args, kwargs, 1, "dim", 0) if name == "unbind" else argument(args, kwargs, 2, "dim", 0)
    axis = int(axis) % source.dim()
    kept = [labels] * len(results)
    if labels.shape[axis] > 1:
        found = _pieces(mode, name, labels, axis, results, args, kwargs) if name != "unbind" else None
        if found is None:
            mode.freeze_and_warn(
                [labels], f"'{name}' of a channel axis into typed-in or unequal sizes ({_ADVICE})"
            )
        kept = found or [frozen_labels(source)] * len(results)
    for piece, own in zip(results, kept, strict=True):
        mode.mark(piece, own.squeeze(axis) if name == "unbind" else own)
    return results


def _pieces(
    mode: LabelMode,
    name: str,
    labels: Labels,
    axis: int,
    results: Sequence[Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> list[Labels] | None:
    """The labels of each piece; None where the sizes cannot follow."""
    sizes = None
    if name.startswith("split"):
        sizes = argument(
            args, kwargs, 1, "split_size_or_sections", kwargs.get("split_sizes", kwargs.get("split_size"))
        )
    borders = np.cumsum([piece.shape[axis] for piece in results])[:-1]
    pieces = np.split(labels, borders, axis)
    equal = len({piece.shape[axis] for piece in results}) == 1
    if isinstance(sizes, (list, tuple)):
        following = [isinstance(item, (SizeOfAttribute, RestOfAttribute, SizeOfChannels)) for item in sizes]
        if varying(labels) != [axis] or not any(following):
            return None
        # What is left over (`x.shape[1] - self.width`) is right where all other sizes are.
        left = [item for item in sizes if isinstance(item, SizeOfChannels) and not item.proportional]
        if any(not np.isin(labels, item.labels).all() for item in left):
            return None
        rest = [*left, *(item for item in sizes if isinstance(item, RestOfAttribute))]
        if len(rest) > 1 or not _is_rest(mode, rest, sizes, labels.reshape(-1)):
            return None
        for size, piece, free in zip(sizes, pieces, following, strict=True):
            if not free:
                typed_in = f"'{name}' of a channel axis with one part of typed-in size {size}"
                mode.freeze_and_warn([piece], f"{typed_in} ({_ADVICE})")
            elif not any(size is item for item in rest) and not follow(mode, size, piece.reshape(-1)):
                return None
        return [compress(piece) for piece in pieces]
    if not equal or (sizes is not None and not isinstance(sizes, (SizeOfAttribute, SizeOfChannels))):
        return None
    for piece in pieces[1:]:
        mode.tie(pieces[0], piece)
    if isinstance(sizes, SizeOfAttribute):
        if varying(labels) != [axis] or not follow(mode, sizes, pieces[0].reshape(-1)):
            return None
    elif sizes is not None:
        agree(mode, pieces[0], axis, sizes, name)
    return [pieces[0]] * len(results)


def _is_rest(mode: LabelMode, rest: Sequence[Any], sizes: Sequence[Any], rows: Labels) -> bool:
    """Is a size `self.dim - self.part` what all other sizes leave of the channels `rows`?"""
    if not rest or not isinstance(rest[0], RestOfAttribute):
        return True
    others = [item for item in sizes if item is not rest[0]]
    if not all(isinstance(item, SizeOfAttribute) for item in others):
        return False
    named = sorted((item.key, item.ratio) for item in others)
    taken = sorted((item.key, item.ratio) for item in rest[0].parts)
    if named != taken or not follow_attribute(mode, rest[0].whole, rows):
        return False
    mode.followed += rest[0].keys
    return True


def glu(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Gated linear unit: one half of the channels gates the other, so both have to shrink alike."""
    source = args[0] if args else kwargs["input"]
    axis = int(argument(args, kwargs, 1, "dim", -1)) % source.dim()
    labels = mode.labels_of(source)
    result = execute(mode, func, args, kwargs)
    if labels is not None and labels.shape[axis] > 1:
        labels, gates = np.split(labels, 2, axis)
        mode.tie(labels, gates)
    return mode.mark(result, labels)
