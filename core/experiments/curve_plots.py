"""Pictures of training: curves of every method with bands over seeds, and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from core.experiments.marks import (
    FEWEST_ON_A_LINE,
    add_tip,
    drawn_interval,
    drawn_mean,
    say_what_is_not_drawn,
)
from core.experiments.series import Series
from core.experiments.settings import Run
from core.experiments.task import Task
from core.report.style import (
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
TOLD_EPOCHS = 50  # marks of a curve that show their numbers


@styled
def curves_figure(
    task: Task, runs: Sequence[Run], scale: Scale | None = None, tips: Tips | None = None, size: float = 7.2
) -> Figure:
    """Training (dashed) and test (solid) metric per epoch; bands span the seeds. One or two epochs are dots.

    Args:
        task: names the metrics.
        runs: all trainings.
        scale: of the vertical axis; None makes it logarithmic if errors fall by orders of magnitude.
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
    """A logarithmic axis; linear below one if values reach zero, which has no logarithm."""
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
    """The last epoch of every method in a row of its own: training (hollow) and test (full)."""
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
            add_tip(tips, line, [f"{title_of(method)}, {part}: {last.mean():.4g}"])
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


def _curve(axis: Any, epochs: np.ndarray, values: np.ndarray, colour: str, style: Any) -> np.ndarray:
    """Draw the mean of the runs and their span; returns the mean."""
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


def draw_mean_curve(
    axis: Any, x: np.ndarray, values: Sequence[Sequence[float]], look_as: str, **line: Any
) -> np.ndarray:
    """Draw the mean over seeds as a line, and its 95 % interval as a band; returns the mean, of the shape of `x`.

    Args:
        axis: matplotlib's.
        x: where.
        values: over the seeds, for every place of `x`.
        look_as: the method whose look it has.
        line: further properties of the line.
    """
    look = look_of(look_as)
    mean = np.array([drawn_mean(own) for own in values])
    half = np.array([drawn_interval(own) for own in values])
    axis.plot(x, mean, **{"color": look.colour, "linestyle": look.dashes, **line})
    axis.fill_between(x, mean - half, mean + half, color=look.colour, alpha=0.15, linewidth=0)
    return mean


@styled
def plot_losses(path: Path, title: str, series: Mapping[str, Series], baseline: str) -> bool:
    """Draw the training loss per epoch, a line per method: the mean over seeds, its 95 % interval as a band.

    Curves of one recipe lie upon each other, so a second panel has their differences to the baseline, seed by seed.

    Args:
        path: the PNG to write; an SVG is written beside it.
        title: shown above.
        series: method -> its records; those of earlier releases hold no losses of single epochs and are left out.
        baseline: the method that the others are held against; where it has no losses there is one panel.

    Returns:
        Whether there was anything to draw.
    """
    losses = {method: _losses_by_seed(one) for method, one in series.items()}
    losses = {method: own for method, own in losses.items() if own}
    if not losses:
        return False
    base = losses.get(baseline, {})
    against = {method: _minus(own, base) for method, own in losses.items() if method != baseline}
    against = {method: own for method, own in against.items() if own}
    rows = 2 if against else 1
    figure, axes = new_figure(7.2, 1.0 + 3.0 * rows, rows, squeeze=False)
    above = axes[0, 0]
    ends = [_loss_line(above, method, own) for method, own in losses.items()]
    above.set_ylabel("training loss")
    below = axes[-1, 0]
    if against:
        other_ends = [_loss_line(below, method, own) for method, own in against.items()]
        below.axhline(0, color=look_of(baseline).colour, linewidth=1, zorder=1)
        below.set_ylabel(f"minus the {title_of(baseline).lower()}'s, seed by seed")
    below.set_xlabel("epoch")
    for axis in axes[:, 0]:
        axis.xaxis.get_major_locator().set_params(integer=True)
    head(figure, title, "Lines: means over the seeds; bands: 95 % intervals (Student's t).")
    label_ends(above, ends)
    if against:
        label_ends(below, other_ends)
    save_figure(figure, path)
    return True


def _losses_by_seed(one: Series) -> dict[int, list[float]]:
    """Seed -> losses per epoch, where all of them have as many; else {}."""
    curves = {seed: list(record["losses"]) for seed, record in one.records.items() if record.get("losses")}
    return curves if len({len(curve) for curve in curves.values()}) == 1 else {}


def _minus(own: Mapping[int, Sequence[float]], base: Mapping[int, Sequence[float]]) -> dict[int, list[float]]:
    """Seed -> losses minus those of the same seed, where both have as many epochs."""
    return {
        seed: [one - other for one, other in zip(curve, base[seed], strict=True)]
        for seed, curve in own.items()
        if seed in base and len(base[seed]) == len(curve)
    }


def _loss_line(
    axis: Any, method: str, by_seed: Mapping[int, Sequence[float]]
) -> tuple[str, float, float, str]:
    """Draw the mean over the seeds with its band; returns the label of its end."""
    curves = list(by_seed.values())
    epochs = np.arange(1, len(curves[0]) + 1)
    marker = "o" if len(epochs) < FEWEST_ON_A_LINE else None
    mean = draw_mean_curve(
        axis, epochs, list(zip(*curves, strict=True)), method, linewidth=1.3, marker=marker
    )
    return (
        f"{title_of(method)} (n = {len(curves)})",
        float(epochs[-1]),
        float(mean[-1]),
        look_of(method).colour,
    )
