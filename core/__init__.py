"""The method: trace, widen, score, search, rebuild; and what all tasks share: training, experiments, command lines.

Knows no task and no data set.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.errors import MissingData, UserError
    from core.graph.channels import ChannelGraph, ChannelGroup, trace_channels
    from core.graph.labels import FrozenChannelsWarning, TraceError
    from core.surgery.architecture import Architecture
    from core.surgery.gates import attach_gates, detach
    from core.surgery.hypernetwork import attach_hypernetwork
    from core.surgery.initialise import UnknownStartWarning, same_start, unknown_start
    from core.surgery.resize import keep_channels, widen
    from core.widths.config import ShrinkConfig
    from core.widths.scores import score_channels
    from core.widths.selection import search
    from core.widths.shrinkage import Budget, BudgetError, shrink

# Loaded at first use: `import core` costs no torch import, and `python -m core.channels` runs its module once.
# `core.surgery.resize` is the module; a function of that name could not be told from it.
_HOMES = {
    "Architecture": "surgery.architecture",
    "Budget": "widths.shrinkage",
    "BudgetError": "widths.shrinkage",
    "ChannelGraph": "graph.channels",
    "ChannelGroup": "graph.channels",
    "FrozenChannelsWarning": "graph.labels",
    "MissingData": "errors",
    "ShrinkConfig": "widths.config",
    "TraceError": "graph.labels",
    "UnknownStartWarning": "surgery.initialise",
    "UserError": "errors",
    "attach_gates": "surgery.gates",
    "attach_hypernetwork": "surgery.hypernetwork",
    "detach": "surgery.gates",
    "keep_channels": "surgery.resize",
    "same_start": "surgery.initialise",
    "score_channels": "widths.scores",
    "search": "widths.selection",
    "shrink": "widths.shrinkage",
    "trace_channels": "graph.channels",
    "unknown_start": "surgery.initialise",
    "widen": "surgery.resize",
}

__all__ = [
    "Architecture",
    "Budget",
    "BudgetError",
    "ChannelGraph",
    "ChannelGroup",
    "FrozenChannelsWarning",
    "MissingData",
    "ShrinkConfig",
    "TraceError",
    "UnknownStartWarning",
    "UserError",
    "attach_gates",
    "attach_hypernetwork",
    "detach",
    "keep_channels",
    "same_start",
    "score_channels",
    "search",
    "shrink",
    "trace_channels",
    "unknown_start",
    "widen",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'core' has no attribute '{name}'")
    return getattr(importlib.import_module(f"core.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
