"""Tables of scores in percent: Markdown, LaTeX, and rows for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.tables import markdown_table
from tracking.datasets import split_title
from tracking.evaluation.comparison import Comparison
from tracking.evaluation.evaluation import Evaluation, comparable, counted
from tracking.evaluation.protocols import score_labels

Row = tuple[str, dict[str, float | None]]


def score_rows(evaluations: Sequence[Evaluation]) -> list[dict[str, str | float | int | None]]:
    """One row per tracker: name, scores as fractions under the names that tables print, sequences, speed.

    `sequences` is the number of sequences scored, `sequences_with_result` the number with a result.
    """
    rows: list[dict[str, str | float | int | None]] = []
    for item in evaluations:
        scores = item.scores()
        row: dict[str, str | float | int | None] = {"tracker": item.name, "protocol": item.protocol.name}
        row |= {label: scores[key] for key, label in score_labels(item.protocol).items()}
        row |= {"sequences": len(item.curves.names), "sequences_with_result": item.available}
        row["frames_per_second"] = item.speed
        rows.append(row)
    return rows


def caption(evaluations: Sequence[Evaluation], split: str) -> str:
    """The caption of a table or plot of these evaluations."""
    first = evaluations[0]
    title = split_title(first.protocol.dataset, split)
    return f"{title} ({counted(evaluations)}), protocol of the {first.protocol.title}"


def _with_counts(
    header: list[str], lines: list[list[str]], evaluations: Sequence[Evaluation]
) -> tuple[list[str], list[list[str]]]:
    """Adds a column with each tracker's number of results, if these numbers differ."""
    if len({item.available for item in evaluations}) == 1 and not any(item.left_out for item in evaluations):
        return header, lines
    total = max(item.total or item.available for item in evaluations)
    return [*header, "has results of"], [
        [*cells, f"{item.available} of {total}"] for cells, item in zip(lines, evaluations, strict=True)
    ]


def is_undefined(value: float | None) -> bool:
    """Whether there is no number to rank by: not defined by the protocol, or NaN."""
    return value is None or math.isnan(value)


def _cells(rows: Sequence[Row], labels: dict[str, str], bold: str) -> list[list[str]]:
    """Percentages with two decimals, the best of each column in `bold`."""
    best = {
        key: max((value for _, scores in rows if not is_undefined(value := scores[key])), default=None)  # type: ignore[type-var]
        for key in labels
    }
    lines = []
    for name, scores in rows:
        cells = [name]
        for key in labels:
            value = scores[key]
            text = "–" if value is None else "undefined" if math.isnan(value) else f"{100 * value:.2f}"
            cells.append(
                bold.format(text) if value is not None and value == best[key] and len(rows) > 1 else text
            )
        lines.append(cells)
    return lines


def _rows_of(evaluations: Sequence[Evaluation]) -> tuple[list[Row], dict[str, str]]:
    return [(item.name, item.scores()) for item in evaluations], score_labels(evaluations[0].protocol)


def scores_table(evaluations: Sequence[Evaluation], split: str) -> str:
    """The trackers' scores in percent as a Markdown table under a caption.

    The best of each column is bold if all were scored on the same sequences.
    """
    rows, labels = _rows_of(evaluations)
    lines = _cells(rows, labels, "**{}**" if comparable(evaluations) else "{}")
    header, lines = _with_counts(["tracker", *labels.values()], lines, evaluations)
    if any(item.speed for item in evaluations):
        header.append("frames/s")
        lines = [
            [*cells, "–" if item.speed is None else f"{item.speed:.1f}"]
            for cells, item in zip(lines, evaluations, strict=True)
        ]
    return f"{caption(evaluations, split)}, in percent:\n\n{markdown_table(header, lines)}\n"


def attribute_table(evaluation: Evaluation) -> str:
    """One tracker's scores on the sequences of each challenge attribute as a Markdown table."""
    labels = score_labels(evaluation.protocol)
    rows: list[Row] = [(name, evaluation.scores(flags)) for name, flags in evaluation.attributes.items()]
    lines = _cells(rows, labels, "{}")
    counts = [str(int(flags.sum())) for flags in evaluation.attributes.values()]
    table = markdown_table(
        ["attribute", "sequences", *labels.values()],
        [[cells[0], count, *cells[1:]] for cells, count in zip(lines, counts, strict=True)],
    )
    return f"{evaluation.name} by attribute, in percent:\n\n{table}\n"


LATEX_SPECIAL = str.maketrans({mark: f"\\{mark}" for mark in "&%$#_{}"} | {"~": r"\textasciitilde{}"})


def latex_table(evaluations: Sequence[Evaluation], split: str) -> str:
    """The trackers' scores in percent as a LaTeX table (needs the package booktabs)."""
    rows, labels = _rows_of(evaluations)
    lines = [
        [cells[0].translate(LATEX_SPECIAL), *(cell.replace("–", "--") for cell in cells[1:])]
        for cells in _cells(rows, labels, "\\textbf{{{}}}" if comparable(evaluations) else "{}")
    ]
    names = [label.translate(LATEX_SPECIAL) for label in ("Tracker", *labels.values())]
    header, lines = _with_counts(names, lines, evaluations)
    body = "".join(f"    {' & '.join(cells)} \\\\\n" for cells in lines)
    return (
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{caption(evaluations, split).translate(LATEX_SPECIAL)}, in percent.}}\n"
        f"  \\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n    \\toprule\n"
        f"    {' & '.join(header)} \\\\\n    \\midrule\n{body}    \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
    )


def comparison_table(result: Comparison, rows: int | None = None) -> str:
    """Per-sequence differences as a Markdown table, A's gains first, under the bootstrap interval of the mean.

    Args:
        result: A against B.
        rows: show only this many sequences at each end; None for all.
    """
    differences = result.differences
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    order = list(range(len(result.names)))
    shown = order if rows is None or len(order) <= 2 * rows else [*order[:rows], *order[-rows:]]
    lines = [
        [
            result.names[index],
            f"{100 * result.first_scores[index]:.2f}",
            f"{100 * result.second_scores[index]:.2f}",
            f"{100 * differences[index]:+.2f}",
        ]
        for index in shown
    ]
    if len(shown) < len(order):
        lines.insert(rows or 0, ["…", "", "", ""])
    left_out = f" ({result.left_out} left out that not all trackers have)" if result.left_out else ""
    head = (
        f"{result.first} − {result.second}, {result.measure} in points: mean {100 * result.mean:+.2f}, "
        f"{100 * result.confidence:.0f} % paired bootstrap interval over {len(order)} sequences{left_out} "
        f"[{100 * result.low:+.2f}, {100 * result.high:+.2f}]; {result.first} is better on {wins}, worse on {losses}"
    )
    return f"{head}\n\n{markdown_table(['sequence', result.first, result.second, 'difference'], lines)}\n"
