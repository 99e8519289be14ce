"""Result tables: for a terminal, in Markdown, and the numbers behind them (mean and 95 % interval over seeds)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scipy import stats

if TYPE_CHECKING:
    from core.experiment import Metric, Settings, Task

NAMES = {"baseline": "Baseline", "lwdna": "LW-DNA", "random": "Random widths", "uniform": "Uniform widths"}


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain-text table; the first column is left-aligned, the others right-aligned."""
    widths = [max(len(str(row[column])) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            str(cell).ljust(width) if column == 0 else str(cell).rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; numbers are right-aligned."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def half_interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % confidence interval of the mean (Student's t); None for a single value."""
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)


def with_interval(values: Sequence[float], digits: int = 2) -> str:
    """'23.00 ± 0.12', or '23.00' for a single value."""
    half = half_interval(values)
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if half is None else f"{mean} ± {half:.{digits}f}"


def results_rows(metrics: Sequence[Metric], result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of methods."""
    shown = [metric for metric in metrics if metric.key in result["methods"]["baseline"]["metrics"]]
    header = ["method", *(metric.label for metric in shown), "FLOPs", "ratio %", "params", "ratio %"]
    rows = []
    for name, values in result.get("references", {}).items():
        cells = [
            f"{values[metric.key]:.{metric.digits}f}" if metric.key in values else "" for metric in shown
        ]
        rows.append([name, *cells, "", "", "", ""])
    for method, entry in result["methods"].items():
        cells = [with_interval(entry["metrics"][metric.key]["values"], metric.digits) for metric in shown]
        rows.append(
            [
                NAMES.get(method, method.capitalize()),
                *cells,
                engineering(entry["flops"]),
                f"{100 * entry['flops_ratio']:.2f}",
                engineering(entry["params"]),
                f"{100 * entry['params_ratio']:.2f}",
            ]
        )
    return header, rows


def engineering(number: float) -> str:
    """4117734400 -> '4.1177 G'."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= scale:
            return f"{number / scale:.4f} {unit}"
    return f"{number:.0f}"


def results_table(metrics: Sequence[Metric], result: Mapping[str, Any]) -> str:
    """The table of methods for a terminal."""
    header, rows = results_rows(metrics, result)
    return "\n".join([text_table(header, rows), _footnote(result), *_training_remarks(metrics, result)])


def _footnote(result: Mapping[str, Any]) -> str:
    seeds = result["seeds"]
    if len(seeds) == 1:
        return "One seed: no interval, and no claim about which network is better (use --seeds)."
    return f"Mean ± 95 % confidence interval over {len(seeds)} seeds."


def _training_remarks(metrics: Sequence[Metric], result: Mapping[str, Any]) -> list[str]:
    """What is to be known of how networks were trained: changed recipes, averaged weights, failures to learn."""
    lines = []
    changes = result.get("recipe_changes", [])
    if changes:
        lines.append(f"Not all networks had the same recipe: {' '.join(changes)}")
    raw = []
    for method, entry in result["methods"].items():
        values = entry.get("raw_metrics", {})
        cells = [
            f"{metric.label} {with_interval([float(value) for value in values[metric.key]['values']], metric.digits)}"
            for metric in metrics
            if metric.key in values
        ]
        if cells:
            raw.append(f"{NAMES.get(method, method)} {', '.join(cells)}")
    if raw:
        lines.append(
            f"Scores are of running averages of the weights; of the weights themselves: {'; '.join(raw)}."
        )
    return [*lines, *result.get("training_notes", [])]


def paired_differences(metrics: Sequence[Metric], result: Mapping[str, Any]) -> list[list[str]]:
    """Method minus baseline, seed by seed: mean, interval and p-value of the paired t-test, per metric."""
    base = result["methods"]["baseline"]["metrics"]
    rows = []
    for method, entry in result["methods"].items():
        for metric in metrics:
            if method == "baseline" or metric.key not in entry["metrics"] or len(result["seeds"]) < 2:
                continue
            pairs = zip(entry["metrics"][metric.key]["values"], base[metric.key]["values"], strict=True)
            differences = [ours - theirs for ours, theirs in pairs]
            shown = p_text(paired_p(differences))
            rows.append(
                [NAMES.get(method, method), metric.label, with_interval(differences, metric.digits), shown]
            )
    return rows


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test, from the differences pair by pair; NaN where they do not vary."""
    if len(set(differences)) < 2:
        return math.nan
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics, 1979): the chance of one false finding among all.

    NaNs are no tests: they stay NaN and do not count.
    """
    order = sorted(
        (index for index, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i]
    )
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def p_text(p: float) -> str:
    """'0.031', '<0.001' or 'n/a'."""
    if math.isnan(p):
        return "n/a"
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def markdown_report(
    task: Task, settings: Settings, result: Mapping[str, Any], sections: Sequence[str] = ()
) -> str:
    """report.md: what was compared, the table, differences, widths, and how it was made."""
    header, rows = results_rows(task.metrics, result)
    epochs = f"{settings.train.epochs} epoch{'s' * (settings.train.epochs != 1)}"
    parts = [
        f"# {task.model_name} on {task.dataset}",
        f"{epochs} for every network, the same recipe{_but(result)}, the same seeds "
        f"({', '.join(map(str, result['seeds']))}). FLOPs are per image in the convention `paper`"
        + (f"; FLOPs and parameters are the {task.part.name}'s." if task.part else "."),
        markdown_table(header, rows),
        _footnote(result),
        *_training_remarks(task.metrics, result),
        *task.notes,
    ]
    differences = paired_differences(task.metrics, result)
    if differences:
        parts += [
            "## Difference to the baseline, seed by seed",
            markdown_table(["method", "metric", "difference", "p (paired t-test)"], differences),
        ]
    parts += [
        *sections,
        "## Widths",
        "![Widths per layer](channels.png)",
        _widths_table(result),
        "## Training",
        "![Error per epoch](curves.png)",
        "## Made with",
        "```json\n" + json.dumps(result["environment"], indent=2) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _but(result: Mapping[str, Any]) -> str:
    return " but for the learning rates below" if result.get("recipe_changes") else ""


GONE = "–"  # in the place of a width


def _widths_table(result: Mapping[str, Any]) -> str:
    methods = result["methods"]
    header = ["group", *(NAMES.get(method, method) for method in methods)]
    rows = [
        [f"`{group}`", *(str(entry["widths"].get(group, GONE)) for entry in methods.values())]
        for group in methods["baseline"]["widths"]
    ]
    lines = [f"Channels per group, seed {result['seeds'][0]}:", markdown_table(header, rows)]
    if any(GONE in row for row in rows):
        lines.append(f"{GONE}: the block was left out.")
    return "\n\n".join(lines)
