"""Tables and figures of trials: mean, 95 % interval, paired differences, error against FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.experiments.plots import new_figure, save_figure, say_what_is_not_drawn
from core.experiments.statistics import half_interval, holm, p_text, paired_p, with_interval
from core.experiments.task import Metric
from core.tables import markdown_table

Record = Mapping[str, Any]
# Drawn in turns, each with a marker of its own, where there are more methods than colours.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b6b6b", "#000000")
MARKERS = "osD^vP*X<>"


@dataclass(frozen=True)
class Series:
    """All seeds of one method at one setting.

    Attributes:
        label: how it is called in tables and figures.
        records: by seed.
    """

    label: str
    records: dict[int, Record]

    def values(self, metric: Metric, seeds: Sequence[int] | None = None) -> list[float]:
        """The metric, in the order of the seeds."""
        return [float(self.records[seed]["metrics"][metric.key]) for seed in seeds or sorted(self.records)]

    def ratio(self, kind: str) -> float:
        """Mean of FLOPs ("flops", in the published convention) or parameters ("params") over the baseline's."""

        def cost(of: Mapping[str, Any]) -> float:
            return float(of["flops"]["paper"] if kind == "flops" else of["params"])

        return sum(cost(r["cost"]) / cost(r["baseline_cost"]) for r in self.records.values()) / len(
            self.records
        )

    def mean_of(self, key: str) -> float:
        """Mean of a number of the record."""
        return sum(float(r[key]) for r in self.records.values()) / len(self.records)

    def against(self, other: Series, metric: Metric) -> list[float]:
        """Own value minus the other's, seed by seed, over the seeds that both have."""
        seeds = sorted(set(self.records) & set(other.records))
        return [a - b for a, b in zip(self.values(metric, seeds), other.values(metric, seeds))]


def collect(records: Sequence[Record], label: Callable[[Record], str]) -> dict[str, Series]:
    """Records by label, in the order in which labels appear."""
    found: dict[str, Series] = {}
    for record in records:
        series = found.setdefault(label(record), Series(label(record), {}))
        series.records[int(record["seed"])] = record
    return found


def results_table(series: Mapping[str, Series], reference: str, metric: Metric) -> str:
    """Every series with its difference to `reference`, in Markdown.

    p is that of the paired t-test over the seeds; "p (Holm)" is adjusted for all rows of the table.
    """
    base = series.get(reference)
    differences = {
        name: item.against(base, metric)
        for name, item in series.items()
        if base is not None and item is not base
    }
    p = {name: paired_p(values) if len(values) > 1 else math.nan for name, values in differences.items()}
    adjusted = dict(zip(p, holm(list(p.values()))))
    header = ["method", "n", metric.label, f"minus {reference}", "p", "p (Holm)", "FLOPs %", "params %",
              "search epochs"]  # fmt: skip
    rows = []
    for name, item in series.items():
        given = differences.get(name)
        rows.append(
            [
                name,
                str(len(item.records)),
                with_interval(item.values(metric), metric.digits),
                with_interval(given, metric.digits) if given else "",
                p_text(p[name]) if given and len(given) > 1 else "",
                p_text(adjusted[name]) if given and len(given) > 1 else "",
                f"{100 * item.ratio('flops'):.2f}",
                f"{100 * item.ratio('params'):.1f}",
                f"{item.mean_of('search_epochs'):.2f} ({item.mean_of('search_baseline_epochs'):.2f})",
            ]
        )
    return markdown_table(header, rows)


def controls_table(series: Mapping[str, Series], controls: Sequence[str], metric: Metric) -> str:
    """Differences to the controls, in Markdown: mean, interval and p of the paired t-test."""
    present = [name for name in controls if name in series]
    rows = []
    for name, item in series.items():
        cells = []
        for control in present:
            values = item.against(series[control], metric)
            own = name == control or not values
            cells += ["", ""] if own else [with_interval(values, metric.digits), p_text(paired_p(values))]
        rows.append([name, *cells])
    header = ["method", *(text for control in present for text in (f"minus {control}", "p"))]
    return markdown_table(header, rows) if present else ""


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
        x = np.array([100 * item.ratio("flops") for item in points]) + shifts.get(label, 0.0)
        y = np.array([drawn_mean(item.values(metric)) for item in points])
        spread = np.array([drawn_interval(item.values(metric)) for item in points])
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 5,
        }
        top.errorbar(
            x, y, spread, linestyle="-" if len(points) > 1 else "none", capsize=2, label=label, **style
        )
        if not spread.any():
            for place, item in zip(x, points, strict=True):
                values = [drawn_mean([value]) for value in item.values(metric)]
                top.plot([place] * len(values), values, ".", color=style["color"], markersize=3, alpha=0.6)
    if baseline is not None:
        mean = drawn_mean(baseline.values(metric))
        half = drawn_interval(baseline.values(metric))
        top.axhline(mean, color="0.4", linewidth=1)
        top.axhspan(mean - half, mean + half, color="0.4", alpha=0.12, linewidth=0)
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
