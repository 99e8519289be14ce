"""The part that the three runners share: a network at a file's widths, started as its factory would start it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from core.experiments.given import widths_file
from core.surgery.architecture import Architecture
from core.surgery.initialise import Factory


def load_widths(widths: str | Path) -> Architecture:
    """The found widths in a file, or under the name of one that ships (`core.experiments.given`).

    Raises:
        UserError: there is no such file; ArchitectureError: it is damaged.
    """
    return Architecture.load(widths_file(widths))


def found_network(factory: Factory, widths: str | Path | None) -> nn.Module:
    """The factory's network at found widths, freshly started as the factory would start it there.

    Args:
        factory: builds the baseline.
        widths: see `load_widths`; None for the baseline itself, so that one configuration serves both.

    Raises:
        UserError: see `load_widths`; ArchitectureError: the file does not fit the baseline.
    """
    baseline = factory()
    return baseline if widths is None else load_widths(widths).build(baseline, factory=factory)
