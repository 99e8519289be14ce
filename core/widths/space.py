"""The space of the search for widths: the baseline's groups, the widened network and its groups."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from core.errors import UserError, warn
from core.graph.channels import ChannelGraph, find_groups, warn_of_frozen
from core.graph.complexity import Cost
from core.graph.labels import Note
from core.modules import bare
from core.surgery.architecture import Architecture, describe_inputs
from core.surgery.depth import shorten
from core.surgery.initialise import Factory, UnknownStartWarning, unknown_start
from core.surgery.resize import widen as widen_model
from core.widths.config import ShrinkConfig
from core.widths.scores import magnitudes
from core.widths.selection import best_choices


@dataclass(frozen=True)
class Space:
    """A baseline and its widened form.

    Attributes:
        model: the baseline.
        inputs: its example inputs.
        base_graph: its channel groups.
        wide: the widened network, freshly initialised.
        graph: its channel groups, with the names of the baseline's.
        removed: blocks of the baseline that the widened network lacks.
        keeps_weights: whether the widened network is the baseline itself (without these blocks), weights included.
    """

    model: nn.Module
    inputs: Any
    base_graph: ChannelGraph
    wide: nn.Module
    graph: ChannelGraph
    removed: tuple[str, ...] = ()
    keeps_weights: bool = False

    @property
    def baseline(self) -> Cost:
        """The cost to which fractions of a budget refer."""
        return self.base_graph.price()

    def architecture(
        self,
        widths: Mapping[str, int],
        name: str | None,
        found_by: Mapping[str, Any],
        keep: Mapping[str, Tensor] | None = None,
    ) -> Architecture:
        """Widths of this space as the architecture that training takes.

        Args:
            widths: group -> channels, for every group of the widened network.
            name: the model's name in the file; its class name by default.
            found_by: how the widths were found, as plain JSON.
            keep: group -> boolean mask of the choices that are kept, where weights are kept. None for a
                search that says how many but not which: those with the largest mean |W| are kept.
        """
        facts, kept = dict(found_by), {}
        if self.keeps_weights:
            if keep is None:
                keep = best_choices(
                    self.graph, magnitudes(self.wide, self.graph), self.graph.elements(widths)
                )
                facts["kept_by"] = "magnitude"
            kept = {name: tuple(mask.nonzero().flatten().tolist()) for name, mask in keep.items()}
        return Architecture(
            model=name or type(self.model).__name__,
            widths=dict(widths),
            conv_groups=dict(self.graph.conv_groups),
            inputs=describe_inputs(self.inputs),
            options=self.base_graph.options,
            cost=self.graph.price(widths),
            baseline=self.base_graph.price(),
            baseline_widths=self.base_graph.widths,
            found_by=facts,
            removed=self.removed,
            kept=kept,
        )


def open_space(
    model: nn.Module,
    example_inputs: Any,
    config: ShrinkConfig,
    *,
    seed: int | None = None,
    removed: Sequence[str] = (),
    told: Sequence[Note] = (),
    factory: Factory | None = None,
) -> Space:
    """Trace a baseline, widen it and trace the widened network; where weights are kept, take the baseline as it is.

    Args:
        model: any CNN; it is not changed.
        example_inputs: as for `trace_channels`.
        config: growth of the widths, and how networks are traced.
        seed: for the widened network's weights; None draws from torch's global generator.
        removed: blocks that are left out before widening; see `core.surgery.depth`.
        told: notes of an earlier trace of the baseline (`ChannelGraph.notes`), of which no second warning is given.
        factory: builds `model` anew; used where the model itself does not show how it starts.

    Raises:
        UserError: nothing in the model is free to change; and whatever `trace_channels` and `widen` raise.
    """
    model = bare(model)
    options = config.trace
    base_graph = find_groups(model, example_inputs, options)
    whole = base_graph.inexact if config.keep_weights and not config.inexact else []
    if whole:
        options = replace(options, freeze=(*options.freeze, *whole))
        base_graph = find_groups(model, example_inputs, options)
    warn_of_frozen(base_graph.notes, told)
    if whole and not removed:
        warn(
            f"{len(whole)} groups stay whole, as trained weights do not survive a cut where the network computes over "
            f"all channels ({', '.join(whole)}); inexact=True cuts them too"
        )
    if not base_graph.groups:
        raise UserError("the model has no free channel group: nothing to widen or shrink")
    start, start_graph = model, base_graph
    if removed:
        start = shorten(model, removed)
        start_graph = find_groups(start, example_inputs, options)
    if config.keep_weights:
        return Space(
            model, example_inputs, base_graph, start, start_graph, tuple(removed), keeps_weights=True
        )
    wide = _widened(start, start_graph, config.widen, seed, factory)
    graph = find_groups(wide, example_inputs, options)
    warn_of_frozen(graph.notes, [*base_graph.notes, *start_graph.notes])
    return Space(model, example_inputs, base_graph, wide, graph, tuple(removed))


def _widened(
    model: nn.Module, graph: ChannelGraph, factor: float, seed: int | None, factory: Factory | None
) -> nn.Module:
    """Widened by the start that the model itself shows, or by its factory where that is not enough.

    So the widths of a network that starts by its own code do not depend on the order in which its factory draws.
    """
    if factory is None:
        return widen_model(model, graph, factor, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownStartWarning)
        wide = widen_model(model, graph, factor, seed=seed)
    return widen_model(model, graph, factor, factory=factory, seed=seed) if unknown_start(wide) else wide
