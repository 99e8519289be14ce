"""Sizes that modules keep in attributes: `self.width`, `self.splits`, `conv.out_channels`.

A forward method that reads such a size and gives it to an operation (`x.split(self.width, 1)`, `x[:, :self.out_chs]`)
can be resized: the attribute is set to the new number of channels. So the traced copy carries marked integers in its
attributes: each knows where it comes from. A rule notes in `Trace.attributes` which channels such a size counts, and
`core.surgery.resize` sets the attributes to the new sizes.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn

from core.graph.labels import (
    FROZEN,
    AttributeKey,
    LabelMode,
    Labels,
    Note,
    SizeOfChannels,
    Trace,
    calculated,
    instances_in,
)

# Sizes that torch's own layers keep; their other integers (strides, groups) count no channels, or the rules know them.
_OF_LAYERS = ("out_channels", "in_channels", "out_features", "in_features", "num_features")


def _typed_in(name: str, noted: str) -> Any:
    plain = getattr(int, name)

    def method(self: SizeOfAttribute | RestOfAttribute, *others: Any) -> Any:
        if any(isinstance(other, SizeOfChannels) for other in others):
            return NotImplemented
        for size in (self, *others):
            if isinstance(size, (SizeOfAttribute, RestOfAttribute)):
                getattr(self.trace, noted).update(size.keys)
        if noted == "numbers":
            return calculated(
                name, self.trace.inexact.attribute(self), *map(self.trace.inexact.attribute, others)
            )
        return plain(self, *others)

    return method


class SizeOfAttribute(int):
    """An integer read off an attribute of a module, times `ratio`.

    Products with integers and quotients without a remainder keep the mark. The ratio may come from further attributes,
    `others`: in heads · width of a head the second factor changes. Any other arithmetic gives a number that counts as
    typed in. A sum pins the attribute (`Trace.pinned`). A calculation such as `self.dim ** -0.5` makes the channels
    that the attribute counts inexact (`Trace.numbers`).
    """

    key: AttributeKey
    trace: Trace
    ratio: Fraction
    others: tuple[AttributeKey, ...]

    def __new__(
        cls,
        value: int,
        key: AttributeKey,
        trace: Trace,
        ratio: Fraction = Fraction(1),
        others: tuple[AttributeKey, ...] = (),
    ) -> SizeOfAttribute:
        """`value`, which is `ratio` times the attribute at `key`."""
        size = super().__new__(cls, value)
        size.key = key
        size.trace = trace
        size.ratio = ratio
        size.others = others
        return size

    @property
    def keys(self) -> tuple[AttributeKey, ...]:
        """All attributes that the size was read off."""
        return (self.key, *self.others)

    def _times(self, value: int, ratio: Fraction, others: tuple[AttributeKey, ...] = ()) -> SizeOfAttribute:
        return SizeOfAttribute(value, self.key, self.trace, ratio, (*self.others, *others))

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, SizeOfAttribute):
            return other._times(int(self) * int(other), other.ratio * int(self), self.keys)
        if _is_plain(other):
            return self._times(int(self) * int(other), self.ratio * other)
        if isinstance(other, float):
            self.trace.numbers.update(self.keys)
            return self.trace.inexact.attribute(self) * other
        self.trace.pinned.update(self.keys)
        return NotImplemented if isinstance(other, SizeOfChannels) else int(self).__mul__(other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        attribute = isinstance(other, SizeOfAttribute)
        if (attribute or _is_plain(other)) and int(self) % int(other) == 0:
            others = other.keys if attribute else ()
            return self._times(int(self) // int(other), self.ratio / int(other), others)
        self.trace.pinned.update(self.keys, other.keys if attribute else ())
        return NotImplemented if isinstance(other, SizeOfChannels) else int(self).__floordiv__(other)

    def __neg__(self) -> SizeOfAttribute:
        return self._times(-int(self), -self.ratio)

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, SizeOfAttribute):
            return RestOfAttribute(int(self) - int(other), self, (other,))
        if isinstance(other, SizeOfChannels):
            return NotImplemented
        self.trace.pinned.update(self.keys)
        return int(self).__sub__(other)

    def __deepcopy__(self, memo: dict[int, Any]) -> SizeOfAttribute:
        return self

    __add__, __radd__ = _typed_in("__add__", "pinned"), _typed_in("__radd__", "pinned")
    __rsub__, __rfloordiv__ = _typed_in("__rsub__", "pinned"), _typed_in("__rfloordiv__", "pinned")
    __mod__, __rmod__ = _typed_in("__mod__", "pinned"), _typed_in("__rmod__", "pinned")
    __truediv__, __rtruediv__ = _typed_in("__truediv__", "numbers"), _typed_in("__rtruediv__", "numbers")
    __pow__, __rpow__ = _typed_in("__pow__", "numbers"), _typed_in("__rpow__", "numbers")
    __float__ = _typed_in("__float__", "numbers")
    __hash__ = int.__hash__


class RestOfAttribute(int):
    """What is left of a size when others are taken away: `self.dim - self.part`, the last part of a split."""

    whole: SizeOfAttribute
    parts: tuple[SizeOfAttribute, ...]

    def __new__(
        cls, value: int, whole: SizeOfAttribute, parts: tuple[SizeOfAttribute, ...]
    ) -> RestOfAttribute:
        """`value`, which is `whole` less the sum of `parts`."""
        size = super().__new__(cls, value)
        size.whole = whole
        size.parts = parts
        return size

    @property
    def trace(self) -> Trace:
        """Where its uses are noted."""
        return self.whole.trace

    @property
    def keys(self) -> tuple[AttributeKey, ...]:
        """All attributes that the size was read off."""
        return tuple(key for size in (self.whole, *self.parts) for key in size.keys)

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, SizeOfAttribute):
            return RestOfAttribute(int(self) - int(other), self.whole, (*self.parts, other))
        self.trace.pinned.update(self.keys)
        return NotImplemented if isinstance(other, SizeOfChannels) else int(self).__sub__(other)

    __add__, __radd__ = _typed_in("__add__", "pinned"), _typed_in("__radd__", "pinned")
    __mul__, __rmul__ = _typed_in("__mul__", "pinned"), _typed_in("__rmul__", "pinned")
    __mod__, __rmod__ = _typed_in("__mod__", "pinned"), _typed_in("__rmod__", "pinned")
    __floordiv__, __rfloordiv__ = _typed_in("__floordiv__", "pinned"), _typed_in("__rfloordiv__", "pinned")
    __rsub__, __neg__ = _typed_in("__rsub__", "pinned"), _typed_in("__neg__", "pinned")
    __truediv__, __rtruediv__ = _typed_in("__truediv__", "numbers"), _typed_in("__rtruediv__", "numbers")
    __pow__, __rpow__ = _typed_in("__pow__", "numbers"), _typed_in("__rpow__", "numbers")
    __float__ = _typed_in("__float__", "numbers")
    __hash__ = int.__hash__


def _is_plain(other: Any) -> bool:
    return isinstance(other, int) and not isinstance(
        other, (bool, SizeOfChannels, SizeOfAttribute, RestOfAttribute)
    )


def mark_attributes(module: nn.Module, trace: Trace) -> None:
    """Mark the integers in the attributes of a copied module that is about to run, and of all that it holds."""
    for name, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            continue
        state = child.__dict__
        own = _OF_LAYERS if type(child).__module__.startswith("torch.nn.") else tuple(state)
        for attribute in own:
            value = state.get(attribute)
            if attribute[0] == "_" or value is None:
                continue
            if _is_size(value):
                state[attribute] = SizeOfAttribute(value, (name, attribute, None), trace)
            elif type(value) in (list, tuple) and any(map(_is_size, value)):
                state[attribute] = type(value)(
                    SizeOfAttribute(item, (name, attribute, index), trace) if _is_size(item) else item
                    for index, item in enumerate(value)
                )


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 1


def follow_attribute(mode: LabelMode, size: SizeOfAttribute, rows: Labels) -> bool:
    """Note that the attribute behind `size` counts `rows`, (abs(size),), now and after every resizing.

    One attribute counts one number: rows that it has counted before are tied, position by position, or part by part
    where `size` is a multiple or a fraction of it.

    Returns:
        Whether that is possible; if not, nothing is tied, and the caller has to freeze.
    """
    ratio = abs(size.ratio)
    parts = ratio.numerator
    if len(rows) % parts or len(rows) != abs(int(size)):
        return False
    by_part = rows.reshape(parts, -1)
    known = mode.trace.attributes.get(size.key)
    if known is not None and known[0].size % by_part.shape[1] and by_part.shape[1] % known[0].size:
        return False
    mode.trace.pinned.update(size.others)
    mode.followed.append(size.key)
    if known is None:
        mode.trace.attributes[size.key] = by_part[0], Fraction(ratio.denominator)
    else:
        mode.tie_by_part(by_part[0], known[0])
    mode.tie(by_part[:1], by_part)
    return True


def sizes_of_attributes(value: Any) -> list[SizeOfAttribute | RestOfAttribute]:
    """All sizes of attributes in nested arguments."""
    return instances_in(value, (SizeOfAttribute, RestOfAttribute))


def settle_attributes(trace: Trace) -> None:
    """Freeze what pinned attributes count (they cannot follow); what attributes in calculations count is not exact."""
    for key in sorted(trace.attributes.keys() & trace.pinned, key=str):
        rows, _ = trace.attributes.pop(key)
        told = bool(trace.frozen) and np.isin(rows, np.concatenate(trace.frozen)).all()
        trace.frozen.append(rows)
        if (rows != FROZEN).any() and not told:
            note = Note(
                f"the attribute '{key[1]}' is also a size that cannot follow",
                key[0] or "the model's own forward",
            )
            trace.notes.append(note)
    trace.inexact += [trace.attributes[key][0] for key in trace.attributes.keys() & trace.numbers]
