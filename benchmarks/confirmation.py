"""Contrasts that were registered beforehand, looked at after planned numbers of pairs, and nothing else.

    python -m benchmarks.confirmation CONTRASTS.json \
        --config shared_configs/classification/half_mobilenet_tiny_imagenet_confirm.py --jobs 2

trains the methods that CONTRASTS.json names (`core.experiments.sequential`), seed by seed up to the next planned look,
and stops when no question is open any more. It first prints which differences the looks can detect. Trials lie in the
store of `benchmarks.hypothesis` and are never run twice; an interrupted run goes on when it is started again. With
--records every finished trial is one small file there; once it is committed, another machine can go on from it.
"""

from __future__ import annotations

import itertools
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.bench import (
    CLASSIFICATION,
    GOES_ON,
    Bench,
    add_bench_arguments,
    budget_text,
    check_arguments,
    failures_text,
    open_bench,
    starts_text,
    trials_run,
    with_published,
)
from benchmarks.confirmation_cost import cost_table, equivalents_text
from benchmarks.measure import command_text, machine, machine_text, write_results
from core.command_line.exits import run_parsed
from core.errors import UserError, check_known
from core.experiments.arguments import add_method_arguments
from core.experiments.curve_plots import plot_losses
from core.experiments.marks import draw_means
from core.experiments.plan import grid
from core.experiments.sequential import (
    Contrast,
    Decision,
    Registered,
    becomes_default,
    decide,
    read_registered,
)
from core.experiments.series import Record, Series, collect, results_table
from core.experiments.statistics import fine_digits, p_text, with_interval
from core.experiments.store import short
from core.experiments.task import Metric
from core.experiments.trials import Failure
from core.methods.registry import BASELINE, METHODS
from core.report.style import QUIET, head, new_figure, save_figure, styled
from core.tables import markdown_table

PICTURES = ("Differences as pairs come in", "Training loss of all arms")  # in words, for who cannot see them
LOSS = Metric("loss", "test loss", higher_is_better=False, digits=4)


def metrics_of(bench: Bench) -> list[Metric]:
    """The metrics of trials: the task's numbers, and the test loss of classifiers."""
    return [*bench.engine.task.metrics, *([LOSS] if bench.engine.task.name == CLASSIFICATION else [])]


def metric_of(registered: Registered, bench: Bench) -> Metric:
    """The metric that the contrasts compare.

    Raises:
        UserError: the task reports no such metric.
    """
    metrics = {metric.key: metric for metric in metrics_of(bench)}
    check_known("contrasts: unknown metric", [registered.metric], metrics)
    return metrics[registered.metric]


def differences(
    contrasts: Sequence[Contrast], series: Mapping[str, Series], metric: Metric
) -> dict[Contrast, list[float]]:
    """Contrast -> differences of its pairs, in the order of the seeds, up to the first seed that one side lacks.

    A look is at the first so many seeds: with later ones in the place of a missing one it would be another look.
    """
    empty = Series("", {})
    first = min((seed for one in series.values() for seed in one.records), default=0)
    found = {}
    for item in contrasts:
        sides = [series.get(name, empty) for name in (item.method, item.against)]
        both = set(sides[0].records) & set(sides[1].records)
        whole = list(itertools.takewhile(both.__contains__, itertools.count(first)))
        method, against = (one.values(metric, whole) for one in sides)
        found[item] = [a - b for a, b in zip(method, against, strict=True)]
    return found


def decisions_table(
    found: Sequence[Decision], pairs: Mapping[Contrast, Sequence[float]], metric: Metric
) -> str:
    """Every contrast with the decision of its last look, in Markdown."""
    rows = []
    for item in found:
        values = list(pairs[item.contrast])[: item.look]
        said = "differs" if item.differs else "no difference shown" if item.final else "open"
        level = p_text(item.level, digits=4) if item.look else ""
        shown = with_interval(values, fine_digits(values, metric.digits)) if values else ""
        rows.append([str(item.contrast), str(item.look), shown, p_text(item.p, digits=4), level, said])
    return markdown_table(["contrast", "pairs", f"difference, {metric.label}", "p", "level", "answer"], rows)


def rule_text(registered: Registered, becomes: Mapping[str, bool | None]) -> str:
    """The registered rule for the default and its verdict; "" if there is none."""
    if not becomes:
        return ""
    said = {True: "becomes the default", False: "does not become the default", None: "is not decided on yet"}
    return (
        f"Rule for the default, written down beforehand: a method takes its place if it is better than everything that "
        f"it is held against but the baseline, and the end of its 95 % interval against the baseline is below "
        f"{registered.margin:g} on the worse side. By it "
        + ", ".join(f"{method} {said[value]}" for method, value in becomes.items())
        + "."
    )


@styled
def plot_differences(
    path: Path, trained: str, pairs: Mapping[Contrast, Sequence[float]], looks: Sequence[int], metric: Metric
) -> None:
    """The mean difference of every contrast with its 95 % interval as pairs come in; looks are lines."""
    figure, axes = new_figure(7.2, 2.4 * len(pairs) + 0.6, len(pairs), squeeze=False)
    for axis, (contrast, values) in zip(axes[:, 0], pairs.items(), strict=True):
        counts = list(range(2, len(values) + 1))
        draw_means(axis, counts, [values[:count] for count in counts], contrast.method, seeds=False)
        axis.axhline(0, color=QUIET, linewidth=0.8)
        for look in looks:
            axis.axvline(look, color="0.8", linewidth=0.8, zorder=0)
        axis.set_title(f"{contrast}, n = {len(values)} pairs", loc="left")
        axis.set_xlim(1, max(looks) + 1)
        axis.set_ylabel(metric.label)
    axes[-1, 0].set_xlabel("pairs; vertical lines: planned looks")
    below = f"{PICTURES[0]}: means and 95 % intervals (Student's t) of single looks."
    head(figure, trained, below)
    save_figure(figure, path)


def draw(stem: Path, trained: str, series: Mapping[str, Series], contrasts: Sequence[Contrast],
         looks: Sequence[int], metric: Metric) -> list[Path]:  # fmt: skip
    """Write a page's pictures; returns their paths.

    Args:
        stem: path without suffix.
        trained: network, data and epochs, for the title.
        series: method -> its records.
        contrasts: the questions.
        looks: numbers of pairs.
        metric: what is compared.
    """
    path, curves = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}-losses.png")
    plot_differences(path, trained, differences(contrasts, series, metric), looks, metric)
    return [path, *([curves] if plot_losses(curves, f"Training loss, {trained}", series, BASELINE) else [])]


def run(arguments: Namespace, argv: Sequence[str] | None) -> int:
    """Train up to each look, decide, write; returns the exit status."""
    check_arguments(arguments)
    if arguments.seeds is not None:
        raise UserError("--seeds: the registered looks say how many; --seed says with which to begin")
    arguments.seeds = 1  # for what the commands share; every look has its own
    if arguments.budget and len(arguments.budget) > 1:
        raise UserError("--budget takes one value here: contrasts are registered for one")
    registered = read_registered(arguments.contrasts)
    check_known("contrasts: unknown method", registered.methods, (BASELINE, *METHODS))
    bench = open_bench(arguments)
    bench = with_published(arguments, bench, [bench.config.shrink])
    metric, say = metric_of(registered, bench), bench.engine.say
    for line in registered.power():
        say(line)
    records: list[Record] = []
    failed: list[Failure] = []
    # What is there is decided on at once, whatever looks it has reached.
    for look in registered.looks[-1:] if arguments.report_only else registered.looks:
        seeds = range(arguments.seed, arguments.seed + look)
        records, failed = trials_run(bench, grid(registered.methods, [bench.config.shrink], seeds), arguments)
        series = collect(records, lambda record: str(record["method"]))
        pairs = differences(registered.contrasts, series, metric)
        found = decide(registered, pairs)
        say(decisions_table(found, pairs, metric))
        if failed or all(item.final for item in found):
            break
    if not records:
        raise UserError(
            f"the store '{bench.store}' holds no trial of these contrasts: leave --report-only out"
        )
    if not arguments.no_report:
        _write(
            arguments,
            command_text("benchmarks.confirmation", argv),
            registered,
            bench,
            metric,
            records,
            failed,
            series,
            pairs,
            found,
        )
    return 1 if failed else 0


def _write(arguments: Namespace, command: str, registered: Registered, bench: Bench, metric: Metric,
           records: Sequence[Record], failed: Sequence[Failure], series: Mapping[str, Series],
           pairs: Mapping[Contrast, Sequence[float]], found: Sequence[Decision]) -> None:  # fmt: skip
    stem = arguments.output or bench.store / "confirmation"
    becomes = becomes_default(registered, found, pairs, higher_is_better=metric.higher_is_better)
    config = bench.config
    trained = f"{bench.what_is_trained()}, {config.train.epochs} epochs"
    drawn = draw(stem, trained, series, registered.contrasts, registered.looks, metric)
    looks = ", ".join(map(str, registered.looks))
    parts = [
        f"# Confirmation: {trained}",
        f"Made by `{command}`; what is compared and how: `benchmarks/README.md`.",
        bench.part,
        f"{len(registered.contrasts)} contrasts, written down {registered.written or 'at an unknown time'}; looks at "
        f"{looks} pairs by O'Brien and Fleming's bounds, all together at {registered.alpha:g} by Holm's rule. A "
        f"difference is method minus the other, seed by seed, at the look that answered; its interval is that of one "
        f"look and says nothing of significance: p against its level does. {' '.join(registered.power())}",
        decisions_table(found, pairs, metric),
        rule_text(registered, becomes),
        *(f"![{text}]({path.name})" for text, path in zip(PICTURES, drawn, strict=False)),
        "All arms (intervals and p-values of single looks, for description):",
        results_table(series, BASELINE, metric),
        *(results_table(series, BASELINE, other) for other in metrics_of(bench) if other != metric),
        cost_table(bench, series),
        equivalents_text(series, metric),
        failures_text(failed),
        starts_text(records),
        machine_text(machine()),
    ]
    value = {
        "contrasts": [
            {"method": item.contrast.method, "against": item.contrast.against, "pairs": item.look, "p": item.p,
             "level": item.level, "differs": item.differs, "final": item.final}
            for item in found
        ],
        "looks": list(registered.looks),
        "trained": trained,
        "budget": budget_text(replace(config.shrink.budget, convention="both").to_json()),
        "metric": asdict(metric),
        "becomes_default": becomes,
        "records": [short(record) for record in records],
    }  # fmt: skip
    _, page = write_results(stem, value, "\n\n".join(part for part in parts if part))
    bench.engine.say(f"report: {page}")


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m benchmarks.confirmation", description=__doc__)
    parser.add_argument(
        "contrasts", type=Path, help="what was written down: JSON, see core.experiments.sequential"
    )
    add_bench_arguments(parser)
    add_method_arguments(parser)
    parser.set_defaults(seeds=None)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_parsed(build_parser(), lambda arguments: run(arguments, argv), argv, GOES_ON, unread=True)


if __name__ == "__main__":
    sys.exit(main())
