"""Tensors with separate channels along several axes, such as the channel-by-channel map of cross-covariance attention.
One array of labels cannot hold these, so the tensor carries one vector of labels for every axis.

An operation without a rule here freezes the channels of such a tensor, and says so (`LabelMode.labels_of`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.graph.attributes import SizeOfAttribute, follow_attribute
from core.graph.labels import AXES, Inexact, LabelMode, Labels, SizeOfChannels, frozen_labels
from core.graph.rules.blocks import reshaped, varying
from core.graph.rules.calls import canonical, execute, on_labels
from core.graph.rules.computed import computed
from core.graph.rules.elementwise import ELEMENTWISE
from core.graph.rules.reduction import ORDERED, REDUCTION, SAME_SHAPE, reduced_axes
from core.graph.rules.sizes import agree, follows, freeze_sizes, given_sizes
from core.modules import tensors_in


@dataclass(frozen=True)
class Operand:
    """What an operation sees of a tensor.

    Attributes:
        sizes: of its axes.
        vectors: the labels along each axis, (size,); None where no channels lie.
        own: whether the labels are a parameter's own dimensions, which follow what they meet.
        zero: whether it is zero where a masked channel is, so that a sum over channels stays the same when they go.
    """

    sizes: Sequence[int]
    vectors: Sequence[Labels | None]
    own: bool = False
    zero: bool = False


def operand(mode: LabelMode, tensor: Tensor) -> Operand:
    """The labels of an activation, a constant, a parameter or what is computed from parameters, axis by axis."""
    sizes = tuple(tensor.shape)
    several = tensor.__dict__.get(AXES)
    if several is not None:
        return Operand(sizes, several)
    vectors: list[Labels | None] = [None] * len(sizes)
    found = computed(mode, tensor)
    if found is not None:
        for key, labels in found.layers.items():
            axes = varying(labels)
            if len(axes) == 1 and vectors[axes[0]] is None and key not in found.reasons:
                vectors[axes[0]] = labels.reshape(-1)
            else:
                mode.freeze(labels)
        sources = {mode.trace.parameters.get(name, ()) for name, _ in found.layers}
        return Operand(sizes, vectors, True, found.zero and all(len(shape) > 1 for shape in sources))
    known = mode.labels_of(tensor)
    axes = [] if known is None else varying(known)
    if known is not None and len(axes) == 1:
        vectors[axes[0]] = mode.vector(known, axes[0], sizes[axes[0]])
    elif known is not None and axes:
        mode.freeze_and_warn([known], "a product of channels that lie on two axes at once")
    return Operand(sizes, vectors)


def put(mode: LabelMode, tensor: Tensor, vectors: Sequence[Labels | None]) -> Tensor:
    """Attach one vector of labels, or None, for each axis to a result."""
    tensor.__dict__.pop(AXES, None)
    axes = [axis for axis, vector in enumerate(vectors) if vector is not None]
    if not axes:
        return mode.mark(tensor, frozen_labels(tensor))
    if len(axes) == 1:
        return mode.mark(tensor, mode.shaped(vectors[axes[0]], axes[0], tensor.dim()))  # type: ignore[arg-type]
    if mode.frozen_depth:
        for axis in axes:
            mode.freeze(vectors[axis])  # type: ignore[arg-type]
        return mode.mark(tensor, frozen_labels(tensor))
    mode.several = True
    mode.unmark(tensor)
    tensor.__dict__[AXES] = tuple(vectors)
    return tensor


def meet(mode: LabelMode, name: str, entries: Sequence[tuple[Labels | None, int, bool]]) -> Labels | None:
    """Join axes of several operands that are one axis of an operation: each (labels, size, whether a parameter's own).

    Channels are tied, parameters follow them; where they meet an axis of fixed size they freeze. An axis of size 1 is
    spread over the others.

    Returns:
        The labels of the common axis; None where no channels lie.
    """
    channels = [vector for vector, _, own in entries if vector is not None and not own]
    own = [vector for vector, _, owned in entries if vector is not None and owned]
    fixed = any(vector is None and size > 1 for vector, size, _ in entries)
    if not channels or fixed:
        mode.freeze_and_warn(channels, f"'{name}' of channels with an axis of fixed size")
        for vector in own:
            mode.freeze(vector)
        return None
    for vector in (*channels[1:], *own):
        mode.tie(channels[0], vector)
    return channels[0]


def meets_several(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Does a call take a tensor with channels along several axes?"""
    return any(AXES in tensor.__dict__ for tensor in tensors_in((args, kwargs)))


# ---- rules --------------------------------------------------------------------------------------------------------


def _elementwise(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    operands = [operand(mode, tensor) for tensor in tensors_in((args, kwargs))]
    result = execute(mode, func, args, kwargs)
    if not isinstance(result, Tensor):
        return result
    rank = result.dim()
    vectors = []
    for axis in range(-rank, 0):
        here = [item for item in operands if len(item.sizes) >= -axis]
        entries = [(item.vectors[axis], item.sizes[axis], item.own) for item in here]
        vectors.append(meet(mode, canonical(func), entries))
    return put(mode, result, vectors)


def _reduction(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A softmax, a mean ... over some of the axes."""
    name = canonical(func)
    if len(tensors_in((args, kwargs))) > 1:
        return _elementwise(mode, func, args, kwargs)
    source = tensors_in((args, kwargs))[0]
    vectors = list(operand(mode, source).vectors)
    dims, _ = reduced_axes(name, args, kwargs, source.dim())
    result = execute(mode, func, args, kwargs)
    for axis in dims:
        vector = vectors[axis]
        if vector is None:
            continue
        if name in ORDERED:
            mode.freeze_and_warn([vector], f"'{name}' over a channel axis")
        else:
            mode.inexact(vector)
        if name in ORDERED or name not in SAME_SHAPE:
            vectors[axis] = None
    for tensor in tensors_in(result):
        gone = dims if tensor.dim() < source.dim() else []
        put(mode, tensor, [vector for axis, vector in enumerate(vectors) if axis not in gone])
    return result


def _reorder(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """permute, transpose, unsqueeze ...: the same call on each axis' labels."""
    source = args[0]
    result = execute(mode, func, args, kwargs)
    vectors: list[Labels | None] = [None] * result.dim()
    for axis, vector in enumerate(operand(mode, source).vectors):
        if vector is not None:
            moved = on_labels(func, mode.shaped(vector, axis, source.dim()), args, kwargs)
            vectors[varying(moved)[0]] = vector
    return put(mode, result, vectors)


def _reshape(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A view that keeps every channel axis as an axis of its own; merging or cutting one freezes it."""
    source, name = args[0], canonical(func)
    result = execute(mode, func, args, kwargs)
    sizes = list(given_sizes(args, kwargs)) if name in ("view", "reshape") else [-1] * result.dim()
    vectors: list[Labels | None] = [None] * result.dim()
    for axis, vector in enumerate(operand(mode, source).vectors):
        if vector is None:
            continue
        moved = reshaped(mode.shaped(vector, axis, source.dim()), source.shape, result.shape)
        at = varying(moved)
        size = sizes[at[0]]
        kept = len(at) == 1 and moved.size == vector.size and vectors[at[0]] is None
        if not kept or not (
            follows(size) or (isinstance(size, SizeOfAttribute) and follow_attribute(mode, size, vector))
        ):
            mode.freeze_and_warn([vector], f"'{name}' merges or cuts one of several channel axes")
            continue
        vectors[at[0]] = vector
        agree(mode, moved, at[0], size, name)
    for size, vector in zip(sizes, vectors, strict=True):
        if vector is None and isinstance(size, SizeOfChannels):
            freeze_sizes(mode, [], [size], name)
    return put(mode, result, vectors)


RULES: dict[str, Any] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTION, _reduction),
    **dict.fromkeys(
        ["permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "unsqueeze", "t"], _reorder
    ),
    **dict.fromkeys(["view", "reshape"], _reshape),
}


def marked_shape(shape: torch.Size, vectors: Sequence[Labels | None], inexact: Inexact) -> torch.Size:
    """The sizes of a tensor; those of channel axes are marked with the labels that they count."""
    return torch.Size(
        size if vector is None else SizeOfChannels(size, vector, inexact=inexact)
        for size, vector in zip(shape, vectors, strict=True)
    )
