"""A masked network whose operations over channels run over the kept ones alone.

A mean over channels, a softmax, a product of queries and keys, a standardised weight: with masked channels in it, each
differs from the cut network's. So the masked network runs once more on labelled values, as in the trace: the labels say
which channels an operation runs over, and which of them are kept. Such an operation is repeated on the kept channels
alone, and its result replaces the first. Sizes in calculations are numbers of kept channels.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.graph.attributes import SizeOfAttribute, mark_attributes
from core.graph.channels import ChannelGraph
from core.graph.labels import (
    AXES,
    COMPUTED,
    LABELS,
    Inexact,
    LabelMode,
    Labels,
    SizeOfChannels,
    Trace,
    frozen_labels,
)
from core.graph.rules import apply_rule
from core.graph.rules.calls import canonical, plain
from core.graph.rules.computed import computed
from core.graph.tracing import matches
from core.modules import FORWARD_FAILURES, axis_shape, call, map_tensors, named_tensors, tensors_in

Flags = NDArray[np.bool_]
_WITH_WEIGHTS = ("conv", "linear")  # how the names of operations with a weight begin


class NotSeparable(Exception):
    """An operation over channels cannot be repeated over the kept ones alone; the message says why."""


def run_over_kept(masked: nn.Module, graph: ChannelGraph, flags: Flags, inputs: Any) -> Any:
    """The output of a masked network whose operations over channels run over the kept ones.

    Args:
        masked: see `core.surgery.verification.mask_channels`; its hooks and attributes are changed.
        graph: of the network.
        flags: see `core.surgery.resize.keep_flags`.
        inputs: on the CPU.

    Raises:
        NotSeparable: an operation cannot run over the kept channels alone.
    """
    # A label is a choice of the graph, plus one: 0 stays frozen.
    labels = {id(table): table + 1 for table in graph.slots.values()}
    trace = Trace(
        slots={key: labels[id(table)] for key, table in graph.slots.items()},
        parameters={name: tensor.shape for name, tensor in masked.named_parameters()},
        inexact=_KeptNumbers(graph, flags),
    )
    mark_attributes(masked, trace)
    mode = _OverKept(masked, trace, flags)
    freeze = graph.options.freeze
    mode.frozen_names = frozenset(name for name in mode.names.values() if matches(name, freeze))
    for name, child in masked.named_modules():
        mode.watch(name, child, matches(name, freeze), False)
    for tensor in tensors_in(inputs):
        mode.mark(tensor, frozen_labels(tensor))
    try:
        with mode:
            return call(masked, inputs)
    except FORWARD_FAILURES as error:
        raise NotSeparable((str(error) or type(error).__name__).splitlines()[0]) from error
    finally:
        mode.place.clear()


def _put(whole: Tensor, part: Tensor, places: list[tuple[int, Tensor]]) -> None:
    """Write `part` into the rows of `whole` that `places` names, axis by axis."""
    if not places:
        whole.copy_(part)
        return
    (axis, rows), *others = places
    if others:
        inner = whole.index_select(axis, rows)
        _put(inner, part, others)
        part = inner
    whole.index_copy_(axis, rows, part)


class _KeptNumbers(Inexact):
    """Sizes of channels as the cut network has them."""

    def __init__(self, graph: ChannelGraph, flags: Flags) -> None:
        super().__init__()
        self.graph, self.flags = graph, flags

    def number(self, size: SizeOfChannels) -> int:
        if not size.proportional and not size.factors:
            raise NotSeparable("a sum of sizes is calculated with")
        number = Fraction(int(size))
        for labels in size.factors or (size.labels,):
            number *= Fraction(int(self.flags[labels - 1].sum()), labels.size)
        return _whole(number)

    def attribute(self, size: Any) -> Any:
        keys = getattr(size, "keys", ())
        if not any(key in self.graph.attributes for key in keys):
            return super().attribute(size)
        if not isinstance(size, SizeOfAttribute) or size.others:
            raise NotSeparable("a number is computed from several attributes")
        table, each = self.graph.attributes[size.key]
        return _whole(int(self.flags[table].sum()) * each * size.ratio)


def _whole(number: Fraction) -> int:
    if number.denominator != 1:
        raise NotSeparable("a size that is calculated with is no whole number of kept channels")
    return int(number)


class _OverKept(LabelMode):
    """Labels beside values; operations over channels are repeated over the kept ones."""

    def __init__(self, masked: nn.Module, trace: Trace, flags: Flags) -> None:
        super().__init__(masked, named_tensors(masked), False, apply_rule, trace, {})
        self.replays = True
        self.flags = flags
        self.over: list[Labels] = []

    def fresh(self, size: int) -> Labels:
        return np.zeros(size, dtype=np.int64)

    def inexact(self, labels: Labels) -> None:
        self.over.append(labels)

    def is_constant(self, tensor: Tensor) -> bool:
        """The trace has refused tensors of unknown origin, so what has no labels is a constant."""
        return id(tensor) not in self.names and not tensor.__dict__.keys() & {LABELS, COMPUTED, AXES}

    def mark(self, tensor: Tensor, labels: Labels | None) -> Tensor:
        return tensor if labels is None and self.is_constant(tensor) else super().mark(tensor, labels)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.over = []
        if canonical(func).startswith(_WITH_WEIGHTS):
            args, kwargs = map_tensors(args, self._masked), map_tensors(kwargs, self._masked)
        result = super().__torch_function__(func, types, args, kwargs)
        if self.over:
            choices = np.unique(np.concatenate([labels.reshape(-1) for labels in self.over]))
            if not self.flags[choices - 1].all():
                self._repeat(func, args, kwargs, result, choices[choices > 0])
        return result

    def _masked(self, tensor: Tensor) -> Tensor:
        """Mask a weight that is computed from masked ones: a mean that is subtracted, say, would leave it unmasked."""
        if COMPUTED not in tensor.__dict__:
            return tensor
        result = tensor
        for axis, keep in enumerate(self._keeps(tensor)):
            if keep is not None:
                result = result * torch.from_numpy(keep[1]).reshape(axis_shape(axis, tensor.dim()))
        if result is not tensor:
            result.__dict__.update(tensor.__dict__)
        return result

    def _repeat(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, choices: Labels
    ) -> None:
        """Repeat a call over the kept ones of these channels, and write its outcome into the result."""

        def kept(tensor: Tensor) -> Tensor:
            for axis, keep in enumerate(self._keeps(tensor)):
                if keep is not None and np.isin(keep[0], choices).any():
                    tensor = tensor.index_select(axis, torch.from_numpy(np.flatnonzero(keep[1])))
            return tensor

        given, named = map_tensors(plain(args), kept), map_tensors(plain(kwargs), kept)
        if canonical(func) in ("layer_norm", "rms_norm"):
            shape = given[0].shape[given[0].dim() - len(given[1]) :]
            given = (given[0], list(shape), *given[2:])
        fewer = tensors_in(func(*given, **named))
        for whole, part in zip(tensors_in(result), fewer, strict=True):
            places = []
            for axis, keep in enumerate(self._keeps(whole)):
                if whole.shape[axis] != part.shape[axis]:
                    if keep is None or int(keep[1].sum()) != part.shape[axis]:
                        raise NotSeparable(f"'{canonical(func)}' moves the channels that it runs over")
                    places.append((axis, torch.from_numpy(np.flatnonzero(keep[1]))))
            with torch.no_grad():
                _put(whole, part, places)

    def _keeps(self, tensor: Tensor) -> list[tuple[Labels, Flags] | None]:
        """(labels, which positions are kept) along each axis of a tensor; None where all positions are."""
        found: list[tuple[Labels, Flags] | None] = [None] * tensor.dim()
        for labels in self._layers(tensor):
            flags = self.flags[labels - 1]
            if flags.all():
                continue
            whole = np.ones_like(flags)
            for axis in range(labels.ndim):
                if labels.shape[axis] == 1:
                    continue
                own: Flags = np.asarray(
                    flags.any(tuple(other for other in range(labels.ndim) if other != axis))
                )
                whole &= own.reshape([-1 if other == axis else 1 for other in range(labels.ndim)])
                if own.all():
                    continue
                before, both = found[axis], labels.reshape(-1)
                if before is not None:
                    both, own = np.concatenate([before[0], both]), before[1] & own
                found[axis] = both, own
            if not np.array_equal(whole, flags):
                raise NotSeparable("channels that go lie across two axes")
        return found

    def _layers(self, tensor: Tensor) -> list[Labels]:
        several = tensor.__dict__.get(AXES)
        if several is not None:
            axes = enumerate(several)
            return [self.shaped(vector, axis, tensor.dim()) for axis, vector in axes if vector is not None]
        own = computed(self, tensor)
        labels = self.known_labels(tensor)
        return list(own.layers.values()) if own is not None else [] if labels is None else [labels]
