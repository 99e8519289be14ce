"""Operations with parameters: inputs are tied to parameter rows, and parameter rows label the outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from core.graph.attributes import SizeOfAttribute, follow_attribute
from core.graph.labels import LabelMode, Labels, SizeOfChannels, frozen_labels, owner_of
from core.graph.rules.blocks import padded
from core.graph.rules.calls import alike, argument, blank, canonical, execute, plain, slid, spread
from core.graph.rules.computed import Weight, computed, weight_of
from core.modules import tensors_in


def _tie_rows(mode: LabelMode, tensor: Tensor | None, labels: Labels, dim: int = 0) -> None:
    """Tie one dimension of a parameter or buffer (a bias, a running mean) to the channels `labels`, (C,)."""
    shape = () if tensor is None else tensor.shape
    if tensor is None or not shape or shape[dim] == 1 != labels.size:
        return
    name = mode.parameter_name(tensor)
    if name is not None and name not in mode.frozen_names:
        mode.tie_slot(name, dim, labels)
        return
    own = mode.labels_of(tensor)  # computed, by a gain times a scale, say
    if own is None or own.shape[dim] != own.size:
        mode.freeze_and_warn(
            [labels], f"a computed tensor of shape {tuple(tensor.shape)} is used as a parameter"
        )
    else:
        mode.tie(own.reshape(-1), labels)


def _computed_weight(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The weight is not a parameter (weight standardisation, a parametrization): nothing to cut, so freeze."""
    source = tensors_in(args)[0]
    labels = mode.labels_of(source)
    weight = argument(args, kwargs, 1, "weight")
    found = computed(mode, weight)
    rows = [] if found is None else list(found.layers.values())
    mode.freeze_and_warn(
        rows if labels is None else [labels, *rows], f"'{canonical(func)}' with a computed weight"
    )
    result = execute(mode, func, args, kwargs)
    positions = source if "transpose" in canonical(func) else result
    channels = weight.shape[0]
    mode.count("macs", weight.numel() * (positions.numel() // channels))
    return mode.mark(result, frozen_labels(result))


def convolution(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Plain, grouped, depthwise and transposed convolution in one to three dimensions.

    Grouped: position p of every group is one choice, so that the group count survives a cut; with as many outputs as
    inputs, input and output positions are the same choice (the rule of the RegNet in LW-DNA's released code; depthwise
    is its limit).
    """
    source, weight = args[0] if args else kwargs["input"], argument(args, kwargs, 1, "weight")
    transposed = "transpose" in canonical(func)
    given = argument(args, kwargs, 6, "groups", 1)
    groups, kernel, sizes = int(given), tuple(weight.shape), tuple(source.shape)
    axis = len(sizes) - len(kernel) + 1
    labels = mode.labels_of(source)
    labels = frozen_labels(source) if labels is None else labels
    if labels.size > 1 == labels.shape[axis]:
        return _over_channels(mode, func, args, kwargs, labels)
    own = weight_of(mode, weight)
    own = None if own is not None and own.keys == (None, None) else own
    if own is None and not (groups > 1 == weight.shape[1] and mode.known_labels(weight) is None):
        return _computed_weight(mode, func, args, kwargs)
    shape = _convolved(sizes, kernel, args, kwargs, groups, transposed) if mode.on_meta else None
    if shape is None:
        result = execute(mode, func, args, kwargs)
        shape = list(result.shape)
    else:
        result = blank(shape, source.dtype)
    inputs = mode.vector(labels, axis, sizes[axis])
    if groups > 1 and not _groups_follow(mode, given, weight, inputs):
        mode.freeze_and_warn(
            [inputs] if own is None else [inputs, own.slot(0)],
            f"{groups} typed-in groups (read off a size or an attribute of the module in forward, they follow)",
        )
    if own is None:  # a fixed filter, once for each channel
        outputs = (
            inputs if shape[axis] == sizes[axis] else frozen_labels(result).reshape(-1).repeat(shape[axis])
        )
        if outputs is not inputs or groups != sizes[axis]:
            mode.freeze_and_warn([inputs], f"'{canonical(func)}' with a computed weight")
    elif transposed:
        outputs = _transposed_rows(mode, own, inputs, groups)
    else:
        outputs = _convolution_rows(mode, own, inputs, groups)
    bias = argument(args, kwargs, 2, "bias")
    if bias is not None:
        _tie_rows(mode, bias, outputs)
    grid = (sizes if transposed else shape)[axis + 1 :]
    macs, factors = math.prod(kernel[2:]) * math.prod(grid) * math.prod(sizes[:axis]), []
    for dim in (0, 1):
        slot = inputs if own is None and dim == 0 else None if own is None else own.known(dim)
        if slot is None:
            macs *= kernel[dim]
        else:
            factors.append(slot)
    mode.count("macs", macs, *factors)
    return mode.mark(result, mode.shaped(outputs, axis, len(shape)))


def _over_channels(
    mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], labels: Labels
) -> Any:
    """A convolution along channels, as in efficient channel attention: they pass, but a cut changes neighbours."""
    source, weight = args[0], argument(args, kwargs, 1, "weight")
    result = execute(mode, func, args, kwargs)
    axes = [axis for axis in range(labels.ndim) if labels.shape[axis] > 1]
    count = weight.numel() * result.numel() // result.shape[min(1, result.dim() - 1)]
    alike = len(axes) == 1 and result.shape[axes[0]] == source.shape[axes[0]] == labels.size
    single = result.dim() == labels.ndim and weight.shape[0] == weight.shape[1] == 1
    if alike and single:
        mode.inexact(labels)
        mode.count("macs", count // labels.size, labels.reshape(-1))
        return mode.mark(result, labels)
    mode.freeze_and_warn([labels], f"'{canonical(func)}' along a channel axis")
    mode.count("macs", count)
    return mode.mark(result, frozen_labels(result))


def _groups_follow(mode: LabelMode, groups: Any, weight: Tensor, inputs: Labels) -> bool:
    """Does the number of groups change with the channels: a layer's attribute, or all channels of the input?"""
    if getattr(mode.module, "groups", None) == groups:
        return True
    if weight.shape[1] != 1:
        return False
    if isinstance(groups, SizeOfAttribute):
        return follow_attribute(mode, groups, inputs)
    return isinstance(groups, SizeOfChannels)


def _convolved(
    sizes: Sequence[int],
    kernel: Sequence[int],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    groups: int,
    transposed: bool,
) -> list[int] | None:
    """The output shape of a convolution; None where torch has to be asked (padding by name, wrong shapes)."""
    axis = len(sizes) - len(kernel) + 1
    if axis < 0 or sizes[axis] != (kernel[0] if transposed else kernel[1] * groups):
        return None
    stride, padding = argument(args, kwargs, 3, "stride", 1), argument(args, kwargs, 4, "padding", 0)
    before, after = sizes[:axis], sizes[axis + 1 :]
    if transposed:
        extra, dilation = (
            argument(args, kwargs, 5, "output_padding", 0),
            argument(args, kwargs, 7, "dilation", 1),
        )
        grid = spread(after, kernel[2:], stride, padding, dilation, extra)
    else:
        grid = slid(after, kernel[2:], stride, padding, argument(args, kwargs, 5, "dilation", 1))
    channels = kernel[1] * groups if transposed else kernel[0]
    return None if grid is None else [*before, channels, *grid]


def _convolution_rows(mode: LabelMode, weight: Weight, inputs: Labels, groups: int) -> Labels:
    outputs = weight.slot(0)
    weight.produce(0)
    if groups == 1:
        weight.tie(1, inputs)
    elif weight.shape[1] == 1:
        mode.tie(outputs.reshape(groups, -1), inputs[:, None])
        mode.trace.depthwise.add(f"{weight.owner}.weight")
    else:
        by_group = inputs.reshape(groups, -1)
        mode.tie(weight.slot(1)[None], by_group)
        rows = outputs.reshape(groups, -1)
        mode.tie(rows[:1], rows)
        if rows.shape == by_group.shape:
            mode.tie(rows[0], by_group[0])
        _note_grouped(mode, weight, groups)
    return outputs


def _transposed_rows(mode: LabelMode, weight: Weight, inputs: Labels, groups: int) -> Labels:
    weight.tie(0, inputs)
    if weight.shape[0] == groups > 1 and weight.shape[1] == 1:
        mode.trace.depthwise.add(f"{weight.owner}.weight")
        weight.produce(0)
        return inputs
    outputs = weight.slot(1)
    weight.produce(1)
    if groups > 1:
        by_group = inputs.reshape(groups, -1)
        mode.tie(by_group[:1], by_group)
        _note_grouped(mode, weight, groups)
        outputs = np.tile(outputs, groups)
    return outputs


def _note_grouped(mode: LabelMode, weight: Weight, groups: int) -> None:
    if weight.keys[1] is not None:
        mode.trace.per_group.add(weight.keys[1])
    mode.trace.conv_groups[weight.owner] = groups


def linear(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A linear layer over the last axis; after a flatten each channel owns H·W of its columns."""
    source, weight = args[0] if args else kwargs["input"], argument(args, kwargs, 1, "weight")
    own = weight_of(mode, weight) if weight.dim() == 2 else None
    if own is None:
        return _computed_weight(mode, func, args, kwargs)
    if mode.on_meta and source.shape[-1] == weight.shape[1]:
        result = blank([*source.shape[:-1], weight.shape[0]], source.dtype)
    else:
        result = execute(mode, func, args, kwargs)
    labels = mode.labels_of(source)
    labels = frozen_labels(source) if labels is None else labels
    own.tie(1, mode.vector(labels, source.dim() - 1, source.shape[-1]))
    outputs = own.slot(0)
    own.produce(0)
    _tie_rows(mode, argument(args, kwargs, 2, "bias"), outputs)
    mode.count("macs", result.numel() // result.shape[-1], outputs, own.slot(1))
    return mode.mark(result, mode.shaped(outputs, result.dim() - 1, result.dim()))


def channelwise_norm(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """BatchNorm and InstanceNorm: weight, bias and running statistics follow the channels of axis 1."""
    source = args[0] if args else kwargs["input"]
    labels = mode.labels_of(source)
    if labels is not None:
        vector = mode.vector(labels, 1, source.shape[1])
        tensors = [argument(args, kwargs, at, name) for at, name in enumerate(_CHANNELWISE, start=1)]
        for tensor in tensors:
            _tie_rows(mode, tensor, vector)
        _note_bare_norm(mode, tensors, vector)
        if labels.size != labels.shape[1] or vector.size != labels.size:
            labels = mode.shaped(vector, 1, labels.ndim)
    if mode.on_meta:
        return mode.mark(alike(source), labels)
    if (
        not mode.replays
        and canonical(func) == "batch_norm"
        and argument(args, kwargs, 1, "running_mean") is not None
    ):
        # A batch's own statistics need several values per channel, which an example may not have.
        args, kwargs = args[:5], {key: item for key, item in kwargs.items() if key != "training"}
    return mode.mark(execute(mode, func, args, kwargs), labels)


_CHANNELWISE = ("running_mean", "running_var", "weight", "bias")
_NORMS = (nn.modules.instancenorm._InstanceNorm, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def _note_bare_norm(mode: LabelMode, tensors: Sequence[Tensor | None], vector: Labels) -> bool:
    """A norm layer without any tensor still repeats its width in an attribute, which a resize has to update."""
    bare = all(tensor is None for tensor in tensors) and isinstance(mode.module, _NORMS)
    if bare:
        mode.trace.bare_norms[mode.where] = vector
    return bare


def group_norm(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """GroupNorm: every statistics group loses the same positions; with one channel per group, channels are free."""
    source, groups = args[0] if args else kwargs["input"], int(argument(args, kwargs, 1, "num_groups"))
    labels = mode.labels_of(source)
    if labels is not None:
        vector = mode.vector(labels, 1, source.shape[1])
        tensors = [argument(args, kwargs, at, name) for at, name in ((2, "weight"), (3, "bias"))]
        for tensor in tensors:
            _tie_rows(mode, tensor, vector)
        _note_bare_norm(mode, tensors, vector)
        if 1 < groups < source.shape[1]:
            by_group = vector.reshape(groups, -1)
            mode.tie(by_group[:1], by_group)
        elif groups == source.shape[1] and not isinstance(mode.module, nn.GroupNorm):
            mode.freeze_and_warn([vector], f"'group_norm' with {groups} typed-in groups of one channel")
        labels = vector.reshape([1, -1] + [1] * (source.dim() - 2))
    return mode.mark(execute(mode, func, args, kwargs), labels)


def layer_norm(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """LayerNorm and RMSNorm over trailing axes: weight and bias follow the channel axis among them."""
    source, shape = args[0] if args else kwargs["input"], argument(args, kwargs, 1, "normalized_shape")
    labels = mode.labels_of(source)
    if labels is not None:
        offset = source.dim() - len(shape)
        tensors = [argument(args, kwargs, at, name) for at, name in ((2, "weight"), (3, "bias"))]
        for axis in range(offset, source.dim()):
            if labels.shape[axis] == 1:
                continue
            vector = mode.vector(labels, axis, labels.shape[axis])
            if canonical(func) == "rms_norm":
                mode.inexact(vector)
            for tensor in tensors:
                _tie_rows(mode, tensor, vector, axis - offset)
            if tensors[0] is not None:
                size = shape[axis - offset]
                followed = isinstance(size, SizeOfAttribute) and follow_attribute(mode, size, vector)
                if (
                    not followed
                    and not isinstance(size, SizeOfChannels)
                    and not _is_attribute(mode, shape, tensors[0])
                ):
                    mode.freeze_and_warn([vector], f"'layer_norm' over the typed-in shape {tuple(shape)}")
            elif len(shape) > 1 or not _note_bare_norm(mode, tensors, vector):
                mode.freeze_and_warn([vector], f"'layer_norm' without weights over the shape {tuple(shape)}")
    return mode.mark(execute(mode, func, args, kwargs), labels)


def _is_attribute(mode: LabelMode, shape: Sequence[int], weight: Tensor) -> bool:
    """Does the shape come from `normalized_shape` of the weight's own module, which follows a resize?"""
    name = mode.parameter_name(weight)
    module = mode.module if name is None else mode.place[0][1].get_submodule(owner_of(name))
    attribute = getattr(module, "normalized_shape", None)
    return isinstance(attribute, (tuple, list)) and tuple(attribute) == tuple(shape)


def prelu(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """PReLU with one slope, or one slope per channel of axis 1."""
    source, weight = args[0] if args else kwargs["input"], argument(args, kwargs, 1, "weight")
    labels = mode.labels_of(source)
    mode.parameter_name(weight)  # notes that it is used, even if it follows nothing
    if labels is not None and weight.numel() > 1:
        _tie_rows(mode, weight, mode.vector(labels, min(1, source.dim() - 1), weight.numel()))
    result = alike(source) if mode.on_meta else execute(mode, func, args, kwargs)
    return mode.mark(result, labels)


def pad(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Padding: padded channels are constants of fixed number, so they carry the frozen label."""
    source, widths = args[0] if args else kwargs["input"], argument(args, kwargs, 1, "pad")
    labels = mode.labels_of(source)
    result = execute(mode, func, args, kwargs)
    return mode.mark(result, None if labels is None else padded(labels, plain(widths)))
