"""What is known of tensors that are computed from parameters alone, and of the weights that layers are given.

A parameter of several dimensions has one array of labels for each of them, its layers: (O, 1, 1, 1) for the rows of a
convolution's weight, (1, I, 1, 1) for its columns. `core.graph.rules.weights` moves them; a convolution finds the rows
and columns of the parameter on the weight that it is given (`weight_of`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from core.graph.labels import COMPUTED, LABELS, LabelMode, Labels, SizeOfChannels, SlotKey, owner_of
from core.graph.rules.blocks import expanded, varying
from core.modules import axis_shape


@dataclass(frozen=True)
class Computed:
    """What is known of a tensor that is computed from parameters.

    Attributes:
        layers: dimension of a parameter -> its labels, of the tensor's rank; an axis that they do not vary along has
            size 1.
        zero: whether an entry is zero where its parameter is.
        reasons: layers that keep their size, and why; told where the tensor is used as a weight.
    """

    layers: dict[SlotKey, Labels]
    zero: bool
    reasons: dict[SlotKey, str] = field(default_factory=dict)

    def along(self, axis: int) -> list[SlotKey]:
        """The layers that vary along an axis."""
        return [key for key, labels in self.layers.items() if labels.shape[axis] > 1]


def computed(mode: LabelMode, tensor: Tensor) -> Computed | None:
    """The layers of a parameter, a buffer or what is computed from them; None for all else."""
    found: Computed | None = tensor.__dict__.get(COMPUTED)
    if found is not None or mode.frozen_depth:
        return found
    name = mode.parameter_name(tensor)
    if name is None or name in mode.frozen_names or id(tensor) in mode.relabelled:
        return None
    layers = {}
    for dim, size in enumerate(tensor.shape):
        if size > 1:
            layers[name, dim] = mode.slot(name, dim, size).reshape(axis_shape(dim, tensor.dim()))
    return Computed(layers, isinstance(tensor, nn.Parameter)) if layers else None


def layers_of(mode: LabelMode, tensor: Tensor) -> Computed:
    """The layers of a tensor that is known to have some."""
    found = computed(mode, tensor)
    assert found is not None
    return found


def mark(mode: LabelMode, tensor: Tensor, found: Computed) -> Tensor:
    """Attach layers to a result. A single layer along one axis also serves as labels of an activation."""
    if mode.parameter_name(tensor) is not None:
        return tensor  # changed in place: its layers are still its own
    layers = list(found.layers.values())
    if not layers:
        return mode.mark(tensor, None)
    tensor.__dict__[COMPUTED] = found
    if len(layers) == 1 and len(varying(layers[0])) == 1 and not found.reasons:
        return mode.mark(tensor, layers[0])
    tensor.__dict__.pop(LABELS, None)
    return tensor


# ---- the weight of a convolution or a linear layer ----------------------------------------------------------------


@dataclass(frozen=True)
class Weight:
    """The first two dimensions of a weight: a parameter's own, or those that a computed weight has kept."""

    mode: LabelMode
    owner: str
    shape: Sequence[int]
    keys: tuple[SlotKey | None, SlotKey | None]
    rows: tuple[Labels | None, Labels | None] | None = None  # None: the parameter itself

    def slot(self, dim: int) -> Labels:
        """The labels along one of the two, (size,)."""
        if self.rows is None:
            name, at = self.keys[dim]  # type: ignore[misc]
            return self.mode.slot(name, at, self.shape[dim])
        found = self.rows[dim]
        return np.zeros(self.shape[dim], dtype=np.int64) if found is None else found

    def known(self, dim: int) -> Labels | None:
        """These labels, if something has been tied to them."""
        if self.rows is not None:
            return self.rows[dim]
        return self.mode.trace.slots.get(self.keys[dim])  # type: ignore[arg-type]

    def tie(self, dim: int, labels: Labels) -> None:
        """Make one of the two follow channels, (size,)."""
        if self.rows is None:
            name, at = self.keys[dim]  # type: ignore[misc]
            self.mode.tie_slot(name, at, labels)
        else:
            self.mode.tie(self.slot(dim), labels)

    def produce(self, dim: int) -> None:
        """Note that the layer that owns the weight produces these channels."""
        key = self.keys[dim]
        if key is not None:
            self.mode.trace.producers.setdefault(self.owner or key[0], key)


def weight_of(mode: LabelMode, tensor: Tensor) -> Weight | None:
    """A weight's rows and columns; None where no parameter gives them, so that it has to be left as it is."""
    name = mode.parameter_name(tensor)
    if name is not None:
        own = Weight(mode, owner_of(name), tensor.shape, ((name, 0), (name, 1)))
        if name in mode.frozen_names:  # both sides keep their widths, as a frozen layer's do
            for dim in (0, 1):
                mode.freeze(own.slot(dim))
        return own
    found = computed(mode, tensor)
    if found is None or tensor.dim() < 2 or mode.frozen_depth:
        return None
    mode.trace.computed.update(source for source, _ in found.layers)
    keys: list[SlotKey | None] = []
    rows: list[Labels | None] = []
    for axis in (0, 1):
        key = principal(mode, found, axis)
        labels = None if key is None else found.layers[key]
        if key is not None and key in found.reasons:
            mode.freeze_and_warn([found.layers[key]], f"a weight computed by {found.reasons[key]}")
        keys.append(key)
        rows.append(None if labels is None else expanded(labels, axis, tensor.shape[axis]))
    first = next((key for key in keys if key is not None), next(iter(found.layers)))
    return Weight(mode, owner_of(first[0]), tensor.shape, (keys[0], keys[1]), (rows[0], rows[1]))


def principal(mode: LabelMode, found: Computed, axis: int) -> SlotKey | None:
    """The layer along an axis that counts channels; any others (a kernel's) keep their sizes."""
    keys = found.along(axis)
    chosen = [key for key in keys if key[1] < 2] if len(keys) > 1 else keys
    if len(chosen) == 1 and len(varying(found.layers[chosen[0]])) == 1:
        for key in keys:
            if key != chosen[0]:
                mode.freeze(found.layers[key])
        return chosen[0]
    for key in keys:
        mode.freeze_and_warn([found.layers[key]], "a weight whose dimensions are merged")
    return None


# ---- sizes ----------------------------------------------------------------------------------------------------------


def marked_size(mode: LabelMode, tensor: Tensor, axis: int) -> int:
    """A size of a weight, marked with the channels that it counts."""
    size = int(tensor.shape[axis])
    found = computed(mode, tensor)
    keys = [] if found is None else found.along(axis)
    keys = [key for key in keys if key[1] < 2] if len(keys) > 1 else keys
    if found is None or len(keys) != 1 or len(varying(found.layers[keys[0]])) != 1:
        return size
    return SizeOfChannels(size, expanded(found.layers[keys[0]], axis, size), inexact=mode.trace.inexact)


def marked_numel(mode: LabelMode, tensor: Tensor) -> int:
    """The number of a tensor's entries, which follows all its channels."""
    found, own = tensor.__dict__.get(COMPUTED), mode.known_labels(tensor)
    layers = list(found.layers.values()) if found is not None else [] if own is None else [own]
    layers = [item.reshape(-1) for item in layers if item.size > 1]
    if not layers:
        return tensor.numel()
    size = SizeOfChannels(tensor.numel(), np.concatenate(layers), False, mode.trace.inexact)
    size.factors = layers
    return size


def has_rows(mode: LabelMode, tensor: Tensor) -> bool:
    """Is it a weight, or computed from one: a tensor whose first dimension counts channels, as far as one can tell?"""
    if COMPUTED in tensor.__dict__:
        return True
    name = mode.parameter_name(tensor)
    if name is None or tensor.dim() == 0 or tensor.shape[0] == 1:
        return False
    rows = mode.trace.slots.get((name, 0))  # a table of masks counts windows
    return isinstance(tensor, nn.Parameter) or (rows is not None and not mode.is_frozen(rows))
