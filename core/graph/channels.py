"""Channel groups of any CNN: which channel dimensions must stay equal, their widths, and what they cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from core.errors import UserError, check_known, did_you_mean, warn
from core.graph.complexity import WEIGHT, Convention, Cost, CostModel
from core.graph.grouping import Grouping, count_rows, group_labels
from core.graph.labels import AttributeKey, FrozenChannelsWarning, Labels, Note, SlotKey, Trace, owner_of
from core.graph.tracing import Request, run_labelled
from core.modules import bare
from core.tables import text_table

if TYPE_CHECKING:
    from core.surgery.verification import Verified

IntArray = NDArray[np.int64]
PLAN_VERSION = 1
PLACES_TOLD = 3  # modules that a warning names


@dataclass(frozen=True)
class TraceOptions:
    """How a model was traced; an architecture file keeps it so that the same groups are found again."""

    freeze: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    ties: tuple[tuple[str, str], ...] = ()
    outputs: Literal["single", "freeze", "free"] = "single"


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of several layers that share one width.

    Attributes:
        name: qualified name of the first module that produces the group.
        size: number of independent choices (elements).
        step: channels of that module per choice: 1 for most groups, s² in front of a pixel shuffle by s, the number
            of groups of a grouped convolution.
        slots: (parameter or buffer, dimension) -> rows that one choice owns there.
        exact: whether a network with masked channels computes what the cut network does. It does not where something
            runs over the channels (a mean, a standardised weight): such channels are free in networks that are trained
            from scratch, but a network that keeps its trained weights would lose more than the channel.
    """

    name: str
    size: int
    step: int
    slots: Mapping[SlotKey, int] = field(repr=False)
    exact: bool = True

    @property
    def width(self) -> int:
        """Channels of the naming module."""
        return self.size * self.step

    def elements(self, width: int, step: int | None = None) -> int:
        """A width in channels as a number of choices.

        Raises:
            UserError: the width is not positive or not a multiple of the step.
        """
        step = step or self.step
        if not isinstance(width, (int, np.integer)) or isinstance(width, bool) or width < 1 or width % step:
            raise UserError(
                f"group '{self.name}': width {width!r} is not a positive multiple of {step} (its channels come in "
                f"steps of {step})"
            )
        return int(width) // step


@dataclass(frozen=True)
class Output:
    """One tensor that the model returns: row -> flat choice index along its channel axis."""

    table: IntArray
    axis: int


@dataclass(frozen=True)
class ChannelGraph:
    """Every channel dimension of a network, by group.

    Attributes:
        groups: the free groups; input, output and frozen dimensions are not among them.
        slots: (parameter or buffer, dimension) -> row -> flat choice index over all groups in order, -1 if frozen.
        conv_groups: group counts of grouped (not depthwise) convolutions.
        depthwise: modules whose group count is their channel count.
        per_group: slots that count channels *per group* of a grouped convolution.
        producers: convolutions and linear layers with a free output, in the order of execution.
        bare_norms: norm layers without weights, which still repeat a width in an attribute.
        taps: tapped module -> row -> flat choice index, as in slots.
        outputs: the same for the tensors that the model returns in evaluation mode.
        train_outputs: the same for training mode, where it may return others.
        untrained: why the model could not be run in training mode; "" where it could.
        notes: which channels keep their widths although nobody asked for it, and where.
        computed: parameters from which a layer computes its weight.
        attributes: (module, attribute, index in it or None) -> the rows that this size counts, as in slots, and
            what one row counts for (2 if the network uses half of the attribute, say).
    """

    groups: list[ChannelGroup]
    slots: Mapping[SlotKey, IntArray] = field(repr=False)
    cost: CostModel = field(repr=False)
    conv_groups: Mapping[str, int]
    depthwise: frozenset[str] = field(repr=False)
    per_group: frozenset[SlotKey] = field(repr=False)
    producers: tuple[str, ...] = field(repr=False)
    bare_norms: Mapping[str, IntArray] = field(repr=False)
    taps: Mapping[str, IntArray] = field(repr=False)
    outputs: tuple[Output, ...] = field(repr=False)
    train_outputs: tuple[Output, ...] = field(repr=False)
    untrained: str
    notes: tuple[Note, ...]
    options: TraceOptions
    computed: frozenset[str] = field(repr=False, default=frozenset())
    attributes: Mapping[AttributeKey, tuple[IntArray, Fraction]] = field(repr=False, default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the groups, in order."""
        return [group.name for group in self.groups]

    @property
    def inexact(self) -> list[str]:
        """Names of the groups whose masked network differs from the cut one; see `ChannelGroup.exact`."""
        return [group.name for group in self.groups if not group.exact]

    @property
    def widths(self) -> dict[str, int]:
        """Group name -> today's width in channels."""
        return {group.name: group.width for group in self.groups}

    @property
    def frozen_layers(self) -> list[str]:
        """Convolutions and linear layers none of whose channels are free, in the order of execution."""
        weights = {name for name, dim in self.slots if (name, 1 - dim) in self.slots}
        free = {name for name, dim in self.slots if dim < 2 and self.free_table(name, dim) is not None}
        layers = {owner_of(name): None for name, _ in self.slots if name in weights and name not in free}
        return [name for name in layers if name not in {owner_of(other) for other in free & weights}]

    def frozen_share(self, convention: Convention = "macs") -> float:
        """The part of the FLOPs that no width changes, as a fraction of today's."""
        coefficient, a, b = self.cost.terms[convention]
        rows = self.cost.constant + self.sizes @ self.cost.multiplicity.T
        flops = coefficient * rows[a] * rows[b]
        return float(flops[(a == 0) & (b == 0)].sum() / max(int(flops.sum()), 1))

    @cached_property
    def sizes(self) -> IntArray:
        """Choices of each group, (G,)."""
        return np.array([group.size for group in self.groups], dtype=np.int64)

    @cached_property
    def offsets(self) -> IntArray:
        """Flat index of each group's first choice, and the total, (G + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @property
    def choices(self) -> int:
        """Choices of all groups together: the length of a flat tensor over them."""
        return int(self.offsets[-1])

    @cached_property
    def owner(self) -> IntArray:
        """Flat choice index -> index of its group."""
        return np.repeat(np.arange(len(self.groups)), self.sizes)

    @cached_property
    def _free_tables(self) -> set[int]:
        distinct = {id(table): table for table in self.slots.values()}
        return {key for key, table in distinct.items() if (table >= 0).any()}

    def free_table(self, tensor: str, dim: int) -> IntArray | None:
        """Row -> flat choice index of one dimension of a tensor; None where no row belongs to a group."""
        table = self.slots.get((tensor, dim))
        return table if id(table) in self._free_tables else None

    def group(self, name: str) -> ChannelGroup:
        """The group called `name`.

        Raises:
            UserError: there is none; the message lists close names and what there is.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise UserError(f"no channel group is called '{name}'; {did_you_mean(name, self.widths)}")

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat tensor over all choices, (choices,), by group: name -> (size,)."""
        return dict(zip(self.names, flat.split(self.sizes.tolist()), strict=True))

    def widths_at(self, counts: Sequence[int] | IntArray) -> dict[str, int]:
        """Choices per group, (G,), as widths in channels: the inverse of `elements`."""
        return {group.name: int(count) * group.step for group, count in zip(self.groups, counts, strict=True)}

    def elements(self, widths: Mapping[str, int] | None = None) -> IntArray:
        """Widths in channels as choices per group, (G,); groups that are not named keep their size.

        Raises:
            UserError: an unknown group, or a width that is not a positive multiple of the group's step.
        """
        sizes = self.sizes.copy()
        if widths is not None:
            at = {name: index for index, name in enumerate(self.names)}
            for name, width in widths.items():
                group = self.group(name)
                sizes[at[name]] = group.elements(width)
        return sizes

    def flops(self, widths: Mapping[str, int] | None = None, convention: Convention = "macs") -> int:
        """FLOPs per sample at the given widths (default: today's), in closed form.

        Raises:
            UserError: an unknown convention or group, or an impossible width.
        """
        check_known("unknown convention", [convention], WEIGHT)
        return int(self.cost(convention, self.elements(widths)))

    def params(self, widths: Mapping[str, int] | None = None) -> int:
        """Parameters at the given widths (default: today's), in closed form."""
        return int(self.cost("params", self.elements(widths)))

    def price(self, widths: Mapping[str, int] | None = None) -> Cost:
        """FLOPs in both conventions and parameters at the given widths (default: today's), in closed form.

        Raises:
            UserError: an unknown group, or an impossible width.
        """
        counts = self.elements(widths)
        return Cost(*(int(self.cost(kind, counts)) for kind in (*WEIGHT, "params")))

    def width_of(self, module: str, widths: Mapping[str, int] | None = None, dim: int = 0) -> int:
        """Output channels of a tapped module or a convolution / linear layer at the given widths.

        Args:
            module: its name.
            widths: group -> channels; the graph's own by default.
            dim: of the weight, with the outputs: 1 for a transposed convolution (of one of its groups).

        Raises:
            UserError: the module neither is tapped (`taps=`) nor owns a weight.
        """
        table = self.taps.get(module, self.slots.get((f"{module}.weight", dim)))
        if table is None:
            raise UserError(f"'{module}' is not tapped; pass taps=('{module}',) to trace_channels")
        constant, multiplicity = count_rows([table], self.sizes.tolist())
        return int(constant[0] + multiplicity[0] @ self.elements(widths))

    def verify(self, model: nn.Module, example_inputs: Any, *, keep: float = 0.6, seed: int = 0) -> Verified:
        """Prove on random channels that masked equals cut, in both modes; see `core.surgery.verification.verify`."""
        from core.surgery.verification import verify

        return verify(self, model, example_inputs, keep=keep, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """The plan for people and for golden files: groups, what they own, costs, what is frozen and why."""
        return {
            "plan_version": PLAN_VERSION,
            "groups": [
                {
                    "name": group.name,
                    "width": group.width,
                    "step": group.step,
                    "slots": {f"{tensor}:{dim}": rows for (tensor, dim), rows in group.slots.items()},
                    **({} if group.exact else {"exact": False}),
                }
                for group in self.groups
            ],
            "conv_groups": dict(self.conv_groups),
            **self.price().to_json(),
            "notes": list(self.notes),
        }

    def describe(self) -> str:
        """The plan as a table for a terminal."""
        rows = [
            [
                group.name,
                str(group.width),
                str(group.step),
                str(len(group.slots)),
                "yes" if group.exact else "no",
            ]
            for group in self.groups
        ]
        table = text_table(["group", "width", "step", "slots", "exact"], rows)
        cost = self.price()
        costs = f"{len(self.groups)} free groups · {cost.macs:,} MACs · {cost.paper:,} FLOPs (paper) · "
        notes = "".join(f"\nfrozen: {note}" for note in self.notes)
        return f"{table}\n{costs}{cost.params:,} parameters{notes}"


def trace_channels(
    model: nn.Module,
    example_inputs: Any,
    *,
    freeze: Sequence[str] = (),
    taps: Sequence[str] = (),
    ties: Sequence[tuple[str, str]] = (),
    outputs: Literal["single", "freeze", "free"] = "single",
) -> ChannelGraph:
    """Find the channel groups of a CNN by running it on labelled tensors in both modes.

    Args:
        model: any CNN, or a wrapper around one (`core.modules.bare`); it is not changed. It is run in evaluation and in
            training mode, on the meta device where possible; FLOPs are those of evaluation.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dictionary of named ones; these may hold
            lists, tuples, dictionaries, dataclasses, None, numbers and strings. Only the shapes of tensors matter, as
            long as the model does not look at values; the first axis is the batch. Input channels are frozen.
        freeze: names (or patterns, `layer1.*`) of modules, or of parameters, that are left as they are.
        taps: modules whose output width others read (a tracker's backbone stages); see `ChannelGraph.width_of`.
        ties: pairs of modules whose outputs must have the same channels although the network does not need it.
        outputs: what to do with the channels that the model returns: "single" freezes the one tensor and refuses
            more, "freeze" freezes all, "free" lets them change.

    Returns:
        The graph. An operation that no rule knows freezes the channels that it touches. A layer that no run calls
        freezes the channels that may feed it. In both cases a `FrozenChannelsWarning` names cause and place.

    Raises:
        TraceError: an input of unknown origin, several outputs, or a parameter that cannot be tied; the message names
            the place and the remedy.
        UserError: a name in `freeze`, `taps` or `ties` that the model does not have; a model that is no bare module and
            cannot be unwrapped.

    Example:
        >>> from torch import Tensor, nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> trace_channels(net, torch.zeros(1, 3, 8, 8)).widths
        {'0': 8}
    """
    options = TraceOptions(tuple(freeze), tuple(taps), tuple((a, b) for a, b in ties), outputs)
    check_known("unknown outputs", [outputs], ("single", "freeze", "free"))
    graph = find_groups(model, example_inputs, options)
    warn_of_frozen(graph.notes)
    return graph


def find_groups(model: nn.Module, example_inputs: Any, options: TraceOptions) -> ChannelGraph:
    """`trace_channels` without its warnings: of several forms of one network only one has to warn."""
    request = Request(
        bare(model), example_inputs, options.freeze, options.taps, options.ties, options.outputs
    )
    trace = run_labelled(request)
    factors = [factor for term in trace.terms for factor in term.factors]
    factors += [labels for labels, _ in trace.attributes.values()]
    factors += [*trace.bare_norms.values(), *trace.taps.values()]
    factors += [labels for returned in trace.outputs.values() for labels, _ in returned]
    return _graph(trace, group_labels(trace, factors), options)


def warn_of_frozen(notes: Sequence[Note], told: Sequence[Note] = ()) -> None:
    """Give one `FrozenChannelsWarning` for every kind of cause among the notes, except those that were told before.

    Causes that differ in numbers alone ("4 typed-in groups", "8 typed-in groups") are of one kind.
    """
    known = {(_kind(note), note.place) for note in told}
    alike: dict[str, dict[str, Note]] = {}  # kind -> place -> the first note there
    for note in notes:
        if (_kind(note), note.place) not in known:
            alike.setdefault(_kind(note), {}).setdefault(note.place, note)
    for places in alike.values():
        message: str = next(iter(places.values()))
        if len(places) > 1:
            listed = ", ".join(f"'{place}'" for place in list(places)[:PLACES_TOLD])
            more = f" and {len(places) - PLACES_TOLD} more places" if len(places) > PLACES_TOLD else ""
            cause = next(iter(places.values())).cause
            message = f"{cause} in {listed}{more}: the channels that they touch keep their widths"
        warn(message, FrozenChannelsWarning)


def _kind(note: Note) -> str:
    return re.sub(r"\d+", "#", note.cause)


def _graph(trace: Trace, grouping: Grouping, options: TraceOptions) -> ChannelGraph:
    # Table -> (group, rows per element) of the groups in it.
    counted: list[list[tuple[int, int]]] = [[] for _ in grouping.tables]
    for table, group in zip(*(axis.tolist() for axis in grouping.multiplicity.nonzero()), strict=True):
        counted[table].append((group, int(grouping.multiplicity[table, group])))
    slots_of: list[dict[SlotKey, int]] = [{} for _ in grouping.names]
    for key, table in grouping.slots.items():
        for group, rows in counted[table]:
            slots_of[group][key] = rows
    groups = [
        ChannelGroup(name, size, step, slots, exact)
        for name, size, step, slots, exact in zip(
            grouping.names, grouping.sizes, grouping.steps, slots_of, grouping.exact, strict=True
        )
    ]

    def table_of(labels: Labels) -> IntArray:
        return grouping.tables[grouping.factors[id(labels)]]

    return ChannelGraph(
        groups=groups,
        slots={key: grouping.tables[table] for key, table in grouping.slots.items()},
        cost=_cost_model(trace, grouping),
        conv_groups=trace.conv_groups,
        depthwise=frozenset(name.rpartition(".")[0] for name in trace.depthwise),
        per_group=frozenset(trace.per_group),
        producers=tuple(module for module, key in trace.producers.items() if counted[grouping.slots[key]]),
        bare_norms={name: table_of(labels) for name, labels in trace.bare_norms.items()},
        taps={name: table_of(labels) for name, labels in trace.taps.items()},
        outputs=tuple(Output(table_of(labels), axis) for labels, axis in trace.outputs[False]),
        train_outputs=tuple(Output(table_of(labels), axis) for labels, axis in trace.outputs[True]),
        untrained=trace.untrained,
        notes=tuple(trace.notes),
        options=options,
        computed=frozenset(trace.computed),
        attributes={key: (table_of(labels), each) for key, (labels, each) in trace.attributes.items()},
    )


def _cost_model(trace: Trace, grouping: Grouping) -> CostModel:
    """Write every cost as coefficient · rows_a · rows_b, where the rows are those of the tables."""
    constants = grouping.constant.tolist()
    changes = [bool(row) for row in grouping.multiplicity.max(axis=1, initial=0)]
    collected: dict[str, list[tuple[int, int, int]]] = {"macs": [], "paper": [], "params": []}

    def add(weights: Mapping[str, int], coefficient: int, tables: Sequence[int]) -> None:
        free = []
        for table in tables:
            if changes[table]:
                free.append(1 + table)  # row 0 is the constant 1
            else:
                coefficient *= constants[table]
        a, b = (*free, 0, 0)[:2]
        for kind, weight in weights.items():
            collected[kind].append((coefficient * weight, a, b))

    weights_of = {
        kind: {convention: weights[kind] for convention, weights in WEIGHT.items() if kind in weights}
        for kind in {term.kind for term in trace.terms}
    }
    for term in trace.terms:
        factors = [grouping.factors[id(factor)] for factor in term.factors]
        add(weights_of[term.kind], term.coefficient, factors)
    for name, shape in trace.parameters.items():
        tables = [grouping.slots.get((name, dim)) for dim in range(len(shape))]
        rest = math.prod(size for size, table in zip(shape, tables, strict=True) if table is None)
        add({"params": 1}, rest, [table for table in tables if table is not None])
    arrays = {
        kind: tuple(np.array(column, dtype=np.int64) for column in zip(*(items or [(0, 0, 0)]), strict=True))
        for kind, items in collected.items()
    }
    nothing = np.zeros((1, len(grouping.names)), dtype=np.int64)
    return CostModel(
        constant=np.concatenate([[1], grouping.constant]),
        multiplicity=np.concatenate([nothing, grouping.multiplicity]),
        terms=arrays,  # type: ignore[arg-type]
        batch=trace.batch,
    )
