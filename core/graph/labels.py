"""Runs a module once on tensors whose channels carry integer labels, and notes which labels must live and die together.

Vocabulary used here and in `core.graph.rules`:

    label    an integer that stands for one row of one parameter dimension; 0 means "keeps its size" (frozen)
    labels   an int64 array of the same rank as the activation it describes; an axis has size 1 where the labels do
             not vary along it, else the activation's own size. A convolution's output carries (1, C, 1, 1).
             A NumPy array: short operations on it take a fraction of torch's time. Never written to.
    edge     two label arrays of one shape whose entries must stay or go together
    slot     one dimension of one parameter or buffer: ("layer1.0.conv1.weight", 0)

`core.graph.tracing` makes the run; nothing here decides what a group is: `core.graph.grouping` does, from the edges.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.errors import UserError
from core.modules import RELU_MODULES, axis_shape, named_constants, tensors_in

Labels = NDArray[np.int64]
SlotKey = tuple[str, int]
AttributeKey = tuple[str, str, int | None]  # module, attribute, and the index where it is a sequence
FROZEN = 0
LABELS = "_lwdna_labels"  # attribute of an activation
COMPUTED = (
    "_lwdna_computed"  # attribute of a tensor that is computed from parameters; `core.graph.rules.weights`
)
AXES = "_lwdna_axes"  # attribute of an activation with channels along several axes; `core.graph.rules.axes`
_MISSING: Any = object()
COUNTED_MODULES = (*RELU_MODULES, nn.modules.batchnorm._BatchNorm)


class TraceError(UserError):
    """The module cannot be traced; the message names the place and the remedy (`freeze=`, `taps=`, `ties=`, ...)."""


class OriginInDoubt(BaseException):
    """A run met a tensor that may have existed before it; `core.graph.tracing` looks for those and runs again.

    No `Exception`: what a forward pass tries and gives up is not this.
    """


class FrozenChannelsWarning(UserWarning):
    """An operation without a channel rule was met: the channels that it touches keep their widths."""


def _marked(name: str) -> Any:
    plain = getattr(int, name)

    def method(self: SizeOfChannels, other: Any) -> Any:
        value = plain(self, other)
        if type(value) is not int:
            return value
        if name != "__sub__" and (trace := getattr(other, "trace", None)) is not None:
            trace.pinned.update(other.keys)  # a size read off an attribute; a difference is what it leaves
        both = isinstance(other, SizeOfChannels)
        labels = np.concatenate([self.labels, other.labels]) if both else self.labels
        proportional = self.proportional and ("add" in name if both else "mul" in name or "floordiv" in name)
        return SizeOfChannels(value, labels, proportional, self.inexact)

    return method


def _negated(self: SizeOfChannels) -> SizeOfChannels:
    return SizeOfChannels(-int(self), self.labels, self.proportional, self.inexact)


def _as_number(name: str) -> Any:
    def method(self: SizeOfChannels, *others: Any) -> Any:
        numbers = [size.inexact.number(size) if isinstance(size, SizeOfChannels) else size for size in others]
        return calculated(name, self.inexact.number(self), *numbers)

    return method


def calculated(name: str, number: int, *others: Any) -> Any:
    """An operator of Python on a number and on others, which may be fractions."""
    result = getattr(int, name)(number, *others)
    return getattr(float, name)(float(number), *others) if result is NotImplemented else result


class Inexact(list[Labels]):
    """Channels that an operation runs over, or whose number it calculates with: a cut changes its result."""

    def number(self, size: SizeOfChannels) -> int:
        """A size as a number to calculate with."""
        self.append(size.labels)
        return int(size)

    def attribute(self, size: Any) -> Any:
        """An attribute's size as such a number; `core.graph.attributes` notes what it counts."""
        return int(size) if isinstance(size, int) else size

    def copy(self) -> Inexact:
        """Another list of the same kind."""
        return type(self)(self)


class SizeOfChannels(int):
    """A size read off a channel axis, with the labels that it counts.

    Arithmetic keeps the mark. So `view(b, g, c // g, h, w)` differs from a size that the author typed in, which no
    resizing can change. `proportional`: the size is a fixed multiple or fraction of the count. A size that
    serves as a number in a calculation (`x / c ** 0.5`) changes with a cut: its labels are noted in `inexact`.
    `factors`: for a product of sizes, the labels that each factor counts.
    """

    labels: Labels
    proportional: bool
    inexact: Inexact
    factors: Sequence[Labels] = ()

    def __new__(
        cls, value: int, labels: Labels, proportional: bool = True, inexact: Inexact | None = None
    ) -> SizeOfChannels:
        """`value` computed from the number of `labels`, (C,); `inexact` as in `Trace`."""
        size = super().__new__(cls, value)
        size.labels = labels
        size.proportional = proportional
        size.inexact = Inexact() if inexact is None else inexact
        return size

    __add__, __radd__ = _marked("__add__"), _marked("__radd__")
    __sub__, __rsub__ = _marked("__sub__"), _marked("__rsub__")
    __mul__, __rmul__ = _marked("__mul__"), _marked("__rmul__")
    __floordiv__, __neg__ = _marked("__floordiv__"), _negated
    __truediv__, __rtruediv__ = _as_number("__truediv__"), _as_number("__rtruediv__")
    __pow__, __rpow__, __float__ = _as_number("__pow__"), _as_number("__rpow__"), _as_number("__float__")
    __hash__ = int.__hash__


@dataclass(frozen=True)
class CostTerm:
    """One summand of a cost: `coefficient` times the number of surviving rows of each factor (label vectors)."""

    kind: (
        str  # "macs", "norm" (BatchNorm output elements) or "relu" (ReLU/ReLU6/PReLU module output elements)
    )
    where: str
    coefficient: int
    factors: tuple[Labels, ...]


class Note(str):
    """Why channels keep their widths, and where: one line.

    Attributes:
        cause: the operation, or another cause.
        place: the module in whose forward pass it happens; "" where the cause is all that there is to say.
    """

    cause: str
    place: str

    def __new__(cls, cause: str, place: str = "") -> Note:
        """The line of a cause at a place."""
        where = f" in '{place}': the channels that it touches keep their widths" if place else ""
        note = super().__new__(cls, cause + where)
        note.cause = cause
        note.place = place
        return note


@dataclass
class Trace:
    """Everything that the labelled runs of one model write down."""

    slots: dict[SlotKey, Labels] = field(default_factory=dict)
    edges: list[tuple[Labels, Labels]] = field(default_factory=list)
    frozen: list[Labels] = field(default_factory=list)
    producers: dict[str, SlotKey] = field(
        default_factory=dict
    )  # module name -> its output slot, in order of use
    terms: list[CostTerm] = field(default_factory=list)
    per_group: set[SlotKey] = field(default_factory=set)  # per-group dimensions of grouped convolutions
    conv_groups: dict[str, int] = field(default_factory=dict)  # grouped, non-depthwise convolutions
    depthwise: set[str] = field(default_factory=set)
    bare_norms: dict[str, Labels] = field(default_factory=dict)  # norm modules without weights
    taps: dict[str, Labels] = field(default_factory=dict)
    # Channel labels and channel axis of every tensor that the model returns, in evaluation and in training mode.
    outputs: dict[bool, list[tuple[Labels, int]]] = field(default_factory=dict)
    parameters: dict[str, torch.Size] = field(default_factory=dict)
    batch: int = 1
    notes: list[Note] = field(default_factory=list)
    next_label: int = 1
    computed: set[str] = field(default_factory=set)  # parameters that the weights of layers are computed from
    inexact: Inexact = field(default_factory=Inexact)
    attributes: dict[AttributeKey, tuple[Labels, Fraction]] = field(
        default_factory=dict
    )  # size kept in an attribute -> the rows that it counts, and what one row counts for
    pinned: set[AttributeKey] = field(
        default_factory=set
    )  # attributes that are also sizes that cannot follow
    numbers: set[AttributeKey] = field(default_factory=set)  # and those that are calculated with
    untied: dict[str, tuple[torch.Size, str]] = field(
        default_factory=dict
    )  # parameter that no rule can tie -> its shape and the module that runs
    # id of labels -> the labels (which keeps the id taken) and their channels as a vector. So all layers
    # and runs refer to one vector, and grouping looks at it once.
    vectors: dict[int, tuple[Labels, Labels]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)  # parameters and buffers that an operation was given
    ran: set[str] = field(default_factory=set)  # modules that were called
    untrained: str = ""  # why there was no run in training mode; "" where there was one

    def copy(self) -> Trace:
        """What is noted so far; after a run that fails, the trace goes back to it."""
        own = {name: value.copy() for name, value in vars(self).items() if hasattr(value, "copy")}
        return replace(self, **own)


class LabelMode(TorchFunctionMode):
    """Intercepts every torch function of one forward pass and applies the operation's rule to the labels.

    Args:
        module: what runs.
        named: its parameters and buffers. On the meta device they are those of the model itself, on any device:
            rules only look at their shapes, and operations are executed on meta tensors (`core.graph.rules.calls`).
        on_meta: whether activations are on the meta device.
        apply_rule: (mode, function, args, kwargs) -> result, labelled; `core.graph.rules.apply_rule`.
        trace: takes what this run notes, beside what earlier runs of the same model noted.
        before: the tensors that existed before the run, by id; not needed on the meta device, where a tensor on any
            other device is a constant, as nothing there depends on an activation.
        complete: whether `before` holds all of them. If not, a run ends with `OriginInDoubt` at the first tensor that
            may have existed before.
        open_places: modules in whose own forward pass everything is frozen (`core.graph.tracing`).
    """

    def __init__(
        self,
        module: nn.Module,
        named: Sequence[tuple[str, Tensor]],
        on_meta: bool,
        apply_rule: Callable[[LabelMode, Any, tuple[Any, ...], dict[str, Any]], Any],
        trace: Trace,
        before: Mapping[int, Tensor],
        complete: bool = True,
        open_places: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.apply_rule = apply_rule
        self.on_meta = on_meta
        self.names = {id(tensor): name for name, tensor in named}
        self.trace = trace
        self.vectors = trace.vectors
        self.before = before
        self.complete = complete
        self.made: set[int] = set()  # by id: what the run made, noted where `before` is not complete
        self.given: set[int] | None = None  # and what the present call was given; None outside of calls
        self.in_doubt = False  # a forward pass may catch what `_doubt` raises
        self.open_places = open_places
        self.replays = False  # whether the values count, beside the labels
        self.decisions = 0  # how often a branch has been chosen by a value
        self.turned = -1  # the number of the branch that is to go the other way
        self.thorough = False  # note all tensors that operations are given, not only those that rules ask for
        self.relabelled: dict[int, Labels | None] = {}  # by id: tensors that outlive the run but got labels
        # By id: constants from outside and what is made of them, with the name of the constant.
        self.origins: dict[int, tuple[Tensor, str]] = {}
        self.followed: list[AttributeKey] = []  # attributes whose sizes the present call follows, one by one
        self.frozen_names: frozenset[str] = frozenset()  # parameters that `freeze` names
        self.place: list[tuple[str, nn.Module]] = [("", module)]
        self.frozen_depth = 0
        self.several = False  # whether any activation has channels along several axes
        self.terms: list[CostTerm] = []
        self.counted: dict[int, CostTerm] = {}
        self.taps: dict[str, Labels] = {}

    # ---- what rules use -------------------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """The module that is running, for messages."""
        return self.place[-1][0] or "the model's own forward"

    @property
    def module(self) -> nn.Module:
        """The innermost module that is running."""
        return self.place[-1][1]

    def fresh(self, size: int) -> Labels:
        """`size` new labels, (size,)."""
        start = self.trace.next_label
        self.trace.next_label += size
        return np.arange(start, start + size)

    def slot(self, name: str, dim: int, size: int) -> Labels:
        """The labels of one dimension of a parameter or buffer, (size,); made at first use."""
        key = (name, dim)
        labels = self.trace.slots.get(key)
        if labels is None:
            labels = self.trace.slots[key] = self.fresh(size)
        return labels

    def tie_slot(self, name: str, dim: int, labels: Labels) -> None:
        """One dimension of a parameter or buffer follows `labels`, (size,).

        At its first use it gets these very labels, which saves an edge for most parameters.
        """
        known = self.trace.slots.setdefault((name, dim), labels)
        self.tie(known, labels)

    def tie(self, a: Labels, b: Labels) -> None:
        """Entries of `a` and `b` (broadcast against each other) live and die together."""
        if a is not b:
            if a.shape != b.shape:
                a, b = np.broadcast_arrays(a, b)
            self.trace.edges.append((a.reshape(-1), b.reshape(-1)))

    def tie_by_part(self, a: Labels, b: Labels) -> None:
        """Tie all parts of two vectors, one as long as the other or a multiple of it, position by position."""
        part = min(a.size, b.size)
        a, b = a.reshape(-1, part), b.reshape(-1, part)
        self.tie(a[:1], a)
        self.tie(b[:1], b)
        self.tie(a[0], b[0])

    def freeze(self, labels: Labels) -> None:
        """The channels behind `labels` keep their widths."""
        self.trace.frozen.append(labels.reshape(-1))

    def is_frozen(self, labels: Labels) -> bool:
        """Has each of these channels been frozen already, by itself? Freezing through ties is not looked for."""
        return bool(self.trace.frozen) and bool(np.isin(labels, np.concatenate(self.trace.frozen)).all())

    def freeze_and_warn(self, labels: Iterable[Labels], reason: str) -> None:
        """Freeze, and note it once for each place (only where a channel that could have been free is touched)."""
        touched = [item for item in labels if (item != FROZEN).any()]
        for item in touched:
            self.freeze(item)
        note = Note(reason, self.where)
        if touched and not self.frozen_depth and note not in self.trace.notes:
            self.trace.notes.append(note)

    def inexact(self, labels: Labels) -> None:
        """An operation runs over these channels: they are free, but a cut network computes something else there."""
        if (labels != FROZEN).any():
            self.trace.inexact.append(labels.reshape(-1))

    def decide(self, value: bool) -> bool:
        """A branch is chosen by a value."""
        self.decisions += 1
        return value != (self.decisions - 1 == self.turned)

    def uniform_along(self, labels: Labels, axis: int) -> Labels:
        """Tie all entries along `axis`, and return labels that do not vary along it any more."""
        if labels.shape[axis] == 1:
            return labels
        first = labels.take([0], axis)
        self.tie(first, labels)
        return first

    def vector(self, labels: Labels, axis: int, size: int) -> Labels:
        """The labels along `axis`, (size,); entries that differ along other axes of one channel are tied."""
        known = self.vectors.get(id(labels))
        if known is not None and known[1].size == labels.shape[axis] == size:
            return known[1]
        if labels.size > 1 == labels.shape[axis]:
            self.freeze_and_warn([labels], "an operation that expects channels on another axis")
            return np.zeros(size, dtype=np.int64)
        if labels.size == labels.shape[axis] == size:
            return self.flat(labels)
        for other in range(labels.ndim):
            if other != axis % labels.ndim:
                labels = self.uniform_along(labels, other)
        return np.broadcast_to(labels.reshape(-1), size).copy()

    def flat(self, labels: Labels) -> Labels:
        """`labels` as a vector; the same object whenever it is asked for."""
        known = self.vectors.get(id(labels))
        if known is None:
            known = self.vectors[id(labels)] = labels, labels.reshape(-1)
        return known[1]

    def shaped(self, vector: Labels, axis: int, rank: int) -> Labels:
        """Labels of an activation of `rank` axes whose channels, `vector`, lie along `axis`."""
        labels = vector.reshape(axis_shape(axis, rank))
        self.vectors[id(labels)] = labels, vector
        return labels

    def parameter_name(self, tensor: Tensor) -> str | None:
        """The qualified name, if `tensor` is a parameter or buffer of the model."""
        name = self.names.get(id(tensor))
        if name is not None:
            self.trace.seen.add(name)
        return name

    def is_constant(self, tensor: Tensor) -> bool:
        """Did `tensor` exist before the run, as neither parameter nor buffer, and has nothing been written to it?"""
        key = id(tensor)
        if key in self.names or key in self.relabelled:
            return False
        if key in self.before or (self.on_meta and not tensor.is_meta):
            return True
        if not self.complete and key not in self.made:
            self._doubt()
        return False

    def _doubt(self) -> None:
        self.in_doubt = True
        raise OriginInDoubt

    def origin(self, tensor: Tensor) -> str:
        """The name of the attribute or global variable that a constant is, or is made from; "" where it has none."""
        return self.origins[id(tensor)][1] if id(tensor) in self.origins else ""

    def _name_constant(self, tensor: Tensor) -> None:
        if id(tensor) in self.origins:
            return
        name = next((name for name, own in named_constants(self.place[0][1]) if own is tensor), "")
        if not name:
            for kind in type(self.module).__mro__:
                variables = vars(sys.modules.get(kind.__module__, object))
                name = name or next((key for key, value in variables.items() if value is tensor), "")
        self.origins[id(tensor)] = tensor, name

    def known_labels(self, tensor: Tensor) -> Labels | None:
        """The labels that a rule gave to an activation; None for a constant and where no rule gave any."""
        found: Labels | None = tensor.__dict__.get(LABELS)
        return found

    def labels_of(self, tensor: Tensor) -> Labels | None:
        """The labels of an activation; None for a constant.

        A parameter or buffer with one dimension longer than 1 is labelled like an activation.

        A buffer of more dimensions is a constant. A parameter of more dimensions keeps its sizes: no rule can tie it
        here, and the run ends with an error that names it (`untied_error`).

        Raises:
            TraceError: the tensor was made where no rule could see it.
        """
        found: Labels | None = tensor.__dict__.get(LABELS, _MISSING)
        if found is not _MISSING:
            return found
        if id(tensor) in self.relabelled:
            return self.relabelled[id(tensor)]
        if self.is_constant(tensor):
            self._name_constant(tensor)
            return None
        name = self.parameter_name(tensor)
        if name is not None:
            if name in self.frozen_names:
                return frozen_labels(tensor)
            long = [dim for dim, size in enumerate(tensor.shape) if size > 1]
            if not long:
                return None
            if len(long) == 1:
                return self.slot(name, long[0], tensor.shape[long[0]]).reshape(
                    axis_shape(long[0], tensor.dim())
                )
            for dim in long:
                self.freeze(self.slot(name, dim, tensor.shape[dim]))
            if name not in self.trace.parameters:  # a buffer of coordinates, say: a constant of fixed sizes
                return None
            if not self.frozen_depth:
                self.trace.untied.setdefault(name, (tensor.shape, self.place[-1][0]))
            return frozen_labels(tensor)
        computed = tensor.__dict__.get(COMPUTED)
        if computed is not None:
            for (source, _), layer in computed.layers.items():
                own = self.trace.parameters.get(source)
                if own is not None and not self.frozen_depth:
                    self.trace.untied.setdefault(source, (own, self.place[-1][0]))
                self.freeze(layer)
            return frozen_labels(tensor)
        several = tensor.__dict__.get(AXES)
        if several is not None:
            self.freeze_and_warn(
                [vector for vector in several if vector is not None],
                "an operation that expects channels along one axis, and not along several",
            )
            return frozen_labels(tensor)
        if self.frozen_depth:
            return frozen_labels(tensor)
        raise TraceError(
            f"a tensor of unknown origin, shape {tuple(tensor.shape)}, reaches '{self.where}': it was made during the "
            f"run where no rule can see it, by an autograd Function or a compiled extension; pass freeze=('NAME',) "
            f"with the name of the module that makes it, or trace a part of the model that does not need it"
        )

    def _remedy(self) -> str:
        place = self.place[-1][0]
        if place:
            return f"pass freeze=('{place}',) to leave that module as it is"
        return "move that part into a module of its own and pass its name as freeze=, or trace the parts without it"

    def mark(self, tensor: Tensor, labels: Labels | None) -> Tensor:
        """Attach labels (None: a constant) to an activation."""
        if labels is not None and (
            self.frozen_depth or (self.open_places and self.place[-1][0] in self.open_places)
        ):
            self.freeze(labels)
        key = id(tensor)
        if key in self.names or key in self.before:  # it outlives this run, so nothing may stick to it
            self.relabelled[key] = labels
        elif self.on_meta and not tensor.is_meta:  # so may this
            if not self.complete and key not in self.made and (self.given is None or key in self.given):
                self._doubt()
            if labels is not None or key in self.relabelled:
                self.relabelled[key] = labels
                self.origins[key] = tensor, ""  # so that the id stays taken
        else:
            self.made.add(key)
            tensor.__dict__[LABELS] = labels
        return tensor

    def mark_all(self, result: Any, labels: Labels | None) -> Any:
        """`mark` all tensors that an operation returned."""
        for tensor in tensors_in(result):
            self.mark(tensor, labels)
        return result

    def unmark(self, tensor: Tensor) -> None:
        """Forget the labels of an activation; something else will describe it."""
        tensor.__dict__.pop(LABELS, None)

    def count(self, kind: str, coefficient: int, *factors: Labels) -> None:
        """Note a cost of one forward pass over the whole example batch."""
        self.terms.append(CostTerm(kind, self.where, coefficient, factors))

    def count_module(self, module: nn.Module, name: str, output: Tensor) -> None:
        """Note an activation or BatchNorm module; one that is used twice counts once, at its last shape."""
        labels = self.labels_of(output)
        factor = np.zeros(1, dtype=np.int64) if labels is None else self.flat(labels)
        kind = "relu" if isinstance(module, RELU_MODULES) else "norm"
        self.counted[id(module)] = CostTerm(kind, name, output.numel() // factor.size, (factor,))

    def tap(self, name: str, output: Tensor) -> None:
        """Remember the channels that a tapped module returns."""
        labels = self.labels_of(output)
        if labels is not None and output.dim() > 1:
            axis = channel_axis(labels)
            self.taps[name] = self.vector(labels, axis, output.shape[axis])

    # ---- torch's side ---------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.thorough:
            self.trace.seen.update(
                self.names[id(tensor)] for tensor in tensors_in((args, kwargs)) if id(tensor) in self.names
            )
        if self.complete:
            result = self.apply_rule(self, func, args, kwargs)
        else:
            result = self._apply_and_note(func, args, kwargs)
        if self.origins and isinstance(result, Tensor) and self.known_labels(result) is None:
            for tensor in tensors_in((args, kwargs)):
                if name := self.origin(tensor):
                    self.origins[id(result)] = result, name
        return result

    def _apply_and_note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Apply the rule, unless an operand may have existed before the run; what comes out was made by it.

        An id that is free again may go to another tensor of this run, but to none that existed before.
        """
        given = {id(tensor): tensor for tensor in tensors_in((args, kwargs))}
        for key, tensor in given.items():
            known = key in self.made or key in self.names or key in self.before
            if not known and not (self.on_meta and not tensor.is_meta):
                self._doubt()
        self.given = set(given)
        try:
            result = self.apply_rule(self, func, args, kwargs)
        finally:
            self.given = None
        self.made.update(id(tensor) for tensor in tensors_in(result) if id(tensor) not in given)
        return result

    def watch(self, name: str, module: nn.Module, frozen: bool, tapped: bool) -> None:
        """Add hooks to a copied module that note where the run is, tapped outputs and costs."""
        counted = isinstance(module, COUNTED_MODULES)
        compiled = isinstance(module, torch.jit.ScriptModule)
        opened = name in self.open_places

        def enter(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any] | None = None) -> None:
            self.place.append((name, module))  # the hook's argument: a captured module would be a cycle
            self.trace.ran.add(name)
            if frozen or opened:
                self.frozen_depth += frozen
                self._freeze_all((inputs, named))
            elif compiled and not self.frozen_depth:
                raise TraceError(
                    f"'{name}' is a TorchScript module, whose operations no rule can see; {self._remedy()}"
                )

        def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if frozen or tapped or counted:
                with torch._C.DisableTorchFunction():  # the book-keeping is not part of the model
                    if frozen:
                        for tensor in tensors_in(output):
                            self.mark(tensor, self.labels_of(tensor))
                    if counted and isinstance(output, Tensor):
                        self.count_module(module, name, output)
                    if tapped and isinstance(output, Tensor):
                        self.tap(name, output)
            self.frozen_depth -= frozen
            self.place.pop()
            if self.open_places and self.place[-1][0] in self.open_places:
                self._freeze_all(output)

        # What register_forward_hook does, which a TorchScript module refuses.
        module._forward_pre_hooks[id(self)] = enter
        module._forward_hooks[id(self)] = leave
        if frozen or opened:
            module._forward_pre_hooks_with_kwargs[id(self)] = True

    def _freeze_all(self, values: Any) -> None:
        with torch._C.DisableTorchFunction():
            for tensor in tensors_in(values):
                labels = self.labels_of(tensor)
                if labels is not None:
                    self.freeze(labels)


def instances_in(value: Any, kinds: type | tuple[type, ...]) -> list[Any]:
    """All objects of one of these classes in nested arguments."""
    if isinstance(value, kinds):
        return [value]
    if isinstance(value, dict):
        return [found for item in value.values() for found in instances_in(item, kinds)]
    if isinstance(value, (tuple, list)):
        return [found for item in value for found in instances_in(item, kinds)]
    return []


def channel_axis(labels: Labels) -> int:
    """The axis along which labels vary, by convention axis 1 where none does."""
    varying = [axis for axis, size in enumerate(labels.shape) if size > 1]
    return varying[0] if len(varying) == 1 else min(1, labels.ndim - 1)


def frozen_labels(tensor: Tensor) -> Labels:
    """Labels that freeze every channel of `tensor`."""
    return np.zeros((1,) * tensor.dim(), dtype=np.int64)


def owner_of(name: str) -> str:
    """The layer that a parameter belongs to; a parametrization's tensors belong to the layer that it is on."""
    owner = name.rpartition(".")[0]
    return ("." + owner).partition(".parametrizations.")[0].removeprefix(".")
