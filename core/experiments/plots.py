"""Plots that every task shares: widths per layer, and curves of training."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from core.experiments.plan import finder_of
from core.experiments.report import METHOD_TITLES
from core.experiments.series import Series
from core.experiments.settings import Run
from core.experiments.statistics import half_interval
from core.experiments.task import Metric, Task
from core.storage.files import write_with

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers and in grey.
COLOURS = {"baseline": "#6b6b6b", "lwdna": "#0072b2", "random": "#e69f00", "uniform": "#009e73", "magnitude": "#cc79a7",
           "sensitivity": "#56b4e9", "gradient": "#d55e00"}  # fmt: skip


# Drawn in turns, each with a marker of its own, where there are more methods than colours.
CURVE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b6b6b", "#000000")
MARKERS = "osD^vP*X<>"


_DECADE = 10.0


def new_figure(width: float, height: float, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure that needs no display, with quiet axes; `options` go to `subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, **options)
    for axis in np.ravel(axes):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, atomically."""
    write_with(path, lambda temporary: figure.savefig(temporary, dpi=160))


def layer_widths(model: nn.Module, order: Sequence[str]) -> list[int]:
    """Output channels of the named convolutions and linear layers; 0 for those of a block that was left out."""
    modules: dict[str, Any] = dict(model.named_modules())
    layers = [modules.get(name) for name in order]
    return [int(getattr(layer, "out_channels", getattr(layer, "out_features", 0))) for layer in layers]


def plot_widths(
    path: Path, title: str, layers: Sequence[str], baseline: Sequence[int], found: dict[str, list[list[int]]]
) -> None:
    """Draw width per layer, found against baseline, and their ratio below (figure 1 (a), (b) of LW-DNA).

    Args:
        path: the PNG to write.
        title: shown above.
        layers: names in the order of execution.
        baseline: channels per layer.
        found: method -> one list of channels per seed; the first method is drawn as bars, others as markers.
    """
    positions = np.arange(len(layers))
    figure, (top, bottom) = new_figure(
        float(np.clip(2.5 + 0.24 * len(layers), 7, 18)), 6.2, 2, sharex=True, height_ratios=[3, 2]
    )
    base = np.asarray(baseline, dtype=float)
    top.bar(positions, base, width=0.84, color="0.85", label="Baseline")
    for number, (method, runs) in enumerate(found.items()):
        widths = np.asarray(runs, dtype=float)
        colour = COLOURS.get(method, f"C{number}")
        label = METHOD_TITLES.get(method, method)
        ratio = widths / base
        if number == 0:
            top.bar(positions, widths.mean(axis=0), width=0.42, color=colour, label=label)
            bottom.bar(positions, ratio.mean(axis=0) - 1, bottom=1, width=0.42, color=colour, label=label)
        else:
            bottom.plot(positions, ratio.mean(axis=0), "o", markersize=3.5, color=colour, label=label)
        if len(runs) > 1:
            spread = [ratio.mean(axis=0) - ratio.min(axis=0), ratio.max(axis=0) - ratio.mean(axis=0)]
            bottom.errorbar(positions, ratio.mean(axis=0), spread, fmt="none", ecolor=colour, elinewidth=1)
    bottom.axhline(1, color="0.4", linewidth=1)
    top.set_ylabel("channels")
    bottom.set_ylabel("ratio to baseline")
    step = max(1, -(-len(layers) // 60))
    bottom.set_xticks(positions[::step], [layers[at] for at in positions[::step]], rotation=90, fontsize=7)
    top.set_xlim(-0.7, len(layers) - 0.3)
    _set_title(top, title)
    top.legend(frameon=False, ncols=2)
    if len(found) > 1:
        # Above the axes: bars and markers may be anywhere within them.
        bottom.legend(
            frameon=False,
            ncols=len(found),
            fontsize=8,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            borderaxespad=0,
        )
    save_figure(figure, path)


def _set_title(axis: Any, title: str) -> None:
    """At the left, in as many lines as a figure of seven inches needs."""
    axis.set_title(textwrap.fill(title, 72), loc="left", fontsize=11)


def plot_channels(path: Path, task: Task, runs: Sequence[Run]) -> None:
    """channels.png of an experiment: every convolution and linear layer whose width is free."""
    from core.graph.channels import trace_channels

    model, inputs = task.searched()
    first = next((run.architecture for run in runs if run.architecture is not None), None)
    if first is None:  # all others failed
        path.unlink(missing_ok=True)
        return
    options = first.options
    outputs = "free" if task.part is not None and options.outputs == "single" else options.outputs
    graph = trace_channels(model, inputs, freeze=options.freeze, ties=options.ties, outputs=outputs)
    layers = [name for name in graph.producers if name not in graph.depthwise]
    found: dict[str, list[list[int]]] = {}
    for run in runs:
        if run.architecture is not None and run.method == finder_of(
            run.method
        ):  # its control has the same widths
            found.setdefault(run.method, []).append(layer_widths(run.architecture.reshape(model), layers))
    title = f"{task.model_name} on {task.dataset}: channels per layer"
    if {"budget", "score"} <= first.found_by.keys():  # a file written by hand says nothing of its origin
        limits = first.found_by["budget"].items()
        budget = " ".join(f"{kind} {value}" for kind, value in limits)
        title += f" ({first.found_by['score']}, budget {budget})"
    plot_widths(path, title, layers, layer_widths(model, layers), found)


def plot_curves(path: Path, task: Task, runs: Sequence[Run]) -> None:
    """curves.png: training (dashed) and test (solid) metric per epoch; bands span the seeds."""
    train_key, test_key, label = task.curves
    figure, axis = new_figure(7.5, 4.6)
    strange: list[float] = []
    for number, method in enumerate(dict.fromkeys(run.method for run in runs)):
        own = [run for run in runs if run.method == method]
        colour = COLOURS.get(method, f"C{number}")
        name = METHOD_TITLES.get(method, method)
        train = [[r.train_metrics.get(train_key, r.train_loss) for r in run.history] for run in own]
        strange += _curve(axis, range(1, len(train[0]) + 1), train, colour, "--", f"{name}, training")
        tested = [[record for record in run.history if test_key in record.eval_metrics] for run in own]
        test = [[record.eval_metrics[test_key] for record in records] for records in tested]
        strange += _curve(axis, [record.epoch for record in tested[0]], test, colour, "-", f"{name}, test")
    if not task.metrics[0].higher_is_better:
        scale_errors(axis)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if axis.get_xlim()[1] < 2:  # a single epoch, a single tick
        axis.set_xlim(0, 2)
    axis.set_xlabel("epoch")
    axis.set_ylabel(label)
    _set_title(axis, f"{task.model_name} on {task.dataset}")
    axis.legend(frameon=False, fontsize=8)
    say_what_is_not_drawn(axis, strange, "triangles at the edge")
    save_figure(figure, path)


def scale_errors(axis: Any) -> None:
    """Draw errors that fell by orders of magnitude over a logarithm (above 1), so that the last can be told apart."""
    from matplotlib.ticker import ScalarFormatter, SymmetricalLogLocator

    low, high = axis.dataLim.intervaly
    if not high > _DECADE * max(low, 0.0):  # all of one size, or none at all
        return
    axis.set_yscale("symlog", linthresh=1)
    if low < 1:
        axis.set_ylim(bottom=0)
    axis.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ScalarFormatter())


def say_what_is_not_drawn(axis: Any, values: Sequence[float], infinite: str = "not drawn") -> None:
    """Write into a plot how many of the `values` are infinite, and what became of them, and how many are NaN."""
    kinds = (("infinite", infinite, np.isinf), ("not a number", "not drawn", np.isnan))
    counts = [(kind, fate, int(test(values).sum())) for kind, fate, test in kinds] if len(values) else []
    lines = [f"{count} value{'s' * (count != 1)} {kind}: {fate}" for kind, fate, count in counts if count]
    if lines:
        axis.text(0.01, 0.99, "\n".join(lines), transform=axis.transAxes, va="top", fontsize=8)


def _curve(
    axis: Any, epochs: Sequence[int], runs: Sequence[Sequence[float]], colour: str, style: str, label: str
) -> list[float]:
    """Draw the mean over the runs and the span of them; returns the values that are not finite."""
    values = np.asarray(runs, dtype=float)
    mean = np.array([sum(column) / len(column) for column in values.T])  # numpy's mean warns of infinities
    marker = "o" if len(mean) == 1 else None
    axis.plot(
        list(epochs),
        np.where(np.isfinite(mean), mean, np.nan),
        style,
        color=colour,
        label=label,
        linewidth=1.6,
        marker=marker,
    )
    if len(runs) > 1:
        axis.fill_between(
            list(epochs), values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, linewidth=0
        )
    for edge, infinity, marker in ((1, np.inf, "^"), (0, -np.inf, "v")):
        at = [epoch for epoch, value in zip(epochs, mean, strict=True) if value == infinity]
        if at:
            place = axis.get_xaxis_transform()
            axis.plot(at, [edge] * len(at), marker, color=colour, transform=place, clip_on=False)
    return values[~np.isfinite(values)].tolist()


def plot_tradeoff(
    path: Path, curves: Mapping[str, Sequence[Series]], metric: Metric, title: str, *, baseline: Series | None
) -> None:
    """Error against FLOPs with 95 % intervals over the seeds, and the paired differences to the baseline below.

    Many methods at one budget would lie on top of each other: they are drawn side by side, the best one first.

    Args:
        path: the PNG.
        curves: name -> its series at several budgets; one point for each.
        metric: the vertical axis.
        title: shown above.
        baseline: drawn as a line with its interval; differences are to it.
    """
    several = any(len(points) > 1 for points in curves.values())
    shifts = {} if several else _side_by_side(curves, metric, baseline)
    labels = [label for label in curves if label not in shifts] + list(shifts)
    forest = baseline is not None and not several and len(baseline.records) > 1
    height = 4.4 + (0.24 * len(labels) + 0.8 if forest else 0)
    figure, axes = new_figure(8.4, height, 2 if forest else 1,
                              **({"height_ratios": [4.4, 0.24 * len(labels) + 0.8]} if forest else {}))  # fmt: skip
    top, bottom = (axes[0], axes[1]) if forest else (axes, None)
    for number, label in enumerate(labels):
        points = sorted(curves[label], key=lambda item: item.ratio("flops"))
        x = [100 * item.ratio("flops") + shifts.get(label, 0.0) for item in points]
        draw_means(
            top,
            x,
            [item.values(metric) for item in points],
            label=label,
            linestyle="-" if len(points) > 1 else "none",
            color=CURVE_COLOURS[number % len(CURVE_COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
        )
    if baseline is not None:
        draw_band(top, baseline.values(metric))
    top.set_xlabel("FLOPs, % of the baseline's")
    if shifts:  # no scale that would give each of them another cost
        budget = float(np.mean([100 * curves[label][0].ratio("flops") for label in shifts]))
        top.set_xticks([budget, 100], [f"{budget:.1f}, side by side", "100"])
    top.set_ylabel(metric.label)
    top.set_title(title, loc="left", fontsize=10)
    drawn = [item for points in curves.values() for item in points] + ([baseline] if baseline else [])
    say_what_is_not_drawn(
        top, [value for item in {id(i): i for i in drawn}.values() for value in item.values(metric)]
    )
    top.legend(frameon=False, fontsize=7, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if bottom is not None and baseline is not None:
        _forest(bottom, {label: points[0] for label, points in curves.items()}, baseline, metric)
    save_figure(figure, path)


def draw_means(axis: Any, x: Sequence[float], values: Sequence[Sequence[float]], **style: Any) -> None:
    """Draw means over seeds with 95 % intervals, and the seeds as dots where there are no intervals.

    Args:
        axis: matplotlib's.
        x: where.
        values: over the seeds, for every place of `x`.
        style: options of `errorbar`.
    """
    spread = [drawn_interval(seeds) for seeds in values]
    line = axis.errorbar(x, [drawn_mean(seeds) for seeds in values], spread, capsize=2, **style)
    if not any(spread):
        for place, seeds in zip(x, values, strict=True):
            dots = [drawn_mean([seed]) for seed in seeds]
            axis.plot([place] * len(dots), dots, ".", color=line[0].get_color(), markersize=3, alpha=0.6)


def plot_losses(path: Path, title: str, series: Mapping[str, Series]) -> bool:
    """Draw the training loss of every epoch, the mean over seeds with its 95 % interval as a band, a line per method.

    Args:
        path: the PNG to write.
        title: shown above.
        series: method -> its records; those of earlier releases know no losses of single epochs and are left out.

    Returns:
        Whether there was anything to draw.
    """
    figure, axis = new_figure(7.2, 4.0)
    drawn = False
    for number, (method, one) in enumerate(series.items()):
        curves = [record["losses"] for record in one.records.values() if record.get("losses")]
        if not curves or len({len(curve) for curve in curves}) > 1:
            continue
        drawn = True
        epochs, by_epoch = range(1, len(curves[0]) + 1), list(zip(*curves, strict=True))
        mean = np.array([drawn_mean(values) for values in by_epoch])
        half = np.array([drawn_interval(values) for values in by_epoch])
        colour = COLOURS.get(method, CURVE_COLOURS[number % len(CURVE_COLOURS)])
        axis.plot(
            epochs,
            mean,
            color=colour,
            linewidth=1.3,
            label=f"{METHOD_TITLES.get(method, method)} (n = {len(curves)})",
        )
        axis.fill_between(epochs, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    if drawn:
        _set_title(axis, title)
        axis.set_xlabel("epoch")
        axis.set_ylabel("training loss")
        axis.legend(frameon=False, fontsize=8)
        save_figure(figure, path)
    return drawn


def draw_band(axis: Any, values: Sequence[float], **style: Any) -> None:
    """Draw the baseline's mean over its seeds as a line, and its 95 % interval as a band; `style` is the line's."""
    mean, half = drawn_mean(values), drawn_interval(values)
    axis.axhline(mean, color="0.4", linewidth=1, **style)
    axis.axhspan(mean - half, mean + half, color="0.4", alpha=0.12, linewidth=0)


def drawn_mean(values: Sequence[float]) -> float:
    """The mean for a figure: NaN, which is not drawn, where it is not finite."""
    mean = sum(values) / len(values)
    return mean if math.isfinite(mean) else math.nan


def drawn_interval(values: Sequence[float]) -> float:
    """Half the 95 % interval for a figure; 0 of fewer than three values, whose interval would hide all else.

    0 also where there is no interval, for values that are not finite.
    """
    half = half_interval(values) if len(values) > 2 else None
    return half if half is not None and math.isfinite(half) else 0.0


def _side_by_side(
    curves: Mapping[str, Sequence[Series]], metric: Metric, baseline: Series | None
) -> dict[str, float]:
    """Shifts along the axis of FLOPs, in percent, of more than four methods beside the baseline; by rising mean."""
    crowd = {label: points[0] for label, points in curves.items() if points[0] is not baseline}
    if len(crowd) <= 4:
        return {}
    order = sorted(crowd, key=lambda label: float(np.mean(crowd[label].values(metric))))
    return dict(zip(order, np.linspace(-4, 4, len(order)).tolist(), strict=True))


def _forest(axis: Any, series: Mapping[str, Series], baseline: Series, metric: Metric) -> None:
    rows = [(name, item.against(baseline, metric)) for name, item in series.items() if item is not baseline]
    rows = sorted(
        ((name, values) for name, values in rows if values), key=lambda row: -float(np.mean(row[1]))
    )
    for height, (_, values) in enumerate(rows):
        half = half_interval(values)
        axis.errorbar(drawn_mean(values), height, xerr=half if half and math.isfinite(half) else 0.0, color="#0072b2",
                      marker="o", markersize=4, capsize=2, linestyle="none")  # fmt: skip
        axis.plot(
            [drawn_mean([value]) for value in values],
            [height] * len(values),
            "o",
            color="#e69f00",
            markersize=2.5,
            alpha=0.8,
            zorder=3,
        )
    axis.axvline(0, color="0.4", linewidth=1)
    say_what_is_not_drawn(axis, [value for _, values in rows for value in values])
    axis.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=7)
    axis.set_xlabel(
        f"{metric.label}, difference to the baseline seed by seed (mean, 95 % interval; dots: seeds)"
    )
