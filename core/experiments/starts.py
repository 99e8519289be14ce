"""How networks of an experiment start: unknown starts are found before any training, and refused or reported."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import nn

from core.errors import UserError
from core.experiments.task import Task
from core.graph.channels import trace_channels
from core.surgery.initialise import UnknownStartWarning, seeded, unknown_start
from core.surgery.resize import resize
from core.widths.config import ShrinkConfig


def check_start(task: Task, config: ShrinkConfig, allowed: bool) -> None:
    """Check, at three quarters of the baseline's widths, whether networks of other widths start by its rules.

    Raises:
        UserError: they may not, and that is not allowed.
    """
    with seeded(0):
        model, inputs = task.searched()
    traced = task.traced(config)
    graph = trace_channels(model, inputs, freeze=traced.freeze, ties=traced.ties, outputs=traced.outputs)
    widths = {group.name: group.step * max(1, 3 * group.size // 4) for group in graph.groups}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownStartWarning)  # refused below, or told for every trial
        narrow = resize(model, graph, widths, factory=task.searched_factory, seed=0)
    refuse_unknown_start(task, narrow, allowed)


def refuse_unknown_start(task: Task, model: nn.Module, allowed: bool) -> dict[str, str]:
    """Tensors that may start otherwise than the baseline's -> why.

    Raises:
        UserError: there are such tensors, and that is not allowed.
    """
    unknown = unknown_start(model)
    if unknown and not allowed:
        some = list(unknown.items())[:3]
        more = f"; and {len(unknown) - len(some)} more" if len(unknown) > len(some) else ""
        told = "; ".join(f"'{name}': {why}" for name, why in some)
        raise UserError(
            f"{len(unknown)} tensors of {task.model_name} may start otherwise at found widths than the baseline's, so "
            f"the comparison would not be of widths alone ({told}{more}): see docs/starts.md, or add "
            f"--allow-unknown-start"
        )
    return unknown


def unknown_text(unknown: Mapping[str, str]) -> str:
    """The line about tensors whose rule is not known."""
    return f"{len(unknown)} tensors may start otherwise than the baseline's: {', '.join(unknown)}"
