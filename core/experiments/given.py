"""Widths that are given, by a file or by the name of one that ships with the suite, instead of being found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from core.errors import UserError, did_you_mean
from core.surgery.architecture import Architecture
from core.surgery.initialise import seeded
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig

SHIPPED = Path(__file__).resolve().parents[2] / "shared_configs" / "widths"


def shipped_names() -> list[str]:
    """The names that `--widths` knows: NETWORK-METHOD, each a file of `shared_configs/widths`."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def widths_file(named: str | Path) -> Path:
    """The widths file that a protocol or a command line names.

    Args:
        named: a path, or one of `shipped_names`; a file of the user's comes first.

    Raises:
        UserError: there is no such file and no such name.
    """
    path = Path(named)
    if path.exists():
        return path
    names = shipped_names()
    if str(named) in names:
        return SHIPPED / f"{named}.json"
    if path.suffix or len(path.parts) > 1:
        raise UserError(f"widths file '{path}' does not exist")
    raise UserError(
        f"'{named}' is no widths file, and none of that name ships: {did_you_mean(str(named), names)}"
    )


def given_widths(
    named: str | Path | None, build: Callable[[], nn.Module], inputs: Any
) -> Architecture | None:
    """Given widths, priced on the task's inputs; None if widths are to be found.

    Args:
        named: see `widths_file`; None if no widths are given.
        build: makes the baseline.
        inputs: what one sample looks like to the baseline; only shapes matter.

    Raises:
        UserError: there is no such file.
        ArchitectureError: it is damaged, or belongs to another network.
    """
    if named is None:
        return None
    with seeded(0):  # it only shows what the widths belong to
        return Architecture.load(widths_file(named)).priced(build(), inputs)


def given_subject(given: Architecture | None) -> dict[str, Any]:
    """What given widths add to a task's subject, which decides the keys of results; empty if none are given."""
    return {} if given is None else {"given": given.to_json()}


def at_given_budget(shrink: ShrinkConfig, given: Architecture | None) -> ShrinkConfig:
    """The settings for controls: their budget is the cost of the given widths, so that they cost the same."""
    if given is None:
        return shrink
    return replace(shrink, budget=Budget(flops=given.costs[0].paper, convention="paper"))
