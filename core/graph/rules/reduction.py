"""Pooling and interpolation, which keep channels, and reductions over axes, which are free where no channel lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from core.graph.labels import LabelMode, Labels, channel_axis, frozen_labels
from core.graph.rules.calls import argument, blank, canonical, execute, per_axis, slid
from core.graph.rules.elementwise import aligned_labels, elementwise
from core.modules import tensors_in

SPATIAL = frozenset(
    """adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d grid_sample interpolate lp_pool1d lp_pool2d max_pool1d
    max_pool2d max_pool3d upsample upsample_bilinear upsample_nearest""".split()
)
REDUCTION = frozenset(
    """all amax amin any argmax argmin cummax cumprod cumsum local_response_norm log_softmax logsumexp max mean
    median min nanmean norm normalize prod softmax softmin std std_mean sum var var_mean vector_norm""".split()
)


# The results of these are positions, or depend on the order of what they run over.
ORDERED = frozenset("argmax argmin cummax cumprod cumsum".split())
SAME_SHAPE = frozenset("local_response_norm log_softmax normalize softmax softmin".split())


def spatial(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Channels pass through; what varies over space within a channel is tied; channels on a spatial axis are frozen."""
    source = args[0] if args else tensors_in(kwargs)[0]
    labels, name = mode.labels_of(source), canonical(func)
    if labels is not None:
        axis = channel_axis(labels)
        positions = int(name[-2]) if name.endswith("d") and name[-2].isdigit() else source.dim() - 2
        if labels.size > 1 and axis >= source.dim() - positions:
            mode.freeze_and_warn([labels], f"'{name}' over a channel axis")
            labels = frozen_labels(source)
        if labels.size != labels.shape[axis]:
            for other in range(labels.ndim):
                if other != axis:
                    labels = mode.uniform_along(labels, other)
    grid = _pooled(name, source, args, kwargs) if mode.on_meta else None
    if grid is None:
        result = execute(mode, func, args, kwargs)
    else:
        result = blank([*source.shape[:-2], *grid], source.dtype)
    return mode.mark_all(result, labels)


def _pooled(name: str, source: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int] | None:
    """Height and width after the usual pooling; None for all else."""
    if name == "adaptive_avg_pool2d":
        size = argument(args, kwargs, 1, "output_size")
        if not isinstance(size, (int, tuple)):
            return None
        pair = (size, size) if isinstance(size, int) else size
        if any(new is not None and new < 0 for new in pair):
            return None
        return [old if new is None else new for old, new in zip(source.shape[-2:], pair, strict=True)]
    if name not in ("max_pool2d", "avg_pool2d"):
        return None
    kernel, stride = argument(args, kwargs, 1, "kernel_size"), argument(args, kwargs, 2, "stride")
    padding, at = argument(args, kwargs, 3, "padding", 0), 5 if name == "max_pool2d" else 4
    dilation = argument(args, kwargs, 4, "dilation", 1) if name == "max_pool2d" else 1
    if argument(args, kwargs, at, "ceil_mode", False) or kwargs.get("return_indices"):
        return None
    settings = per_axis(2, kernel, padding)
    if settings is None or any(p > k // 2 for k, p in zip(*settings, strict=True)):
        return None
    return slid(source.shape[-2:], kernel, stride if stride not in (None, ()) else kernel, padding, dilation)


def reduction(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A mean, a maximum, a softmax ... over axes; channels that it runs over are free and noted as inexact.

    A network that is trained from scratch learns with fewer channels in a mean as well; only what is left of a masked
    network differs from the cut one. Positions and running sums over channels freeze them.
    """
    operands = tensors_in((args, kwargs))
    name = canonical(func)
    if name in ("max", "min") and len(operands) == 2:
        return elementwise(mode, func, args, kwargs)
    source = operands[0]
    labels = aligned_labels(mode, source, source.dim())
    dims, keepdim = reduced_axes(name, args, kwargs, source.dim())
    if mode.on_meta and name in ("mean", "sum", "amax", "amin"):
        shape = [1 if axis in dims else size for axis, size in enumerate(source.shape)]
        result = blank(
            [shape[axis] for axis in range(len(shape)) if keepdim or axis not in dims], source.dtype
        )
    else:
        result = execute(mode, func, args, kwargs)
    if labels is None:
        return mode.mark_all(result, None)
    if any(labels.shape[axis] > 1 for axis in dims):
        if name in ORDERED:
            mode.freeze_and_warn([labels], f"'{name}' over a channel axis")
            labels = frozen_labels(source)
        else:
            mode.inexact(labels)
            if name not in SAME_SHAPE:
                labels = _without(mode, labels, dims)
    for tensor in tensors_in(result):
        if tensor.dim() == labels.ndim:
            mode.mark(tensor, labels)
        else:
            assert not keepdim
            kept = [labels.shape[axis] for axis in range(labels.ndim) if axis not in dims]
            mode.mark(tensor, labels.reshape(kept))
    return result


def _without(mode: LabelMode, labels: Labels, dims: Sequence[int]) -> Labels:
    """The labels after axes are reduced: constant along them."""
    left = [axis for axis in range(labels.ndim) if labels.shape[axis] > 1 and axis not in dims]
    if not left:
        return np.zeros((1,) * labels.ndim, dtype=np.int64)
    for axis in dims:
        labels = mode.uniform_along(labels, axis)
    return labels


def reduced_axes(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], rank: int
) -> tuple[list[int], bool]:
    """(the axes that a reduction runs over, whether it keeps them), of a call on a tensor of `rank` axes."""
    if name == "local_response_norm":
        return [1], True
    position = {"norm": 2, "normalize": 2, "vector_norm": 2, "logsumexp": 1}.get(name, 1)
    default: Any = 1 if name == "normalize" else None
    dim = kwargs.get("dim", kwargs.get("axis", args[position] if len(args) > position else default))
    if dim is None and name in ("softmax", "log_softmax", "softmin"):
        dim = 0 if rank in (0, 1, 3) else 1
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return list(range(rank)), False
    dims = [dim] if isinstance(dim, int) else list(dim)
    keepdim = kwargs.get("keepdim", args[position + 1] if len(args) > position + 1 else False)
    return [axis % rank for axis in dims], keepdim is True
