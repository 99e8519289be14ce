"""Which settings matter: budgets, widening, floors, scoring batches and vanishing blocks, one sweep each.

    python -m benchmarks.ablations budgets widen floors batches vanish --dataset digits --seeds 2

budgets  found, scaled and random widths at 0.25 to 1.0 of the baseline's FLOPs: the poster's comparison of pruned and
         original networks across complexities (the original is scaled evenly)
widen    the space of widths is 1, 1.5, 2 or 3 times the baseline; floors stay at 0.8 of the baseline's width
floors   least fraction of each widened group, 0 to 0.6; those that leave no room for the budget are named
batches  channels are scored on 1 to 64 batches
vanish   blocks that keep less than 0 to 1 of their widened channels without floors are left out (`core.surgery.depth`)

`--floor` is the floor of the sweeps over batches and vanishing blocks alone: budgets and widen set floors that keep the
comparison fair, and floors varies it. `--widen` and `--batches` hold where they are not what varies; so does
`--budget`, one value.

Trials go into the same store as those of `benchmarks.hypothesis`, so nothing is trained twice.
"""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.hypothesis import (
    GOES_ON,
    Bench,
    add_trial_arguments,
    check_arguments,
    failures_text,
    import_records,
    open_bench,
    seeds_of,
    short,
    trials_run,
)
from benchmarks.measure import command_text, machine, machine_text
from core.command_line.exits import run_command
from core.errors import UserError
from core.experiments.plan import Trial
from core.experiments.plots import (
    drawn_interval,
    drawn_mean,
    new_figure,
    plot_tradeoff,
    save_figure,
    say_what_is_not_drawn,
)
from core.experiments.series import Record, Series, collect, results_table
from core.experiments.trials import Failure
from core.methods.registry import BASELINE
from core.storage.files import atomic_write, write_json
from core.widths.budget import BudgetError
from core.widths.config import ShrinkConfig

BUDGETS = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
WIDENINGS = (1.0, 1.5, 2.0, 3.0)
FLOORS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.6)
BATCHES = (1, 2, 4, 16, 64)
VANISH = (0.0, 0.1, 0.2, 0.4, 0.6, 1.0)
LEAST = 0.8  # of the evenly scaled width: what a floor of 0.4 is at twice the width and the baseline's FLOPs


@dataclass(frozen=True)
class Sweep:
    """One setting that varies.

    Attributes:
        name: on the command line.
        axis: label of the horizontal axis.
        methods: what is compared at each value.
        values: of the setting.
        apply: (protocol, value) -> the protocol with it.
    """

    name: str
    axis: str
    methods: tuple[str, ...]
    values: tuple[float, ...]
    apply: Callable[[ShrinkConfig, float], ShrinkConfig]


def at_budget(config: ShrinkConfig, value: float) -> ShrinkConfig:
    """A share of the baseline's FLOPs; floors scale with the widths that an even network of that share has."""
    floor = LEAST * math.sqrt(value) / config.widen
    return replace(config, budget=replace(config.budget, flops=value), floor=floor)


def at_widening(config: ShrinkConfig, value: float) -> ShrinkConfig:
    """A widening; floors stay where they are relative to the baseline."""
    return replace(config, widen=value, floor=LEAST / value)


SWEEPS = {
    sweep.name: sweep
    for sweep in (
        Sweep("budgets", "FLOPs over the baseline's", ("gradient", "uniform", "random"), BUDGETS, at_budget),
        Sweep("widen", "widening factor", ("gradient", "gradient-per-flop", "random"), WIDENINGS, at_widening),
        Sweep("floors", "floor (fraction of the widened group)", ("gradient", "gradient-per-flop"), FLOORS,
              lambda config, value: replace(config, floor=value)),
        Sweep("batches", "batches that channels are scored on", ("gradient", "fisher"), BATCHES,
              lambda config, value: replace(config, batches=int(value))),
        Sweep("vanish", "blocks vanish below (fraction of the widened channels)", ("gradient", "fisher-per-flop"),
              VANISH, lambda config, value: replace(config, vanish=value)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One sweep's records.

    Attributes:
        sweep: which.
        records: (method, value) -> its records over the seeds.
        unreachable: (value, what the search said).
    """

    sweep: Sweep
    records: dict[tuple[str, float], list[Record]]
    unreachable: list[tuple[float, str]]


def run_sweeps(
    bench: Bench, sweeps: Sequence[Sweep], arguments: Namespace
) -> tuple[list[Record], list[Result], list[Failure]]:
    """Run the baseline and sweeps; a value at which the budget cannot be met is noted, as no failure."""
    seeds, shrink = seeds_of(arguments), bench.config.shrink
    baseline = [Trial(BASELINE, shrink, seed) for seed in seeds]
    points = [
        (sweep, value, Trial(method, sweep.apply(shrink, value), seed))
        for seed in seeds for sweep in sweeps for value in sweep.values for method in sweep.methods
    ]  # fmt: skip
    # Sweeps meet at some of their points.
    trials = list({repr(trial): trial for trial in [*baseline, *(trial for _, _, trial in points)]}.values())
    _, failed = trials_run(bench, trials, arguments, budgets=False)
    reasons = {
        repr(failure.trial): failure.error for failure in failed if failure.kind == BudgetError.__name__
    }
    results = []
    for sweep in sweeps:
        records: dict[tuple[str, float], list[Record]] = {}
        unreachable: dict[float, str] = {}
        for _, value, trial in (point for point in points if point[0] is sweep):
            record = bench.engine.load(trial)
            if record is not None:
                records.setdefault((trial.method, value), []).append(record)
            elif repr(trial) in reasons:
                unreachable.setdefault(value, reasons[repr(trial)])
        results.append(Result(sweep, records, sorted(unreachable.items())))
    found = [bench.engine.load(trial) for trial in baseline]
    others = [failure for failure in failed if repr(failure.trial) not in reasons]
    return [record for record in found if record is not None], results, others


def sweep_table(bench: Bench, result: Result, baseline: Sequence[Record]) -> str:
    """Mean, interval and the paired difference to the baseline for every value and method, in Markdown."""
    series: dict[str, Series] = collect(baseline, lambda record: BASELINE)
    for (method, value), records in sorted(result.records.items(), key=lambda item: item[0][1]):
        series.update(collect(records, lambda record: f"{result.sweep.name} {value:g}: {method}"))  # noqa: B023
    text = results_table(series, BASELINE, bench.engine.task.metrics[0])
    notes = [f"- {result.sweep.name} {value:g}: {reason}" for value, reason in result.unreachable]
    return "\n".join([text, *notes])


def plot_sweeps(path: Path, bench: Bench, results: Sequence[Result], baseline: Sequence[Record]) -> None:
    """One panel per sweep: the metric against the setting, with 95 % intervals; the baseline as a band.

    Fewer than three seeds are dots instead.
    """
    metric = bench.engine.task.metrics[0]
    figure, axes = new_figure(7.2, 3.1 * len(results), len(results), squeeze=False)
    own = [float(record["metrics"][metric.key]) for record in baseline]
    for panel, result in enumerate(results):
        axis = axes[panel][0]
        for method in result.sweep.methods:
            points = [(value, records) for (name, value), records in result.records.items() if name == method]
            points.sort(key=lambda point: point[0])
            values = [[float(r["metrics"][metric.key]) for r in records] for _, records in points]
            means, spread = [drawn_mean(v) for v in values], [drawn_interval(v) for v in values]
            line = axis.errorbar(
                [value for value, _ in points],
                means,
                spread,
                marker="o",
                markersize=4,
                capsize=2,
                label=method,
            )
            if not any(spread):
                for (value, _), seeds in zip(points, values, strict=True):
                    dots = [drawn_mean([seed]) for seed in seeds]
                    axis.plot(
                        [value] * len(seeds), dots, ".", color=line[0].get_color(), markersize=3, alpha=0.6
                    )
        if own:
            mean, half = drawn_mean(own), drawn_interval(own)
            axis.axhline(mean, color="0.4", linewidth=1, label=BASELINE)
            axis.axhspan(mean - half, mean + half, color="0.4", alpha=0.12, linewidth=0)
        if result.sweep.name == "batches":
            axis.set_xscale("log", base=2)
        axis.set_xlabel(result.sweep.axis)
        axis.set_ylabel(metric.label)
        axis.legend(frameon=False, fontsize=8)
        shown = [float(r["metrics"][metric.key]) for records in result.records.values() for r in records]
        say_what_is_not_drawn(axis, shown + own)
    save_figure(figure, path)


def run(arguments: Namespace, argv: Sequence[str] | None) -> int:
    """Run the sweeps, print and write, with the command `argv` on the page; returns the exit status."""
    check_arguments(arguments)
    for name in arguments.sweeps:
        if name not in SWEEPS:
            raise UserError(f"unknown sweep '{name}'; use some of {', '.join(SWEEPS)}")
    bench = open_bench(arguments)
    if arguments.budget and len(arguments.budget) > 1:
        raise UserError("--budget takes one value here; the sweep budgets varies it")
    if arguments.published:
        bench = import_records(arguments.published, bench, arguments.report_only)
    baseline, results, failed = run_sweeps(bench, [SWEEPS[name] for name in arguments.sweeps], arguments)
    status = 1 if failed else 0
    if arguments.no_report:
        return status
    stem = arguments.output or bench.store / "ablations"
    title = f"{bench.what_is_trained()}, {bench.config.train.epochs} epochs"
    parts = [
        f"# Ablations: {title}",
        f"Made by `{command_text('benchmarks.ablations', argv)}`; what is compared and how: `benchmarks/README.md`.",
        bench.config.data.smaller_than_whole(),
        failures_text(failed),
    ]
    for result in results:
        parts += [f"## {result.sweep.name}", sweep_table(bench, result, baseline)]
    parts.append(f"![Error against each setting]({stem.with_suffix('.png').name})")
    flops = stem.with_name(f"{stem.name}-flops.png")
    if "budgets" in arguments.sweeps:
        parts.append(f"![Error against FLOPs]({flops.name})")
    parts.append(machine_text(machine()))
    text = "\n\n".join(part for part in parts if part) + "\n"
    with atomic_write(stem.with_suffix(".md")) as file:
        file.write(text)
    every = {
        result.sweep.name: [short(r) for records in result.records.values() for r in records]
        for result in results
    }
    write_json(stem.with_suffix(".json"), {"baseline": [short(record) for record in baseline], **every})
    plot_sweeps(stem.with_suffix(".png"), bench, results, baseline)
    if "budgets" in arguments.sweeps:
        curves = _curves(next(result for result in results if result.sweep.name == "budgets"))
        plot_tradeoff(flops, curves, bench.engine.task.metrics[0], title,
                      baseline=collect(baseline, lambda record: BASELINE).get(BASELINE))  # fmt: skip
    bench.engine.say(text)
    return status


def _curves(result: Result) -> dict[str, list[Any]]:
    names = {
        "uniform": "original, scaled evenly",
        "gradient": "found (gradient)",
        "random": "random scores (nearly uniform)",
    }
    curves: dict[str, list[Any]] = {}
    for (method, _), records in result.records.items():
        label = names.get(method, method)
        curves.setdefault(label, []).append(Series(label, {int(r["seed"]): r for r in records}))
    return curves


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__)
    parser.add_argument(
        "sweeps", nargs="*", default=list(SWEEPS), help=f"some of {', '.join(SWEEPS)} (default: all)"
    )
    add_trial_arguments(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: run(arguments, argv), arguments.debug, GOES_ON)


if __name__ == "__main__":
    sys.exit(main())
