"""Records of trials over their seeds: tables with mean, 95 % interval, paired differences and Holm's correction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from core.experiments.statistics import (
    difference_cells,
    fine_digits,
    p_text,
    paired_p,
    width_spread,
    with_interval,
)
from core.experiments.task import Metric
from core.tables import markdown_table

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """All seeds of one method at one setting.

    Attributes:
        label: its name in tables and figures.
        records: by seed.
    """

    label: str
    records: dict[int, Record]

    def values(self, metric: Metric, seeds: Sequence[int] | None = None) -> list[float]:
        """The metric, in the order of the seeds; of all seeds by default."""
        chosen = sorted(self.records) if seeds is None else seeds
        return [float(self.records[seed]["metrics"][metric.key]) for seed in chosen]

    def has(self, metric: Metric) -> bool:
        """Whether the metric was measured."""
        return all(metric.key in record["metrics"] for record in self.records.values())

    def ratio(self, kind: str) -> float:
        """Mean of FLOPs ("flops", in the published convention) or parameters ("params") over the baseline's."""

        def cost(of: Mapping[str, Any]) -> float:
            return float(of["flops"]["paper"] if kind == "flops" else of["params"])

        return fmean(cost(r["cost"]) / cost(r["baseline_cost"]) for r in self.records.values())

    def mean_of(self, key: str) -> float:
        """Mean of a number of the record."""
        return fmean(float(r[key]) for r in self.records.values())

    def spread(self) -> float | None:
        """Mean of `width_spread` over the networks; None for the baseline, or if widths are not known by name."""
        found = []
        for record in self.records.values():
            architecture = record.get("architecture")
            widths = architecture["widths"] if architecture else record.get("named_widths")
            if widths is None or "widths" not in record.get("baseline_cost", {}):
                return None
            found.append(width_spread(widths, record["baseline_cost"]["widths"]))
        return fmean(found)

    def against(self, other: Series, metric: Metric) -> list[float]:
        """This series' value minus the other's, seed by seed, over the seeds that both have."""
        seeds = sorted(set(self.records) & set(other.records))
        return [a - b for a, b in zip(self.values(metric, seeds), other.values(metric, seeds), strict=True)]


def collect(records: Sequence[Record], label: Callable[[Record], str]) -> dict[str, Series]:
    """Records by label, in the order in which labels appear.

    Raises:
        ValueError: two records of one seed would have the same label: one of them would not be seen.
    """
    found: dict[str, Series] = {}
    for record in records:
        own = found.setdefault(name := label(record), Series(name, {})).records
        if int(record["seed"]) in own:
            raise ValueError(f"two records of '{name}', seed {record['seed']}")
        own[int(record["seed"])] = record
    return found


def of_result(result: Mapping[str, Any], metrics: str = "metrics") -> dict[str, Series]:
    """The trainings in result.json as series, by method.

    Args:
        result: content of the file; numbers that are not finite may be words.
        metrics: "metrics", or "raw_metrics" for those of weights that are not averaged.
    """
    found: dict[str, Series] = {}
    for method, entry in result["methods"].items():
        by_key = {key: value["values"] for key, value in entry.get(metrics, {}).items()}
        base = _cost(entry["flops"] / entry["flops_ratio"], entry["params"] / entry["params_ratio"])
        records: dict[int, Record] = {
            run["seed"]: {
                "metrics": {key: values[place] for key, values in by_key.items()},
                "cost": _cost(run["flops"], run["params"]),
                "baseline_cost": base,
            }
            for place, run in enumerate(entry["per_seed"])
        }
        found[method] = Series(method, records)
    return found


def _cost(flops: float, params: float) -> dict[str, Any]:
    return {"flops": {"paper": flops}, "params": params}


def results_table(series: Mapping[str, Series], reference: str, metric: Metric) -> str:
    """Every series with its difference to `reference`, in Markdown.

    p is from the paired t-test over the seeds; "p (Holm)" is adjusted for all rows of the table; "sd log w" is
    `Series.spread`.
    """
    base = series.get(reference)
    pairs = [[] if base is None or item is base else item.against(base, metric) for item in series.values()]
    differences = [(values, fine_digits(values, metric.digits)) for values in pairs]
    header = ["method", "n", metric.label, f"minus {reference}", "p", "p (Holm)", "FLOPs %", "params %",
              "sd log w", "search epochs"]  # fmt: skip
    rows = [
        [
            name,
            str(len(item.records)),
            with_interval(values := item.values(metric), fine_digits(values, metric.digits)),
            *difference,
            f"{100 * item.ratio('flops'):.2f}",
            f"{100 * item.ratio('params'):.1f}",
            "" if (spread := item.spread()) is None else f"{spread:.2f}",
            f"{item.mean_of('search_epochs'):.2f} ({item.mean_of('search_baseline_epochs'):.2f})",
        ]
        for (name, item), difference in zip(series.items(), difference_cells(differences), strict=True)
    ]
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
            digits = fine_digits(values, metric.digits)
            cells += ["", ""] if own else [with_interval(values, digits), p_text(paired_p(values))]
        rows.append([name, *cells])
    header = ["method", *(text for control in present for text in (f"minus {control}", "p"))]
    return markdown_table(header, rows) if present else ""
