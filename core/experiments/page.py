"""report.html of an experiment: the parts that all tasks share, and the places of a task's own parts."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from core.errors import first_line
from core.experiments.curve_plots import curves_figure
from core.experiments.plan import PLAN_FILE, finder_of
from core.experiments.plots import cost_figure, forest_figure, stages_figure
from core.experiments.report import (
    footnote,
    paired_differences,
    results_rows,
    training_remarks,
    weights_lines,
)
from core.experiments.series import Series, of_result
from core.experiments.settings import FOUND, Run, Settings
from core.experiments.statistics import holm, number_text, p_text, paired_p, with_interval
from core.experiments.store import WorkDirectory, key_of
from core.experiments.task import Metric, Task
from core.experiments.width_plots import FoundWidths, told_widths, widths_figure, widths_heading
from core.graph.complexity import count_each, latency
from core.methods.registry import BASELINE
from core.modules import FORWARD_FAILURES, tensors_in
from core.report.page import Block, Choice, Page, Section, Table, Text, chart_of
from core.report.style import title_of
from core.report.tips import Tips
from core.storage.files import write_json
from core.storage.schema import read_kept
from core.surgery.architecture import Architecture
from core.tables import engineering, grouped

LATENCY_FILE = "latency.json"
SECONDS = 4.0  # for timing, more only for very slow networks
SIGNIFICANT = 0.05
SMALL, REST = 0.01, "the rest"  # stages with less of the FLOPs of every network are drawn together
HOLDS = {
    "config.py": "the protocol",
    PLAN_FILE: "seeds and controls",
    "widths.json": "the widths that were found, of the first seed",
    "result.json": "the numbers of this report",
    "report.md": "this report as Markdown",
    "channels.png": "widths per layer",
    "curves.png": "curves of training",
    LATENCY_FILE: "milliseconds of a forward pass",
    "records": "every finished trial, with all that decided it",
    "runs": "states, weights and logs of every training",
    "widths": "the widths found by each method and seed",
    "failed.json": "trials that failed",
}


def report_page(
    task: Task,
    settings: Settings,
    runs: Sequence[Run],
    result: Mapping[str, Any],
    own: Sequence[Section],
    widths: FoundWidths,
    device: torch.device,
) -> Page:
    """The report of an experiment.

    Args:
        task: what was trained.
        settings: the experiment.
        runs: its finished trainings.
        result: the content of result.json.
        own: the task's own sections.
        widths: those of the trainings.
        device: where forward passes are timed.
    """
    series = of_result(result)
    inputs = widths.example_inputs
    times: Times | None = None
    flops: dict[str, dict[str, int]] = {}
    missing = []
    # A user's network that trained may still refuse a copy, a batch of one, or shapes without values: the report is
    # written all the same, and says what it lacks.
    try:
        times = latencies(widths.networks, inputs, settings.work_dir / LATENCY_FILE, device)
    except FORWARD_FAILURES as error:
        missing.append(f"Milliseconds of a forward pass could not be measured: {first_line(error)}")
    try:
        flops = {name: count_each(model, inputs, "paper") for name, model in widths.networks.items()}
    except FORWARD_FAILURES as error:
        missing.append(f"FLOPs of single layers could not be counted: {first_line(error)}")
    sections = [
        Section("Result", tuple(_result(task, settings, result, series))),
        Section("Widths per layer", tuple(_widths(task, runs, widths, flops))),
        Section("Cost", (*_cost(task, series, flops, times), *([Text(missing)] if missing else []))),
        Section("Training", tuple(_training(task, runs))),
        *own,
        Section("To do it again", tuple(_again(task, settings, runs, result))),
    ]
    data = {"result": dict(result), "latency": {} if times is None else asdict(times)}
    return Page(f"{task.model_name} on {task.dataset}", summary(task, result, series), sections, data)


def summary(task: Task, result: Mapping[str, Any], series: Mapping[str, Series]) -> list[str]:
    """Three sentences: what the found network costs, how it scores, and whether controls do as well.

    A difference counts as one only if its p-value is below 5 % after Holm's correction over all of them.
    """
    metric = task.metrics[0]
    if FOUND not in series or BASELINE not in series:
        missing = title_of(BASELINE if FOUND in series else FOUND)
        return [
            f"No training of {missing} has finished, so there is nothing to compare: see below what failed."
        ]
    entry = result["methods"][FOUND]
    but = " but for the learning rates told below" if result.get("recipe_changes") else ""
    first = (
        f"{task.model_name} with LW-DNA's widths takes {100 * entry['flops_ratio']:.1f} % of the baseline's FLOPs and "
        f"{100 * entry['params_ratio']:.1f} % of its parameters, trained by the same recipe{but}."
    )
    found = series[FOUND]
    others = {name: item for name, item in series.items() if name != FOUND and item.has(metric)}
    pairs = {name: found.against(item, metric) for name, item in others.items()}
    adjusted = dict(zip(pairs, holm([paired_p(values) for values in pairs.values()]), strict=True))

    def told(name: str) -> str:
        verdict = _verdict(pairs[name], adjusted[name], metric)
        return f"{with_interval(others[name].values(metric), metric.digits)} ({verdict})"

    own = with_interval(found.values(metric), metric.digits)
    second = f"LW-DNA's {metric.label} is {own}, the baseline's {told(BASELINE)}."
    controls = [name for name in others if name != BASELINE]
    if not controls:
        return [
            first,
            second,
            "No control was trained, so it is open whether other widths of the same cost would do as well (--controls "
            "random uniform).",
        ]
    listed = "; ".join(f"{title_of(name)} {told(name)}" for name in controls)
    note = f" (p is adjusted for these {len(pairs)} comparisons, Holm)" if len(found.records) > 1 else ""
    return [first, second, f"Controls of the same cost{note}: {listed}."]


def _verdict(differences: Sequence[float], p: float, metric: Metric) -> str:
    """What paired differences, found network minus the other, show, with their uncertainty."""
    if not differences:
        return "no seed in common"
    said = f"LW-DNA differs by {with_interval(differences, metric.digits).replace('-', '−')}"
    if len(differences) == 1:
        return f"{said}; one seed: no interval, no claim"
    said += f" over {len(differences)} pairs of seeds"
    if math.isnan(p):  # the values do not vary, or are not finite
        return f"{said}; no test can judge this"
    better = (sum(differences) > 0) == metric.higher_is_better
    word = ("better" if better else "worse") if p < SIGNIFICANT else "may be chance"
    sign = "" if p_text(p).startswith("<") else "= "
    return f"{said}, p {sign}{p_text(p)}: {word}"


def _result(
    task: Task, settings: Settings, result: Mapping[str, Any], series: Mapping[str, Series]
) -> Iterator[Block]:
    header, rows = results_rows(task.metrics, result)
    yield Table(header, rows, "Mean ± 95 % interval over the seeds.")
    base, metric = series.get(BASELINE), task.metrics[0]
    shown = {name: item for name, item in series.items() if item.has(metric)}
    if len(shown) > 1:
        tips = Tips()
        titles = {name: title_of(name) for name in shown}
        figure = forest_figure(shown, metric, metric.label, base, tips, titles, stacked=True)
        yield chart_of(figure, f"{metric.label} of every method with its interval, and the difference to the baseline; "
                       "the tables hold the numbers", "Point at a mark for its numbers.", tips)  # fmt: skip
    differences = paired_differences(task.metrics, result)
    if differences:
        yield Table(
            ["method", "metric", "difference", "p (paired t-test)", "p (Holm)"],
            differences,
            f"Method minus baseline, seed by seed; p as it is, and adjusted for all {len(differences)} comparisons "
            f"(Holm).",
        )
    lines = [
        *weights_lines(task, settings, result),
        footnote(result),
        *training_remarks(task.metrics, result),
    ]
    yield Text([*lines, *task.notes])


@dataclass(frozen=True)
class Times:
    """Measured times, as they are kept in a file.

    Attributes:
        seconds: median of a forward pass, by method.
        device: name of the device.
        threads: torch's threads.
        repeats: number of turns.
        inputs: shapes of the inputs.
        networks: key of the measured networks.
    """

    seconds: Mapping[str, float]
    device: str
    threads: int
    repeats: int
    inputs: Sequence[Sequence[int]]
    networks: str


def latencies(networks: Mapping[str, nn.Module], inputs: Any, path: Path, device: torch.device) -> Times:
    """Seconds of a forward pass by method, measured in turns; kept in a file, and measured again for other networks.

    Args:
        networks: by method, the baseline among them.
        inputs: example inputs.
        path: the file.
        device: where to measure.
    """
    shapes = [
        [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
        for model in networks.values()
    ]
    key = key_of([list(networks), shapes, str(device.type)])
    kept = read_kept(path, Times)
    if kept is not None and kept.networks == key and kept.seconds.keys() == networks.keys():
        return kept
    (once,) = latency(networks[BASELINE], inputs, repeats=1, warmup=1, device=device)
    repeats = int(np.clip(SECONDS / (max(once, 1e-4) * len(networks)), 3, 15))
    measured = latency(list(networks.values()), inputs, repeats=repeats, warmup=1, device=device)
    times = Times(
        seconds=dict(zip(networks, measured, strict=True)),
        device=torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        repeats=repeats,
        inputs=tuple(tuple(tensor.shape) for tensor in tensors_in(inputs)),
        networks=key,
    )
    write_json(path, asdict(times))
    return times


@dataclass(frozen=True)
class _Facts:
    """Facts about a group besides its width, for one seed: least width, and mean score of the kept channels."""

    floor: int | None
    score: float | None


def _facts(found: Architecture) -> dict[str, _Facts]:
    """Facts by group; None for facts that a widths file lacks or holds in another form."""
    kept = found.found_by.get("groups")

    def number(facts: Any, name: str) -> float | None:
        value = facts.get(name) if isinstance(facts, dict) else None
        return value if isinstance(value, int | float) else None

    facts = {}
    for name, own in kept.items() if isinstance(kept, dict) else ():
        floor = number(own, "floor")
        facts[name] = _Facts(None if floor is None else int(floor), number(own, "score"))
    return facts


def _widths(
    task: Task, runs: Sequence[Run], widths: FoundWidths, flops: Mapping[str, Mapping[str, int]]
) -> Iterator[Block]:
    layers, baseline, found = widths.layers, widths.baseline, widths.found
    if not layers or not found:
        yield Text(["No network with found widths was trained."])
        return
    first = next(run for run in runs if run.architecture is not None)
    assert first.architecture is not None
    facts = _facts(first.architecture)
    own, whole = flops.get(first.method, {}), flops.get(BASELINE, {})
    told, rows = [], []
    for place, layer in enumerate(layers):
        fact = facts.get(widths.groups.get(layer, ""), _Facts(None, None))
        shares = [_share(own, layer), _share(whole, layer)]
        floor = "floor not stored" if fact.floor is None else f"floor {fact.floor}"
        score = "score not stored" if fact.score is None else f"score {fact.score:.3g}"
        told.append(f"{floor}, {score}\n{shares[0]} % of the FLOPs (baseline {shares[1]} %)")
        by_method = [told_widths([run[place] for run in own_runs]) for own_runs in found.values()]
        rows.append([
            layer, str(baseline[place]), *by_method, "–" if fact.floor is None else str(fact.floor),
            "–" if fact.score is None else f"{fact.score:.3g}", *shares,
        ])  # fmt: skip
    title, below = widths_heading(task, runs)
    tips = Tips()
    figure = widths_figure(title, layers, baseline, found, below, tips, told)
    which = f"{title_of(first.method)}, seed {first.seed}"
    yield chart_of(
        figure,
        "Channels of every layer in the baseline and in the found networks; the table below holds the numbers",
        f"Point at a mark: baseline, found, floor, score and share of the FLOPs (the last three of {which}).",
        tips,
        wide=True,
    )
    removed = first.architecture.removed
    lines = [f"Blocks left out ({which}): {', '.join(removed)}."] if removed else []
    if not facts:
        lines.append("Floors and scores of single groups are not in this run's files.")
    if lines:
        yield Text(lines)
    header = ["layer", "baseline", *map(title_of, found), "floor", "score", "FLOPs %", "baseline's FLOPs %"]
    yield Table(header, rows, f"Channels per layer as a table (floor, score, FLOPs: {which})", folded=True)


def _share(flops: Mapping[str, int], layer: str) -> str:
    """A layer's share of the network's FLOPs, in percent; a dash if they could not be counted."""
    return f"{100 * flops.get(layer, 0) / sum(flops.values()):.2f}" if flops else "–"


def stages_of(layers: Sequence[str], most: int = 20) -> list[str]:
    """The stage of every layer: the shortest beginning of its name that gives three stages, and at most `most`."""
    parts = [layer.split(".") for layer in layers]
    deepest = max(map(len, parts), default=1)
    stages = [[".".join(part[:depth]) for part in parts] for depth in range(1, deepest + 1)]
    fitting = [names for names in stages if len(set(names)) <= most] or stages[:1]
    return next((names for names in fitting if len(set(names)) >= 3), fitting[-1])


def _cost(
    task: Task,
    series: Mapping[str, Series],
    flops: Mapping[str, Mapping[str, int]],
    times: Times | None,
) -> Iterator[Block]:
    metric = task.metrics[0]
    shown = {name: item for name, item in series.items() if item.has(metric)}
    seconds = {finder_of(name): 1000 * value for name, value in (times.seconds if times else {}).items()}
    part = f" of its {task.part.name}" if task.part else ""
    flops_share, params_share = (
        {name: 100 * item.ratio(kind) for name, item in shown.items()} for kind in ("flops", "params")
    )
    scales = {
        "FLOPs": (flops_share, "FLOPs, % of the baseline's"),
        "Parameters": (params_share, "parameters, % of the baseline's"),
        "Latency": (
            {name: seconds[finder_of(name)] for name in shown if finder_of(name) in seconds},
            f"milliseconds of a forward pass{part}",
        ),
    }  # fmt: skip
    charts = []
    for name, (costs, label) in scales.items():
        if costs:
            tips = Tips()
            figure = cost_figure(shown, metric, costs, label, tips)
            alt = f"{metric.label} against {label}, by method; the table above and the text below hold the numbers"
            charts.append(chart_of(figure, alt, "Bars: 95 % intervals from three seeds on; small dots: seeds. Marks of "
                                   "equal cost stand side by side.", tips, name=name))  # fmt: skip
    yield Choice(tuple(charts), "Against")
    if times:
        shapes = ", ".join("×".join(map(str, shape)) for shape in times.inputs)
        threads = f"{times.threads} thread{'s' * (times.threads != 1)}"
        listed = ", ".join(f"{title_of(name)} {1000 * value:.3g} ms" for name, value in times.seconds.items())
        yield Text([
            f"Latency: {listed}. Median of {times.repeats} turns of the networks of the first seed on {times.device} "
            f"({threads}), inputs {shapes}, measured when the report was made."
        ])  # fmt: skip
    if flops:
        yield from _stages(flops)


def _stages(flops: Mapping[str, Mapping[str, int]]) -> Iterator[Block]:
    layers = list(dict.fromkeys(layer for own in flops.values() for layer in own))
    stage_of = dict(zip(layers, stages_of(layers), strict=True))
    small = {
        stage
        for stage in stage_of.values()
        if all(
            sum(value for layer, value in own.items() if stage_of[layer] == stage) < SMALL * sum(own.values())
            for own in flops.values()
        )
    }
    if len(small) > 1:
        stage_of = {layer: REST if stage in small else stage for layer, stage in stage_of.items()}
    stages = sorted(dict.fromkeys(stage_of.values()), key=lambda stage: stage == REST)
    by_method = {
        method: [
            float(sum(value for layer, value in own.items() if stage_of[layer] == stage)) for stage in stages
        ]
        for method, own in flops.items()
    }
    tips = Tips()
    figure = stages_figure(stages, by_method, tips)
    yield chart_of(figure, "FLOPs by stage and method; the table below holds the numbers",
                   "What the budget was spent on: FLOPs by stage, networks of the first seed."
                   + (f" The rest: {', '.join(sorted(name or 'the network itself' for name in small))}."
                      if len(small) > 1 else ""), tips)  # fmt: skip
    rows = [
        [
            stage,
            *(
                f"{engineering(own[place])} ({100 * own[place] / sum(own):.1f} %)"
                for own in by_method.values()
            ),
        ]
        for place, stage in enumerate(stages)
    ]
    yield Table(["stage", *map(title_of, by_method)], rows, "FLOPs by stage as a table", folded=True)


def _training(task: Task, runs: Sequence[Run]) -> Iterator[Block]:
    charts = []
    epochs = max(len(run.history) for run in runs)
    for scale, name in (("linear", "linear"), ("log", "logarithmic")):
        tips = Tips()
        figure = curves_figure(task, runs, scale, tips, size=4.9)  # type: ignore[arg-type]
        charts.append(chart_of(figure, f"{task.curves[2]} per epoch, training and test, {name}".replace("\n", " "),
                               "", tips, name=name))  # fmt: skip
        if epochs < 3:
            yield charts[0]
            break
    else:
        yield Choice(tuple(charts))
    test_key = task.curves[1]
    rows = []
    for run in runs:
        last = run.history[-1]
        rate = last.images / last.seconds if last.seconds > 0 else float("nan")
        rows.append([f"{title_of(run.method)}, seed {run.seed}", f"{last.train_loss:.4g}",
                     number_text(last.eval_metrics.get(test_key, float("nan"))), f"{rate:.0f}"])  # fmt: skip
    label = task.curves[2].replace("\n", " ")
    yield Table(["training", "training loss", f"test: {label}", "images/s"], rows, "The last epoch of every training",
                folded=True)  # fmt: skip


def _again(task: Task, settings: Settings, runs: Sequence[Run], result: Mapping[str, Any]) -> Iterator[Block]:
    program, folder = f"python -m {task.name}.run", settings.work_dir
    words = [f"{program} --config {shlex.quote(str(folder / 'config.py'))} --seeds {settings.seeds}"]
    words += [f"--controls {shlex.join(settings.controls)}"] if settings.controls else []
    words += [f"--method {shlex.quote(settings.method)}"] if settings.method else []
    where = shlex.quote(str(folder))
    yield Text([
        "# the whole experiment again, in a folder of its own", " ".join([*words, "--work-dir AGAIN"]),
        "# what is missing here", f"{program} --resume --work-dir {where}",
        "# only this report", f"{program} --stages compare --work-dir {where}",
    ], code=True)  # fmt: skip
    environment = {key: str(value) for key, value in result["environment"].items() if value is not None}
    store = WorkDirectory(folder, settings.train.seed)
    kept = grouped(
        (key, str(value)) for run in runs for key, value in store.environment(run.method, run.seed).items()
    )
    rows = [[f"report: {key}", value] for key, value in environment.items()]
    for key, values in kept.items():
        different = sorted(set(values))
        told = different[0] if len(different) == 1 else f"{different[0]} to {different[-1]}"
        rows.append([f"trainings: {key}", told])
    yield Table(["environment", ""], rows, words=True)
    files = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.name.startswith(".") or path.name in ("claim.json", "report.html"):
            continue
        inside = sum(1 for item in path.rglob("*") if item.is_file()) if path.is_dir() else 0
        size = f"{inside} files" if path.is_dir() else f"{path.stat().st_size:,} bytes"
        files.append([path.name + ("/" if path.is_dir() else ""), HOLDS.get(path.name, _holds(path)), size])
    yield Table(["file", "holds", "size"], files, f"Files in {folder}", words=True)


def _holds(path: Path) -> str:
    if path.suffix == ".safetensors":
        return f"network and weights of {title_of(path.stem)}, first seed"
    if path.suffix in (".svg", ".pdf"):
        return f"{path.stem}.png as a vector picture"
    return ""
