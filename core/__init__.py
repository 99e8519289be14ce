"""The method: trace, widen, score, search, rebuild; and what all tasks share: training, experiments, command lines.

Knows no task and no data set.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.architecture import Architecture
    from core.channels import ChannelGraph, ChannelGroup, trace_channels
    from core.errors import MissingData, UserError
    from core.gates import attach_gates, detach
    from core.hypernetwork import attach_hypernetwork
    from core.labels import FrozenChannelsWarning, TraceError
    from core.resize import keep_channels, widen
    from core.scores import score_channels
    from core.selection import search
    from core.shrinkage import Budget, BudgetError, shrink

# Loaded at first use: `import core` costs no torch import, and `python -m core.channels` runs its module once.
# `core.resize` is the module; a function of that name could not be told from it.
_HOMES = {
    "Architecture": "architecture",
    "Budget": "shrinkage",
    "BudgetError": "shrinkage",
    "ChannelGraph": "channels",
    "ChannelGroup": "channels",
    "FrozenChannelsWarning": "labels",
    "MissingData": "errors",
    "TraceError": "labels",
    "UserError": "errors",
    "attach_gates": "gates",
    "attach_hypernetwork": "hypernetwork",
    "detach": "gates",
    "keep_channels": "resize",
    "score_channels": "scores",
    "search": "selection",
    "shrink": "shrinkage",
    "trace_channels": "channels",
    "widen": "resize",
}

__all__ = [
    "Architecture",
    "Budget",
    "BudgetError",
    "ChannelGraph",
    "ChannelGroup",
    "FrozenChannelsWarning",
    "MissingData",
    "TraceError",
    "UserError",
    "attach_gates",
    "attach_hypernetwork",
    "detach",
    "keep_channels",
    "score_channels",
    "search",
    "shrink",
    "trace_channels",
    "widen",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'core' has no attribute '{name}'")
    return getattr(importlib.import_module(f"core.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
