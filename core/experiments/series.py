"""Records of trials over their seeds: tables with mean, 95 % interval, paired differences and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.experiments.statistics import holm, p_text, paired_p, with_interval
from core.experiments.task import Metric
from core.tables import markdown_table

Record = Mapping[str, Any]


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
