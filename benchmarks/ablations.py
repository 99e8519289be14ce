"""Shows which settings matter: budgets, widening, floors, scoring batches and vanishing blocks, one sweep each.

    python -m benchmarks.ablations budgets widen floors batches vanish --dataset digits --seeds 2

budgets  found, scaled and random widths at 0.25 to 1.0 of the baseline's FLOPs: the poster's comparison of pruned and
         original networks across complexities (the original is scaled evenly)
widen    the space of widths is 1, 1.5, 2 or 3 times the baseline; floors stay at 0.8 of the baseline's width
floors   least fraction of each widened group, 0 to 0.6; those that leave no room for the budget are named
batches  channels are scored on 1 to 64 batches
vanish   blocks that keep less than 0 to 1 of their widened channels without floors are left out (`core.surgery.depth`)

`--floor` is the floor of the sweeps over batches and vanishing blocks alone: budgets and widen set floors that keep the
comparison fair, and floors varies it. `--widen` and `--batches` hold in the sweeps that do not vary them; so does
`--budget`, one value.

Trials go into the same store as those of `benchmarks.hypothesis`, so nothing is trained twice.
"""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.bench import (
    GOES_ON,
    Bench,
    add_bench_arguments,
    check_arguments,
    failures_text,
    open_bench,
    seeds_of,
    starts_text,
    trials_run,
    with_published,
)
from benchmarks.measure import command_text, machine, machine_text, write_results
from core.command_line.exits import run_parsed
from core.errors import UserError, check_known
from core.experiments.marks import draw_band, draw_means, drawn_mean, say_what_is_not_drawn, seeds_note
from core.experiments.plan import Trial
from core.experiments.plots import plot_tradeoff
from core.experiments.series import Record, Series, collect, results_table
from core.experiments.store import short
from core.experiments.task import Metric
from core.experiments.trials import Failure
from core.methods.registry import BASELINE
from core.report.style import head, label_ends, look_of, new_figure, save_figure, styled
from core.tables import grouped
from core.widths.budget import BudgetError
from core.widths.config import ShrinkConfig

BUDGETS = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
WIDENINGS = (1.0, 1.5, 2.0, 3.0)
FLOORS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.6)
BATCHES = (1, 2, 4, 16, 64)
VANISH = (0.0, 0.1, 0.2, 0.4, 0.6, 1.0)
LEAST = 0.8  # share of the evenly scaled width, the same as a floor of 0.4 at twice the width and the baseline's FLOPs


@dataclass(frozen=True)
class Sweep:
    """One setting that varies.

    Attributes:
        name: on the command line.
        axis: label of the horizontal axis.
        methods: the methods that are compared at each value.
        values: of the setting.
        apply: (protocol, value) -> the protocol with it.
        read: a record's section "shrink" -> the value.
    """

    name: str
    axis: str
    methods: tuple[str, ...]
    values: tuple[float, ...]
    apply: Callable[[ShrinkConfig, float], ShrinkConfig]
    read: Callable[[Mapping[str, Any]], float]


def at_budget(config: ShrinkConfig, value: float) -> ShrinkConfig:
    """A share of the baseline's FLOPs; floors scale with the widths of an evenly scaled network of that share."""
    floor = LEAST * math.sqrt(value) / config.widen
    return replace(config, budget=replace(config.budget, flops=value), floor=floor)


def at_widening(config: ShrinkConfig, value: float) -> ShrinkConfig:
    """A widening; floors stay where they are relative to the baseline."""
    return replace(config, widen=value, floor=LEAST / value)


SWEEPS = {
    sweep.name: sweep
    for sweep in (
        Sweep("budgets", "FLOPs over the baseline's", ("gradient", "uniform", "random"), BUDGETS, at_budget,
              lambda shrink: float(shrink["budget"]["flops"])),
        Sweep("widen", "widening factor", ("gradient", "gradient-per-flop", "random"), WIDENINGS, at_widening,
              itemgetter("widen")),
        Sweep("floors", "floor (fraction of the widened group)", ("gradient", "gradient-per-flop"), FLOORS,
              lambda config, value: replace(config, floor=value), itemgetter("floor")),
        Sweep("batches", "batches that channels are scored on", ("gradient", "fisher"), BATCHES,
              lambda config, value: replace(config, batches=int(value)), itemgetter("batches")),
        Sweep("vanish", "blocks vanish below (fraction of the widened channels)", ("gradient", "fisher-per-flop"),
              VANISH, lambda config, value: replace(config, vanish=value), lambda shrink: shrink.get("vanish", 0.0)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """The result of one sweep.

    Attributes:
        sweep: which.
        series: (method, value) -> its records over the seeds.
        unreachable: value -> the search's message.
    """

    sweep: Sweep
    series: dict[tuple[str, float], Series]
    unreachable: dict[float, str]

    def records(self) -> list[Record]:
        """All records of the sweep."""
        return [record for item in self.series.values() for record in item.records.values()]


def run_sweeps(
    bench: Bench, sweeps: Sequence[Sweep], arguments: Namespace
) -> tuple[dict[str, Series], list[Result], list[Failure]]:
    """Run the baseline and sweeps; a value at which the budget cannot be met is noted, but is no failure."""
    seeds, shrink = seeds_of(arguments), bench.config.shrink
    baseline = [Trial(BASELINE, shrink, seed) for seed in seeds]
    points = [
        (sweep, value, Trial(method, sweep.apply(shrink, value), seed))
        for seed in seeds for sweep in sweeps for value in sweep.values for method in sweep.methods
    ]  # fmt: skip
    # Sweeps share some of their points.
    trials = list({repr(trial): trial for trial in [*baseline, *(trial for _, _, trial in points)]}.values())
    _, failed = trials_run(bench, trials, arguments, budgets=False)
    reasons = {
        repr(failure.trial): failure.error for failure in failed if failure.kind == BudgetError.__name__
    }
    results = {sweep.name: Result(sweep, {}, {}) for sweep in sweeps}
    for sweep, value, trial in points:
        result, record = results[sweep.name], bench.engine.load(trial)
        if record is not None:
            series = Series(f"{sweep.name} {value:g}: {trial.method}", {})
            result.series.setdefault((trial.method, value), series).records[trial.seed] = record
        elif repr(trial) in reasons:
            result.unreachable.setdefault(value, reasons[repr(trial)])
    found = [record for trial in baseline if (record := bench.engine.load(trial)) is not None]
    others = [failure for failure in failed if repr(failure.trial) not in reasons]
    return collect(found, lambda record: BASELINE), list(results.values()), others


def sweep_table(metric: Metric, result: Result, baseline: Mapping[str, Series]) -> str:
    """Mean, interval and the paired difference from the baseline for every value and method, in Markdown."""
    by_value = sorted(result.series.items(), key=lambda item: item[0][1])
    table = results_table({**baseline, **{item.label: item for _, item in by_value}}, BASELINE, metric)
    notes = [
        f"- {result.sweep.name} {value:g}: {reason}" for value, reason in sorted(result.unreachable.items())
    ]
    return "\n".join([table, *notes])


@styled
def plot_sweeps(
    path: Path, title: str, metric: Metric, results: Sequence[Result], baseline: Series | None
) -> None:
    """One panel per sweep: the metric against the setting, with 95 % intervals; the baseline as a band.

    Fewer than three seeds are shown as dots.
    """
    rows = -(-len(results) // 2)
    columns = min(2, len(results))
    figure, axes = new_figure(5.4 * columns, 2.9 * rows + 0.7, rows, columns, squeeze=False)
    every = [] if baseline is None else [baseline]
    for axis in axes.ravel()[len(results) :]:
        axis.set_axis_off()
    for axis, result in zip(axes.ravel(), results, strict=False):
        shown = [] if baseline is None else baseline.values(metric)
        values = sorted({value for _, value in result.series})
        by_factors = result.sweep.name == "batches"
        methods = list(dict.fromkeys(method for method, _ in result.series))
        for number, method in enumerate(methods):
            points = sorted((value, item) for (name, value), item in result.series.items() if name == method)
            aside = number - (len(methods) - 1) / 2  # so that no mark hides another
            step = 0.012 * (values[-1] - values[0])
            draw_means(axis, [value * 1.07**aside if by_factors else value + step * aside for value, _ in points],
                       [item.values(metric) for _, item in points], look_as=method)  # fmt: skip
            every += [item for _, item in points]
            shown += [value for _, item in points for value in item.values(metric)]
        if baseline is not None:
            draw_band(axis, baseline.values(metric))
        if by_factors:
            axis.set_xscale("log", base=2)
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.set_xticks([], minor=True)
        axis.set_xlabel(result.sweep.axis)
        axis.set_ylabel(metric.label)
        say_what_is_not_drawn(axis, shown)
    head(figure, title, seeds_note(every))
    for axis, result in zip(axes.ravel(), results, strict=False):
        ends = [] if baseline is None or not result.series else [(BASELINE, baseline)]
        last = max((value for _, value in result.series), default=0.0)
        for method in dict.fromkeys(method for method, _ in result.series):
            own = {value: item for (name, value), item in result.series.items() if name == method}
            ends.append((method, own[max(own)]))
        label_ends(axis, [(name, last, drawn_mean(item.values(metric)), look_of(name).colour)
                          for name, item in ends])  # fmt: skip
    save_figure(figure, path)


def draw(stem: Path, title: str, metric: Metric, results: Sequence[Result], baseline: Series | None) -> None:
    """Write STEM.png and, if budgets were swept, STEM-flops.png; each as SVG too."""
    plot_sweeps(stem.with_name(f"{stem.name}.png"), title, metric, results, baseline)
    for result in results:
        if result.sweep.name == "budgets":
            flops = stem.with_name(f"{stem.name}-flops.png")
            curves = grouped((method, item) for (method, _), item in result.series.items())
            plot_tradeoff(flops, curves, metric, title, baseline=baseline)


def run(arguments: Namespace, argv: Sequence[str] | None) -> int:
    """Run the sweeps, print and write, with the command `argv` on the page; returns the exit status."""
    check_arguments(arguments)
    check_known("unknown sweep", arguments.sweeps, SWEEPS)
    bench = open_bench(arguments)
    if arguments.budget and len(arguments.budget) > 1:
        raise UserError("--budget takes one value here; the sweep budgets varies it")
    shrink = bench.config.shrink
    settings = [sweep.apply(shrink, value) for sweep in SWEEPS.values() for value in sweep.values]
    bench = with_published(arguments, bench, [shrink, *settings])
    baseline, results, failed = run_sweeps(bench, [SWEEPS[name] for name in arguments.sweeps], arguments)
    if arguments.no_report:
        return 1 if failed else 0
    stem, metric = arguments.output or bench.store / "ablations", bench.engine.task.metrics[0]
    title = f"{bench.what_is_trained()}, {bench.config.train.epochs} epochs"
    parts = [
        f"# Ablations: {title}",
        f"Made by `{command_text('benchmarks.ablations', argv)}`; what is compared and how: `benchmarks/README.md`.",
        bench.part,
        failures_text(failed),
        starts_text([record for result in results for record in result.records()]),
    ]
    for result in results:
        parts += [f"## {result.sweep.name}", sweep_table(metric, result, baseline)]
    parts.append(f"![Error against each setting]({stem.name}.png)")
    if any(result.sweep.name == "budgets" for result in results):
        parts.append(f"![Error against FLOPs]({stem.name}-flops.png)")
    draw(stem, title, metric, results, baseline.get(BASELINE))
    parts.append(machine_text(machine()))
    text = "\n\n".join(part for part in parts if part)
    every = {BASELINE: [record for item in baseline.values() for record in item.records.values()]}
    every |= {result.sweep.name: result.records() for result in results}
    write_results(
        stem, {name: [short(record) for record in records] for name, records in every.items()}, text
    )
    bench.engine.say(text)
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__)
    parser.add_argument(
        "sweeps", nargs="*", default=list(SWEEPS), help=f"some of {', '.join(SWEEPS)} (default: all)"
    )
    add_bench_arguments(parser)
    return run_parsed(parser, lambda arguments: run(arguments, argv), argv, GOES_ON, unread=True)


if __name__ == "__main__":
    sys.exit(main())
