"""What all benchmarks of trained networks share: a task, its protocol and the store of their trials, opened and run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from classification.config import RunConfig, find_config, with_distillation
from classification.data import open_dataset
from classification.run import add_subject_arguments, given_of
from classification.task import make_task
from core.command_line.config import load_config
from core.errors import UserError
from core.experiments.arguments import (
    add_trial_arguments,
    at_budget,
    overrides_of,
    resources_of,
    search_of,
)
from core.experiments.checks import check_trials
from core.experiments.engine import Engine
from core.experiments.plan import SCHEMA, Trial
from core.experiments.scheduling import run_trials
from core.experiments.series import Record, Series
from core.experiments.starts import unknown_text
from core.experiments.store import KeyedStore, schema_of, short
from core.experiments.task import Task
from core.experiments.trials import Failure
from core.graph.channels import find_groups
from core.methods.registry import METHODS
from core.storage.data import data_root
from core.storage.files import read_json, write_json
from core.surgery.depth import shorten
from core.training.train import make_fabric
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from super_resolution import config as super_resolution_config
from super_resolution import task as super_resolution_task
from tracking import run as tracking_run
from tracking.experiment import config as tracking_config
from tracking.experiment import task as tracking_task
from tracking.experiment.success import plot_success
from tracking.training import trained_on

CLASSIFICATION, SUPER_RESOLUTION, TRACKING = "classification", "super_resolution", "tracking"

# The reduced form: few real images, so that networks differ and a CPU needs minutes. DHP's λ is raised with it; else
# DHP takes thousands of steps.
REDUCED = ("data.train_limit=300", "train.epochs=10", "train.batch_size=32", "search.dhp.strength=0.15",
           "search.dhp.max_epochs=60", "search.dhp.check_every=4", "search.dhp.embedding=2",
           "search.dhp.schedule={'name': 'constant', 'milestones': ()}", "search.proxy.candidates=32")  # fmt: skip

GOES_ON = "the same command goes on where it stopped"


WHOLE = "The whole data set."
Pictures = Callable[[Path, str, Mapping[str, Series]], Mapping[Path, str]]


@dataclass(frozen=True)
class Bench:
    """The request of a command line.

    Attributes:
        config: the protocol, a task's `RunConfig`.
        engine: of all its trials.
        store: where they are.
        part: what of the data set is used, in a sentence; "" for the whole.
        whole: what else there is to say of the data, in a sentence, where it is used whole.
        pictures: draws what a task has beside the comparison, from the page's stem, its title and the series; returns
            the pictures with what they show, for those who do not see it.
    """

    config: Any
    engine: Engine
    store: Path
    part: str = ""
    whole: str = WHOLE
    pictures: Pictures = lambda stem, title, series: {}

    def what_is_trained(self) -> str:
        """'resnet20 on a part of tiny-imagenet', for titles."""
        part = "a part of " if self.part else ""
        return f"{self.engine.task.model_name} on {part}{self.engine.task.dataset}"


def add_bench_arguments(parser: ArgumentParser) -> None:
    """Add the options of every command that runs trials."""
    parser.add_argument(
        "--task",
        choices=(CLASSIFICATION, SUPER_RESOLUTION, TRACKING),
        default=CLASSIFICATION,
        help="whose networks, data and protocols (default: classification)",
    )
    add_subject_arguments(parser)
    add_trial_arguments(parser)
    parser.set_defaults(seed=0)
    what = parser.add_argument_group("benchmark")
    what.add_argument("--seeds", type=int, default=2, help="repetitions (default: 2)")
    what.add_argument("--fast", action="store_true", help="bf16, channels_last and torch.compile, for a GPU")
    what.add_argument("--threads", type=int, help="CPU threads of torch (default: the protocol's)")
    what.add_argument("--budget", nargs="+", help="FLOPs over the baseline's, one or several: 0.5 0.9")
    out = parser.add_argument_group("results")
    out.add_argument("--output", type=Path, help="also write OUTPUT.md, OUTPUT.json and OUTPUT.png")
    out.add_argument("--report-only", action="store_true", help="run nothing: report what the store holds")
    out.add_argument(
        "--import",
        type=Path,
        dest="published",
        metavar="FILE",
        help="first put a published OUTPUT.json into the store: its trials are not run again",
    )
    out.add_argument(
        "--records",
        type=Path,
        metavar="FOLDER",
        help="also keep every finished trial as one small file there, as it comes; those that lie there are not run "
        "again",
    )
    out.add_argument("--no-report", action="store_true", help="run the trials, print and write nothing more")


def seeds_of(arguments: Namespace) -> range:
    """The seeds of a command line."""
    return range(arguments.seed, arguments.seed + arguments.seeds)


def open_bench(arguments: Namespace) -> Bench:
    """Protocol, data and options of a command line.

    Args:
        arguments: parsed `add_bench_arguments`, with or without `add_method_arguments`.

    Raises:
        UserError: an option is out of range; MissingData: the data set is not there.
    """
    if arguments.seeds < 1 or arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed} --seeds {arguments.seeds}: use at least 0 and 1")
    given = {"name": arguments.name, **search_of(arguments)}
    if arguments.fast:
        given |= {"train.precision": "bf16-mixed", "train.channels_last": True, "train.compile": True}
    opened = _OPENED[arguments.task](arguments, given)
    config = opened.config
    if arguments.budget:
        config = replace(config, shrink=at_budget(config.shrink, arguments.budget[0]))
    if config.found_widths is not None:
        raise UserError(
            f"found_widths gives widths, and this command finds them: use python -m {arguments.task}.run"
        )
    fabric = make_fabric(arguments.device, config.train.precision)
    store = arguments.work_dir or Path("work_dirs") / "hypothesis"
    engine = Engine(
        task=opened.make(data_root(arguments.data_root), store, fabric.device),
        train=config.train,
        store=KeyedStore(store, arguments.records),
        fabric=fabric,
        methods=METHODS,
        search=config.search,
        allow_unknown_start=arguments.allow_unknown_start,
        say=lambda line: print(line, flush=True),
        progress=not arguments.no_progress,
        **opened.engine,
    )
    return Bench(config, engine, store, opened.part, opened.whole, opened.pictures)


@dataclass(frozen=True)
class _Opened:
    """What a task has to say.

    Attributes:
        config: the protocol.
        make: data root, store and device -> the task.
        part, whole, pictures: of `Bench`.
        engine: what else the engine is told.
    """

    config: Any
    make: Callable[[Path, Path, torch.device], Task]
    part: str = ""
    engine: Mapping[str, Any] = field(default_factory=dict)
    whole: str = WHOLE
    pictures: Pictures = Bench.pictures


def _classification(arguments: Namespace, given: Mapping[str, Any]) -> _Opened:
    options = overrides_of(arguments, {**given_of(arguments), "threads": arguments.threads, **given})
    path = arguments.config or find_config(arguments.model, arguments.dataset, arguments.distillation)
    reduced = load_config(path, RunConfig, options).dataset == "digits"
    options = [*(REDUCED if reduced else ()), *options]  # the command line comes last and counts
    config: Any = with_distillation(load_config(path, RunConfig, options), arguments.distillation)
    if reduced:  # evaluated once, at the end; how often does not change the result
        config = replace(config, train=replace(config.train, eval_every=config.train.epochs))
    if config.threads is not None:
        torch.set_num_threads(config.threads)

    def make(root: Path, store: Path, device: torch.device) -> Task:
        return make_task(config, open_dataset(config.dataset, root, config.data), device)

    others = {"distillation": config.distillation, "teacher": config.teacher}
    return _Opened(config, make, config.data.smaller_than_whole(), others)


def _super_resolution(arguments: Namespace, given: Mapping[str, Any]) -> _Opened:
    _refuse_classifications_own(arguments)
    given = {"model": arguments.model, "dataset": arguments.dataset, **given}
    path = arguments.config or super_resolution_config.find_config(arguments.model, arguments.dataset)
    config: Any = load_config(path, super_resolution_config.RunConfig, overrides_of(arguments, given))
    named = arguments.config is not None
    config = super_resolution_config.completed(config, arguments.model, arguments.cfg_options, named=named)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    held_out = config.data.held_out
    part = f"{held_out} images of it, the last by name, are scored on and not trained on." if held_out else ""
    return _Opened(
        config, lambda root, store, device: super_resolution_task.make_task(config, root, device), part
    )


def _tracking(arguments: Namespace, given: Mapping[str, Any]) -> _Opened:
    _refuse_classifications_own(arguments)
    given = {"backbone.name": arguments.model, "evaluation.dataset": arguments.dataset, **given}
    path = arguments.config or tracking_run.CONFIGS / tracking_run.DEFAULT_CONFIG
    config: Any = load_config(path, tracking_config.RunConfig, overrides_of(arguments, given))
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)

    def make(root: Path, store: Path, device: torch.device) -> Task:
        say = print if not arguments.no_progress else lambda line: None
        return tracking_task.make_task(config, root, store, device, say)

    whole = f"Trained on {trained_on(config)}, {config.data.sequences_per_epoch:,} samples an epoch; all is scored."
    return _Opened(config, make, whole=whole, pictures=draw_success)


def draw_success(stem: Path, title: str, series: Mapping[str, Series]) -> Mapping[Path, str]:
    """Write STEM_success.png and STEM_success.svg, if records know their curves; of `Bench.pictures`."""
    path = stem.with_name(f"{stem.name}_success.png")
    told = "Success of every training over the overlap threshold, a panel for each method; its mean AUC is in the table"
    return {path: told} if plot_success(path, title, series) else {}


def _refuse_classifications_own(arguments: Namespace) -> None:
    unread = {
        "--val-share": arguments.val_share is not None,
        "--train-limit": arguments.train_limit is not None,
        "--distillation": arguments.distillation,
    }
    if said := [name for name, value in unread.items() if value]:
        raise UserError(f"{', '.join(said)}: of classification, not of --task {arguments.task}")


_OPENED: Mapping[str, Callable[[Namespace, Mapping[str, Any]], _Opened]] = {
    CLASSIFICATION: _classification,
    SUPER_RESOLUTION: _super_resolution,
    TRACKING: _tracking,
}


def open_engine(arguments: Namespace) -> Engine:
    """The engine of a command line in a process of its own."""
    return replace(open_bench(arguments).engine, progress=False)


def trials_run(
    bench: Bench, trials: Sequence[Trial], arguments: Namespace, *, budgets: bool = True
) -> tuple[list[Record], list[Failure]]:
    """Run the trials that the store does not hold; returns the records of all, in order, and the failures.

    With `--report-only` nothing is run, and missing trials are left out; for `budgets` see `check_trials`.

    Raises:
        UserError, MissingData: see `core.experiments.checks.check_trials`.
    """
    failed: list[Failure] = []
    if not arguments.report_only:
        check_trials(bench.engine, trials, budgets=budgets)
        wanted = [(trial, True) for trial in trials]
        failed = run_trials(bench.engine, wanted, resources_of(arguments), partial(open_engine, arguments))
    tell_of_earlier(bench)
    found = [bench.engine.load(trial) for trial in trials]
    records: list[Record] = [record for record in found if record is not None]
    if arguments.records is not None:
        publish(records, arguments.records)
    return records, failed


def publish(records: Sequence[Record], folder: Path) -> None:
    """Write the records that a folder lacks, those too that were finished before there was one."""
    for record in records:
        path = folder / f"{record['key']}.json"
        if not path.exists():
            write_json(path, short(record))


def tell_of_earlier(bench: Bench) -> None:
    """Print how many records of the store are of another release; their trials are not compared with these."""
    others = sum(schema_of(record) != bench.engine.schema for record in KeyedStore(bench.store).records())
    if others:
        bench.engine.say(
            f"{others} records in '{bench.store}' are of another release, whose found networks start by other rules: "
            f"they are kept and not used"
        )


def with_published(arguments: Namespace, bench: Bench, settings: Sequence[ShrinkConfig]) -> Bench:
    """Put the short records of `--import` and `--records` into the store; existing records stay.

    They hold widths and results, but not what only a training's own store has: `architecture` is None. Records of other
    settings, recipes or networks than the command's stay where they are: it could not tell what their baseline costs.

    Args:
        arguments: of `add_bench_arguments`.
        bench: has the store.
        settings: those of the requested trials.

    Returns:
        The bench for trials of the records' release.

    Raises:
        UserError: a file is not there or damaged; or it is of an earlier release and trials of this one are to be run.
    """
    if arguments.published:
        bench = _imported("--import", arguments.published, bench, settings, arguments.report_only)
    if arguments.records and any(arguments.records.glob("*.json")):
        bench = _imported("--records", arguments.records, bench, settings, arguments.report_only)
    return bench


def _imported(
    option: str, path: Path, bench: Bench, settings: Sequence[ShrinkConfig], report_only: bool
) -> Bench:
    try:
        if path.is_dir():
            files = sorted(path.glob("*.json"))
            full = [read_json(file) for file in files]
        else:
            full = read_json(path)["records"]
        needed = ("key", "method", "seed", "shrink", "metrics", "cost", "search_epochs", "search_baseline_epochs",
                  "widths")  # fmt: skip
        lacking = [name for record in full for name in needed if name not in record]
        if lacking:
            raise ValueError(f"a record lacks {lacking[0]}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{option} '{path}': no published records: {error!r}") from error
    schema = min((schema_of(record) for record in full), default=SCHEMA)
    if schema < SCHEMA and not report_only:
        raise UserError(
            f"{option} '{path}' is of an earlier release, whose found networks started by other rules: no trial of "
            f"today can stand beside its own; add --report-only to make its tables"
        )
    bench = replace(bench, engine=replace(bench.engine, schema=schema))
    own = [record for record in full if _is_asked_for(record, bench.engine, settings)]
    named = _named_as_today(own, bench, settings)
    store = KeyedStore(bench.store)
    new = [record for record in named if not store.record_file(record["key"]).exists()]
    for record in new:
        write_json(store.record_file(record["key"]), record)
    there = f"; {len(named) - len(new)} are there already" if len(new) < len(named) else ""
    others = f"; {len(full) - len(own)} are of other settings or networks" if len(own) < len(full) else ""
    bench.engine.say(f"{len(new)} records of '{path}' imported into '{bench.store}'{there}{others}")
    return bench


def _is_asked_for(record: Record, engine: Engine, settings: Sequence[ShrinkConfig]) -> bool:
    """Whether a published record is of this command's network, recipe and one of its settings."""
    method, seed = str(record["method"]), int(record["seed"])
    return any(record["key"] == engine.record_key(Trial(method, setting, seed)) for setting in settings)


def _named_as_today(
    records: Sequence[Record], bench: Bench, settings: Sequence[ShrinkConfig]
) -> list[dict[str, Any]]:
    """Short records with the names of their groups; the first release called random scores `random`."""
    engine = bench.engine
    model, inputs = engine.task.searched()
    config = engine.task.traced(bench.config.shrink)
    base = find_groups(model, inputs, config.trace)
    names = {(): base.names}
    found = []
    for record in records:
        removed = tuple(record.get("removed", ()))
        named = {**record, "architecture": None, "baseline_cost": base.price().to_json()}
        if removed not in names:
            names[removed] = find_groups(shorten(model, removed), inputs, config.trace).names
        if record["widths"] is not None and len(record["widths"]) == len(names[removed]):
            named["baseline_cost"]["widths"] = base.widths
            named["named_widths"] = dict(zip(names[removed], record["widths"], strict=True))
        if engine.schema == 1 and record["method"] == "random":
            for setting in settings:
                seed = int(record["seed"])
                if record["key"] == engine.record_key(Trial("random", setting, seed)):
                    key = engine.record_key(Trial("random-scores", setting, seed))
                    named |= {"method": "random-scores", "key": key}
        found.append(named)
    return found


def check_arguments(arguments: Namespace) -> None:
    """Refuse options of `add_bench_arguments` that do not go together.

    Raises:
        UserError: fewer than one job; or neither trials nor a report are requested.
    """
    resources_of(arguments)
    if arguments.no_report and arguments.report_only:
        raise UserError("--no-report and --report-only leave nothing to do: use one of them")


def failures_text(failed: Sequence[Failure]) -> str:
    """The failures, for a page; "" if there are none."""
    if not failed:
        return ""
    return f"{len(failed)} trials failed and are left out:\n\n" + "\n".join(
        f"- {failure}" for failure in failed
    )


def starts_text(records: Sequence[Record]) -> str:
    """Trials with a network that may start differently from the baseline's, for a page; "" if there are none."""
    told = [record for record in records if record.get("unknown_start")]
    if not told:
        return ""
    return (
        f"{len(told)} trials trained networks that may start otherwise than the baseline's:\n\n"
        + "\n".join(
            f"- {record['method']}, seed {record['seed']}: {unknown_text(record['unknown_start'])}"
            for record in told
        )
    )


def budget_text(limits: Mapping[str, Any]) -> str:
    """A budget's limits as the command line has them: '0.9', 'flops=0.9,convention=macs', 'params=0.5'."""
    given = {name: value for name, value in limits.items() if value is not None}
    if given.get("convention") == Budget.convention:
        del given["convention"]
    if list(given) == ["flops"]:
        return str(given["flops"])
    return ",".join(f"{name}={value}" for name, value in given.items())
