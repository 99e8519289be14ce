"""What a factory does while it builds a network, and how it does the same at other widths.

`watch` records a factory while it runs: every tensor that it makes, and every number with which it fills, scales or
shifts one, with the line of code. In the second run, tensors are made with the shapes of another network, and layers
get its `out_channels`, `groups` and the like as their tensors arrive. So code that reads the size of a tensor or a
layer computes what it would at that width. Only numbers that come from the factory's own arguments do not follow
(`core.surgery.starting`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from core.modules import hooked, named_tensors, tensors_in

Key = tuple[Any, ...]  # of a storage: how it was made, the same in every run of a factory
Site = tuple[
    tuple[str, int, int], ...
]  # (file, line, place in its byte code) of who called, the innermost first
Shape = tuple[int, ...]
DEPTH = 6  # calls that are looked at, to tell apart rules that draw through one helper
_TORCH = str(Path(torch.__file__).parent)
# Functions of torch that use the numbers they are given; all others compute them from the tensor or the layer.
_HANDED_ON = ("normal_", "uniform_", "trunc_normal_", "constant_", "_no_grad_normal_", "_no_grad_uniform_",
              "_no_grad_trunc_normal_", "_no_grad_fill_")  # fmt: skip


@dataclass(frozen=True)
class Use:
    """A number that went into an operation on a tensor.

    Attributes:
        operation: of torch: "aten.normal_".
        place: which argument.
        number: its value.
        site: who called.
        sized: torch computed the value from the tensor or the layer itself.
    """

    operation: str
    place: int | str
    number: float
    site: Site
    sized: bool


@dataclass
class Made:
    """A storage that a factory has made.

    Attributes:
        shape: with which it was made.
        inputs: what other tensors went into it, with the shape that they met: (storage, shape, strides).
        uses: the numbers with which it was made and changed.
    """

    shape: Shape
    inputs: list[tuple[Key, Shape, Shape]] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What a further run does differently.

    Attributes:
        shapes: storage -> the shape to make it with.
        attributes: (class of a layer, name of its tensor, how many came before) -> its attributes at the new widths.
        numbers: (storage, use) -> the number to put in place of the factory's.
    """

    shapes: Mapping[Key, Shape] = field(default_factory=dict)
    attributes: Mapping[Key, Mapping[str, Any]] = field(default_factory=dict)
    numbers: Mapping[tuple[Key, int], float] = field(default_factory=dict)


@dataclass
class Recording:
    """A network and what its factory did.

    Attributes:
        model: the network.
        made: all storages.
        keys: name of a tensor of the network -> its storage.
        layers: (class of a layer, name of its tensor, how many came before) -> the layer.
        repeated: storages that were filled by repeating rows, as there were too few.
    """

    model: nn.Module
    made: dict[Key, Made]
    keys: dict[str, Key]
    layers: dict[Key, nn.Module]
    repeated: set[Key]


def watch(factory: Callable[[], nn.Module], plan: Plan | None = None) -> Recording:
    """Run a factory and note what it does.

    Args:
        factory: builds a network.
        plan: shapes, attributes and numbers for it to use in place of its own.
    """
    mode = _Watch(plan or Plan())
    hooks = (
        register_module_parameter_registration_hook(mode.arrive),
        register_module_buffer_registration_hook(mode.arrive),
    )
    with hooked(hooks), mode:
        model = factory()
    keys = {}
    for name, tensor in named_tensors(model):
        if tensor.layout is torch.strided and (key := mode.key_of(tensor)) is not None:
            keys[name] = key
    return Recording(model, mode.made, keys, mode.layers, mode.repeated)


class _Watch(TorchDispatchMode):
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.made: dict[Key, Made] = {}
        self.layers: dict[Key, nn.Module] = {}
        self.repeated: set[Key] = set()
        self._keys: dict[int, Key] = {}
        self._alive: list[Any] = []  # a freed storage could pass its address on to another
        self._count: Counter[Key] = Counter()
        self._unfinished: list[tuple[nn.Module, Mapping[str, Any]]] = []

    def key_of(self, tensor: Tensor) -> Key | None:
        return self._keys.get(tensor.untyped_storage()._cdata)

    def arrive(self, module: nn.Module, name: str, tensor: Tensor | None) -> None:
        """Update the attributes of a layer that has got a tensor, and again at the next tensor: it may set more."""
        if tensor is None:
            return
        self._update()
        self._unfinished = [entry for entry in self._unfinished if entry[0] is module]
        key = self._numbered(("layer", type(module), name))
        self.layers[key] = module
        if key in self.plan.attributes:
            self._unfinished.append((module, self.plan.attributes[key]))
            self._update()

    def _update(self) -> None:
        for module, attributes in self._unfinished:
            for name, value in attributes.items():
                if name in module.__dict__ and module.__dict__[name] != value:
                    setattr(module, name, value)

    def _numbered(self, key: Key) -> Key:
        self._count[key] += 1
        return (*key, self._count[key])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        operation = func._schema.name.replace("::", ".")
        self._update()
        tensors = [t for t in tensors_in([*args, *kwargs.values()]) if t.layout is torch.strided]
        changed = _written(func, args, kwargs)
        site: Site | None = None
        if changed is None:
            if any(self.key_of(tensor) is None for tensor in tensors):
                self._know(tensors)
            if not tensors:
                site, _ = _caller()
                key = self._numbered((operation, site))
            else:
                key = self._numbered((operation, self.key_of(tensors[0])))
            args = self._made_as_planned(func, key, args)
        else:
            self._know(tensors)
            key = self.key_of(changed) or ()
            args = self._copied(operation, key, changed, args)
        numbers = _numbers(func, args, kwargs)
        if numbers:
            args, kwargs = self._put(
                key, numbers, args, kwargs, () if changed is None else self.made[key].uses
            )
        output = func(*args, **kwargs)
        uses = []
        if numbers:
            site, sized = _caller()
            # The factory's own numbers are noted, not those that replace them.
            uses = [Use(operation, place, number, site, sized) for place, number in numbers.items()]
        if changed is not None:
            made = self.made[key]
            made.uses += uses
            if tuple(changed.shape) == made.shape:
                made.inputs += self._described(tensor for tensor in tensors if tensor is not changed)
            return output
        for number, tensor in enumerate(tensors_in([output])):
            if tensor.layout is torch.strided and self.key_of(tensor) is None:
                own = key if not number else (*key, number)
                self._name(tensor, own)
                self.made[own] = Made(tuple(tensor.shape), list(self._described(tensors)), list(uses))
        return output

    def _name(self, tensor: Tensor, key: Key) -> None:
        storage = tensor.untyped_storage()
        self._keys[storage._cdata] = key
        self._alive.append(storage)

    def _know(self, tensors: Sequence[Tensor]) -> None:
        """Tensors that no operation has made: numbers from elsewhere."""
        for tensor in tensors:
            if self.key_of(tensor) is None:
                key = self._numbered(("given",))
                self._name(tensor, key)
                self.made[key] = Made(tuple(tensor.shape))

    def _described(self, tensors: Any) -> Iterator[tuple[Key, Shape, Shape]]:
        for tensor in tensors:
            key = self.key_of(tensor)
            if key is not None:
                yield key, tuple(tensor.shape), tuple(tensor.stride())

    def _made_as_planned(self, func: Any, key: Key, args: tuple[Any, ...]) -> tuple[Any, ...]:
        wanted = self.plan.shapes.get(key)
        if wanted is None:
            return args
        names = [argument.name for argument in func._schema.arguments[: len(args)]]
        values: list[Any] = list(args)
        if "size" in names:
            values[names.index("size")] = list(wanted)
        elif func._schema.name == "aten::arange" and "step" not in names:
            values[names.index("end")] = wanted[0] + (args[0] if "start" in names else 0)
        elif func._schema.name == "aten::linspace":
            values[names.index("steps")] = wanted[0]
        return tuple(values)

    def _copied(self, operation: str, key: Key, changed: Tensor, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Fill a tensor of another width that is copied from fixed values: repeat their rows."""
        if operation != "aten.copy_" or key not in self.plan.shapes:
            return args
        source = args[1]
        if source.dim() != changed.dim() or all(
            a in (b, 1) for a, b in zip(source.shape, changed.shape, strict=True)
        ):
            return args
        self.repeated.add(key)
        return (args[0], repeat_rows(source, changed.shape), *args[2:])

    def _put(
        self,
        key: Key,
        numbers: Mapping[int | str, float],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        before: Sequence[Use],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self.plan.numbers:
            return args, kwargs
        changed = list(args)
        for index, place in enumerate(numbers, start=len(before)):
            number = self.plan.numbers.get((key, index))
            if number is not None:
                if isinstance(place, int):
                    changed[place] = number
                else:
                    kwargs[place] = number
        return tuple(changed), kwargs


def repeat_rows(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The values of a fixed tensor (a blur kernel, a mask) at another shape: its rows are repeated or cut off."""
    for dim, size in enumerate(shape):
        if size != tensor.shape[dim]:
            tensor = tensor.index_select(dim, torch.arange(size, device=tensor.device) % tensor.shape[dim])
    return tensor


def alike(tensor: Tensor, shape: Sequence[int]) -> bool:
    """Whether a tensor's rows are all equal wherever another shape has more or fewer of them."""
    for dim, size in enumerate(shape):
        if size != tensor.shape[dim] and not bool((tensor == tensor.narrow(dim, 0, 1)).all()):
            return False
    return True


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor that an operation works on in place."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            if isinstance(value, Tensor) and value.layout is torch.strided:
                return value
    return None


def _numbers(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[int | str, float]:
    """The numbers among the arguments that are values, not sizes, dimensions or counts."""
    found: dict[int | str, float] = {}
    for index, argument in enumerate(func._schema.arguments):
        place: int | str = index if index < len(args) else argument.name
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        kind = argument.type
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            while kind.kind() == "OptionalType":
                kind = kind.getElementType()
            if kind.kind() in ("FloatType", "NumberType", "TensorType"):
                found[place] = float(value)
    return found


def _caller() -> tuple[Site, bool]:
    """(who called torch, whether torch computed the numbers itself)."""
    frame: FrameType | None = sys._getframe(1)
    site: list[tuple[str, int, int]] = []
    sized = False
    while frame is not None and frame.f_code is not watch.__code__:
        file = frame.f_code.co_filename
        if file == __file__:
            pass
        elif not file.startswith(_TORCH):
            site.append((file, frame.f_lineno, frame.f_lasti))
        elif not site:
            sized |= _computes(file[len(_TORCH) + 1 :], frame.f_code.co_name)
        frame = frame.f_back
    return tuple(site), sized


def _computes(file: str, function: str) -> bool:
    if file == "nn/init.py":
        return function not in _HANDED_ON
    return file.startswith("nn/modules/") and file != "nn/modules/module.py"
