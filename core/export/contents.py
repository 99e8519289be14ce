"""What a trained network's file says of itself, as lines for people; nothing that it names is imported or run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.command_line.factories import is_factory
from core.storage.description import Contents
from core.storage.files import json_text
from core.surgery.architecture import Architecture

_SHOWN = 20  # classes and the like


def describe(path: str | Path, contents: Contents) -> str:
    """What `read_contents` found, for a terminal.

    Raises:
        ArchitectureError: the widths in it are damaged.
    """
    rows = [
        ["task", contents.task or "not told: no description; METHOD.safetensors of a work directory has one"]
    ]
    rows += _rows(contents.description, leave_out=("architecture",))
    widths = contents.description.get("architecture")
    architecture = None if widths is None else Architecture.from_json(widths, f"'{path}'")
    if contents.task:
        rows.append(["widths", "the network's own" if architecture is None else "below"])
    if architecture is not None:
        rows.append(["blocks left out", ", ".join(architecture.removed) or "none"])
        rows += _rows(architecture.found_by, "found by ", leave_out=("groups",)) or [["found by", "not told"]]
    rows += _rows(contents.program, "program: ")
    rows += _rows(contents.origin, "made: ") or [["made", "not told"]]
    rows += [
        ["release", contents.library or "not told: of an older release or another program"],
        ["tensors", f"{contents.tensors}, {contents.values:,} numbers"],
        ["checksum", "fits" if contents.checked else "none: damaged weights would not be noticed"],
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{path}", *(f"{name.ljust(width)}  {value}" for name, value in rows)]
    return "\n".join(lines if architecture is None else [*lines, "", architecture.describe()])


def _rows(fields: Mapping[str, Any], prefix: str = "", leave_out: Sequence[str] = ()) -> list[list[str]]:
    """Fields as lines; those within fields get dotted names."""
    rows: list[list[str]] = []
    for name, value in fields.items():
        if name in leave_out:
            continue
        if isinstance(value, dict) and value:
            rows += _rows(value, f"{prefix}{name}.")
        else:
            rows.append([f"{prefix}{name}", _text(name, value)])
    return rows


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return (
            f"{value} (code: named here, not imported; give it with --{name})"
            if name in ("model", "backbone") and is_factory(value)
            else value
        )
    if value is None:
        return "not set"
    if isinstance(value, list):
        items = ["any" if item is None else item if isinstance(item, str) else _plain(item) for item in value]
        more = f", … ({len(items)} in all)" if len(items) > _SHOWN else ""
        return (", ".join(items[:_SHOWN]) or "none") + more
    return _plain(value)


def _plain(value: Any) -> str:
    """JSON, but numbers without the last digits of a computation: 57.12 for 57.120000000000005."""
    return f"{value:.10g}" if isinstance(value, float) and math.isfinite(value) else json_text(value)
