"""Pictures that compare methods: metrics with intervals, differences, costs, and FLOPs by stage."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.experiments.marks import (
    add_tip,
    draw_band,
    draw_means,
    drawn_interval,
    drawn_mean,
    say_what_is_not_drawn,
    seeds_note,
)
from core.experiments.series import Series
from core.experiments.statistics import fine_digits, with_interval
from core.experiments.task import Metric
from core.report.style import (
    head,
    label_ends,
    look_of,
    new_figure,
    plain_ticks,
    save_figure,
    styled,
    title_of,
)
from core.report.tips import Tips

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_tradeoff(
    path: Path, curves: Mapping[str, Sequence[Series]], metric: Metric, title: str, *, baseline: Series | None
) -> None:
    """Write the comparison of methods as PNG and SVG: against FLOPs at several budgets, row by row at one.

    Args:
        path: the PNG; the SVG stands beside it.
        curves: name -> its series at several budgets, one point for each.
        metric: what is compared.
        title: shown above.
        baseline: drawn as a line with its interval; differences refer to it.
    """
    if any(len(points) > 1 for points in curves.values()):
        figure = _against_flops(curves, metric, title, baseline)
    else:
        figure = forest_figure({name: points[0] for name, points in curves.items()}, metric, title, baseline)
    save_figure(figure, path)


@styled
def _against_flops(
    curves: Mapping[str, Sequence[Series]], metric: Metric, title: str, baseline: Series | None
) -> Figure:
    figure, axis = new_figure(7.8, 4.6)
    ends, drawn = [], [] if baseline is None else [baseline]
    ratios = [100 * item.ratio("flops") for points in curves.values() for item in points]
    step = 0.007 * (max(ratios) - min(ratios))
    for number, (name, every) in enumerate(curves.items()):
        points = sorted(
            (item for item in every if item is not baseline), key=lambda item: item.ratio("flops")
        )
        if not points:
            continue
        look = look_of(name)
        shift = step * (number - (len(curves) - 1) / 2)  # intervals of one budget stand side by side
        x = [100 * item.ratio("flops") + shift for item in points]
        draw_means(axis, x, [item.values(metric) for item in points], look_as=name)
        ends.append((name, x[-1], drawn_mean(points[-1].values(metric)), look.colour))
        drawn += points
    if baseline is not None:
        draw_band(axis, baseline.values(metric))
        ends.append(
            ("baseline", max(ratios), drawn_mean(baseline.values(metric)), look_of("baseline").colour)
        )
    axis.set_xlabel("FLOPs, % of the baseline's")
    axis.set_ylabel(metric.label)
    head(figure, title, seeds_note(drawn))
    say_what_is_not_drawn(axis, [value for item in drawn for value in item.values(metric)])
    label_ends(axis, ends)
    return figure


@styled
def forest_figure(
    series: Mapping[str, Series],
    metric: Metric,
    title: str,
    baseline: Series | None,
    tips: Tips | None = None,
    titles: Mapping[str, str] | None = None,
    stacked: bool = False,
) -> Figure:
    """Every method in a row of its own, the best first: the metric, and its difference to the baseline.

    Args:
        series: by method; the baseline may be among them.
        metric: what is compared.
        title: shown above.
        baseline: a band over all rows; without it, or with fewer than two seeds, there are no differences.
        tips: takes the texts of the marks.
        titles: names of the methods in the picture; None for their own names.
        stacked: whether differences stand below, for narrow pages, and not at the right.
    """
    names = titles or {}
    rows = {name: item for name, item in series.items() if item is not baseline}

    def merit(name: str) -> float:
        mean = drawn_mean(rows[name].values(metric))
        return math.inf if math.isnan(mean) else -mean if metric.higher_is_better else mean

    order = sorted(rows, key=merit, reverse=True)
    if baseline is not None:
        order.append("baseline")
        rows["baseline"] = baseline
    paired = baseline is not None and len(baseline.records) > 1 and len(rows) > 1
    height = 1.5 + 0.27 * len(order)
    if stacked:
        figure, axes = new_figure(
            4.7, height * (1.8 if paired else 1), 2 if paired else 1, squeeze=False, sharey=True
        )
    else:
        figure, axes = new_figure(
            9.2 if paired else 6.4, height, 1, 2 if paired else 1, squeeze=False, sharey=True
        )
    left, right = axes.ravel()[0], axes.ravel()[-1]
    if baseline is not None:
        draw_band(left, baseline.values(metric), vertical=True)
    differences: list[float] = []
    for height, name in enumerate(order):
        values = rows[name].values(metric)
        called = names.get(name, name)
        _row(
            left,
            height,
            values,
            name,
            tips,
            f"{called}: {with_interval(values, fine_digits(values, metric.digits))}",
        )
        if paired and baseline is not None and name != "baseline":
            own = rows[name].against(baseline, metric)
            differences += own
            said = (
                with_interval(own, fine_digits(own, metric.digits)).replace("-", "−")
                if own
                else "no seed in common"
            )
            _row(right, height, own, name, tips, f"{called} minus baseline: {said}")
            right.text(1.02, height, said, transform=right.get_yaxis_transform(), va="center", fontsize=7.5)
    for axis in (left, right) if stacked else (left,):
        axis.set_yticks(range(len(order)), [names.get(name, name) for name in order])
        for label, name in zip(axis.get_yticklabels(), order, strict=True):
            label.set_color(look_of(name).colour)
    left.set_ylim(-0.7, len(order) - 0.3)
    better = "more" if metric.higher_is_better else "less"
    left.set_xlabel(f"{metric.label} ({better} is better)")
    for axis in axes.ravel():
        axis.grid(visible=True, axis="x")
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0)
    say_what_is_not_drawn(left, [value for item in rows.values() for value in item.values(metric)])
    if paired:
        right.axvline(0, color=look_of("baseline").colour, linewidth=1)
        right.set_xlabel(f"{metric.label}, method minus baseline, seed by seed")
        say_what_is_not_drawn(right, differences)
    ratios = [100 * item.ratio("flops") for name, item in rows.items() if name != "baseline"]
    cost = f" Networks at {_span(ratios)} % of the baseline's FLOPs." if ratios else ""
    head(figure, title, f"{seeds_note(list(rows.values()))}{cost}")
    return figure


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _row(
    axis: Any, height: float, values: Sequence[float], method: str, tips: Tips | None, text: str
) -> None:
    """Mean and interval on a row; seeds just below it, so that they hide nothing."""
    look = look_of(method)
    dots = [value for value in values if math.isfinite(value)]
    axis.plot(dots, [height - 0.24] * len(dots), "o", color=look.colour, markersize=2.4, alpha=0.55,
              markeredgewidth=0)  # fmt: skip
    mean, half = (drawn_mean(values), drawn_interval(values)) if values else (math.nan, 0.0)
    if math.isfinite(mean):
        axis.hlines(height, mean - half, mean + half, color=look.colour, linewidth=1.6)
        (line,) = axis.plot([mean], [height], look.marker, color=look.colour, markersize=5.5)
        add_tip(tips, line, [text])


@styled
def rows_figure(
    rows: Mapping[str, Sequence[float]], label: str, look_as: str, tips: Tips | None = None
) -> Figure:
    """Values over seeds, a row for each name: mean, 95 % interval and dots; a line marks zero.

    Args:
        rows: name -> values; the first is at the top.
        label: of the axis.
        look_as: the method in whose look to draw.
        tips: takes the texts of the marks.
    """
    figure, axis = new_figure(4.7, 1.0 + 0.24 * len(rows))
    axis.grid(visible=True, axis="x")
    axis.grid(visible=False, axis="y")
    for place, (name, values) in enumerate(rows.items()):
        _row(axis, -place, values, look_as, tips, f"{name}: {with_interval(values)}")
    axis.axvline(0, color=look_of("baseline").colour, linewidth=1)
    axis.set_yticks([-place for place in range(len(rows))], [textwrap.shorten(name, 32) for name in rows])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(-len(rows) + 0.3, 0.7)
    axis.set_xlabel(label)
    return figure


@styled
def cost_figure(
    series: Mapping[str, Series],
    metric: Metric,
    costs: Mapping[str, float],
    label: str,
    tips: Tips | None = None,
) -> Figure:
    """The metric against what a network costs, a mark and an interval per method.

    Args:
        series: by method.
        metric: the vertical axis.
        costs: method -> its cost; methods without one are not drawn.
        label: of the horizontal axis.
        tips: takes the texts of the marks.
    """
    figure, axis = new_figure(4.7, 3.9)
    shown = sorted((name for name in series if name in costs), key=lambda name: costs[name])
    span = max(costs.values()) - min(costs.values()) or 0.1 * abs(max(costs.values()))
    ends, last = [], -math.inf
    for name in shown:
        values, look = series[name].values(metric), look_of(name)
        x = max(costs[name], last + 0.03 * span)  # beside the previous one, so that no bar hides another
        last = x
        dots = [value for value in values if math.isfinite(value)]
        axis.plot([x + 0.009 * span] * len(dots), dots, ".", color=look.colour, markersize=3.5, alpha=0.5)
        mean, half = drawn_mean(values), drawn_interval(values)
        if math.isfinite(mean):
            axis.vlines(x, mean - half, mean + half, color=look.colour, linewidth=1.4)
            (line,) = axis.plot([x], [mean], look.marker, color=look.colour, markersize=6)
            said = with_interval(values, fine_digits(values, metric.digits))
            add_tip(tips, line, [f"{title_of(name)}: {metric.label} {said}\n{label}: {costs[name]:.4g}"])
        ends.append((title_of(name), x, mean, look.colour))
    axis.margins(x=0.08, y=0.1)
    plain_ticks(axis.xaxis)
    axis.set_xlabel(label)
    axis.set_ylabel(metric.label)
    say_what_is_not_drawn(axis, [value for name in shown for value in series[name].values(metric)])
    label_ends(axis, ends)
    return figure


@styled
def stages_figure(
    stages: Sequence[str], flops: Mapping[str, Sequence[float]], tips: Tips | None = None
) -> Figure:
    """FLOPs by stage, a bar for each method, the baseline first.

    Args:
        stages: in the order of execution.
        flops: method -> FLOPs of every stage.
        tips: takes the texts of the marks.
    """
    methods = list(flops)
    thick = 0.8 / len(methods)
    figure, axis = new_figure(4.7, 1.3 + len(stages) * max(0.3, 0.13 * len(methods)))
    axis.grid(visible=True, axis="x")
    axis.grid(visible=False, axis="y")
    largest = max(max(values) for values in flops.values())
    unit, word = next(((u, w) for u, w in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if largest >= u), (1.0, ""))
    for number, method in enumerate(methods):
        total = sum(flops[method])
        at = [-place - (number - (len(methods) - 1) / 2) * thick for place in range(len(stages))]
        bars = axis.barh(
            at, [value / unit for value in flops[method]], 0.88 * thick, color=look_of(method).colour
        )
        for bar, stage, value in zip(bars, stages, flops[method], strict=True):
            add_tip(tips, bar, [f"{stage}, {title_of(method)}: {value / unit:.4g} {word}FLOPs, "
                             f"{100 * value / total:.1f} % of the network's"])  # fmt: skip
        axis.annotate(title_of(method), xy=(1.02, 1), xycoords="axes fraction", xytext=(0, -4 - 12 * number),
                      textcoords="offset points", va="top", color=look_of(method).colour, fontsize=8)  # fmt: skip
    axis.set_yticks([-place for place in range(len(stages))], stages)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(f"{word}FLOPs of an image, convention paper")
    return figure
