"""Result tables: for a terminal, in Markdown, and the numbers behind them (mean and 95 % interval over seeds)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from core.experiments.pretrained import weights_told
from core.experiments.series import of_result
from core.experiments.settings import Settings
from core.experiments.statistics import (
    difference_cells,
    interval_note,
    number_text,
    width_spread,
    with_interval,
)
from core.experiments.task import Metric, Task
from core.methods.registry import BASELINE
from core.report.style import title_of
from core.storage.files import json_text
from core.tables import engineering, markdown_table, text_table

SPREAD = (
    "sd log w: standard deviation, over a network's groups, of the logarithm of width over the baseline's: 0 for "
    "uniform widths."
)
NEARLY_UNIFORM = (
    "One threshold over random scores keeps nearly the same share of every group, so their widths are nearly uniform; "
    "`random` draws widths."
)


def results_rows(metrics: Sequence[Metric], result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of methods."""
    series = of_result(result)
    shown = [metric for metric in metrics if next(iter(series.values())).has(metric)]
    header = [
        "method",
        *(metric.label for metric in shown),
        "FLOPs",
        "ratio %",
        "params",
        "ratio %",
        "sd log w",
    ]
    references = [
        [
            name,
            *(number_text(known[one.key], one.digits) if one.key in known else "" for one in shown),
            *[""] * 5,
        ]
        for name, known in result.get("references", {}).items()
    ]
    methods = [
        [
            title_of(method),
            *(with_interval(series[method].values(metric), metric.digits) for metric in shown),
            engineering(entry["flops"]),
            f"{100 * entry['flops_ratio']:.2f}",
            engineering(entry["params"]),
            f"{100 * entry['params_ratio']:.2f}",
            _spread(result, method),
        ]
        for method, entry in result["methods"].items()
    ]
    return header, [*references, *methods]


def _spread(result: Mapping[str, Any], method: str) -> str:
    """Mean of `width_spread` over a method's networks; "" for the baseline, or without one to compare with."""
    base = result["methods"].get(BASELINE)
    if base is None or method == BASELINE:
        return ""
    runs = result["methods"][method]["per_seed"]
    return f"{fmean(width_spread(run['widths'], base['widths']) for run in runs):.2f}"


def results_table(metrics: Sequence[Metric], result: Mapping[str, Any]) -> str:
    """The table of methods for a terminal."""
    header, rows = results_rows(metrics, result)
    return "\n".join([text_table(header, rows), footnote(result), *training_remarks(metrics, result)])


def footnote(result: Mapping[str, Any]) -> str:
    """What the intervals are, how much this many seeds can show, and how many values are not finite."""
    seeds = len(result["seeds"])
    text = "One seed: no interval, and no claim about which network is better (use --seeds)."
    if seeds > 1:
        text = interval_note(seeds)
    values = [
        float(value)
        for entry in result["methods"].values()
        for metric in entry["metrics"].values()
        for value in metric["values"]
    ]
    strange = sum(not math.isfinite(value) for value in values)
    if strange:
        text += (
            f" {strange} of {len(values)} values {'is' if strange == 1 else 'are'} infinite or not a number (the PSNR "
            f"of an exactly reproduced image is infinite): intervals and tests with them are undefined."
        )
    return text


def _failures(result: Mapping[str, Any]) -> list[str]:
    """The trials that failed and are therefore missing in the table."""
    failed = result.get("failed", [])
    if not failed:
        return []
    named = "; ".join(f"{entry['method']}, seed {entry['seed']}: {entry['error']}" for entry in failed)
    return [
        f"{len(failed)} trial{'s' * (len(failed) != 1)} failed and {'is' if len(failed) == 1 else 'are'} left out, "
        f"means and tests are over the other seeds (--resume tries again): {named}."
    ]


def training_remarks(metrics: Sequence[Metric], result: Mapping[str, Any]) -> list[str]:
    """Notes on how networks were trained: changed recipes, averaged weights, failures to learn."""
    lines = [*_failures(result)]
    changes = result.get("recipe_changes", [])
    if changes:
        lines.append(f"Not all networks had the same recipe: {' '.join(changes)}")
    raw = []
    for method, series in of_result(result, "raw_metrics").items():
        cells = [
            f"{metric.label} {with_interval(series.values(metric), metric.digits)}"
            for metric in metrics
            if series.has(metric)
        ]
        raw += [f"{title_of(method)} {', '.join(cells)}"] if cells else []
    if raw:
        lines.append(
            f"Scores are of running averages of the weights; of the weights themselves: {'; '.join(raw)}."
        )
    return [*lines, *result.get("unknown_start", []), *result.get("training_notes", [])]


def paired_differences(metrics: Sequence[Metric], result: Mapping[str, Any]) -> list[list[str]]:
    """Method minus baseline, seed by seed: mean, interval, p-value of the paired t-test, and p by Holm.

    Seeds for which one of the two failed are left out. Holm's correction is over all rows.
    """
    series = of_result(result)
    base = series.pop(BASELINE, None)
    names: list[list[str]] = []
    differences: list[tuple[list[float], int]] = []
    for method, own in series.items():
        for metric in metrics:
            values = own.against(base, metric) if base is not None and own.has(metric) else []
            if len(values) > 1:
                names.append([title_of(method), metric.label])
                differences.append((values, metric.digits))
    return [name + cells for name, cells in zip(names, difference_cells(differences), strict=True)]


def markdown_report(
    task: Task, settings: Settings, result: Mapping[str, Any], sections: Sequence[str] = ()
) -> str:
    """report.md: what was compared, the table, differences, widths, and how all of it was made."""
    header, rows = results_rows(task.metrics, result)
    epochs = f"{settings.train.epochs} epoch{'s' * (settings.train.epochs != 1)}"
    but = " but for the learning rates below" if result.get("recipe_changes") else ""
    parts = [
        f"# {task.model_name} on {task.dataset}",
        f"{epochs} for every network, the same recipe{but}, the same seeds "
        f"({', '.join(map(str, result['seeds']))}). FLOPs are per image in the convention `paper`"
        + (f"; FLOPs and parameters are the {task.part.name}'s." if task.part else "."),
        *weights_lines(task, settings, result),
        markdown_table(header, rows),
        footnote(result),
        *([SPREAD] if result["methods"].keys() - {BASELINE} else []),
        *([NEARLY_UNIFORM] if "random-scores" in result["methods"] else []),
        *training_remarks(task.metrics, result),
        *task.notes,
    ]
    differences = paired_differences(task.metrics, result)
    if differences:
        parts += [
            "## Difference to the baseline, seed by seed",
            markdown_table(["method", "metric", "difference", "p (paired t-test)", "p (Holm)"], differences),
            f"p as it is, and adjusted for all {len(differences)} comparisons of this table (Holm).",
        ]
    parts += [
        *sections,
        "## Widths",
        *(["![Widths per layer](channels.png)"] if result["methods"].keys() - {"baseline"} else []),
        _widths_table(result),
        "## Training",
        "![Error per epoch](curves.png)",
        "## Made with",
        "```json\n" + json_text(result["environment"], indent=2) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def weights_lines(task: Task, settings: Settings, result: Mapping[str, Any]) -> list[str]:
    """Lines on which trained weights were used, and how; empty without them."""
    if task.pretrained is None:
        return []
    lines = weights_told(task.pretrained, settings.start, settings.shrink)
    if whole := result["weights"]["kept_whole"]:
        lines.append(f"Groups that are not exact stay whole: {', '.join(f'`{name}`' for name in whole)}.")
    metric = task.metrics[0]
    before = [
        f"{title_of(method)} {with_interval(series.values(metric), metric.digits)}"
        for method, series in of_result(result, "metrics_at_start").items()
        if series.has(metric)
    ]
    if before:
        lines.append(f"{metric.label} before fine-tuning: {'; '.join(before)}.")
    return [" ".join(lines)]


GONE = "–"  # in the place of a width


def _widths_table(result: Mapping[str, Any]) -> str:
    methods = result["methods"]
    header = ["group", *(title_of(method) for method in methods)]
    rows = [
        [f"`{group}`", *(str(entry["widths"].get(group, GONE)) for entry in methods.values())]
        for group in dict.fromkeys(group for entry in methods.values() for group in entry["widths"])
    ]
    seeds = {entry["per_seed"][0]["seed"] for entry in methods.values()}
    lines = [
        f"Channels per group, seed {' or '.join(map(str, sorted(seeds)))}:",
        markdown_table(header, rows),
    ]
    if any(GONE in row for row in rows):
        lines.append(f"{GONE}: the block was left out.")
    return "\n\n".join(lines)
