"""What each torch operation does to channel labels.

Ten kinds of rule, one file each:

    parametric      convolution, linear, normalisation, PReLU: tie inputs to parameter rows, make the output's labels
    elementwise     operands of one shape are tied channel by channel; operands that broadcast are not
    parts           slices, splits and gated units: free where their borders follow the channels
    rearrangement   view, permute, cat, chunk, pixel shuffle ...: the operation itself is executed on the labels
    reduction       pooling and interpolation; mean, max, softmax ... over axes: inexact where the axes carry labels
    weights         what is computed from parameters alone: standardised, normalised and scaled weights
    products        matrix products of activations: channels pass, or are tied where they are summed over
    axes            tensors with channels along several axes, which such products make
    tables          rows of a table, by integers
    calls           constants, and everything else: it freezes the channels that it touches, with a warning

To add an operation, write `rule(mode, func, args, kwargs) -> result` and enter it in `RULES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.graph.attributes import sizes_of_attributes
from core.graph.labels import AXES, LabelMode, Labels, Note, SizeOfChannels
from core.graph.rules import (
    axes,
    computed,
    elementwise,
    parametric,
    products,
    rearrangement,
    reduction,
    weights,
)
from core.graph.rules.calls import canonical, constant, execute, unknown
from core.modules import tensors_in

Rule = Callable[[LabelMode, Any, tuple[Any, ...], dict[str, Any]], Any]

FACTORIES = frozenset(
    """arange as_tensor empty empty_strided eye from_numpy full linspace new_empty new_full new_ones new_tensor
    new_zeros ones rand randint randn randperm scalar_tensor tensor zeros""".split()
)
RESULT_IS_NO_TENSOR = frozenset("__len__ dim is_contiguous is_floating_point stride element_size".split())

READS = frozenset("__bool__ item tolist __int__ __float__ __index__".split())

RULES: dict[str, Rule] = {
    **dict.fromkeys(reduction.SPATIAL, reduction.spatial),
    **dict.fromkeys(reduction.REDUCTION, reduction.reduction),
    **dict.fromkeys(
        ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"],
        parametric.convolution,
    ),
    **dict.fromkeys(["batch_norm", "instance_norm"], parametric.channelwise_norm),
    **dict.fromkeys(["layer_norm", "rms_norm"], parametric.layer_norm),
    "linear": parametric.linear,
    **dict.fromkeys(["matmul", "__matmul__", "bmm", "mm"], products.product),
    "scaled_dot_product_attention": products.attention,
    "einsum": products.einsum,
    "unfold": products.sliding_windows,
    "group_norm": parametric.group_norm,
    "prelu": parametric.prelu,
    "pad": parametric.pad,
    **rearrangement.REARRANGEMENT,
    **dict.fromkeys(elementwise.ELEMENTWISE, elementwise.elementwise),
}


def apply_rule(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Execute one intercepted call and label its result.

    An attribute whose size the call's rule does not follow has to keep it.
    """
    sizes = sizes_of_attributes((args, kwargs))
    if not sizes:
        return _apply(mode, func, args, kwargs)
    mode.followed = []
    result = _apply(mode, func, args, kwargs)
    given = Counter(key for size in sizes for key in size.keys)
    mode.trace.pinned.update((given - Counter(mode.followed)).keys())
    return result


def _apply(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = canonical(func)
    if name in elementwise.ELEMENTWISE:  # a size is a number there, and changes with the width
        args = tuple(item.inexact.number(item) if isinstance(item, SizeOfChannels) else item for item in args)
    if mode.several and name in axes.RULES and axes.meets_several(args, kwargs):
        return axes.RULES[name](mode, func, args, kwargs)
    if weights.from_parameters(mode, name, args, kwargs):
        return weights.apply(mode, name, func, args, kwargs)
    rule = RULES.get(name)
    if rule is not None:
        return rule(mode, func, args, kwargs)
    if name in ("numel", "nelement"):
        return computed.marked_numel(mode, args[0])
    if name in RESULT_IS_NO_TENSOR:
        return func(*args, **kwargs)
    if name in READS and mode.known_labels(args[0]) is not None:
        if name == "__bool__":
            return mode.decide(unknown(mode, func, args, kwargs))
        note = Note(f"'{name}' reads a number off an activation: what other numbers lead to is not seen")
        mode.trace.notes += [] if note in mode.trace.notes or mode.frozen_depth else [note]
    if name.startswith("__get__"):
        return _property(mode, name.removeprefix("__get__"), func, args)
    if name == "size":
        shape = _marked_shape(mode, args[0])
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        return shape if dim is None else shape[dim]
    if name in FACTORIES or not tensors_in((args, kwargs)):
        return constant(mode, func, args, kwargs)
    return unknown(mode, func, args, kwargs)


def _property(mode: LabelMode, name: str, func: Any, args: tuple[Any, ...]) -> Any:
    if name == "shape":
        return _marked_shape(mode, args[0])
    if name in ("T", "mT", "H", "mH"):
        return _apply(mode, torch.transpose, (args[0], -2, -1), {})
    result = execute(mode, func, args, {})
    if isinstance(result, Tensor) and result is not args[0]:  # .data, .real
        mode.mark(result, mode.labels_of(args[0]))
    return result


def _marked_shape(mode: LabelMode, tensor: Tensor) -> torch.Size:
    shape = tensor.shape
    if AXES in tensor.__dict__:
        return axes.marked_shape(shape, tensor.__dict__[AXES], mode.trace.inexact)
    labels = mode.known_labels(tensor)
    if labels is None and computed.has_rows(mode, tensor):
        return torch.Size(computed.marked_size(mode, tensor, axis) for axis in range(tensor.dim()))
    if labels is None or labels.size == 1:
        return shape
    return torch.Size(_marked_size(mode, labels, axis, size) for axis, size in enumerate(shape))


def _marked_size(mode: LabelMode, labels: Labels, axis: int, size: int) -> int:
    if labels.shape[axis] == 1:
        return size
    rows = np.moveaxis(labels, axis, -1).reshape(-1, size)[0]
    return SizeOfChannels(size, rows, inexact=mode.trace.inexact)
