"""What the three runners share: a network at the widths of a file, started as its factory would start it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from core.surgery.architecture import Architecture
from core.surgery.initialise import Factory


def found_network(factory: Factory, widths: str | Path | None) -> nn.Module:
    """The factory's network at found widths, freshly started as the factory would start it there.

    Args:
        factory: builds the baseline.
        widths: a widths file (`core.Architecture.save`); None for the baseline itself, so that one configuration serves
            both.

    Raises:
        ArchitectureError: the file cannot be read, or does not fit the baseline.
    """
    baseline = factory()
    return baseline if widths is None else Architecture.load(widths).build(baseline, factory=factory)
