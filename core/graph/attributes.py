"""Sizes that modules keep in attributes: `self.width`, `self.splits`, `conv.out_channels`.

A forward method that reads such a size and gives it to an operation (`x.split(self.width, 1)`, `x[:, :self.out_chs]`)
can be resized: the attribute is set to the new number of channels. So the integers in the attributes of the copy that
runs are marked with where they come from; what a rule learns of the channels that they count goes into
`Trace.attributes`, and `core.surgery.resize` writes the new sizes down.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import nn

from core.graph.labels import AttributeKey, LabelMode, Labels, SizeOfChannels

# What torch's own layers keep: their other integers (strides, groups) count no channels, or are known to the rules.
_OF_LAYERS = ("out_channels", "in_channels", "out_features", "in_features", "num_features")


class SizeOfAttribute(int):
    """An integer read off an attribute of a module, times `ratio`.

    Products with plain integers and quotients without a remainder keep the mark; any other arithmetic gives a plain
    integer, which counts as typed in.
    """

    key: AttributeKey
    ratio: Fraction

    def __new__(cls, value: int, key: AttributeKey, ratio: Fraction = Fraction(1)) -> SizeOfAttribute:
        """`value`, which is `ratio` times the attribute at `key`."""
        size = super().__new__(cls, value)
        size.key = key
        size.ratio = ratio
        return size

    def __mul__(self, other: Any) -> Any:
        value = NotImplemented if isinstance(other, SizeOfChannels) else int(self).__mul__(other)
        return SizeOfAttribute(value, self.key, self.ratio * other) if _is_plain(value, other) else value

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        value = NotImplemented if isinstance(other, SizeOfChannels) else int(self).__floordiv__(other)
        whole = _is_plain(value, other) and value * int(other) == int(self)
        return SizeOfAttribute(value, self.key, self.ratio / other) if whole else value

    def __neg__(self) -> SizeOfAttribute:
        return SizeOfAttribute(-int(self), self.key, -self.ratio)

    def __deepcopy__(self, memo: dict[int, Any]) -> SizeOfAttribute:
        return self

    __hash__ = int.__hash__


def _is_plain(value: Any, other: Any) -> bool:
    return type(value) is int and isinstance(other, int) and not isinstance(other, bool)


def mark_attributes(module: nn.Module) -> None:
    """Mark the integers in the attributes of a module that is about to run, a copy, and of all that it holds."""
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
                state[attribute] = SizeOfAttribute(value, (name, attribute, None))
            elif type(value) in (list, tuple) and any(map(_is_size, value)):
                state[attribute] = type(value)(
                    SizeOfAttribute(item, (name, attribute, index)) if _is_size(item) else item
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
    if len(rows) % parts or len(rows) != abs(int(size)):
        return False
    by_part = rows.reshape(parts, -1)
    known = mode.trace.attributes.get(size.key)
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
