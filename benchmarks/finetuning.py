"""Does a trained network lose less when our scores, Torch-Pruning or no scores choose its channels?

    python -m benchmarks.finetuning --config shared_configs/classification/resnet20_tiny_imagenet_reduced.py \
        --budget 0.5 --floor 0.2 --seeds 3

trains the protocol's network, one per seed; finds widths within each of them by every method at the same FLOPs;
fine-tunes the cut networks and the whole network by one recipe; and trains the found widths from scratch as a control,
once by the fine-tuning's recipe and once by the protocol's own. Finished trials lie in a store and are never run twice.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.bench import (
    GOES_ON,
    add_bench_arguments,
    check_arguments,
    failures_text,
    open_bench,
    seeds_of,
)
from benchmarks.hypothesis import picture_text
from benchmarks.measure import command_text, machine, machine_text, write_results
from classification.config import RunConfig
from core.command_line.exits import run_parsed
from core.errors import UserError, check_known
from core.experiments.arguments import resources_of
from core.experiments.checks import check_trials
from core.experiments.engine import Engine
from core.experiments.plan import FROM_SCRATCH, Start, Trial
from core.experiments.plots import plot_tradeoff
from core.experiments.pretrained import open_pretrained, shrink_of
from core.experiments.scheduling import run_trials
from core.experiments.series import Record, Series, collect, controls_table, results_table
from core.experiments.statistics import holm, p_text, paired_p, with_interval
from core.experiments.store import KeyedStore, short
from core.experiments.task import Metric
from core.experiments.trainings import network
from core.experiments.trials import Failure, metrics_at_start
from core.methods.method import Found
from core.methods.peers import PEERS
from core.methods.registry import BASELINE, find
from core.surgery.architecture import Architecture
from core.tables import markdown_table
from core.timing import seconds_text, time_in_turns
from core.training.run_files import RunFiles
from core.widths.config import ShrinkConfig

METHODS = ("gradient", "fisher", "magnitude", "torch-pruning", "torch-pruning-norm", "uniform")
AGAINST = ("torch-pruning", "uniform")
PRETRAINED: Start = "pretrained"
LONGER = "-scratch, the protocol's recipe"  # follows a method's name


@dataclass(frozen=True)
class Tuning:
    """One seed of the comparison.

    Attributes:
        config: the protocol.
        engine: fine-tunes; its task has the seed's trained network.
        trained: the record of that network.
        shrink: how widths are found within it.
        longer: trains from scratch by the protocol's own recipe.
    """

    config: RunConfig
    engine: Engine
    trained: Record
    shrink: ShrinkConfig
    longer: Engine


def open_tuning(arguments: Namespace, seed: int) -> Tuning:
    """Train the seed's network if it is not there yet, and read it.

    Raises:
        UserError: the training failed, or the network is not there and nothing may be run.
    """
    bench = open_bench(arguments)
    engine = bench.engine
    trial = Trial(BASELINE, bench.config.shrink, seed)
    if not arguments.report_only and (failed := run_trials(engine, [(trial, True)])):
        raise UserError(f"the network to begin with could not be trained: {failed[0]}")
    trained = engine.load(trial)
    if trained is None:
        raise UserError(
            f"the store '{bench.store}' holds no trained network of seed {seed}: leave --report-only out"
        )
    weights = RunFiles(KeyedStore(bench.store).run(trial, trained["training"])).weights
    options = dict(option.split("=", 1) for option in arguments.cfg_options if "=" in option)
    shrink = shrink_of(str(weights), bench.config.shrink, arguments.widen, options)
    task = replace(engine.task, pretrained=open_pretrained(str(weights), engine.task.build))
    recipe = replace(
        engine.train,
        epochs=arguments.finetune_epochs,
        eval_every=arguments.finetune_epochs,
        optimizer=replace(engine.train.optimizer, lr=arguments.finetune_lr),
    )
    tuning = replace(engine, task=task, train=recipe, start=PRETRAINED)
    return Tuning(bench.config, tuning, trained, shrink, replace(tuning, train=engine.train))


def open_engine(arguments: Namespace, seed: int, longer: bool) -> Engine:
    """An engine of one seed in a process of its own; its network has been trained before."""
    tuning = open_tuning(arguments, seed)
    return replace(tuning.longer if longer else tuning.engine, progress=False)


def tuned(arguments: Namespace, tuning: Tuning, seed: int) -> tuple[list[dict[str, Any]], list[Failure]]:
    """The records of one seed under the names of their rows, and the failures."""
    records: list[dict[str, Any]] = []
    failed: list[Failure] = []
    scratch = f"{arguments.control}{FROM_SCRATCH}"
    for engine, methods in (
        (tuning.engine, (BASELINE, *arguments.methods, scratch)),
        (tuning.longer, (scratch,)),
    ):
        longer = engine is tuning.longer
        trials = [Trial(method, tuning.shrink, seed) for method in methods]
        if not arguments.report_only:
            check_trials(engine, trials)
            opened = partial(open_engine, arguments, seed, longer)
            failed += run_trials(engine, [(trial, True) for trial in trials], resources_of(arguments), opened)
        for trial in trials:
            record = engine.load(trial)
            if record is not None:
                name = f"{arguments.control}{LONGER}" if longer else trial.method
                records.append({**record, "row": name, "metrics_after_cut": after_cut(engine, trial, record)})
    before = {**tuning.trained, "row": PRETRAINED, "metrics_after_cut": None}
    return [before, *records], failed


def after_cut(engine: Engine, trial: Trial, record: Record) -> dict[str, float] | None:
    """The metrics of a network with trained weights before it is fine-tuned."""
    if engine.starts_from(trial) != PRETRAINED:
        return None
    found = record["architecture"]
    architecture = None if found is None else Architecture.from_json(found)
    return metrics_at_start(engine, network(engine.task, architecture, trial.seed, PRETRAINED))


def search_seconds(tuning: Tuning, methods: Sequence[str], turns: int) -> dict[str, Any]:
    """Each method's time to find its channels, from the trained network to the widths, in turns."""
    request = tuning.engine.request(Trial(BASELINE, tuning.shrink, tuning.engine.train.seed), Path())

    def way(name: str) -> Callable[[], Callable[[], Found]]:
        return lambda: lambda: find(name, request, dict(tuning.engine.methods))

    outcomes = time_in_turns({name: way(name) for name in methods}, turns=turns, warmup=1)
    return {name: outcome.timing for name, outcome in outcomes.items()}


def run(arguments: Namespace, argv: Sequence[str] | None) -> int:
    """Train, find, fine-tune, write; returns the exit status."""
    check_arguments(arguments)
    for name in ("finetune_epochs", "turns"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: use at least 1")
    check_known("--control is none of --methods:", [arguments.control], arguments.methods)
    records: list[dict[str, Any]] = []
    failed: list[Failure] = []
    first: Tuning | None = None
    for seed in seeds_of(arguments):
        tuning = open_tuning(arguments, seed)
        first = first or tuning
        found, wrong = tuned(arguments, tuning, seed)
        records += found
        failed += wrong
    assert first is not None  # there is at least one seed
    if not arguments.no_report:
        seconds = search_seconds(first, arguments.methods, arguments.turns)
        _write(arguments, command_text("benchmarks.finetuning", argv), first, records, failed, seconds)
    return 1 if failed else 0


def _write(
    arguments: Namespace,
    command: str,
    first: Tuning,
    records: Sequence[Mapping[str, Any]],
    failed: Sequence[Failure],
    seconds: Mapping[str, Any],
) -> None:
    task, config = first.engine.task, first.config
    metric = task.metrics[0]
    stem = arguments.output or arguments.work_dir / "finetuning"
    series = collect(records, lambda record: str(record["row"]))
    cut = {
        name: [
            float(r["metrics_after_cut"][metric.key]) for r in item.records.values() if r["metrics_after_cut"]
        ]
        for name, item in series.items()
    }
    title = f"Fine-tuning {task.model_name} on a part of {task.dataset} at {first.shrink.budget.flops} of its FLOPs"
    draw(stem, title, metric, series)
    epochs = arguments.finetune_epochs
    rows = [
        [
            name,
            with_interval(cut[name], metric.digits),
            *(
                [seconds_text(seconds[name].median), seconds_text(seconds[name].cpu_median)]
                if name in seconds
                else ["", ""]
            ),
        ]
        for name in series
        if cut[name]
    ]
    parts = [
        f"# {title}",
        f"Made by `{command}`; how it is measured: `benchmarks/README.md`.",
        beside_the_peer(series, arguments.methods, metric),
        f"{config.data.smaller_than_whole()} One network a seed (`{PRETRAINED}`) is trained from scratch for "
        f"{config.train.epochs} epochs. Every row below but the scratch ones starts from its weights and is fine-tuned "
        f"for {epochs} epochs from a learning rate of {arguments.finetune_lr:g}; `{BASELINE}` is the whole network. "
        f"`{arguments.control}{FROM_SCRATCH}` has the widths of `{arguments.control}` and fresh weights, trained for "
        f"the same {epochs} epochs, or by the protocol's {config.train.epochs}. Seeds "
        f"{', '.join(map(str, seeds_of(arguments)))}; mean ± 95 % interval, differences paired over the seeds.",
        results_table(series, BASELINE, metric),
        "Against Torch-Pruning's group Taylor (`torch-pruning`) and uniform widths, whose channels are those with the "
        "largest mean |W|:",
        controls_table({name: item for name, item in series.items() if name != PRETRAINED}, AGAINST, metric),
        f"Right after the cut, before fine-tuning; and what it takes to find the channels: from the trained network to "
        f"the widths, median of {arguments.turns} turns, seed {seeds_of(arguments)[0]}:",
        markdown_table(["method", metric.label, "seconds", "CPU seconds"], rows),
        _training_times(series),
        failures_text(failed),
        f"![{picture_text(metric, False)}]({stem.name}.png)",
        machine_text(machine("torch-pruning")),
    ]
    value = {
        "records": [_published(record) for record in records],
        "search_seconds": {
            name: {"wall": list(timing.wall), "cpu": list(timing.cpu)} for name, timing in seconds.items()
        },
    }
    _, page = write_results(stem, value, "\n\n".join(part for part in parts if part))
    print(parts[4])
    print(f"report: {page}")


def draw(stem: Path, title: str, metric: Metric, series: Mapping[str, Series]) -> None:
    """Write STEM.png and STEM.svg."""
    curves = {name: [item] for name, item in series.items() if name not in (BASELINE, PRETRAINED)}
    plot_tradeoff(stem.with_name(f"{stem.name}.png"), curves, metric, title, baseline=series[BASELINE])


def beside_the_peer(series: Mapping[str, Series], methods: Sequence[str], metric: Metric) -> str:
    """Which of our ways beat Torch-Pruning's first one, lose to it, or cannot be told from it; "" without it."""
    peer = series.get(AGAINST[0])
    pairs = {
        name: series[name].against(peer, metric)
        for name in methods
        if peer is not None and name not in PEERS and name in series
    }
    pairs = {name: values for name, values in pairs.items() if values}
    found: dict[str, list[str]] = {"Better than": [], "Worse than": [], "Not to be told from": []}
    for (name, values), p in zip(pairs.items(), holm([paired_p(own) for own in pairs.values()]), strict=True):
        ahead = (fmean(values) > 0) == metric.higher_is_better
        told = "Not to be told from" if not p < 0.05 else "Better than" if ahead else "Worse than"
        found[told].append(f"`{name}` ({with_interval(values, metric.digits)}, p {p_text(p)})")
    return " ".join(
        f"{told} Torch-Pruning's group Taylor in {metric.label}, seed by seed, p after Holm's correction: "
        f"{', '.join(names)}."
        for told, names in found.items()
        if names
    )


def _published(record: Record) -> dict[str, Any]:
    """A record as it is published: with the weights' checksum, and without their path."""
    weights = record.get("weights")
    told = weights and {key: weights[key] for key in ("start", "checksum")}
    return {**short(record), "weights": told}


def _training_times(series: Mapping[str, Any]) -> str:
    """How fast the networks train, whole and cut."""

    def rates(name: str) -> Iterator[float]:
        for record in series[name].records.values():
            if record.get("images_per_second"):
                yield float(record["images_per_second"])

    cells = [f"`{name}` {fmean(found):.0f}" for name in series if (found := list(rates(name)))]
    return f"Images per second in training, as the machine was then: {', '.join(cells)}."


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m benchmarks.finetuning", description=__doc__)
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), metavar="METHOD", help="ways to choose channels"
    )
    parser.add_argument(
        "--control", default=METHODS[0], help="whose widths are trained from scratch (%(default)s)"
    )
    parser.add_argument("--finetune-epochs", type=int, default=4, help="of the fine-tuning (%(default)s)")
    parser.add_argument("--finetune-lr", type=float, default=0.02, help="its learning rate (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of timing the searches (%(default)s)")
    add_bench_arguments(parser)
    parser.set_defaults(seeds=3, work_dir=Path("work_dirs") / "finetuning")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_parsed(build_parser(), lambda arguments: run(arguments, argv), argv, GOES_ON)


if __name__ == "__main__":
    sys.exit(main())
