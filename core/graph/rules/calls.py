"""How rules call torch: names of operations, plain arguments, constants, and what happens where no rule applies."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.graph.attributes import RestOfAttribute, SizeOfAttribute
from core.graph.labels import COMPUTED, LabelMode, Labels, SizeOfChannels, frozen_labels
from core.graph.rules.sizes import freeze_sizes, given_sizes, marks_in
from core.modules import map_tensors, tensors_in


@functools.cache
def in_place(func: Any) -> bool:
    """Is it `relu_`, `add_` ...? Python's `+=` (`__iadd__`) is not: torch computes its result."""
    name = getattr(func, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


@functools.cache
def canonical(func: Any) -> str:
    """One name for `add`, `add_`, `__add__`, `__radd__`, `__iadd__`; a property's own name for its getter."""
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        return f"{name}{getattr(getattr(func, '__self__', None), '__name__', '')}"
    if name.startswith("__") and name.endswith("__"):
        core = name[2:-2]
        if core in _IN_PLACE or core in _REFLECTED:
            core = core[1:]
        return _OPERATORS.get(core, name)
    return name if name == "requires_grad_" else name.rstrip("_")


_META = torch.device("meta")
_OPERATORS = {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "div": "div", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "pow", "neg": "neg", "abs": "abs", "invert": "bitwise_not", "and": "logical_and",
    "or": "logical_or", "xor": "logical_xor", "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge",
}  # fmt: skip
_IN_PLACE = {f"i{name}" for name in _OPERATORS}
_WRITES = {"__setitem__", *(f"__{name}__" for name in _IN_PLACE)}
_REFLECTED = {f"r{name}" for name in _OPERATORS}


def argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, default: Any = None
) -> Any:
    """One argument of a call, given by position or by name."""
    return args[position] if len(args) > position else kwargs.get(name, default)


def plain(value: Any) -> Any:
    """Arguments for torch: marked sizes become plain integers."""
    if isinstance(value, (SizeOfChannels, SizeOfAttribute, RestOfAttribute)):
        return int(value)
    if type(value) in (list, tuple, torch.Size):
        return type(value)(plain(item) for item in value)
    return value


def execute(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call torch with plain sizes and, on the meta device, with meta tensors only."""
    args, kwargs = plain(args), {key: plain(item) for key, item in kwargs.items()}
    if mode.on_meta and not of_constants(mode, func, args, kwargs):

        def on_meta(tensor: Tensor) -> Tensor:
            # Parameters and buffers are the model's own: whatever is done here is done to a stand-in.
            shared = mode.parameter_name(tensor) is not None
            return tensor.to("meta", copy=shared) if shared or not tensor.is_meta else tensor

        args, kwargs = map_tensors(args, on_meta), map_tensors(kwargs, on_meta)
    elif not mode.on_meta:
        # Constants of the model's own device meet a copy of the model on the CPU.
        args, kwargs = map_tensors(args, _on_cpu), map_tensors(kwargs, _on_cpu)
    return func(*args, **kwargs)


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "cpu" else tensor.cpu()


def of_constants(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Are all operands constants with values, and does the call only read them? Then it can be made as it stands."""
    if "out" in kwargs or in_place(func) or getattr(func, "__name__", "") in _WRITES:
        return False
    tensors = tensors_in((args, kwargs))
    return bool(tensors) and all(not tensor.is_meta and mode.is_constant(tensor) for tensor in tensors)


def on_labels(func: Any, labels: Labels, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Labels:
    """The call with labels, which have values, in place of the activation."""
    source = torch.from_numpy(labels if labels.flags.writeable else labels.copy())
    result: Tensor = func(source, *plain(args[1:]), **{key: plain(item) for key, item in kwargs.items()})
    return result.numpy()


def sizes_by_axis(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> list[Any]:
    """The sizes of the output axes as the call gave them; -1 where it did not."""
    sizes: list[Any] = [-1] * result.dim()
    if name == "unflatten":
        start = int(argument(args, kwargs, 1, "dim")) % args[0].dim()
        given = argument(args, kwargs, 2, "sizes")
        sizes[start : start + len(given)] = given
    elif name in ("view", "reshape"):
        sizes = list(given_sizes(args, kwargs))
    return sizes


def blank(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A meta tensor for a result of known shape, so that torch's meta kernels need not run.

    Without this ResNet50 is traced in 107 ms of processor time, with it in 15 ms: 7 ms are the grids of convolutions
    and pooling (`slid`), 85 ms norms and activations (`alike`). DenseNet-40: 82 and 15 ms (medians of 41 turns, one
    core).
    """
    return torch.empty(shape, dtype=dtype, device=_META)


def alike(source: Tensor) -> Tensor:
    """A contiguous meta tensor of `source`'s shape and type: an alias where that will do, else a blank one."""
    return source.detach() if source.is_contiguous() else blank(source.shape, source.dtype)


def slid(sizes: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any) -> list[int] | None:
    """The output grid of a window that slides over `sizes`; None where settings are unusual and torch has to say.

    Each setting is an integer or one per axis, as for convolutions and pooling. Torch refuses an empty grid here.
    """
    settings = per_axis(len(sizes), kernel, stride, padding, dilation)
    if settings is None or not _usual(sizes, *settings):
        return None
    grid = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(sizes, *settings, strict=True)]
    return grid if min(grid) > 0 else None


def spread(
    sizes: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any, extra: Any
) -> list[int] | None:
    """The grid of a transposed convolution, likewise; `extra` is its output padding. It may be empty."""
    settings = per_axis(len(sizes), kernel, stride, padding, dilation, extra)
    if settings is None or not _usual(sizes, *settings[:-1]):
        return None
    _, strides, _, dilations, extras = settings
    if not all(0 <= e < max(s, d) for s, d, e in zip(strides, dilations, extras, strict=True)):
        return None
    grid = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, d, e in zip(sizes, *settings, strict=True)
    ]
    return grid if min(grid) > 0 or (min(grid) == 0 and _may_be_empty(sizes, *settings)) else None


def _may_be_empty(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    extra: Sequence[int],
) -> bool:
    """Some of torch's kernels return an empty grid and others refuse it, so torch is asked which one it takes."""
    run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(sizes) - 1]
    try:
        run(torch.zeros(1, 1, *sizes), torch.zeros(1, 1, *kernel), None, stride, padding, extra, 1, dilation)
    except RuntimeError:
        return False
    return True


def _usual(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> bool:
    """Are all sizes, kernels and steps positive, and no padding negative? Torch refuses all else."""
    return min(*sizes, *kernel, *stride, *dilation) > 0 and min(padding) >= 0


def per_axis(axes: int, *settings: Any) -> list[Sequence[int]] | None:
    """Each setting, an integer or a sequence, as one integer per axis; None for a name or another number of axes."""
    found: list[Sequence[int]] = []
    for value in settings:
        if isinstance(value, int):
            found.append((value,) * axes)
        elif isinstance(value, str) or len(value) not in (1, axes):
            return None
        else:
            found.append(value if len(value) == axes else tuple(value) * axes)
    return found


def broadcast(shapes: Sequence[Sequence[int]]) -> list[int]:
    """The shape that operands of an element-wise operation broadcast to.

    Raises:
        ValueError: they do not fit each other.
    """
    result = [1] * max(len(shape) for shape in shapes)
    for shape in shapes:
        offset = len(result) - len(shape)
        for axis, size in enumerate(shape, start=offset):
            if size != 1 and result[axis] not in (1, size):
                raise ValueError(f"shapes {', '.join(str(tuple(item)) for item in shapes)} do not broadcast")
            result[axis] = size if result[axis] == 1 else result[axis]
    return result


def constant(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A tensor made from no other: no labels. Channels that its sizes count are frozen, as nothing ties them to it."""
    freeze_sizes(mode, [], marks_in((args, kwargs)), canonical(func))
    kwargs = {key: plain(item) for key, item in kwargs.items()}
    if "device" in kwargs:
        kwargs["device"] = "meta" if mode.on_meta else "cpu"
    return mode.mark_all(func(*plain(args), **kwargs), None)


def unknown(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """No rule: freeze what goes in and what comes out, with a warning that names the operation and the place."""
    labels: list[Labels] = []
    operands = tensors_in((args, kwargs))
    if not any(
        mode.parameter_name(tensor) is not None
        or COMPUTED in tensor.__dict__
        or mode.labels_of(tensor) is not None
        for tensor in operands
    ):
        return mode.mark_all(
            execute(mode, func, args, kwargs), None
        )  # made from constants alone, so it is one
    for tensor in operands:
        name = mode.parameter_name(tensor)
        if name is None:
            layers = tensor.__dict__.get(COMPUTED)
            found = None if layers is not None else mode.labels_of(tensor)
            labels += [] if found is None else [found]
            for layer in [] if layers is None else layers.layers.values():
                mode.freeze(layer)
        else:
            for dim, size in enumerate(tensor.shape):
                known = (name, dim) in mode.trace.slots
                rows = mode.slot(name, dim, size)
                if known:
                    labels.append(rows)
                else:
                    mode.freeze(rows)  # nothing follows it so far, so there is nothing to tell
    mode.freeze_and_warn(labels, f"no channel rule for operation '{getattr(func, '__name__', func)}'")
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, and seldom needed

    with FlopCounterMode(display=False) as counter:
        result = execute(mode, func, args, kwargs)
    if flops := counter.get_total_flops():
        mode.count("macs", flops // 2)  # a matrix product of attention, say; its channels are frozen
    for tensor in tensors_in(result):
        mode.mark(tensor, frozen_labels(tensor))
    return result
