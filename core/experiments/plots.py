"""Pictures that every task shares: widths per layer, curves of training, comparisons of methods."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import nn

from core.experiments.plan import finder_of
from core.experiments.series import Series
from core.experiments.settings import Run
from core.experiments.statistics import half_interval, with_interval
from core.experiments.task import Metric, Task
from core.methods.registry import BASELINE
from core.report.style import (
    QUIET,
    head,
    label_ends,
    log_ticks,
    look_of,
    new_figure,
    plain_ticks,
    save_figure,
    seeds_text,
    styled,
    title_of,
)
from core.report.tips import Tips

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scale = Literal["linear", "log"]
TOLD_EPOCHS = 50  # marks of a curve that say their numbers
FEWEST_ON_A_LINE = 3  # two points make a line out of everything
_BASE = "#bdbdbd"


def layer_widths(model: nn.Module, order: Sequence[str]) -> list[int]:
    """Output channels of the named convolutions and linear layers; 0 for those of a block that was left out."""
    modules: dict[str, Any] = dict(model.named_modules())
    layers = [modules.get(name) for name in order]
    return [int(getattr(layer, "out_channels", getattr(layer, "out_features", 0))) for layer in layers]


@styled
def widths_figure(
    title: str,
    layers: Sequence[str],
    baseline: Sequence[int],
    found: Mapping[str, Sequence[Sequence[int]]],
    below: str = "",
    tips: Tips | None = None,
    told: Sequence[str] = (),
) -> Figure:
    """Channels per layer on a scale of powers of two, and the ratio to the baseline below (figure 1 of LW-DNA).

    Args:
        title: shown above.
        layers: names in the order of execution.
        baseline: channels per layer.
        found: method -> one list of channels per seed, 0 where a block was left out. The first method is drawn in
            both panels, others in the lower one.
        below: shown below the title.
        tips: takes the texts of the marks.
        told: of every layer, what its marks say beside the widths.
    """
    count = len(layers)
    figure, (top, bottom) = new_figure(
        float(np.clip(2.6 + 0.19 * count, 6.4, 24)), 6.0, 2, sharex=True, height_ratios=[2, 3]
    )
    places, base = np.arange(count), np.asarray(baseline, dtype=float)
    told = list(told) or [""] * count
    widths = {method: np.asarray(runs, dtype=float) for method, runs in found.items()}
    shown = [base, *(values[values > 0] for values in widths.values())]
    low, high = min(float(values.min(initial=math.inf)) for values in shown), max(map(np.max, shown))
    top.set_yscale("log", base=2)
    log_ticks(top.yaxis, low, high)
    top.set_ylim(low / 1.4, high * 1.25)
    bars = top.bar(places, base - low / 1.4, bottom=low / 1.4, width=0.84, color="#dedede")
    for bar, name, channels, more in zip(bars, layers, baseline, told, strict=True):
        _tip(tips, bar, [_lines(f"{name}: {channels} channels in the baseline", more)])
    ends = [("Baseline", places[-1] + 0.4, base[-1], QUIET)]
    step = 0.62 / max(len(widths), 1)
    gone = 0
    for number, (method, runs) in enumerate(widths.items()):
        look, name = look_of(method), title_of(method)
        at = places + (number - (len(widths) - 1) / 2) * step
        there = runs > 0
        mean = np.array([column[column > 0].mean() if (column > 0).any() else 0.0 for column in runs.T])
        texts = [
            _lines(f"{layer}: {name} {_listed(column)}, baseline {int(full)}", more)
            for layer, column, full, more in zip(layers, runs.T, base, told, strict=True)
        ]
        kept = np.flatnonzero(mean > 0)
        if number == 0:
            (line,) = top.plot(
                places[kept], mean[kept], look.marker, color=look.colour, markersize=4.5, zorder=3
            )
            _tip(tips, line, [texts[place] for place in kept])
            ends.append((name, places[kept[-1]], mean[kept[-1]], look.colour))
        for run, own in zip(runs, there, strict=True):
            bottom.plot(
                at[own], run[own] / base[own], ".", color=look.colour, markersize=3, alpha=0.5, zorder=2
            )
        bottom.vlines(at[kept], 1, mean[kept] / base[kept], color=look.colour, linewidth=1.1, alpha=0.75)
        (line,) = bottom.plot(at[kept], mean[kept] / base[kept], look.marker, color=look.colour,
                              markersize=4.5 if number == 0 else 3.6, zorder=3)  # fmt: skip
        _tip(tips, line, [texts[place] for place in kept])
        lost = np.flatnonzero((~there).any(axis=0))
        gone += int((~there).sum())
        if len(lost):
            (line,) = bottom.plot(at[lost], np.full(len(lost), 0.02), "x", color=look.colour, markersize=5,
                                  transform=bottom.get_xaxis_transform(), zorder=4)  # fmt: skip
            _tip(tips, line, [texts[place] for place in lost])
    bottom.axhline(1, color=QUIET, linewidth=1)
    top.set_ylabel("channels, powers of two")
    bottom.set_ylabel("channels over the baseline's")
    ratios = [
        values[:, place][values[:, place] > 0] / base[place] for values in widths.values() for place in places
    ]
    if any(map(len, ratios)):
        least, most = float(np.concatenate(ratios).min()), float(np.concatenate(ratios).max())
        bottom.set_ylim(min(least, 1) - 0.12, max(most, 1) + 0.06)
    every = max(1, -(-count // 110))
    bottom.set_xticks(places[::every], [layers[at] for at in places[::every]], rotation=90, fontsize=6.5)
    top.set_xlim(-0.8, count - 0.2)
    if gone:
        below += f" ×: the block was left out ({gone} times a layer and seed)."
    if max(map(len, found.values())) > 1:
        below += " Small dots: seeds."
    head(figure, title, below.strip())
    label_ends(top, ends)
    last = [
        (title_of(method), *_end(values, base), look_of(method).colour) for method, values in widths.items()
    ]
    label_ends(bottom, [(name, x, y, colour) for name, x, y, colour in last])
    return figure


def _end(runs: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Place and mean ratio of the last layer that there is."""
    mean = runs.mean(axis=0)
    place = int(np.flatnonzero(mean > 0)[-1])
    return place + 0.3, float(mean[place] / base[place])


def _listed(widths: np.ndarray) -> str:
    """'12, 14, left out': the widths of a layer over the seeds."""
    words = [str(int(width)) if width else "left out" for width in widths]
    return words[0] if len(set(words)) == 1 else ", ".join(words)


def _lines(*texts: str) -> str:
    return "\n".join(text for text in texts if text)


def _tip(tips: Tips | None, artist: Any, texts: Sequence[str]) -> None:
    if tips is not None:
        tips.add(artist, texts)


def plot_widths(
    path: Path, title: str, layers: Sequence[str], baseline: Sequence[int], found: Mapping[str, Sequence[Any]],
    below: str = "",
) -> None:  # fmt: skip
    """Write `widths_figure` as PNG and SVG."""
    save_figure(widths_figure(title, layers, baseline, found, below), path)


@dataclass(frozen=True)
class FoundWidths:
    """What is drawn of the networks of an experiment; found once, as every network has to be traced for it.

    Attributes:
        layers: whose width is free, in the order of execution; none where no network with found widths was trained.
        baseline: their channels in the baseline.
        found: method -> channels per layer, one list for each seed.
        groups: layer -> the group that its channels belong to.
        networks: method -> what is searched, at the widths of its first seed; the baseline is among them.
        example_inputs: of these networks.
    """

    layers: list[str]
    baseline: list[int]
    found: dict[str, list[list[int]]]
    groups: dict[str, str]
    networks: dict[str, nn.Module]
    example_inputs: Any


def found_widths(task: Task, runs: Sequence[Run]) -> FoundWidths:
    """The widths of all finished trainings."""
    from core.graph.channels import trace_channels

    model, inputs = task.searched()
    networks: dict[str, nn.Module] = {BASELINE: model}
    first = next((run.architecture for run in runs if run.architecture is not None), None)
    if first is None:  # all others failed
        return FoundWidths([], [], {}, {}, networks, inputs)
    options = first.options
    outputs = "free" if task.part is not None and options.outputs == "single" else options.outputs
    graph = trace_channels(model, inputs, freeze=options.freeze, ties=options.ties, outputs=outputs)
    layers = [name for name in graph.producers if name not in graph.depthwise]
    groups = {
        tensor.rpartition(".")[0]: group.name
        for group in graph.groups
        for tensor, axis in group.slots
        if axis == 0 and tensor.endswith(".weight")
    }
    found: dict[str, list[list[int]]] = {}
    for run in runs:
        # A control with the same widths is not drawn twice.
        if run.architecture is not None and run.method == finder_of(run.method):
            network = run.architecture.reshape(model)
            networks.setdefault(run.method, network)
            found.setdefault(run.method, []).append(layer_widths(network, layers))
    return FoundWidths(layers, layer_widths(model, layers), found, groups, networks, inputs)


def widths_heading(task: Task, runs: Sequence[Run]) -> tuple[str, str]:
    """Title of the picture of widths, and what stands below it."""
    first = next(run.architecture for run in runs if run.architecture is not None)
    below = seeds_text([run.seed for run in runs])
    if {"budget", "score"} <= first.found_by.keys():  # a file written by hand says nothing of its origin
        limits = first.found_by["budget"].items()
        budget = " ".join(f"{kind} {value}" for kind, value in limits)
        below = f"Found by {first.found_by['score']}, budget {budget}; {below}"
    return f"{task.model_name} on {task.dataset}: channels per layer", f"{below}."


def plot_channels(path: Path, task: Task, runs: Sequence[Run], widths: FoundWidths) -> None:
    """channels.png of an experiment: every convolution and linear layer whose width is free."""
    if not widths.layers or not widths.found:
        path.unlink(missing_ok=True)
        path.with_suffix(".svg").unlink(missing_ok=True)
        return
    title, below = widths_heading(task, runs)
    plot_widths(path, title, widths.layers, widths.baseline, widths.found, below)


@styled
def curves_figure(
    task: Task, runs: Sequence[Run], scale: Scale | None = None, tips: Tips | None = None, size: float = 7.2
) -> Figure:
    """Training (dashed) and test (solid) metric per epoch; bands span the seeds. One or two epochs are dots.

    Args:
        task: says which metrics.
        runs: all trainings.
        scale: of the vertical axis; None takes a logarithm where errors fall by orders of magnitude.
        tips: takes the texts of the marks.
        size: width in inches.
    """
    train_key, test_key, label = task.curves
    methods = list(dict.fromkeys(run.method for run in runs))
    curves: list[tuple[str, bool, np.ndarray, np.ndarray]] = []  # method, test, epochs, (seeds, epochs)
    for method in methods:
        own = [run for run in runs if run.method == method]
        train = [[r.train_metrics.get(train_key, r.train_loss) for r in run.history] for run in own]
        tested = [[record for record in run.history if test_key in record.eval_metrics] for run in own]
        test = [[record.eval_metrics[test_key] for record in records] for records in tested]
        curves.append((method, False, np.arange(1, len(train[0]) + 1), np.asarray(train, dtype=float)))
        curves.append((method, True, np.array([r.epoch for r in tested[0]]), np.asarray(test, dtype=float)))
    title = f"{task.model_name} on {task.dataset}"
    n = seeds_text([run.seed for run in runs])
    if max(len(epochs) for _, _, epochs, _ in curves) < FEWEST_ON_A_LINE:
        return _few_epochs(curves, title, label, n, tips, size)
    figure, axis = new_figure(size, 4.4)
    values = np.concatenate([seeds.ravel() for *_, seeds in curves])
    usual = "linear" if task.metrics[0].higher_is_better else "log"
    if (scale or usual) == "log":
        _log_axis(axis, values)
    ends, strange = [], values[~np.isfinite(values)].tolist()
    for method, tested_on, epochs, by_seed in curves:
        look, part = look_of(method), "test" if tested_on else "training"
        mean = _curve(axis, epochs, by_seed, look.colour, "-" if tested_on else (0, (3, 2)))
        if tips is not None:
            there = np.flatnonzero(np.isfinite(mean))
            there = there[:: max(1, -(-len(there) // TOLD_EPOCHS))]
            (line,) = axis.plot(epochs[there], mean[there], "o", color=look.colour, markersize=5, alpha=0)
            tips.add(line, [f"{title_of(method)}, {part}, epoch {epoch}: {value:.4g}"
                            for epoch, value in zip(epochs[there], mean[there], strict=True)])  # fmt: skip
        if tested_on:
            ends.append((title_of(method), float(epochs[-1]), float(mean[-1]), look.colour))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("epoch")
    axis.set_ylabel(label)
    bands = "; bands: all seeds" if len({run.seed for run in runs}) > 1 else ""
    head(figure, title, f"{n}. Solid: test, dashed: training; lines: means{bands}.")
    say_what_is_not_drawn(axis, strange, "triangles at the edge")
    label_ends(axis, ends)
    return figure


def _log_axis(axis: Any, values: np.ndarray) -> None:
    """A logarithm; of values that reach zero a straight line below one, as there is no logarithm of zero."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0:
        axis.set_yscale("log", base=2)
        log_ticks(axis.yaxis, float(finite.min()), float(finite.max()))
    else:
        axis.set_yscale("symlog", linthresh=1)
        plain_ticks(axis.yaxis)


def _few_epochs(
    curves: Sequence[tuple[str, bool, np.ndarray, np.ndarray]],
    title: str,
    label: str,
    n: str,
    tips: Tips | None,
    size: float,
) -> Figure:
    """Every method in a row of its own: what the last epoch gave, training (hollow) and test (full)."""
    methods = list(dict.fromkeys(method for method, *_ in curves))[::-1]
    epochs = max(len(own) for _, _, own, _ in curves)
    figure, axis = new_figure(size, 1.6 + 0.42 * len(methods))
    axis.grid(visible=True, axis="x")
    strange: list[float] = []
    for method, test, _, seeds in curves:
        look, row = look_of(method), methods.index(method) + (0.13 if test else -0.13)
        last = seeds[:, -1]
        strange += last[~np.isfinite(last)].tolist()
        last = last[np.isfinite(last)]
        face = look.colour if test else "white"
        if len(last):
            axis.plot(last, [row] * len(last), ".", color=look.colour, markersize=3.5, alpha=0.6)
            (line,) = axis.plot(
                [last.mean()], [row], "o", color=look.colour, markerfacecolor=face, markersize=6.5
            )
            part = "test" if test else "training"
            _tip(tips, line, [f"{title_of(method)}, {part}: {last.mean():.4g}"])
    axis.set_yticks(range(len(methods)), [title_of(method) for method in methods])
    axis.set_ylim(-0.6, len(methods) - 0.4)
    axis.set_xlabel(label.replace("\n", " "))
    head(figure, title, f"After {'the only epoch' if epochs == 1 else 'the second of two epochs'}: too few for curves. "
                        f"{n}. Full: test, hollow: training; small dots: seeds.")  # fmt: skip
    say_what_is_not_drawn(axis, strange)
    return figure


def plot_curves(path: Path, task: Task, runs: Sequence[Run]) -> None:
    """Write `curves_figure` as PNG and SVG."""
    save_figure(curves_figure(task, runs), path)


def say_what_is_not_drawn(axis: Any, values: Sequence[float], infinite: str = "not drawn") -> None:
    """Write into a plot how many of the `values` are infinite, and what became of them, and how many are NaN."""
    kinds = (("infinite", infinite, np.isinf), ("not a number", "not drawn", np.isnan))
    counts = [(kind, fate, int(test(values).sum())) for kind, fate, test in kinds] if len(values) else []
    lines = [f"{count} value{'s' * (count != 1)} {kind}: {fate}" for kind, fate, count in counts if count]
    if lines:
        axis.text(0.01, 0.99, "\n".join(lines), transform=axis.transAxes, va="top", fontsize=8)


def _curve(axis: Any, epochs: np.ndarray, values: np.ndarray, colour: str, style: Any) -> np.ndarray:
    """Draw the mean over the runs and the span of them; returns the mean."""
    mean = np.array([sum(column) / len(column) for column in values.T])  # numpy's mean warns of infinities
    marker = "o" if len(mean) < FEWEST_ON_A_LINE else None
    drawn = np.where(np.isfinite(mean), mean, np.nan)
    axis.plot(epochs, drawn, linestyle="none" if marker else style, color=colour, marker=marker, markersize=4)
    if len(values) > 1:
        axis.fill_between(
            epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.13, linewidth=0
        )
    for edge, infinity, sign in ((1, np.inf, "^"), (0, -np.inf, "v")):
        at = [epoch for epoch, value in zip(epochs, mean, strict=True) if value == infinity]
        if at:
            place = axis.get_xaxis_transform()
            axis.plot(at, [edge] * len(at), sign, color=colour, transform=place, clip_on=False)
    return mean


def plot_tradeoff(
    path: Path, curves: Mapping[str, Sequence[Series]], metric: Metric, title: str, *, baseline: Series | None
) -> None:
    """Write the comparison of methods as PNG and SVG: against FLOPs at several budgets, row by row at one.

    Args:
        path: the PNG; the SVG stands beside it.
        curves: name -> its series at several budgets; one point for each.
        metric: what is compared.
        title: shown above.
        baseline: drawn as a line with its interval; differences are to it.
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


def seeds_note(series: Sequence[Series]) -> str:
    """n, seeds, and what bars and dots are, for a picture of means."""
    counts = [len(item.records) for item in series]
    seeds = [seed for item in series for seed in item.records]
    text = f"{seeds_text(seeds, counts)}. "
    if max(counts, default=0) < FEWEST_ON_A_LINE:
        return text + "Small dots: seeds, marks: their means. Too few for intervals."
    return text + "Marks and bars: means and 95 % intervals (Student's t); small dots: seeds."


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
        titles: what methods are called; None for their own names.
        stacked: the differences below, for narrow pages; else at the right.
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
        _row(left, height, values, name, tips, f"{called}: {with_interval(values, metric.digits)}")
        if paired and baseline is not None and name != "baseline":
            own = rows[name].against(baseline, metric)
            differences += own
            said = with_interval(own, metric.digits).replace("-", "−") if own else "no seed in common"
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
    """Mean and interval on a row; seeds just below it, where they hide nothing."""
    look = look_of(method)
    dots = [value for value in values if math.isfinite(value)]
    axis.plot(dots, [height - 0.24] * len(dots), "o", color=look.colour, markersize=2.4, alpha=0.55,
              markeredgewidth=0)  # fmt: skip
    mean, half = (drawn_mean(values), drawn_interval(values)) if values else (math.nan, 0.0)
    if math.isfinite(mean):
        axis.hlines(height, mean - half, mean + half, color=look.colour, linewidth=1.6)
        (line,) = axis.plot([mean], [height], look.marker, color=look.colour, markersize=5.5)
        _tip(tips, line, [text])


@styled
def rows_figure(
    rows: Mapping[str, Sequence[float]], label: str, look_as: str, tips: Tips | None = None
) -> Figure:
    """Values over seeds, a row for each name: mean, 95 % interval and dots; zero is a line.

    Args:
        rows: name -> values; the first is at the top.
        label: of the axis.
        look_as: the method whose look they have.
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
        costs: method -> its cost; others are not drawn.
        label: of the horizontal axis.
        tips: takes the texts of the marks.
    """
    figure, axis = new_figure(4.7, 3.9)
    shown = sorted((name for name in series if name in costs), key=lambda name: costs[name])
    span = max(costs.values()) - min(costs.values()) or 0.1 * abs(max(costs.values()))
    ends, last = [], -math.inf
    for name in shown:
        values, look = series[name].values(metric), look_of(name)
        x = max(costs[name], last + 0.03 * span)  # beside the one before it: no bar hides another
        last = x
        dots = [value for value in values if math.isfinite(value)]
        axis.plot([x + 0.009 * span] * len(dots), dots, ".", color=look.colour, markersize=3.5, alpha=0.5)
        mean, half = drawn_mean(values), drawn_interval(values)
        if math.isfinite(mean):
            axis.vlines(x, mean - half, mean + half, color=look.colour, linewidth=1.4)
            (line,) = axis.plot([x], [mean], look.marker, color=look.colour, markersize=6)
            said = with_interval(values, metric.digits)
            _tip(tips, line, [f"{title_of(name)}: {metric.label} {said}\n{label}: {costs[name]:.4g}"])
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
            _tip(tips, bar, [f"{stage}, {title_of(method)}: {value / unit:.4g} {word}FLOPs, "
                             f"{100 * value / total:.1f} % of the network's"])  # fmt: skip
        axis.annotate(title_of(method), xy=(1.02, 1), xycoords="axes fraction", xytext=(0, -4 - 12 * number),
                      textcoords="offset points", va="top", color=look_of(method).colour, fontsize=8)  # fmt: skip
    axis.set_yticks([-place for place in range(len(stages))], stages)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(f"{word}FLOPs of an image, convention paper")
    return figure


@styled
def draw_means(
    axis: Any, x: Sequence[float], values: Sequence[Sequence[float]], look_as: str, *, seeds: bool = True
) -> None:
    """Draw means over seeds with 95 % intervals; a line joins three means or more.

    Args:
        axis: matplotlib's.
        x: where.
        values: over the seeds, for every place of `x`.
        look_as: the method whose look they have.
        seeds: draw them as dots.
    """
    look = look_of(look_as)
    style: dict[str, Any] = {"linestyle": look.dashes if len(x) >= FEWEST_ON_A_LINE else "none"}
    spread = [drawn_interval(own) for own in values]
    axis.errorbar(x, [drawn_mean(own) for own in values], spread, capsize=0, elinewidth=1.1, color=look.colour,
                  marker=look.marker, markersize=4.5, **style)  # fmt: skip
    for place, own in zip(x, values, strict=True):
        dots = [drawn_mean([value]) for value in own] if seeds else []
        axis.plot([place] * len(dots), dots, ".", color=look.colour, markersize=3.5, alpha=0.5)


@styled
def plot_losses(path: Path, title: str, series: Mapping[str, Series]) -> bool:
    """Draw the training loss of every epoch, the mean over seeds with its 95 % interval as a band, a line per method.

    Args:
        path: the PNG to write; an SVG is written beside it.
        title: shown above.
        series: method -> its records; those of earlier releases know no losses of single epochs and are left out.

    Returns:
        Whether there was anything to draw.
    """
    figure, axis = new_figure(7.2, 4.2)
    ends = []
    for method, one in series.items():
        curves = [record["losses"] for record in one.records.values() if record.get("losses")]
        if not curves or len({len(curve) for curve in curves}) > 1:
            continue
        epochs, by_epoch = np.arange(1, len(curves[0]) + 1), list(zip(*curves, strict=True))
        mean = np.array([drawn_mean(values) for values in by_epoch])
        half = np.array([drawn_interval(values) for values in by_epoch])
        look = look_of(method)
        axis.plot(epochs, mean, color=look.colour, linestyle=look.dashes, linewidth=1.3,
                  marker="o" if len(epochs) < FEWEST_ON_A_LINE else None)  # fmt: skip
        axis.fill_between(epochs, mean - half, mean + half, color=look.colour, alpha=0.15, linewidth=0)
        ends.append(
            (f"{title_of(method)} (n = {len(curves)})", float(epochs[-1]), float(mean[-1]), look.colour)
        )
    if ends:
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("epoch")
        axis.set_ylabel("training loss")
        head(figure, title, "Lines: means over the seeds; bands: 95 % intervals (Student's t).")
        label_ends(axis, ends)
        save_figure(figure, path)
    return bool(ends)


def draw_band(axis: Any, values: Sequence[float], *, vertical: bool = False) -> None:
    """Draw the baseline's mean over its seeds as a line, and its 95 % interval as a band."""
    mean, half = drawn_mean(values), drawn_interval(values)
    line, span = (axis.axvline, axis.axvspan) if vertical else (axis.axhline, axis.axhspan)
    if math.isfinite(mean):
        line(mean, color=look_of("baseline").colour, linewidth=1, zorder=1)
        span(mean - half, mean + half, color=_BASE, alpha=0.35, linewidth=0, zorder=0)


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
