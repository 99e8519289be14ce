"""Success plots over several seeds, from what the records of trials keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from core.experiments.curve_plots import draw_mean_curve
from core.experiments.series import Series
from core.experiments.statistics import with_interval
from core.methods.registry import BASELINE
from core.report.style import head, look_of, new_figure, save_figure, seeds_text, styled, title_of
from tracking.experiment.task import METRICS

COLUMNS = 3


@styled
def plot_success(path: Path, title: str, series: Mapping[str, Series]) -> bool:
    """Draw success over the overlap threshold, a panel for each method: every seed, their mean, its 95 % interval.

    Args:
        path: the PNG to write; an SVG is written beside it.
        title: shown above.
        series: method -> its records. Thresholds are evenly spaced in [0, 1]; records without a curve are left out.

    Returns:
        Whether there was anything to draw.
    """
    curves = {
        name: {
            seed: record["detail"]["success"] for seed, record in item.records.items() if "detail" in record
        }
        for name, item in series.items()
    }
    curves = {name: by_seed for name, by_seed in curves.items() if by_seed}
    if not curves:
        return False
    rows = -(-len(curves) // COLUMNS)
    figure, axes = new_figure(
        8.4, 1.0 + 2.3 * rows, rows, min(COLUMNS, len(curves)), squeeze=False, sharex=True, sharey=True
    )
    base = np.mean(list(curves[BASELINE].values()), axis=0) if BASELINE in curves else None
    for axis, (name, by_seed) in zip(axes.ravel(), curves.items()):
        look = look_of(name)
        values = np.array(list(by_seed.values()))
        thresholds = np.linspace(0, 1, values.shape[1])
        for curve in values:
            axis.plot(thresholds, curve, color=look.colour, linewidth=0.6, alpha=0.6)
        if base is not None and name != BASELINE:
            axis.plot(thresholds, base, color=look_of(BASELINE).colour, linewidth=1.2, linestyle="--")
        draw_mean_curve(axis, thresholds, list(values.T), name, linewidth=2, linestyle="-")
        reached = with_interval(series[name].values(METRICS[0]), METRICS[0].digits)
        axis.set_title(f"{title_of(name)}, {METRICS[0].label} {reached}")
        axis.grid(visible=True, axis="both")
    for axis in axes.ravel()[len(curves) :]:
        axis.set_visible(False)
    for axis in axes.ravel()[: len(curves)][-axes.shape[1] :]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("overlap threshold")
    for axis in axes[:, 0]:
        axis.set_ylabel("success, % of frames")
    axes[0, 0].set_xlim(0, 1)
    axes[0, 0].set_ylim(0, 100)
    seeds = [seed for by_seed in curves.values() for seed in by_seed]
    below = "" if base is None else " Dashed: the baseline's mean."
    head(figure, title, f"{seeds_text(seeds, [len(by_seed) for by_seed in curves.values()])}. Thin: every seed, "
                        f"thick: their mean with its 95 % interval.{below}")  # fmt: skip
    save_figure(figure, path)
    return True
