"""A network at other widths that starts as its factory would start it there; see `core.surgery.recording`.

The factory runs once as it is and once at the new widths. Numbers that come from its own arguments do not follow the
widths. For these, one formula of the widths has to give the numbers of all tensors that a line of code has filled
(`core.surgery.fans`); what it gives at the new widths goes into a third run.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import UserError
from core.modules import FORWARD_FAILURES, named_tensors
from core.surgery.fans import EXACT, fitting, quantities, settled, weight_of
from core.surgery.recording import DEPTH, Key, Made, Plan, Recording, Shape, Use, alike, repeat_rows, watch

_VALUES = (
    "aten.fill_",
    "aten.full",
    "aten.full_like",
    "aten.new_full",
    "aten.add_",
    "aten.add",
    "aten.clamp_",
)


@dataclass(frozen=True)
class Start:
    """What a factory gives at other widths.

    Attributes:
        values: tensor -> its values.
        unknown: tensor -> why the rule of its values is not known.
        missing: tensor -> the factory's own values, where these did not follow the widths at all.
    """

    values: dict[str, Tensor]
    unknown: dict[str, str]
    missing: dict[str, Tensor]


def start(factory: Callable[[], nn.Module], like: nn.Module, module: nn.Module) -> Start:
    """Run a factory so that its network gets the widths of `module`; draws from torch's global generator.

    The generators are left as one call of the factory leaves them.

    Args:
        factory: builds a network that has every tensor of `like`, at its widths.
        like: a network of the factory's, perhaps without some of its blocks.
        module: this network at other widths; only its shapes and attributes are read.

    Raises:
        UserError: the factory builds another network. What the factory itself raises at its own widths passes through.
    """
    before = _generators()
    first = watch(factory)
    own = dict(named_tensors(first.model))
    wanted: dict[str, Shape] = {}
    for (name, old), (_, new) in zip(named_tensors(like), named_tensors(module), strict=True):
        if name not in own or own[name].shape != old.shape:
            there = f"shape {tuple(own[name].shape)}" if name in own else "no such tensor"
            raise UserError(
                f"the factory builds another network than the model, whose '{name}' has shape {tuple(old.shape)}: it "
                f"gives {there}"
            )
        wanted[name] = tuple(new.shape)
    changed = {name: shape for name, shape in wanted.items() if shape != own[name].shape}
    attributes = _attributes(first, like, module)
    of_torch = {name: shape for name, shape in changed.items() if _belongs_to_torch(like, name)}
    last = None
    for some in (changed, of_torch):  # the code of other layers may check sizes that do not follow
        plan = Plan(_shapes(first, own, some), attributes)
        with _again(before):
            try:
                last = watch(factory, plan)
                break
            except (*FORWARD_FAILURES, AssertionError):
                continue
    if last is None:  # it loads stored weights, say: there is only what it did at its own widths
        return _sorted_out({name: own[name].detach() for name in wanted}, {}, wanted, {})
    numbers, unknown = _numbers(first, last, wanted, _groups(like), _groups(module))
    if numbers:
        with _again(before):
            last = watch(factory, Plan(plan.shapes, plan.attributes, numbers))
    result = dict(named_tensors(last.model))
    values = {}
    for name, shape in wanted.items():
        if name in result and result[name].shape == shape and last.keys.get(name) not in last.repeated:
            values[name] = result[name].detach()
    left = {name: own[name].detach() for name in wanted if name not in values}
    return _sorted_out(left, values, wanted, {name: why for name, why in unknown.items() if name in values})


def _belongs_to_torch(model: nn.Module, name: str) -> bool:
    return type(model.get_submodule(name.rpartition(".")[0])).__module__.startswith("torch.nn.")


def _sorted_out(
    left: Mapping[str, Tensor],
    values: dict[str, Tensor],
    wanted: Mapping[str, Shape],
    unknown: dict[str, str],
) -> Start:
    """Tensors that did not follow stay as they are where their shape does, or where all their rows are alike."""
    missing = {}
    for name, tensor in left.items():
        if alike(tensor, wanted[name]):
            values[name] = repeat_rows(tensor, wanted[name])
        else:
            missing[name] = tensor
    return Start(values, unknown, missing)


def _shapes(first: Recording, own: Mapping[str, Tensor], changed: Mapping[str, Shape]) -> dict[Key, Shape]:
    """Storage -> the shape to make it with, so that the tensors made from it get the wanted shapes."""
    shapes: dict[Key, Shape] = {}

    def want(key: Key | None, old: Shape, strides: Shape, new: Shape) -> None:
        made = first.made.get(key) if key is not None else None
        if key is None or made is None or key in shapes:
            return
        whole = _whole(made.shape, old, strides, new)
        if whole is None or whole == made.shape:
            return
        shapes[key] = whole
        for source, shape, source_strides in made.inputs:
            before = _broadcast(shape, made.shape, whole)
            if before is not None and before != shape:
                want(source, shape, source_strides, before)

    for name, shape in changed.items():
        want(first.keys.get(name), tuple(own[name].shape), own[name].stride(), shape)
    return shapes


def _whole(made: Shape, old: Shape, strides: Shape, new: Shape) -> Shape | None:
    """The new shape of a storage whose view changes shape; None where the view does not cover all of it."""
    steps = [1]
    for size in reversed(made[1:]):
        steps.insert(0, steps[0] * size)
    result = list(made)
    matched = set()
    for size, stride, wanted in zip(old, strides, new, strict=True):
        places = [i for i, own in enumerate(made) if own == size and steps[i] == stride and own > 1]
        if places and places[0] not in matched:
            matched.add(places[0])
            result[places[0]] = wanted
        elif size != wanted:
            return new if made == old else None
    if any(size > 1 and i not in matched for i, size in enumerate(made)):
        return new if made == old else None
    return tuple(result)


def _broadcast(shape: Shape, made: Shape, new: Shape) -> Shape | None:
    """The shape that an operand needs for an operation to give `new`, value by value or by repeating rows."""
    if len(shape) > len(made):
        return None
    result = []
    for size, old, wanted in zip(reversed(shape), reversed(made), reversed(new)):
        times = old // max(1, size)
        if size == 1:
            result.append(1)
        elif size * times == old and wanted % times == 0:
            result.append(wanted // times)
        else:
            return None
    return tuple(reversed(result))


def _attributes(first: Recording, like: nn.Module, module: nn.Module) -> dict[Key, dict[str, Any]]:
    """Layer -> the sizes that it has at the new widths."""
    changed: dict[str, dict[str, Any]] = {}
    for (name, old), (_, new) in zip(like.named_modules(), module.named_modules(), strict=True):
        differs = {
            key: value
            for key, value in vars(new).items()
            if isinstance(value, (int, tuple, list))
            and not isinstance(value, bool)
            and vars(old).get(key) != value
        }
        if differs:
            changed[name] = differs
    names = {id(layer): name for name, layer in first.model.named_modules()}
    found = {key: changed.get(names.get(id(layer), ""), {}) for key, layer in first.layers.items()}
    return {key: value for key, value in found.items() if value}


def _groups(model: nn.Module) -> dict[str, int]:
    """Layer -> its convolution groups."""
    return {
        name: layer.groups
        for name, layer in model.named_modules()
        if isinstance(getattr(layer, "groups", None), int)
    }


@dataclass(frozen=True)
class _Entry:
    """A number that filled a tensor of the network, or a tensor that it was made from."""

    key: Key
    index: int
    use: Use
    name: str
    old: Mapping[str, float]
    new: Mapping[str, float]
    now: float | None  # what the code used in the second run

    @property
    def followed(self) -> bool:
        return self.now is not None and self.now != self.use.number

    def rule(self, depth: int) -> tuple[Any, ...]:
        return (self.use.operation, self.use.place, self.use.site[:depth])


def _numbers(
    first: Recording,
    last: Recording,
    wanted: Mapping[str, Shape],
    groups: Mapping[str, int],
    new_groups: Mapping[str, int],
) -> tuple[dict[tuple[Key, int], float], dict[str, str]]:
    """(numbers that have to follow the widths but did not, tensor -> why its number is not known)."""
    own = {name: tuple(tensor.shape) for name, tensor in named_tensors(first.model)}
    entries = []
    for name, key, made in _sources(first):
        weight = weight_of(name, own)
        layer = name.rpartition(".")[0]
        old = quantities(own[weight], groups.get(layer, 1))
        new = quantities(wanted.get(weight, own[weight]), new_groups.get(layer, 1))
        later = last.made.get(key, Made(())).uses
        for index, use in enumerate(made.uses):
            same = index < len(later) and (later[index].operation, later[index].place) == (
                use.operation,
                use.place,
            )
            entries.append(_Entry(key, index, use, name, old, new, later[index].number if same else None))
    entries = [entry for entry in entries if not entry.use.sized and entry.use.number not in (0.0, 1.0, -1.0)]
    by_rule: dict[Any, list[_Entry]] = defaultdict(list)
    for entry in entries:
        for depth in range(1, DEPTH + 1):
            by_rule[depth, entry.rule(depth)].append(entry)
    fits = {
        rule: fitting([entry.use.number for entry in like], [entry.old for entry in like])
        for rule, like in by_rule.items()
    }
    followed = {rule for rule, like in by_rule.items() if any(entry.followed for entry in like)}
    formulas = [
        next(
            (
                fits[depth, entry.rule(depth)]
                for depth in range(1, DEPTH + 1)
                if fits[depth, entry.rule(depth)]
            ),
            [],
        )
        for entry in entries
    ]
    votes = Counter(
        (formula.quantity, formula.power) for some in formulas for formula in some if formula.usual
    )
    numbers: dict[tuple[Key, int], float] = {}
    unknown: dict[str, str] = {}
    for entry, some in zip(entries, formulas, strict=True):
        if entry.old == entry.new or (DEPTH, entry.rule(DEPTH)) in followed:
            continue
        constant = entry.use.operation in _VALUES
        number = settled(some, entry.new, constant, votes)
        if number is None and not some and (constant or _counts_calls(by_rule[1, entry.rule(1)])):
            number = entry.use.number
        if number is None:
            file, line, _ = (entry.use.site or (("?", 0, 0),))[0]
            unknown[entry.name] = (
                f"{entry.use.number:.6g} in line {line} of {file} fits no single formula of the widths"
            )
        elif number != entry.use.number:
            numbers[entry.key, entry.index] = number
    return numbers, unknown


def _counts_calls(entries: Sequence[_Entry]) -> bool:
    """Do the numbers of one line of code depend on how often it has run, as 1 / √(2 · number of the layer) does?

    Yes if there are three calls or more and, in order, their numbers, squares or inverses are a fixed amount apart.
    """
    numbers = [entry.use.number for entry in entries]
    if len(numbers) < 3 or min(numbers) <= 0:
        return False
    for power in (1, 2, -1, -2):
        values = [number**power for number in numbers]
        step = values[1] - values[0]
        if not step:
            continue
        first = values[0] / step
        steps = [later - earlier for earlier, later in itertools.pairwise(values)]
        counts = math.isclose(first, round(first), rel_tol=EXACT) and 1 <= round(first) <= 2
        if counts and all(math.isclose(each, step, rel_tol=1e-4) for each in steps):
            return True
    return False


def _sources(recording: Recording) -> Iterator[tuple[str, Key, Made]]:
    """(tensor of the network, storage, how it was made), for every storage whose values went into a tensor."""
    seen: set[Key] = set()
    for name, own in recording.keys.items():
        open_keys: list[Key] = [own]
        while open_keys:
            key = open_keys.pop()
            if key in seen or key not in recording.made:
                continue
            seen.add(key)
            made = recording.made[key]
            yield name, key, made
            open_keys += (source for source, _, _ in made.inputs)


def _generators() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.random.get_rng_state(), cuda, random.getstate(), np.random.get_state()  # noqa: NPY002  # factories draw from it


def _restore(state: tuple[Any, ...]) -> None:
    torch.random.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
    random.setstate(state[2])
    np.random.set_state(state[3])  # noqa: NPY002


@contextmanager
def _again(before: tuple[Any, ...]) -> Iterator[None]:
    """Draw the same numbers once more."""
    after = _generators()
    _restore(before)
    try:
        yield
    finally:
        _restore(after)


def differing(one: Iterable[tuple[str, Tensor]], other: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the tensors that are not equal bit for bit, or that only one of two networks has."""
    first, second = dict(one), dict(other)
    return [
        name
        for name in {**first, **second}
        if name not in first or name not in second or not _equal(first[name], second[name])
    ]


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    same = one == other
    return bool((same | (one.isnan() & other.isnan()) if one.is_floating_point() else same).all())
