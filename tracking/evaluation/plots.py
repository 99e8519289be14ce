"""Success, precision and normalised precision plots, and bars per challenge attribute, for papers and posters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from core.errors import UserError
from core.report import style
from core.storage.files import write_with
from tracking.datasets import TITLES, split_title
from tracking.evaluation.evaluation import Evaluation, average_curve, comparable, counted
from tracking.evaluation.protocols import Protocol, score_labels

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # not in every supported release

Kind = Literal["success", "precision", "norm_precision"]

DASHES = ("-", "--", "-.", ":")  # for more trackers than colours
STYLE: dict[RcKeyType, Any] = style.STYLE | {
    "axes.grid.axis": "both",
    "legend.frameon": True,  # it may lie on the grid
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "savefig.bbox": "tight",
    "savefig.dpi": 200,
}


def _legend_score(kind: Kind, protocol: Protocol) -> tuple[str, str]:
    """The score in a plot's legend: its key and its label."""
    if kind == "success":
        key = "ao" if protocol.averaging == "frame" else "success_auc"
    else:
        key = kind
    labels = score_labels(protocol)
    if key == "norm_precision" and protocol.norm_score != "at":
        return key, labels["norm_precision_auc"]
    return key, labels[key]


def draw_curves(axes: Axes, evaluations: Sequence[Evaluation], kind: Kind) -> None:
    """Draw one curve per tracker, sorted by the score that the legend shows.

    Args:
        axes: where.
        evaluations: trackers scored by the same protocol.
        kind: which curve.
    """
    protocol = evaluations[0].protocol
    key, label = _legend_score(kind, protocol)
    scored = [(item.scores()[key] or 0.0, item) for item in evaluations]
    # A tracker looks the same in all plots.
    colours = style.colours_of([item.name for item in evaluations])
    places = {item.name: index for index, item in enumerate(evaluations)}
    for score, item in sorted(scored, key=lambda pair: -pair[0]):
        curves = item.curves
        grid, curve = {
            "success": (protocol.overlap_thresholds, curves.success),
            "precision": (protocol.error_thresholds, curves.precision),
            "norm_precision": (protocol.norm_thresholds, curves.norm_precision),
        }[kind]
        place = places[item.name]
        axes.plot(
            grid,
            average_curve(curve, curves.frames, protocol),
            color=colours[item.name],
            linestyle=DASHES[place // len(style.PALETTE) % len(DASHES)],
            linewidth=1.8,
            label=f"[{100 * score:.1f}] {item.name}",
        )
    axes.set_xlim(grid[0], grid[-1])
    axes.set_ylim(0, 1)
    axes.set_xlabel(
        {
            "success": "Overlap threshold",
            "precision": "Location error threshold (pixels)",
            "norm_precision": "Normalised location error threshold",
        }[kind]
    )
    axes.set_ylabel(
        {"success": "Success rate", "precision": "Precision", "norm_precision": "Normalised precision"}[kind]
    )
    if len(evaluations) > len(style.PALETTE) or _covers(_legend(axes, label, loc="best"), axes):
        _legend(axes, label, loc="upper left", bbox_to_anchor=(1.01, 1.0))  # beside the curves


def _legend(axes: Axes, title: str, **place: Any) -> Legend:
    return axes.legend(title=title, fontsize=8, title_fontsize=8, handlelength=1.8, alignment="left", **place)


def _covers(legend: Legend, axes: Axes) -> bool:
    """Whether the legend hides a part of a curve."""
    assert isinstance(axes.figure, Figure)  # not part of a larger figure
    axes.figure.draw_without_rendering()
    box = legend.get_window_extent()
    paths = (axes.transData.transform_path(line.get_path()) for line in axes.lines)
    return any(path.intersects_bbox(box, filled=False) for path in paths)


def kinds_of(protocol: Protocol) -> list[Kind]:
    """The curves that a protocol defines."""
    return ["success", "precision", "norm_precision"] if protocol.averaging == "sequence" else ["success"]


def curve_figure(evaluations: Sequence[Evaluation], kind: Kind, split: str) -> Figure:
    """A figure of one kind of curve for several trackers.

    Raises:
        UserError: the protocol does not define this curve.
    """
    protocol = evaluations[0].protocol
    if kind != "success" and protocol.averaging == "frame":
        raise UserError(f"the protocol '{protocol.name}' has no {kind} curve, only success")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw_curves(axes, evaluations, kind)
        legend = axes.get_legend()
        assert legend is not None  # draw_curves makes one
        figure.draw_without_rendering()
        beside = legend.get_window_extent().x0 - axes.bbox.x1
        if beside > 0:  # leave the curves as much room as when the legend lies among them
            figure.set_figwidth(4.2 + (legend.get_window_extent().width + beside) / figure.dpi)
        title = {"success": "Success", "precision": "Precision", "norm_precision": "Normalised precision"}[
            kind
        ]
        axes.set_title(f"{title} on {split_title(protocol.dataset, split)} ({counted(evaluations)})")
    return figure


def attribute_figure(evaluations: Sequence[Evaluation], split: str) -> Figure:
    """Horizontal bars of the success score on each challenge attribute's sequences, one bar per tracker.

    Attributes are sorted by the best tracker's score.

    Raises:
        UserError: the data set states no attributes.
    """
    first = evaluations[0]
    if not first.attributes:
        raise UserError(f"{TITLES[first.protocol.dataset]}: no challenge attributes beside the ground truth")
    key, label = _legend_score("success", first.protocol)
    scores = [
        {name: item.scores(flags)[key] or 0.0 for name, flags in item.attributes.items()}
        for item in evaluations
    ]
    names = sorted(first.attributes, key=lambda name: scores[0][name])
    shown = evaluations[: len(style.PALETTE)]
    colours = style.colours_of([item.name for item in evaluations])
    height = 0.8 / len(shown)
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(5.0, 0.8 + len(names) * max(0.24, 0.11 * len(shown))), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for place, item in enumerate(shown):
            values = np.array([100 * scores[place].get(name, 0.0) for name in names])
            positions = np.arange(len(names)) + 0.4 - height * (place + 0.5)
            axes.barh(positions, values, height, color=colours[item.name], label=item.name)
            if len(shown) <= 3:
                for position, value in zip(positions, values, strict=True):
                    axes.text(value + 0.6, position, f"{value:.1f}", va="center", fontsize=6.5)
        axes.set_yticks(
            range(len(names)), [f"{name} ({int(first.attributes[name].sum())})" for name in names]
        )
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_xlim(0, max(10.0, max(100 * max(row.values()) for row in scores[: len(shown)]) * 1.12))
        axes.set_xlabel(f"{label} (%)")
        title = f"{split_title(first.protocol.dataset, split)} by attribute (number of sequences)"
        axes.set_title(title if len(shown) > 1 else f"{first.name} on {title}")
        if len(shown) > 1:
            figure.legend(loc="outside lower center", ncols=min(5, len(shown)), fontsize=8, frameon=False)
    return figure


def save_plots(
    folder: str | Path, evaluations: Sequence[Evaluation], split: str, formats: Sequence[str] = ("png", "pdf")
) -> list[Path]:
    """Write every plot that the protocol and the data set allow, of the trackers that have a result.

    Args:
        folder: where `success.png`, `precision.png`, `norm_precision.png` and `attributes.png` go.
        evaluations: trackers scored by the same protocol.
        split: the part of the data set, for the titles.
        formats: file suffixes that matplotlib knows.

    Returns:
        The files written.

    Raises:
        UserError: the trackers were scored on different sequences.
    """
    evaluations = [item for item in evaluations if item.curves.names]
    if not comparable(evaluations):
        raise UserError("the trackers were scored on different sequences, which no plot can rank")
    figures = {
        str(kind): curve_figure(evaluations, kind, split) for kind in kinds_of(evaluations[0].protocol)
    }
    if evaluations[0].attributes:
        figures["attributes"] = attribute_figure(evaluations, split)
    written = []
    for name, figure in figures.items():
        for suffix in formats:
            path = Path(folder) / f"{name}.{suffix}"
            with mpl.rc_context(STYLE):
                # No date, so that an interrupted and resumed run gives the same bytes.
                undated = {"CreationDate": None} if path.suffix == ".pdf" else {}
                write_with(path, partial(figure.savefig, metadata=undated))
            written.append(path)
    return written
