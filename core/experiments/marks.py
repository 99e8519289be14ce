"""Parts shared by pictures of several seeds: means, intervals, notes on values that are not drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.experiments.series import Series
from core.experiments.statistics import half_interval
from core.report.style import (
    look_of,
    seeds_text,
    styled,
)
from core.report.tips import Tips

FEWEST_ON_A_LINE = 3  # two points make a line out of everything
_BASE = "#bdbdbd"


def say_what_is_not_drawn(axis: Any, values: Sequence[float], infinite: str = "not drawn") -> None:
    """Write into a plot how many of the `values` are infinite or NaN, and what became of them."""
    kinds = (("infinite", infinite, np.isinf), ("not a number", "not drawn", np.isnan))
    counts = [(kind, fate, int(test(values).sum())) for kind, fate, test in kinds] if len(values) else []
    lines = [f"{count} value{'s' * (count != 1)} {kind}: {fate}" for kind, fate, count in counts if count]
    if lines:
        axis.text(0.01, 0.99, "\n".join(lines), transform=axis.transAxes, va="top", fontsize=8)


def seeds_note(series: Sequence[Series]) -> str:
    """n, seeds, and the meaning of bars and dots, for a picture of means."""
    counts = [len(item.records) for item in series]
    seeds = [seed for item in series for seed in item.records]
    text = f"{seeds_text(seeds, counts)}. "
    if max(counts, default=0) < FEWEST_ON_A_LINE:
        return text + "Small dots: seeds, marks: their means. Too few for intervals."
    return text + "Marks and bars: means and 95 % intervals (Student's t); small dots: seeds."


def add_tip(tips: Tips | None, artist: Any, texts: Sequence[str]) -> None:
    """Give marks the texts that report.html shows when one points at them; without `tips` do nothing."""
    if tips is not None:
        tips.add(artist, texts)


@styled
def draw_means(
    axis: Any, x: Sequence[float], values: Sequence[Sequence[float]], look_as: str, *, seeds: bool = True
) -> None:
    """Draw means over seeds with 95 % intervals; a line joins three means or more.

    Args:
        axis: matplotlib's.
        x: places on the axis.
        values: over the seeds, for every place of `x`.
        look_as: the method in whose look to draw.
        seeds: whether to draw seeds as dots.
    """
    look = look_of(look_as)
    style: dict[str, Any] = {"linestyle": look.dashes if len(x) >= FEWEST_ON_A_LINE else "none"}
    spread = [drawn_interval(own) for own in values]
    axis.errorbar(x, [drawn_mean(own) for own in values], spread, capsize=0, elinewidth=1.1, color=look.colour,
                  marker=look.marker, markersize=4.5, **style)  # fmt: skip
    for place, own in zip(x, values, strict=True):
        dots = [drawn_mean([value]) for value in own] if seeds else []
        axis.plot([place] * len(dots), dots, ".", color=look.colour, markersize=3.5, alpha=0.5)


def draw_band(axis: Any, values: Sequence[float], *, vertical: bool = False) -> None:
    """Draw the baseline's mean over its seeds as a line, and its 95 % interval as a band."""
    mean, half = drawn_mean(values), drawn_interval(values)
    line, span = (axis.axvline, axis.axvspan) if vertical else (axis.axhline, axis.axhspan)
    if math.isfinite(mean):
        line(mean, color=look_of("baseline").colour, linewidth=1, zorder=1)
        span(mean - half, mean + half, color=_BASE, alpha=0.35, linewidth=0, zorder=0)


def drawn_mean(values: Sequence[float]) -> float:
    """The mean for a figure; NaN, which is not drawn, if it is not finite."""
    mean = sum(values) / len(values)
    return mean if math.isfinite(mean) else math.nan


def drawn_interval(values: Sequence[float]) -> float:
    """Half the 95 % interval for a figure; 0 for fewer than three values, whose interval would hide all else.

    It is also 0 for values that are not finite, which have no interval.
    """
    half = half_interval(values) if len(values) > 2 else None
    return half if half is not None and math.isfinite(half) else 0.0
