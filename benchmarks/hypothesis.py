"""Do found widths beat the baseline and the controls? Every method's network, trained alike, over several seeds.

    python -m benchmarks.hypothesis --dataset tiny-imagenet --model mobilenetv2 --seeds 5 \
        --methods baseline gradient sensitivity magnitude random uniform dhp torch-pruning

finds widths by every method at the same FLOPs, trains each network from scratch by the data set's protocol, and
prints mean, 95 % interval, paired difference to the baseline and p-value. Finished trials lie in the work directory's
store and are never run twice; a run that was stopped, by kill -9 too, goes on when it is started again.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bench import (
    GOES_ON,
    Bench,
    add_bench_arguments,
    budget_text,
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
from core.experiments.arguments import (
    add_method_arguments,
    at_budget,
)
from core.experiments.plan import grid
from core.experiments.plots import plot_tradeoff
from core.experiments.series import Record, Series, collect, controls_table, results_table
from core.experiments.statistics import interval_note, number_text
from core.experiments.store import short
from core.experiments.task import Metric, Task
from core.experiments.trials import Failure
from core.methods.registry import BASELINE, METHODS

USUAL = ("baseline", "gradient", "sensitivity", "magnitude", "random", "uniform", "dhp", "torch-pruning")
CONTROLS = ("random", "uniform", "random-scores")


def run(arguments: Namespace, argv: Sequence[str] | None) -> int:
    """Run, print and write, with the command `argv` on the page; returns the exit status."""
    check_arguments(arguments)
    bench = open_bench(arguments)
    shrink = bench.config.shrink
    settings = [at_budget(shrink, text) for text in arguments.budget or []] or [shrink]
    trials = grid(arguments.methods, settings, seeds_of(arguments))
    metrics = compared(bench, arguments.metrics)
    bench = with_published(arguments, bench, settings)
    records, failed = trials_run(bench, trials, arguments)
    if not records and failed and all(failure.usage for failure in failed):
        raise UserError(failed[0].error)
    if not records and not failed:
        raise UserError(
            f"the store '{bench.store}' holds no trial of these settings: leave --report-only out"
        )
    if records and not arguments.no_report:
        write_report(bench, metrics, records, failed, arguments.output or bench.store / "report", len(settings) > 1,
                     command_text("benchmarks.hypothesis", argv))  # fmt: skip
    return 1 if failed else 0


def compared(bench: Bench, names: Sequence[str] | None) -> list[Metric]:
    """What the tables compare, the first one in the picture too: the metrics of these names, or the task's first.

    Raises:
        UserError: the task reports no such number.
    """
    known = {metric.key: metric for metric in bench.engine.task.metrics}
    check_known("--metrics", names or [], known)
    return [known[name] for name in names or list(known)[:1]]


def label_of(record: Record, several: bool) -> str:
    """The method, and its budget if there are several."""
    if record["shrink"] is None or not several:
        return str(record["method"])
    return f"{record['method']} at {budget_text(record['shrink']['budget'])}"


def write_report(
    bench: Bench,
    metrics: Sequence[Metric],
    records: Sequence[Record],
    failed: Sequence[Failure],
    stem: Path,
    several: bool,
    command: str,
) -> None:
    """Print the tables; write STEM.md, STEM.json and STEM.png."""
    metric = metrics[0]
    series = collect(records, lambda record: label_of(record, several))
    table = "\n\n".join(results_table(series, BASELINE, each) for each in metrics)
    title = f"{bench.what_is_trained()}, {bench.config.train.epochs} epochs"
    by = f", by {', then by '.join(each.label for each in metrics)}" if len(metrics) > 1 else ""
    draw(stem, title, metric, series)
    seeds = sorted({int(record["seed"]) for record in records})
    parts = [
        f"# {title}",
        f"Made by `{command}`; what is compared and how: `benchmarks/README.md`.",
        f"{bench.part or bench.whole} Seeds {', '.join(map(str, seeds))}; "
        f"{'with' if bench.engine.distillation else 'without'} distillation. "
        f"{interval_note(len(seeds)) if len(seeds) > 1 else 'One seed: no interval.'} Differences and p-values are "
        f"paired over the seeds (t-test), p as it is and adjusted for all rows "
        f"(Holm). Search epochs: passes over the training set that finding the widths took, and in brackets the same "
        f"in epochs of the baseline by FLOPs.",
        table,
        references_text(bench.engine.task),
        failures_text(failed),
        starts_text(records),
        f"Against the controls{by}:",
        *(controls_table(series, CONTROLS, each) for each in metrics),
        "\n".join(
            f"- `{name}`: {bench.engine.methods[name].summary}"
            for name in dict.fromkeys(record["method"] for record in records)
            if name in bench.engine.methods
        ),
        f"![{picture_text(metric, several)}]({stem.name}.png)",
        *(f"![{told}]({path.name})" for path, told in bench.pictures(stem, title, series).items()),
        machine_text(machine("torch-pruning")),
    ]
    published: dict[str, Any] = {
        "trained": title,
        "metrics": [asdict(each) for each in metrics],
        "records": [short(record) for record in records],
    }
    if failed:
        published["failed"] = [failure.to_json() for failure in failed]
    _, page = write_results(stem, published, "\n\n".join(part for part in parts if part))
    bench.engine.say(table)
    bench.engine.say(f"report: {page}")


def references_text(task: Task) -> str:
    """What a task's metric says of methods without a network, for a page; "" where it has none."""
    metric = task.metrics[0]
    told = [
        f"`{name}` {number_text(metrics[metric.key], metric.digits)}"
        for name, metrics in task.references.items()
        if metric.key in metrics
    ]
    return f"Without a network, {metric.label}: {', '.join(told)}." if told else ""


def picture_text(metric: Metric, several: bool) -> str:
    """The alternative text of `draw`'s picture; `several` budgets or one."""
    shown = "at several budgets, against FLOPs" if several else "and its difference to the baseline's"
    return f"{metric.label} of every method, {shown}; the tables hold the numbers"


def draw(stem: Path, title: str, metric: Metric, series: Mapping[str, Series]) -> None:
    """Write STEM.png and STEM.svg."""
    by_method: dict[str, list[Series]] = {}
    for item in series.values():
        by_method.setdefault(str(next(iter(item.records.values()))["method"]), []).append(item)
    plot_tradeoff(stem.with_name(f"{stem.name}.png"), by_method, metric, title, baseline=series.get(BASELINE))


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m benchmarks.hypothesis", description=__doc__)
    names = ", ".join([BASELINE, *METHODS])
    parser.add_argument(
        "--methods", nargs="+", default=list(USUAL), metavar="METHOD", help=f"some of {names}"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="METRIC",
        help="what the tables compare, and the first in the picture: top1_error, held-out_psnr, … (default: the task's "
        "first)",
    )
    add_bench_arguments(parser)
    add_method_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_parsed(build_parser(), lambda arguments: run(arguments, argv), argv, GOES_ON, unread=True)


if __name__ == "__main__":
    sys.exit(main())
