"""Operations that only move data. They are executed on the labels themselves, so that none needs a formula of its own.

A size that the author typed in cannot change with the channels. Where such a size cuts a channel axis (`chunk(2)`,
`view(b, 2, c // 2, h, w)`), the pieces have to shrink alike: their labels are tied position by position. Where it
names a whole channel axis (`view(-1, 1280)`, `split([24, 40])`), the channels are frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.graph.attributes import SizeOfAttribute, follow_attribute
from core.graph.labels import LabelMode, Labels, SizeOfChannels, frozen_labels
from core.graph.rules.blocks import compress, expanded, reshaped, varying
from core.graph.rules.calls import argument, blank, canonical, execute, on_labels, sizes_by_axis, unknown
from core.graph.rules.parts import divide, glu, index
from core.graph.rules.sizes import agree, follows, freeze_sizes, given_sizes, marks_in
from core.modules import tensors_in


def reorder(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """permute, transpose, movedim, unsqueeze, t: the same call on the small array of labels."""
    labels = mode.labels_of(args[0])
    result = execute(mode, func, args, kwargs)
    return mode.mark(result, None if labels is None else on_labels(func, labels, args, kwargs))


def squeeze(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Which axes go is decided by the activation's sizes, not by the labels'."""
    source = args[0]
    labels = mode.labels_of(source)
    dim = argument(args, kwargs, 1, "dim")
    dims = range(source.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = [axis % source.dim() for axis in dims if source.shape[axis] == 1]
    result = execute(mode, func, args, kwargs)
    if labels is not None:
        labels = labels.reshape([size for axis, size in enumerate(labels.shape) if axis not in gone])
    return mode.mark(result, labels)


def reshape(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """view, reshape, flatten, unflatten, view_as, reshape_as."""
    source = args[0]
    labels = mode.labels_of(source)
    if any(isinstance(item, torch.dtype) for item in (*args[1:], *kwargs.values())):
        return unknown(mode, func, args, kwargs)
    result = execute(mode, func, args, kwargs)
    sizes = sizes_by_axis(canonical(func), args, kwargs, result)
    if labels is None:
        return mode.mark(result, None)
    if labels.size == 1:
        freeze_sizes(mode, [], marks_in((args[1:], kwargs)), canonical(func))
        return mode.mark(result, labels.reshape([1] * result.dim()))
    moved = reshaped(labels, source.shape, result.shape)
    axes = varying(moved)
    fixed = [axis for axis in axes if not follows(sizes[axis])]
    followed = _head_width(axes, sizes)
    if followed is not None:
        for axis in axes:
            moved = moved if axis == followed else mode.uniform_along(moved, axis)
        rows = expanded(moved, followed, result.shape[followed])
        if follow_attribute(mode, sizes[followed], rows):
            fixed = []
            axes = [followed]
        else:
            followed = None
            fixed = [axis for axis in axes if sizes[axis] != -1]
    if fixed and len(fixed) == len(axes):
        if mode.is_frozen(moved):  # already told
            return mode.mark(result, frozen_labels(result))
        typed_in = ", ".join(str(result.shape[axis]) for axis in fixed)
        mode.freeze_and_warn(
            [labels], f"'{canonical(func)}' with the typed-in size {typed_in} on a channel axis"
        )
        return mode.mark(result, frozen_labels(result))
    for axis in fixed:
        moved = mode.uniform_along(moved, axis)
    if _splits(labels, moved):
        mode.freeze_and_warn(
            [labels], f"'{canonical(func)}' splits a channel axis in two that both change size"
        )
        return mode.mark(result, frozen_labels(result))
    for axis, size in enumerate(sizes):
        agree(mode, moved, axis, size, canonical(func))
    return mode.mark(result, moved)


def _head_width(axes: Sequence[int], sizes: Sequence[Any]) -> int | None:
    """Where a channel axis is split into `axes`: the one that shrinks, if an attribute gives its size; else None.

    In `view(b, 3, self.num_heads, self.head_dim, n)` that is the innermost: position p of every head is one element, so
    that the number of heads stays. A size read off channels takes precedence, and so does a -1 further inside.
    """
    given = [axis for axis in axes if isinstance(sizes[axis], SizeOfAttribute) or sizes[axis] == -1]
    if not given or any(isinstance(sizes[axis], SizeOfChannels) for axis in axes):
        return None
    return given[-1] if isinstance(sizes[given[-1]], SizeOfAttribute) else None


def _splits(before: Labels, after: Labels) -> bool:
    """Does one channel axis become several?"""
    return sum(size > 1 for size in after.shape) > sum(size > 1 for size in before.shape)


def expand(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """expand, expand_as, broadcast_to: a single channel that is spread over many has to stay single."""
    source = args[0]
    labels = mode.labels_of(source)
    result = execute(mode, func, args, kwargs)
    if labels is None:
        # A constant that takes the shape of an activation is still a constant; a typed-in size shows when it is used.
        return mode.mark(result, None)
    sizes = [] if canonical(func) == "expand_as" else given_sizes(args, kwargs)
    if labels.size == 1 and source.numel() != result.numel():
        mode.freeze(labels)
        freeze_sizes(mode, [], marks_in(sizes), canonical(func))
    for axis, size in zip(range(-1, -labels.ndim - 1, -1), reversed(sizes), strict=False):
        if labels.shape[axis] > 1:
            followed = isinstance(size, SizeOfAttribute) and (
                labels.size == labels.shape[axis] and follow_attribute(mode, size, labels.reshape(-1))
            )
            if not followed and not follows(size):
                mode.freeze_and_warn([labels], f"'{canonical(func)}' with a typed-in size on a channel axis")
            agree(mode, labels, axis, size, canonical(func))
    return mode.mark(result, labels.reshape([1] * (result.dim() - labels.ndim) + list(labels.shape)))


def replicate(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """repeat, tile, repeat_interleave, flip: executed on the labels at full size."""
    source = args[0]
    if len(tensors_in((args, kwargs))) > 1:
        return unknown(mode, func, args, kwargs)
    freeze_sizes(mode, [], marks_in((args[1:], kwargs)), canonical(func))
    labels = mode.labels_of(source)
    result = execute(mode, func, args, kwargs)
    if labels is not None:
        labels = compress(on_labels(func, np.broadcast_to(labels, source.shape), args, kwargs))
    return mode.mark(result, labels)


def roll(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Roll over space moves no channel; over a channel axis it freezes, as a cut changes which ones come round."""
    source, dims = args[0], argument(args, kwargs, 2, "dims")
    labels = mode.labels_of(source)
    result = execute(mode, func, args, kwargs)
    if labels is not None:
        axes = range(source.dim()) if dims is None else [dims] if isinstance(dims, int) else dims
        if any(labels.shape[axis] > 1 for axis in axes):
            mode.freeze_and_warn([labels], "'roll' over a channel axis")
            labels = frozen_labels(result)
    return mode.mark(result, labels)


def concatenate(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """cat, concat, concatenate: along the channel axis labels follow each other, along others they are tied."""
    pieces: Sequence[Tensor] = argument(args, kwargs, 0, "tensors")
    axis = int(argument(args, kwargs, 1, "dim", kwargs.get("axis", 0))) % pieces[0].dim()
    if mode.on_meta and len({piece.dim() for piece in pieces}) == 1:
        shape = list(pieces[0].shape)
        shape[axis] = sum(piece.shape[axis] for piece in pieces)
        result = blank(shape, pieces[0].dtype)
    else:
        result = execute(mode, func, args, kwargs)
    labels = [mode.labels_of(piece) for piece in pieces]
    known = [item for item in labels if item is not None]
    if not known:
        return mode.mark(result, None)
    elsewhere = any(size > 1 for item in known for at, size in enumerate(item.shape) if at != axis)
    if elsewhere or (axis != 1 and all(item.size == 1 for item in known)):
        joined = max(known, key=np.size)
        for item in known:
            mode.tie(joined, item)
        return mode.mark(result, joined)
    rows = [
        mode.vector(frozen_labels(piece) if own is None else own, axis, piece.shape[axis])
        for piece, own in zip(pieces, labels, strict=True)
    ]
    return mode.mark(result, mode.shaped(np.concatenate(rows), axis, pieces[0].dim()))


def stack(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """stack: the new axis has a typed-in size, so what lies along it is tied."""
    pieces: Sequence[Tensor] = argument(args, kwargs, 0, "tensors")
    result = execute(mode, func, args, kwargs)
    axis = int(argument(args, kwargs, 1, "dim", 0)) % result.dim()
    known = [item for item in map(mode.labels_of, pieces) if item is not None]
    if not known:
        return mode.mark(result, None)
    joined = max(known, key=np.size)
    for item in known:
        mode.tie(joined, item)
    return mode.mark(result, np.expand_dims(joined, axis))


def pixel_shuffle(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """PixelShuffle by s ties s² consecutive channels to one."""
    source, factor = args[0], int(argument(args, kwargs, 1, "upscale_factor"))
    labels = mode.labels_of(source)
    if mode.on_meta and source.dim() > 2 and source.shape[-3] % factor**2 == 0:
        *batch, channels, height, width = source.shape
        result = blank([*batch, channels // factor**2, height * factor, width * factor], source.dtype)
    else:
        result = execute(mode, func, args, kwargs)
    if labels is not None and labels.size > 1:
        vector = mode.vector(labels, source.dim() - 3, source.shape[-3])
        labels = mode.uniform_along(vector.reshape(-1, factor * factor), 1).reshape(-1, 1, 1)
        labels = labels.reshape([1] * (source.dim() - 3) + [-1, 1, 1])
    return mode.mark(result, labels)


def pixel_unshuffle(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """PixelUnshuffle by s repeats each channel s² times."""
    source, factor = args[0], int(argument(args, kwargs, 1, "downscale_factor"))
    labels = mode.labels_of(source)
    result = execute(mode, func, args, kwargs)
    if labels is not None and labels.size > 1:
        vector = mode.vector(labels, source.dim() - 3, source.shape[-3]).repeat(factor * factor)
        labels = vector.reshape([1] * (source.dim() - 3) + [-1, 1, 1])
    return mode.mark(result, labels)


def channel_shuffle(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """ChannelShuffle interleaves its groups, which therefore have to keep equal widths."""
    source, groups = args[0], int(argument(args, kwargs, 1, "groups"))
    labels = mode.labels_of(source)
    result = execute(mode, func, args, kwargs)
    if labels is not None and labels.size > 1:
        by_group = mode.vector(labels, 1, source.shape[1]).reshape(groups, -1)
        mode.tie(by_group[:1], by_group)
        labels = by_group.T.reshape([1, -1] + [1] * (source.dim() - 2))
    return mode.mark(result, labels)


def assign(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`x[index] = value`: which channels are overwritten depends on typed-in borders, so both sides are frozen."""
    target = args[0]
    labels = [item for item in map(mode.labels_of, tensors_in(args)) if item is not None]
    mode.freeze_and_warn(labels, "assignment to a part of a tensor")
    execute(mode, func, args, kwargs)
    mode.mark(target, frozen_labels(target))


REARRANGEMENT: dict[str, Any] = {
    **dict.fromkeys(
        ["permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "unsqueeze", "t"], reorder
    ),
    **dict.fromkeys(["view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "ravel"], reshape),
    **dict.fromkeys(["expand", "expand_as", "broadcast_to"], expand),
    **dict.fromkeys(["repeat", "tile", "repeat_interleave", "flip"], replicate),
    "roll": roll,
    "glu": glu,
    **dict.fromkeys(["__getitem__", "select", "narrow"], index),
    **dict.fromkeys(
        ["chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split", "unbind"],
        divide,
    ),
    **dict.fromkeys(["cat", "concat", "concatenate"], concatenate),
    "squeeze": squeeze,
    "stack": stack,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
    "__setitem__": assign,
}
