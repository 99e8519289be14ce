"""The space that widths are searched in: the baseline's groups, the widened network and its groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from core.errors import UserError
from core.graph.channels import ChannelGraph, trace_channels
from core.graph.complexity import Cost
from core.surgery.architecture import Architecture, describe_inputs
from core.surgery.depth import shorten
from core.surgery.resize import widen as widen_model


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
    """

    model: nn.Module
    inputs: Any
    base_graph: ChannelGraph
    wide: nn.Module
    graph: ChannelGraph
    removed: tuple[str, ...] = ()

    @property
    def baseline(self) -> Cost:
        """What the fractions of a budget refer to."""
        return self.base_graph.price()

    def architecture(
        self, widths: Mapping[str, int], name: str | None, found_by: Mapping[str, Any]
    ) -> Architecture:
        """Widths of this space as the hand-over to training.

        Args:
            widths: group -> channels, for every group of the widened network.
            name: the model's name in the file; its class name by default.
            found_by: how the widths were found, as plain JSON.
        """
        return Architecture(
            model=name or type(self.model).__name__,
            widths=dict(widths),
            conv_groups=dict(self.graph.conv_groups),
            inputs=describe_inputs(self.inputs),
            options=self.base_graph.options,
            cost=self.graph.price(widths),
            baseline=self.base_graph.price(),
            baseline_widths=self.base_graph.widths,
            found_by=dict(found_by),
            removed=self.removed,
        )


def open_space(
    model: nn.Module,
    example_inputs: Any,
    widen: float,
    *,
    seed: int | None = None,
    freeze: Sequence[str] = (),
    taps: Sequence[str] = (),
    ties: Sequence[tuple[str, str]] = (),
    outputs: Literal["single", "freeze", "free"] = "single",
    removed: Sequence[str] = (),
) -> Space:
    """Trace a baseline, widen it and trace the widened network.

    Args:
        model: any CNN; it is not changed.
        example_inputs: as for `trace_channels`, as are `freeze`, `taps`, `ties` and `outputs`.
        widen: growth of the widths, at least 1.
        seed: for the widened network's weights; None draws from torch's global generator.
        freeze: see `trace_channels`.
        taps: see `trace_channels`.
        ties: see `trace_channels`.
        outputs: see `trace_channels`.
        removed: blocks that are left out before widening; see `core.surgery.depth`.

    Raises:
        UserError: nothing in the model is free to change; and whatever `trace_channels` and `widen` raise.
    """
    base_graph = trace_channels(model, example_inputs, freeze=freeze, taps=taps, ties=ties, outputs=outputs)
    if not base_graph.groups:
        raise UserError("the model has no free channel group: nothing to widen or shrink")
    options = asdict(base_graph.options)
    start, start_graph = model, base_graph
    if removed:
        start = shorten(model, removed)
        start_graph = trace_channels(start, example_inputs, **options)
    wide = widen_model(start, start_graph, widen, seed=seed)
    graph = trace_channels(wide, example_inputs, **options)
    return Space(model, example_inputs, base_graph, wide, graph, tuple(removed))
