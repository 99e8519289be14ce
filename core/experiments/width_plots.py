"""Pictures of the widths per layer of found networks and their baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from core.experiments.marks import add_tip
from core.experiments.plan import finder_of
from core.experiments.settings import Run
from core.experiments.task import Task
from core.methods.registry import BASELINE
from core.report.style import (
    QUIET,
    head,
    label_ends,
    log_ticks,
    look_of,
    new_figure,
    save_figure,
    seeds_text,
    styled,
    title_of,
)
from core.report.tips import Tips

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def layer_widths(model: nn.Module, order: Sequence[str]) -> list[int]:
    """Output channels of the named convolutions and linear layers; 0 for layers of a block that was left out."""
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
        told: for every layer, the text of its marks beside the widths.
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
        add_tip(tips, bar, [_lines(f"{name}: {channels} channels in the baseline", more)])
    ends = [("Baseline", places[-1] + 0.4, base[-1], QUIET)]
    step = 0.62 / max(len(widths), 1)
    gone = 0
    for number, (method, runs) in enumerate(widths.items()):
        look, name = look_of(method), title_of(method)
        at = places + (number - (len(widths) - 1) / 2) * step
        there = runs > 0
        mean = np.array([column[column > 0].mean() if (column > 0).any() else 0.0 for column in runs.T])
        texts = [
            _lines(f"{layer}: {name} {told_widths(column)}, baseline {int(full)}", more)
            for layer, column, full, more in zip(layers, runs.T, base, told, strict=True)
        ]
        kept = np.flatnonzero(mean > 0)
        if number == 0:
            (line,) = top.plot(
                places[kept], mean[kept], look.marker, color=look.colour, markersize=4.5, zorder=3
            )
            add_tip(tips, line, [texts[place] for place in kept])
            ends.append((name, places[kept[-1]], mean[kept[-1]], look.colour))
        for run, own in zip(runs, there, strict=True):
            bottom.plot(
                at[own], run[own] / base[own], ".", color=look.colour, markersize=3, alpha=0.5, zorder=2
            )
        bottom.vlines(at[kept], 1, mean[kept] / base[kept], color=look.colour, linewidth=1.1, alpha=0.75)
        (line,) = bottom.plot(at[kept], mean[kept] / base[kept], look.marker, color=look.colour,
                              markersize=4.5 if number == 0 else 3.6, zorder=3)  # fmt: skip
        add_tip(tips, line, [texts[place] for place in kept])
        lost = np.flatnonzero((~there).any(axis=0))
        gone += int((~there).sum())
        if len(lost):
            (line,) = bottom.plot(at[lost], np.full(len(lost), 0.02), "x", color=look.colour, markersize=5,
                                  transform=bottom.get_xaxis_transform(), zorder=4)  # fmt: skip
            add_tip(tips, line, [texts[place] for place in lost])
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
    """Place and mean ratio of the last layer that was not left out, over the runs that have it."""
    place = int(np.flatnonzero((runs > 0).any(axis=0))[-1])
    there = runs[runs[:, place] > 0, place]
    return place + 0.3, float(there.mean() / base[place])


def told_widths(widths: Iterable[int]) -> str:
    """'12, 14, left out': the widths of a layer over the seeds."""
    words = [str(int(width)) if width else "left out" for width in widths]
    return words[0] if len(set(words)) == 1 else ", ".join(words)


def _lines(*texts: str) -> str:
    return "\n".join(text for text in texts if text)


def plot_widths(
    path: Path, title: str, layers: Sequence[str], baseline: Sequence[int], found: Mapping[str, Sequence[Any]],
    below: str = "",
) -> None:  # fmt: skip
    """Write `widths_figure` as PNG and SVG."""
    save_figure(widths_figure(title, layers, baseline, found, below), path)


@dataclass(frozen=True)
class FoundWidths:
    """Data for drawing the networks of an experiment; made once, as every network has to be traced.

    Attributes:
        layers: those whose width is free, in the order of execution; empty if no network with found widths was trained.
        baseline: their channels in the baseline.
        found: method -> channels per layer, one list for each seed.
        groups: layer -> the group of its channels.
        networks: method -> the searched network or part at the widths of its first seed; the baseline is among them.
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
    """Title of the picture of widths, and the text below it."""
    first = next(run.architecture for run in runs if run.architecture is not None)
    below = seeds_text([run.seed for run in runs])
    if {"budget", "score"} <= first.found_by.keys():  # a file written by hand does not tell its origin
        limits = dict(first.found_by["budget"])
        counted = f" (convention {limits.pop('convention')})" if "convention" in limits else ""
        budget = ", ".join(f"{kind}={value}" for kind, value in limits.items())
        below = f"Found by {first.found_by['score']}, budget {budget}{counted}; {below}"
    return f"{task.model_name} on {task.dataset}: channels per layer", f"{below}."


def plot_channels(path: Path, task: Task, runs: Sequence[Run], widths: FoundWidths) -> None:
    """channels.png of an experiment: every convolution and linear layer whose width is free."""
    if not widths.layers or not widths.found:
        path.unlink(missing_ok=True)
        path.with_suffix(".svg").unlink(missing_ok=True)
        return
    title, below = widths_heading(task, runs)
    plot_widths(path, title, widths.layers, widths.baseline, widths.found, below)
