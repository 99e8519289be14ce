"""Tensors that are computed from parameters alone: weight standardisation, spectral and weight norm, `weight * scale`.

A parameter has layers of labels (`core.graph.rules.computed`). Operations move them, or drop those that they reduce. So
a convolution finds the rows and columns of the parameter on the weight that it is given, whatever was computed in
between. A function of one parameter that keeps its shape, or views it in another, thus leaves its channels free.

Some reductions do not notice zeros (a norm, a sum, a product with a vector): there masking and cutting agree. Others do
(a mean, a variance): their channels are noted as inexact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.graph.attributes import SizeOfAttribute, follow_attribute
from core.graph.labels import COMPUTED, LABELS, LabelMode, Labels, SizeOfChannels, SlotKey
from core.graph.rules.blocks import expanded, padded, reshaped, varying
from core.graph.rules.calls import argument, canonical, execute, in_place, sizes_by_axis
from core.graph.rules.computed import Computed, computed, layers_of, mark, principal
from core.graph.rules.elementwise import ELEMENTWISE
from core.graph.rules.reduction import ORDERED, REDUCTION, SAME_SHAPE, reduced_axes
from core.graph.rules.sizes import agree, follows
from core.modules import axis_shape, tensors_in

# Zero in, zero out, however many zeros there are.
_KEEPS_ZERO = frozenset(
    """abs bfloat16 clone contiguous cpu cuda detach div divide double dropout float half mul multiply neg negative
    relu sign sqrt square to true_divide type type_as""".split()
)
_SUMS = frozenset("norm normalize sum vector_norm".split())
_RESHAPES = frozenset("view reshape flatten unflatten view_as reshape_as ravel".split())
_MOVES = frozenset(
    """permute transpose swapaxes swapdims movedim moveaxis unsqueeze t flip squeeze __getitem__ select""".split()
)
_PRODUCTS = frozenset("mv mm matmul __matmul__ dot vdot".split())


def from_parameters(mode: LabelMode, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Is this a known operation whose operands are all parameters, computed from parameters, or constants?"""
    first = args[0] if args else None
    if isinstance(first, Tensor) and mode.known_labels(first) is not None and COMPUTED not in first.__dict__:
        return False  # an activation: nearly all calls
    if name not in RULES or mode.frozen_depth:
        return False
    operands = tensors_in((args, kwargs))
    if name in _MOVES and len(operands) > 1:
        return False  # rows of a table, by a tensor of numbers
    some = False
    for tensor in operands:
        if computed(mode, tensor) is not None:
            some = True
        elif mode.known_labels(tensor) is not None or mode.parameter_name(tensor) in mode.frozen_names:
            return False
        elif (
            LABELS not in tensor.__dict__
            and mode.parameter_name(tensor) is None
            and not mode.is_constant(tensor)
        ):
            return False  # of unknown origin
    return some


def apply(mode: LabelMode, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Execute one such operation and label its result."""
    out = kwargs.get("out")
    if out is None:
        return RULES[name](mode, func, args, kwargs)
    kwargs = {key: value for key, value in kwargs.items() if key != "out"}
    result = RULES[name](mode, func, args, kwargs)
    kept, target = computed(mode, result), computed(mode, out)
    if kept is not None and target is not None:
        _joined(mode, [(target, out.shape), (kept, result.shape)], result.shape)
    if not mode.on_meta:
        out.copy_(result)
    return out


def _elementwise(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    operands, name = tensors_in((args, kwargs)), canonical(func)
    result = execute(mode, func, args, kwargs)
    if not isinstance(result, Tensor):
        return result
    if in_place(func):
        result = operands[0]
    found = [(computed(mode, tensor), tensor.shape) for tensor in operands]
    joined = _joined(mode, found, result.shape)
    zeros = [item is not None and item.zero for item, _ in found]
    zero = (any(zeros) if name.startswith("mul") else zeros[0]) and (
        name in _KEEPS_ZERO or (name in ("add", "sub") and all(zeros) and len(zeros) > 1)
    )
    return mark(mode, result, replace(joined, zero=zero))


def _joined(
    mode: LabelMode, operands: Sequence[tuple[Computed | None, Sequence[int]]], shape: Sequence[int]
) -> Computed:
    """Operands that meet entry by entry: layers along one axis are tied, those of other axes stand beside them."""
    rank = len(shape)
    layers: dict[SlotKey, Labels] = {}
    reasons: dict[SlotKey, str] = {}
    known = [item for item, _ in operands if item is not None]
    for item in sorted(known, key=lambda item: (-len(item.layers), not item.zero)):
        reasons |= item.reasons
        before = dict(layers)  # layers of one operand may share an axis
        for key, own in item.layers.items():
            labels = own.reshape([1] * (rank - own.ndim) + list(own.shape))
            met = [other for other in before if set(varying(before[other])) & set(varying(labels))]
            same = before.get(key)
            if same is not None and same.shape == labels.shape:
                mode.tie(same, labels)
            elif not met:
                layers[key] = labels
            elif len(met) == 1 and before[met[0]].shape == labels.shape:
                mode.tie(before[met[0]], labels)
            elif len(rows := [other for other in met if other[1] < 2]) == len(item.layers) == 1:
                mode.tie(before[rows[0]], labels)  # a vector meets merged dimensions, as in a power iteration
            else:
                for other in met:
                    mode.freeze(before[other])
                    reasons[other] = "operands whose dimensions are merged in different ways"
                mode.freeze(labels)
    for constant, own_shape in operands:
        if constant is None:
            own_sizes = [1] * (rank - len(own_shape)) + list(own_shape)
            for key, labels in layers.items():
                if any(own_sizes[axis] > 1 for axis in varying(labels)):
                    mode.freeze(labels)
                    reasons[key] = f"a constant of fixed shape {tuple(own_shape)}"
    return Computed(layers, False, reasons)


def _reduction(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    source, name = args[0] if args else tensors_in(kwargs)[0], canonical(func)
    if len(tensors_in((args, kwargs))) > 1:  # the larger of two tensors
        return _elementwise(mode, func, args, kwargs)
    found = layers_of(mode, source)
    dims, _ = reduced_axes(name, args, kwargs, source.dim())
    result = execute(mode, func, args, kwargs)
    exact = found.zero and name in _SUMS
    layers = {}
    for key, labels in found.layers.items():
        gone = [axis for axis in varying(labels) if axis in dims]
        if not gone:
            layers[key] = labels
            continue
        if not exact:
            mode.inexact(labels)
        if name in SAME_SHAPE:
            layers[key] = labels
        elif len(gone) < len(varying(labels)):
            mode.freeze(labels)  # a merged axis of which a part is left
    for tensor in tensors_in(result):
        kept = layers
        if tensor.dim() < source.dim():
            sizes = [axis for axis in range(source.dim()) if axis not in dims]
            kept = {
                key: labels.reshape([labels.shape[axis] for axis in sizes]) for key, labels in layers.items()
            }
        mark(mode, tensor, Computed(kept, found.zero and name in _SUMS, found.reasons))
    return result


def _reshape(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    source, name = args[0], canonical(func)
    found = layers_of(mode, source)
    result = execute(mode, func, args, kwargs)
    sizes = sizes_by_axis(name, args, kwargs, result)
    layers, reasons = {}, dict(found.reasons)
    for key, labels in found.layers.items():
        moved = reshaped(labels, source.shape, result.shape)
        axes = varying(moved)
        fixed = [axis for axis in axes if not follows(sizes[axis])]
        if len(axes) == len(fixed) == 1 and isinstance(sizes[axes[0]], SizeOfAttribute):
            rows = expanded(moved, axes[0], result.shape[axes[0]])
            if key[1] > 1 or follow_attribute(mode, sizes[axes[0]], rows):
                fixed = []
        if fixed:
            mode.freeze(labels)
            reasons[key] = f"'{name}' with a typed-in size"
        for axis in axes:
            if isinstance(sizes[axis], SizeOfChannels) and key[1] < 2:
                agree(mode, moved, axis, sizes[axis], name)
        layers[key] = moved
    return mark(mode, result, Computed(layers, found.zero, reasons))


def _move(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same call on each layer, at full size, so that it drops no axis of size 1 by mistake."""
    source = args[0]
    found = layers_of(mode, source)
    result = execute(mode, func, args, kwargs)
    layers, reasons = {}, dict(found.reasons)
    for key, labels in found.layers.items():
        full = np.broadcast_to(labels, source.shape)
        moved = func(torch.from_numpy(full.copy()), *args[1:], **kwargs).numpy()
        for axis in range(moved.ndim):
            first = moved.take([0], axis)
            if moved.shape[axis] > 1 and (moved == first).all():
                moved = first
        if moved.size == 1:
            continue  # one row of it
        if moved.size < labels.size:
            mode.freeze(labels)
            reasons[key] = f"'{canonical(func).strip('_')}' of a part"
        layers[key] = moved
    return mark(mode, result, Computed(layers, found.zero, reasons))


def _pad(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Zeros around a kernel, or beside rows and columns, which then carry the frozen label."""
    found = layers_of(mode, args[0])
    widths = argument(args, kwargs, 1, "pad")
    layers = {key: padded(labels, [int(width) for width in widths]) for key, labels in found.layers.items()}
    return mark(mode, execute(mode, func, args, kwargs), Computed(layers, found.zero, found.reasons))


def _expand(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    found = layers_of(mode, args[0])
    result = execute(mode, func, args, kwargs)
    layers = {
        key: labels.reshape([1] * (result.dim() - labels.ndim) + list(labels.shape))
        for key, labels in found.layers.items()
    }
    return mark(mode, result, Computed(layers, found.zero, found.reasons))


def _batch_norm(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Statistics of each row of a weight, by torch's own kernel; timm's way to standardise weights."""
    found = layers_of(mode, args[0])
    layers = {}
    for key, labels in found.layers.items():
        if varying(labels) == [1]:
            layers[key] = labels
            for at, name in enumerate(("running_mean", "running_var", "weight", "bias"), start=1):
                tensor = argument(args, kwargs, at, name)
                own = None if tensor is None else computed(mode, tensor)
                if own is not None:
                    for rows in own.layers.values():
                        mode.tie(rows.reshape(-1), labels.reshape(-1))
        elif 1 in varying(labels):
            mode.freeze(labels)
        else:
            mode.inexact(labels)
            layers[key] = labels
    return mark(mode, execute(mode, func, args, kwargs), Computed(layers, False, found.reasons))


def _layer_norm(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Statistics over the last axes of a weight."""
    found = layers_of(mode, args[0])
    first = args[0].dim() - len(argument(args, kwargs, 1, "normalized_shape"))
    for labels in found.layers.values():
        if any(axis >= first for axis in varying(labels)):
            mode.inexact(labels)
    result = execute(mode, func, args, kwargs)
    operands = [
        (found, args[0].shape),
        *((computed(mode, item), item.shape) for item in tensors_in((args[1:], kwargs))),
    ]
    return mark(mode, result, _joined(mode, operands, result.shape))


def _weight_norm(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """torch's weight norm, g · v / ‖v‖: the norm does not notice a zero."""
    result = execute(mode, func, args, kwargs)
    operands = tensors_in((args, kwargs))
    joined = _joined(mode, [(computed(mode, tensor), tensor.shape) for tensor in operands], result.shape)
    return mark(mode, result, replace(joined, zero=True))


def _product(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Vectors and matrices: the axes that are summed over are tied to each other."""
    left, right = tensors_in((args, kwargs))
    a, b = computed(mode, left), computed(mode, right)
    result = execute(mode, func, args, kwargs)
    summed = (left.dim() - 1, max(right.dim() - 2, 0))
    rows: list[Labels] = []
    layers: dict[SlotKey, Labels] = {}
    for number, (item, tensor) in enumerate(((a, left), (b, right))):
        if item is None:
            continue
        axis = summed[number]
        key = principal(mode, item, axis)
        if key is not None:
            rows.append(expanded(item.layers[key], axis, tensor.shape[axis]))
        for other, labels in item.layers.items():
            if labels.shape[axis] == 1:
                layers[other] = labels.reshape(axis_shape(result.dim() - 1 if number else 0, result.dim()))
    if left.dim() == right.dim() == 2:
        if rows:
            mode.freeze(rows[0])  # the rank of two factors; a cost has two free sizes at most
        sides = [item.reshape(-1) for item in layers.values() if len(varying(item)) == 1][:2]
        count = left.numel() * right.shape[1]
        mode.count("macs", count // math.prod(side.size for side in sides), *sides)
    zeros = [item is not None and item.zero for item in (a, b)]
    if len(rows) == 2:
        mode.tie(*rows)
        if not any(zeros):
            mode.inexact(rows[0])
    elif left.shape[-1] > 1:
        for labels in rows:
            mode.freeze_and_warn([labels], f"'{canonical(func)}' of a weight with a constant")
    reasons = {**(a.reasons if a else {}), **(b.reasons if b else {})}
    return mark(mode, result, Computed(layers, any(zeros), reasons))


RULES: dict[str, Any] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTION - ORDERED, _reduction),
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(["expand", "expand_as", "broadcast_to", "repeat"], _expand),
    **dict.fromkeys(_PRODUCTS, _product),
    "batch_norm": _batch_norm,
    **dict.fromkeys(["layer_norm", "rms_norm"], _layer_norm),
    "pad": _pad,
    "_weight_norm": _weight_norm,
    "__get__data": _elementwise,
}
