"""The found widths as a small JSON file: the only hand-over between the search and the training.

Nothing after the file knows how the widths were found, nothing before it knows how they are trained. A file can be
written by hand: `model`, `inputs` and `widths` are enough.
"""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError, check_known
from core.graph.channels import ChannelGraph, TraceOptions, find_groups
from core.graph.complexity import Cost
from core.modules import FORWARD_FAILURES, bare, fields_of, tensors_in
from core.storage.files import read_json, write_json
from core.storage.schema import lower
from core.surgery.depth import shorten
from core.surgery.initialise import Factory
from core.surgery.resize import keep_channels, reshaped, resize
from core.tables import text_table

SCHEMA_VERSION = 1
LARGEST_WIDTH = 2**24  # far above any network, and small enough for every product of two
LARGEST_INPUTS = (
    2**28
)  # numbers in the example inputs, which tracing has labels and constants for: 90 megapixels of RGB


class ArchitectureError(UserError):
    """A widths file that is damaged, or that does not fit the model; the message names the file and the group."""


@dataclass(frozen=True)
class Architecture:
    """Layer-wise widths of a network, and how they were found.

    Attributes:
        model: name of the baseline.
        widths: group -> channels of the module that the group is named after.
        conv_groups: grouped convolution -> number of groups, where widening changed it.
        inputs: shapes and types of the example inputs (`describe_inputs`), with which the groups are found again.
        options: how the model was traced.
        cost: of the found network; None where a file written by hand does not tell.
        baseline: cost of the baseline, likewise.
        baseline_widths: group -> channels of the baseline, likewise.
        found_by: score, seed, budget, batches, widening, floors ...; empty for a file written by hand.
        removed: blocks of the baseline that the network lacks (`core.surgery.depth`); their groups are not in `widths`.
        kept: group -> the choices of the baseline that are kept, in rising order, where the widths were found
            by the weights of a trained network; `cut` keeps these weights. Empty for all other widths.
    """

    model: str
    widths: dict[str, int]
    inputs: Any
    conv_groups: dict[str, int] = field(default_factory=dict)
    options: TraceOptions = field(default_factory=TraceOptions)
    cost: Cost | None = None
    baseline: Cost | None = None
    baseline_widths: dict[str, int] = field(default_factory=dict)
    found_by: dict[str, Any] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    kept: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the file, atomically."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The file's content, as plain JSON: lists, not tuples."""
        content = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        del content["baseline_widths"]
        if not self.kept:
            del content["kept"]
        content["cost"] = self.cost.to_json() if self.cost else {}
        content["baseline"] = self.baseline.to_json() if self.baseline else {}
        if self.baseline_widths:
            content["baseline"]["widths"] = self.baseline_widths
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain

    @property
    def costs(self) -> tuple[Cost, Cost]:
        """What the network and the baseline cost.

        Raises:
            ArchitectureError: the file does not tell; it was written by hand.
        """
        if self.cost is None or self.baseline is None:
            raise ArchitectureError(
                f"the widths file of '{self.model}' does not tell what the network and its baseline cost: add 'cost' "
                f"and 'baseline', or let shrink write the file"
            )
        return self.cost, self.baseline

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read a file.

        Raises:
            ArchitectureError: it does not exist, is not JSON, or is not a widths file; the message names the group
                where one is at fault.
        """
        try:
            content = read_json(path)
        except OSError as error:
            raise ArchitectureError(f"widths file '{path}' cannot be read: {error}") from None
        except ValueError as error:
            raise ArchitectureError(
                f"widths file '{path}' is not valid JSON ({error}); it may be truncated"
            ) from None
        return cls.from_json(content, f"widths file '{path}'")

    @classmethod
    def from_json(cls, content: Any, source: str = "architecture") -> Architecture:
        """From the content of a file; `source` names it in messages.

        Raises:
            ArchitectureError: see `load`.
        """
        if not isinstance(content, Mapping):
            raise ArchitectureError(f"{source}: expected an object with 'model', 'inputs' and 'widths'")
        version = content.get("schema_version", SCHEMA_VERSION)
        if version != SCHEMA_VERSION:
            raise ArchitectureError(
                f"{source} has schema version {version!r}, this release reads {SCHEMA_VERSION}: update LW-DNA"
            )
        try:
            known = [name for name in cls.__dataclass_fields__ if name != "baseline_widths"]
            check_known("unknown key", content, ["schema_version", *known])
            found = cls._lowered({key: value for key, value in content.items() if key != "schema_version"})
            for choices in found.kept.values():
                if not choices or choices[0] < 0 or any(one >= other for one, other in pairwise(choices)):
                    raise UserError("'kept' has to be an object of group: list of its choices, rising")
            if not all(found.removed):
                raise UserError("removed must be names of blocks, and one is empty")
            for key in ("at_floor", "at_ceiling"):
                lower(found.found_by.get(key, []), list[Any], f"found_by.{key}")
        except UserError as error:
            raise ArchitectureError(f"{source}: {error}") from None
        try:
            inputs = example_inputs(found.inputs)
            if sum(tensor.numel() for tensor in tensors_in(inputs)) > LARGEST_INPUTS:
                raise ValueError(f"they hold more than {LARGEST_INPUTS:,} numbers")
        except (TypeError, KeyError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise ArchitectureError(f"{source}: 'inputs' is damaged ({str(error).splitlines()[0]})") from None
        return found

    @classmethod
    def _lowered(cls, values: dict[str, Any]) -> Architecture:
        costs = {key: lower(values.get(key, {}), dict[str, Any], key) for key in ("cost", "baseline")}
        widths = costs["baseline"].pop("widths", {})
        for key, counts in (
            *((key, values.get(key, {})) for key in ("widths", "conv_groups")),
            ("baseline", widths),
        ):
            _check_counts(counts, key)
        read = {key: Cost.from_json(cost) if cost else None for key, cost in costs.items()}
        found: Architecture = lower({**values, **read, "baseline_widths": widths}, cls)
        return found

    def graph(self, model: nn.Module) -> ChannelGraph:
        """The channel groups of the baseline (without the removed blocks), as they were when the file was made.

        Raises:
            ArchitectureError: the groups of `model` are not the file's.
        """
        model = self._shortened(model)
        try:
            graph = find_groups(model, example_inputs(self.inputs), self.options)
        except UserError as error:
            raise ArchitectureError(f"the widths file of '{self.model}' does not fit: {error}") from error
        except (*FORWARD_FAILURES, MemoryError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ArchitectureError(
                f"{type(model).__name__} does not run on the inputs of the widths file of '{self.model}': {reason}"
            ) from error
        for name in self.widths:
            if name not in graph.widths:
                raise ArchitectureError(
                    f"group '{name}' of the widths file is not a channel group of {type(model).__name__}; the file was "
                    f"made for '{self.model}'"
                )
        for name in graph.widths:
            if name not in self.widths:
                raise ArchitectureError(
                    f"group '{name}' of {type(model).__name__} is missing in the widths file, which was made for "
                    f"'{self.model}'"
                )
        return graph

    def priced(self, model: nn.Module, inputs: Any) -> Architecture:
        """These widths, with their cost and the baseline's on other inputs.

        Args:
            model: the baseline.
            inputs: what one sample looks like to the baseline; only shapes matter.

        Raises:
            ArchitectureError: the groups of `model` are not the file's, or its regular widths differ from the file's.
        """
        found = find_groups(self.reshape(model), inputs, self.options)
        regular = find_groups(model, inputs, self.options)
        for group, width in self.baseline_widths.items():  # a file written by hand says nothing about it
            if regular.widths.get(group, width) != width:
                raise ArchitectureError(
                    f"the widths file of '{self.model}' was made for a network whose group '{group}' has {width} "
                    f"channels, but {type(model).__name__} has {regular.widths[group]}: name the network for which the "
                    "widths were found"
                )
        return replace(
            self,
            inputs=describe_inputs(inputs),
            cost=found.price(),
            baseline=regular.price(),
            baseline_widths=regular.widths,
        )

    def build(
        self, model: nn.Module, *, factory: Factory | None = None, seed: int | None = None
    ) -> nn.Module:
        """A plain module at these widths, freshly initialised by the baseline's own rules.

        Args:
            model: the baseline; it is not changed, and its weights only tell how to initialise.
            factory: builds the baseline anew. With it the network starts as the factory would start it at these widths
                (bit for bit at the baseline's own widths and an equal seed); without it the rules are read off the
                baseline's code and values (`core.surgery.initialise`).
            seed: for the fresh weights; None draws from torch's global generator.

        Returns:
            A module of the baseline's class with no trace of the search in it, in training mode.

        Warns:
            UnknownStartWarning: it is not known how some tensors start; `core.unknown_start` lists them.

        Raises:
            ArchitectureError: the file does not fit the model (the message names the group), or the factory builds
                another network.
        """
        return self._resized(
            model,
            lambda short, graph: resize(
                short, graph, self.widths, conv_groups=self.conv_groups, factory=factory, seed=seed
            ),
        )

    def reshape(self, model: nn.Module) -> nn.Module:
        """The module of `build`, but not initialised: its weights are to be loaded.

        Args:
            model: the baseline; it is not changed.

        Raises:
            ArchitectureError: the file does not fit the model; the message names the group.
        """
        return self._resized(
            model, lambda short, graph: reshaped(short, graph, self.widths, conv_groups=self.conv_groups)
        )

    def cut(self, model: nn.Module) -> nn.Module:
        """The trained network with only the channels that it shares with these widths, weights and statistics included.

        Args:
            model: the network by whose weights the channels were chosen; it is not changed.

        Returns:
            A plain module in training mode, for fine-tuning.

        Raises:
            ArchitectureError: the file does not fit the model, or does not say which channels are kept.
        """
        if not self.kept:
            raise ArchitectureError(
                f"the widths file of '{self.model}' does not say which channels are kept: it was not found by the "
                f"weights of a trained network (keep_weights=True)"
            )
        return self._resized(model, self._cut).train()

    def _cut(self, model: nn.Module, graph: ChannelGraph) -> nn.Module:
        keep = {}
        for name, choices in self.kept.items():
            group = graph.group(name)
            if choices[-1] >= group.size or len(choices) * group.step != self.widths.get(name):
                raise UserError(
                    f"group '{name}' keeps {len(choices)} of its {group.size} choices, up to {choices[-1]}, and has "
                    f"{self.widths.get(name)} channels"
                )
            keep[name] = torch.zeros(group.size, dtype=torch.bool)
            keep[name][list(choices)] = True
        if missing := [
            name for name, width in self.widths.items() if name not in keep and graph.widths[name] != width
        ]:
            raise UserError(f"it does not say which channels of group '{missing[0]}' are kept")
        # They hold groups that are not exact only where the search was asked for these.
        return keep_channels(model, graph, keep, inexact=True)

    def _resized(self, model: nn.Module, make: Callable[[nn.Module, ChannelGraph], nn.Module]) -> nn.Module:
        try:
            return make(self._shortened(model), self.graph(model))
        except ArchitectureError:
            raise
        except UserError as error:
            raise ArchitectureError(f"the widths do not fit {type(model).__name__}: {error}") from error

    def _shortened(self, model: nn.Module) -> nn.Module:
        try:
            return shorten(bare(model), self.removed)
        except UserError as error:
            raise ArchitectureError(f"the widths file of '{self.model}' does not fit: {error}") from error

    def diff(self, other: Architecture) -> str:
        """Widths of two architectures side by side, where they differ."""
        rows = []
        for name in dict.fromkeys([*self.widths, *other.widths]):
            mine, theirs = self.widths.get(name), other.widths.get(name)
            if mine != theirs:
                ratio = f"{theirs / mine:.2f}" if mine and theirs else ""
                rows.append(
                    [name, "-" if mine is None else str(mine), "-" if theirs is None else str(theirs), ratio]
                )
        return text_table(["group", "this", "other", "ratio"], rows) if rows else "no difference in widths"

    def describe(self) -> str:
        """Widths against the baseline's as a table for a terminal, with their costs and what lies on a floor."""
        base = self.baseline_widths
        floor = self.found_by.get("at_floor", ())
        ceiling = self.found_by.get("at_ceiling", ())
        rows = []
        for name, width in self.widths.items():
            note = "floor" if name in floor else "ceiling" if name in ceiling else ""
            was = base.get(name)
            rows.append([name, str(was or "-"), str(width), f"{width / was:.2f}" if was else "", note])
        lines = [text_table(["group", "baseline", "found", "ratio", ""], rows)]
        if self.removed:
            lines.append(f"left out: {', '.join(self.removed)}")
        if free := self.found_by.get("without_floor"):
            lines.append(f"no floor was set for {len(free)} groups: {', '.join(free)}")
        if self.cost:
            lines.append(f"FLOPs (paper) {self.cost.paper:,} · MACs {self.cost.macs:,} · "
                         f"parameters {self.cost.params:,}")  # fmt: skip
        return "\n".join(lines)


def describe_inputs(value: Any) -> Any:
    """Example inputs as JSON.

    Tensors become {"shape", "dtype"}, tuples a JSON list, lists {"list"}, dictionaries {"named"}, named tuples
    {"tuple"}, dataclasses and namespaces {"fields"}; None, numbers and strings {"value"}.

    Raises:
        UserError: they hold something else.
    """
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"named": _described(value)}
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
        if fields is not None:
            return {"tuple": _described(dict(zip(fields, value, strict=True)))}
        return [describe_inputs(item) for item in value]
    if isinstance(value, list):
        return {"list": [describe_inputs(item) for item in value]}
    if value is None or type(value) in (bool, int, float, str):
        return {"value": value}
    if fields_of(value):
        return {"fields": _described(fields_of(value))}
    raise UserError(
        f"example inputs hold a {type(value).__name__}, which cannot be written to a widths file: use tensors, None, "
        f"numbers and strings, in tuples, lists, dictionaries, named tuples and dataclasses"
    )


def _described(items: Mapping[Any, Any]) -> dict[str, Any]:
    for key in items:
        if not isinstance(key, str):
            raise UserError(f"example inputs hold a dictionary with the key {key!r}: use strings as keys")
    return {key: describe_inputs(item) for key, item in items.items()}


def example_inputs(description: Any) -> Any:
    """Meta tensors of the described shapes, in the described structure.

    A file names no classes: named tuples and dataclasses come back as other classes with the same fields.
    """
    if isinstance(description, list):
        return tuple(example_inputs(item) for item in description)
    if "list" in description:
        return [example_inputs(item) for item in description["list"]]
    if "value" in description:
        return description["value"]
    for key in ("named", "tuple", "fields"):
        if key in description:
            items = {name: example_inputs(item) for name, item in description[key].items()}
            if key == "tuple":
                return namedtuple("Inputs", items)(**items)
            return items if key == "named" else SimpleNamespace(**items)
    return torch.empty(description["shape"], dtype=getattr(torch, description["dtype"]), device="meta")


def _check_counts(value: Any, key: str) -> None:
    for name, width in lower(value, dict[str, Any], key).items():
        if type(width) is not int or not 1 <= width <= LARGEST_WIDTH:
            raise UserError(f"{key} of group '{name}' is {width!r}, not a positive whole number")
