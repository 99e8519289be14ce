"""Element-wise operations: operands of one shape are tied channel by channel, operands that broadcast are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.graph.labels import COMPUTED, FROZEN, LABELS, LabelMode, Labels, SlotKey
from core.graph.rules.calls import (
    alike,
    blank,
    broadcast,
    canonical,
    execute,
    in_place,
    of_constants,
    unknown,
)
from core.modules import tensors_in

ELEMENTWISE = frozenset(
    """abs acos acosh add addcdiv addcmul alpha_dropout asin atan atan2 bernoulli bfloat16 bitwise_and bitwise_not
    bitwise_or bool ceil celu clamp clamp_max clamp_min clip clone contiguous copysign cos cosh cpu cuda deg2rad
    detach div divide double dropout dropout1d dropout2d dropout3d elu empty_like eq erf erfc exp exp2 expm1
    feature_alpha_dropout feature_dropout fill float floor floor_divide fmax fmin fmod frac ge gelu gt half hardshrink
    hardsigmoid hardswish hardtanh heaviside int isfinite isinf isnan le leaky_relu lerp log log10 log1p log2
    logical_and logical_not logical_or logical_xor logit logsigmoid long lt masked_fill maximum minimum mish mul
    multiply nan_to_num ne neg negative normal ones_like pow rand_like randn_like reciprocal relu relu6 remainder
    requires_grad_ round rrelu rsqrt rsub selu sgn short sigmoid sign silu sin sinh softplus softshrink softsign sqrt
    square sub subtract tan tanh tanhshrink threshold to true_divide trunc type type_as uniform where zero
    zeros_like""".split()
)

# Their results are made by torch even on the meta device, as their type matters.
CONVERSIONS = frozenset(
    "bfloat16 bool cpu cuda double float half int long short to type type_as where".split()
)
# They take only the type and the device of a second operand.
LIKE_ANOTHER = frozenset(("to", "type_as"))
COMPARISONS = frozenset(
    "eq ge gt isfinite isinf isnan le logical_and logical_not logical_or logical_xor lt ne".split()
)


def elementwise(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Tie the operands channel by channel; the result carries their labels."""
    operands, name = tensors_in((args, kwargs)), canonical(func)
    if name == "where" and len(args) + len(kwargs) == 1:
        return unknown(mode, func, args, kwargs)  # the indices of what is true
    known = not operands[0].is_meta and of_constants(mode, func, args, kwargs)
    if not mode.on_meta or name in CONVERSIONS or known:
        result = execute(mode, func, args, kwargs)
    elif in_place(func):
        result = operands[0]
    else:
        shapes = [tensor.shape for tensor in operands]
        if name in COMPARISONS:
            result = blank(broadcast(shapes), torch.bool)
        elif operands[0].is_meta and shapes.count(shapes[0]) == len(shapes):
            result = alike(operands[0])
        else:
            result = blank(broadcast(shapes), operands[0].dtype)
    if not isinstance(result, Tensor):
        return result
    if name in LIKE_ANOTHER:
        operands = operands[:1]
    return mode.mark(result, tie_operands(mode, operands, result.shape))


def aligned_labels(mode: LabelMode, tensor: Tensor, rank: int) -> Labels | None:
    """The labels of `tensor` with axes of size 1 in front, as broadcasting to `rank` axes adds them."""
    labels = mode.labels_of(tensor)
    if labels is None or labels.ndim == rank:
        return labels
    return labels.reshape([1] * (rank - labels.ndim) + list(labels.shape))


def tie_operands(mode: LabelMode, operands: list[Tensor], shape: torch.Size) -> Labels | None:
    """The labels of an element-wise result of `shape`; None if every operand is constant."""
    if len(operands) == 1:
        return mode.labels_of(operands[0])
    rank = len(shape)
    known = [mode.known_labels(tensor) for tensor in operands]
    first = known[0]
    if (
        first is not None
        and first.ndim == rank
        and all(labels is not None and labels.shape == first.shape for labels in known)
    ):  # by far the most frequent: a residual addition, a gate per channel
        for labels in known[1:]:
            mode.tie(first, labels)  # type: ignore[arg-type]
        return first
    labelled, parameters, constants, computed = [], [], [], []
    for tensor in operands:
        layers = tensor.__dict__.get(COMPUTED)
        if layers is not None and (
            mode.known_labels(tensor) is None or _beside_no_channels(layers.layers, operands, rank)
        ):
            computed.append(layers)
            continue
        name = mode.parameter_name(tensor)
        if name is not None and sum(size > 1 for size in tensor.shape) > 1:
            parameters.append((name, tensor))
            continue
        labels = aligned_labels(mode, tensor, rank)
        if labels is None:
            constants.append(tensor)
        else:
            labelled.append((labels, [1] * (rank - tensor.dim()) + list(tensor.shape)))
    if not labelled:
        return mode.labels_of(parameters[0][1]) if parameters else None
    labels = _tie_labelled(mode, labelled, shape)
    for tensor in constants:
        _meet_constant(mode, labels, tensor, rank)
    for name, tensor in parameters:
        _meet_parameter(mode, labels, name, tensor, rank)
    for layers in computed:
        _meet_computed(mode, labels, layers.layers.values(), rank)
        for key, reason in layers.reasons.items():
            layer = layers.layers[key]
            at = [axis for axis in range(-layer.ndim, 0) if layer.shape[axis] > 1]
            if any(labels.shape[axis] > 1 for axis in at):
                mode.freeze_and_warn([labels], f"a parameter computed by {reason}")
    return labels


def _beside_no_channels(layers: Mapping[SlotKey, Labels], operands: Sequence[Tensor], rank: int) -> bool:
    """Do a computed parameter's rows lie along an axis of an activation that is longer than 1 and has no channels?

    A bias per head is an example: its rows keep their number, and label nothing.
    """
    (layer,) = layers.values()
    axis = next(axis for axis in range(-layer.ndim, 0) if layer.shape[axis] > 1)
    for tensor in operands:
        labels = tensor.__dict__.get(LABELS)
        if labels is None or COMPUTED in tensor.__dict__ or tensor.dim() < -axis:
            continue
        if tensor.shape[axis] > 1 == labels.shape[axis]:
            return True
    return False


def _tie_labelled(mode: LabelMode, labelled: list[tuple[Labels, list[int]]], shape: torch.Size) -> Labels:
    rank = len(shape)
    varying = {axis for labels, _ in labelled for axis in range(rank) if labels.shape[axis] > 1}
    joined: Labels | None = None
    sizes: list[int] = []  # of the operand that it comes from
    for labels, own in sorted(labelled, key=lambda item: -item[0].size):
        spread = [axis for axis in varying if own[axis] == 1 and shape[axis] > 1]
        if spread and labels.size == 1:
            # One channel broadcast over many, as spatial attention does: it has to stay one channel.
            if int(labels.item()) != FROZEN:
                mode.freeze(labels)
            continue
        if spread and joined is not None and all(sizes[a] > 1 for a in range(rank) if labels.shape[a] > 1):
            mode.freeze_and_warn([labels], "one number for each of several parts, as a gate of experts has,")
            continue
        if spread:
            mode.freeze_and_warn([item for item, _ in labelled], "an outer product of two channel axes")
            return np.zeros((1,) * rank, dtype=np.int64)
        if joined is None:
            joined, sizes = labels, own
        else:
            mode.tie(joined, labels)
    return labelled[0][0] if joined is None else joined


def _meet_constant(mode: LabelMode, labels: Labels, tensor: Tensor, rank: int) -> None:
    own = [1] * (rank - tensor.dim()) + list(tensor.shape)
    if any(own[axis] > 1 and labels.shape[axis] > 1 for axis in range(rank)):
        name = f" '{mode.origin(tensor)}'" if mode.origin(tensor) else ""
        reason = f"a constant{name} of fixed shape {tuple(tensor.shape)} meets channels"
        mode.freeze_and_warn([labels], reason)


def _meet_parameter(mode: LabelMode, labels: Labels, name: str, tensor: Tensor, rank: int) -> None:
    offset = rank - tensor.dim()
    for axis in range(offset, rank):
        if labels.shape[axis] > 1 and tensor.shape[axis - offset] > 1:
            vector = mode.vector(labels, axis, labels.shape[axis])
            mode.tie_slot(name, axis - offset, vector)


def _meet_computed(mode: LabelMode, labels: Labels, layers: Iterable[Labels], rank: int) -> None:
    """What is computed from a parameter of several dimensions follows the channels along one of them."""
    for layer in layers:
        shape = [1] * (rank - layer.ndim) + list(layer.shape)
        axes = [axis for axis in range(rank) if shape[axis] > 1]
        if all(labels.shape[axis] == 1 for axis in axes):
            mode.freeze(layer)
            continue
        if len(axes) == 1:
            mode.tie(mode.vector(labels, axes[0], labels.shape[axes[0]]), layer.reshape(-1))
        else:
            mode.freeze_and_warn([labels, layer], "a computed parameter whose dimensions are merged")
