"""Sizes that modules keep in attributes: `self.width`, `self.splits`, `conv.out_channels`.

A forward method that reads such a size and gives it to an operation (`x.split(self.width, 1)`, `x[:, :self.out_chs]`)
can be resized: the attribute is set to the new number of channels. So the integers in the attributes of the copy that
runs are marked with where they come from; what a rule learns of the channels that they count goes into
`Trace.attributes`, and `core.surgery.resize` writes the new sizes down.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn

from core.graph.labels import AttributeKey, LabelMode, Labels, SizeOfChannels

KEPT: Labels = np.zeros(1, dtype=np.int64)  # what an attribute counts that has to stay as it is
# What torch's own layers keep: their other integers (strides, groups) count no channels, or are known to the rules.
_OF_LAYERS = ("out_channels", "in_channels", "out_features", "in_features", "num_features")


@dataclass(frozen=True)
class Use:
    """What a run does with marked sizes beside giving them to operations, by the attributes that they were read off.

    Attributes:
        as_number: calculated with as a number (`self.head_dim ** -0.5`): another one after a resizing.
        in_sums: went into a size of which nothing is known (`self.width + 1`).
    """

    as_number: set[AttributeKey] = field(default_factory=set)
    in_sums: set[AttributeKey] = field(default_factory=set)


def _noted(name: str, kind: str) -> Any:
    plain = getattr(int, name)

    def method(self: SizeOfAttribute | RestOfAttribute, *others: Any) -> Any:
        getattr(self.use, kind).update(self.keys)
        for other in others:
            note_sum(other)
        return plain(self, *others)

    return method


def note_sum(size: Any) -> None:
    """A marked size goes into a sum or a quotient of which nothing is known."""
    if isinstance(size, (SizeOfAttribute, RestOfAttribute)):
        size.use.in_sums.update(size.keys)


class SizeOfAttribute(int):
    """An integer read off an attribute of a module, times `ratio`.

    Products with other integers and quotients without a remainder keep the mark. The ratio may come from further
    attributes, `others`: of heads · width of a head it is the second factor that changes. Sums give a plain integer,
    which counts as typed in, and the attribute then has to stay as it is (`Use`).
    """

    key: AttributeKey
    ratio: Fraction
    others: tuple[AttributeKey, ...]
    use: Use

    def __new__(
        cls,
        value: int,
        key: AttributeKey,
        ratio: Fraction = Fraction(1),
        others: tuple[AttributeKey, ...] = (),
        use: Use | None = None,
    ) -> SizeOfAttribute:
        """`value`, which is `ratio` times the attribute at `key`."""
        size = super().__new__(cls, value)
        size.key = key
        size.ratio = ratio
        size.others = others
        size.use = Use() if use is None else use
        return size

    @property
    def keys(self) -> tuple[AttributeKey, ...]:
        """All attributes that it was read off."""
        return (self.key, *self.others)

    def _times(self, value: int, ratio: Fraction, others: tuple[AttributeKey, ...] = ()) -> SizeOfAttribute:
        return SizeOfAttribute(value, self.key, ratio, (*self.others, *others), self.use)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, SizeOfAttribute):
            return other._times(int(self) * int(other), other.ratio * int(self), self.keys)
        if _is_plain(other):
            return self._times(int(self) * other, self.ratio * other)
        (self.use.as_number if isinstance(other, float) else self.use.in_sums).update(self.keys)
        return NotImplemented if isinstance(other, SizeOfChannels) else int(self).__mul__(other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if (_is_plain(other) or isinstance(other, SizeOfAttribute)) and int(self) % int(other) == 0:
            others = other.keys if isinstance(other, SizeOfAttribute) else ()
            return self._times(int(self) // int(other), self.ratio / int(other), others)
        note_sum(self)
        note_sum(other)
        return NotImplemented if isinstance(other, SizeOfChannels) else int(self).__floordiv__(other)

    def __neg__(self) -> SizeOfAttribute:
        return self._times(-int(self), -self.ratio)

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, SizeOfAttribute):
            return RestOfAttribute(int(self) - int(other), self, (other,))
        note_sum(self)
        return NotImplemented if isinstance(other, SizeOfChannels) else int(self).__sub__(other)

    def __deepcopy__(self, memo: dict[int, Any]) -> SizeOfAttribute:
        return self

    __add__, __radd__, __rsub__ = (_noted(f"__{name}__", "in_sums") for name in ("add", "radd", "rsub"))
    __mod__, __rmod__ = _noted("__mod__", "in_sums"), _noted("__rmod__", "in_sums")
    __rfloordiv__ = _noted("__rfloordiv__", "in_sums")
    __truediv__, __rtruediv__ = _noted("__truediv__", "as_number"), _noted("__rtruediv__", "as_number")
    __pow__, __rpow__ = _noted("__pow__", "as_number"), _noted("__rpow__", "as_number")
    __float__ = _noted("__float__", "as_number")
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
    def use(self) -> Use:
        """Where its uses are noted."""
        return self.whole.use

    @property
    def keys(self) -> tuple[AttributeKey, ...]:
        """All attributes that it was read off."""
        return tuple(key for size in (self.whole, *self.parts) for key in size.keys)

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, SizeOfAttribute):
            return RestOfAttribute(int(self) - int(other), self.whole, (*self.parts, other))
        note_sum(self)
        return int(self).__sub__(other)

    __add__, __radd__, __rsub__ = (_noted(f"__{name}__", "in_sums") for name in ("add", "radd", "rsub"))
    __mul__, __rmul__ = _noted("__mul__", "in_sums"), _noted("__rmul__", "in_sums")
    __mod__, __rmod__ = _noted("__mod__", "in_sums"), _noted("__rmod__", "in_sums")
    __floordiv__, __rfloordiv__ = _noted("__floordiv__", "in_sums"), _noted("__rfloordiv__", "in_sums")
    __neg__ = _noted("__neg__", "in_sums")
    __truediv__, __rtruediv__ = _noted("__truediv__", "as_number"), _noted("__rtruediv__", "as_number")
    __pow__, __rpow__ = _noted("__pow__", "as_number"), _noted("__rpow__", "as_number")
    __float__ = _noted("__float__", "as_number")
    __hash__ = int.__hash__


def _is_plain(other: Any) -> bool:
    return type(other) is int


def mark_attributes(module: nn.Module, use: Use) -> None:
    """Mark the integers in the attributes of a module that is about to run, a copy, and of all that it holds.

    `use` fills, as the module runs, with what is done with them.
    """
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
                state[attribute] = SizeOfAttribute(value, (name, attribute, None), use=use)
            elif type(value) in (list, tuple) and any(map(_is_size, value)):
                state[attribute] = type(value)(
                    SizeOfAttribute(item, (name, attribute, index), use=use) if _is_size(item) else item
                    for index, item in enumerate(value)
                )


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 1


def follow_attribute(mode: LabelMode, size: SizeOfAttribute, rows: Labels) -> bool:
    """The attribute that `size` was read off counts `rows`, (abs(size),), now and after every resizing.

    One attribute counts one number: rows that it has counted before are tied, position by position, or part by part
    where `size` is a multiple or a fraction of it.

    Returns:
        Whether it can be so; if not, nothing is tied, and the caller has to freeze.
    """
    ratio = abs(size.ratio)
    parts = ratio.numerator
    known = mode.trace.attributes.get(size.key)
    if len(rows) % parts or len(rows) != abs(int(size)) or (known is not None and known[0] is KEPT):
        return False
    mode.followed.add(size.key)
    for key in size.others:
        keep_attribute(mode, key)
    by_part = rows.reshape(parts, -1)
    if known is None:
        mode.trace.attributes[size.key] = by_part[0], Fraction(ratio.denominator)
    elif known[0].size % by_part.shape[1] and by_part.shape[1] % known[0].size:
        return False
    else:
        part = min(known[0].size, by_part.shape[1])
        mine, theirs = by_part[0].reshape(-1, part), known[0].reshape(-1, part)
        mode.tie(mine[:1], mine)
        mode.tie(theirs[:1], theirs)
        mode.tie(mine[0], theirs[0])
    mode.tie(by_part[:1], by_part)
    return True


def keep_attribute(mode: LabelMode, key: AttributeKey) -> None:
    """The attribute counts something that no width changes (heads, windows): what else it counts freezes."""
    known = mode.trace.attributes.get(key)
    if known is not None and known[0] is not KEPT and not mode.is_frozen(known[0]):
        name = key[1] if key[2] is None else f"{key[1]}[{key[2]}]"
        mode.freeze_and_warn(
            [known[0]], f"the attribute '{name}' counts channels and something of fixed size"
        )
    mode.trace.attributes[key] = KEPT, Fraction(1)


def keep_sizes(mode: LabelMode, value: Any, followed: Collection[AttributeKey] = ()) -> None:
    """The attributes that sizes among nested arguments were read off stay as they are, `followed` ones aside."""
    if isinstance(value, (SizeOfAttribute, RestOfAttribute)):
        for key in value.keys:
            if key not in followed:
                keep_attribute(mode, key)
    elif isinstance(value, (tuple, list)):
        for item in value:
            keep_sizes(mode, item, followed)
    elif isinstance(value, dict):
        keep_sizes(mode, list(value.values()), followed)


def note_use(mode: LabelMode, use: Use) -> None:
    """What a run did with sizes by way of arithmetic: channels counted by a number are inexact, by a sum frozen."""
    for key, (rows, _) in list(mode.trace.attributes.items()):
        if key in use.in_sums:
            keep_attribute(mode, key)
        elif key in use.as_number:
            mode.inexact(rows)
