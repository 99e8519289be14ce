"""Trials: one method, seed and setting each, found and trained once, kept as JSON under a key of all that decides them.

    STORE/records/KEY.json   one finished trial: what it was, its widths' costs, its metrics
    STORE/widths/KEY.json    found widths, by all that decides them
    STORE/runs/KEY/          one training, by its widths and recipe; methods that find equal widths share it
    STORE/locks/seedS        held by the process that works on a seed

Every file is written whole or not at all, and trainings go on from their own checkpoints, so a run may be killed at
any moment and started again; a second command with other methods or settings adds to what is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from classification.config import RunConfig
from core.errors import UserError
from core.experiments.statistics import number_text
from core.experiments.task import Task
from core.experiments.trial import network, teacher_network, train_network
from core.graph.channels import trace_channels
from core.methods.registry import BASELINE, METHODS, Found, Method, Request, SearchConfig, find, without_young
from core.storage.files import exclusive, json_text, write_json
from core.surgery.architecture import Architecture
from core.widths.config import ShrinkConfig
from core.widths.selection import group_fractions

SCHEMA = 1  # raised when the code changes what a trial with the same key gives


def key_of(value: Any) -> str:
    """A short name for plain data: equal data have equal keys."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Trial:
    """One method at one setting with one seed."""

    method: str
    shrink: ShrinkConfig
    seed: int


@dataclass(frozen=True)
class Bench:
    """What all trials of a command share.

    Attributes:
        task: data set, network, loss.
        config: the protocol.
        search: options of the methods.
        store: folder of the store.
        fabric: device.
        methods: by name; peers beside our own.
        say: takes one line of news at a time.
        progress: show bars.
    """

    task: Task
    config: RunConfig
    search: SearchConfig
    store: Path
    fabric: Fabric
    methods: Mapping[str, Method]
    say: Callable[[str], None] = print
    progress: bool = False

    def what_is_trained(self) -> str:
        """'resnet20 on a part of tiny-imagenet', for titles."""
        part = "a part of " if self.config.data.smaller_than_whole() else ""
        return f"{self.task.model_name} on {part}{self.task.dataset}"

    def subject(self) -> dict[str, Any]:
        """Network and data, as far as they decide a result."""
        data = asdict(self.config.data)
        del data["workers"], data["bad_images"]
        data = without_young(data, {"classes": None, "downsample": 1})
        subject = {"schema": SCHEMA, "model": self.config.model, "dataset": self.config.dataset, "data": data}
        own_file = Path(self.config.model.rpartition(":")[0])
        if own_file.is_file():  # somebody's own network: its text decides, not its name
            subject["model_text"] = hashlib.sha256(own_file.read_bytes()).hexdigest()
        return subject

    def recipe(self, seed: int) -> dict[str, Any]:
        """The training, as far as it decides a result."""
        recipe = asdict(replace(self.config.train, seed=seed))
        del recipe["checkpoint_every_steps"], recipe["eval_every"]
        distilled = self.config.distillation is not None
        return {
            "train": recipe,
            "distillation": asdict(self.config.distillation) if self.config.distillation else None,
            "teacher": asdict(self.config.teacher) if distilled else None,
        }

    def request(self, trial: Trial, work_dir: Path) -> Request:
        """The trial as a search for widths."""
        train = replace(self.config.train, seed=trial.seed)
        return Request(self.task, trial.shrink, train, self.search, self.fabric, work_dir, self.progress)

    def search_key(self, trial: Trial) -> str:
        """Of all that decides the widths."""
        decided = self.methods[trial.method].decided_by(self.request(trial, self.store))
        return key_of([self.subject(), trial.method, decided])

    def record_key(self, trial: Trial) -> str:
        """Of all that decides the trial's result; a baseline does not depend on how widths are found."""
        widths = BASELINE if trial.method == BASELINE else self.search_key(trial)
        return key_of([self.subject(), widths, self.recipe(trial.seed)])

    def record_file(self, trial: Trial) -> Path:
        """Where the finished trial is kept."""
        return self.store / "records" / f"{self.record_key(trial)}.json"


def load(bench: Bench, trial: Trial) -> dict[str, Any] | None:
    """The record of a trial, or None where it has not been run."""
    path = bench.record_file(trial)
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def check_trials(bench: Bench, trials: Iterable[Trial], *, only_known: bool = False) -> list[Trial]:
    """Find out what would stop trials once others have run for hours; returns those that the store does not hold.

    Raises:
        UserError, MissingData: see `run_trials`.
    """
    known = [BASELINE, *bench.methods]
    missing = []
    for trial in trials:
        if trial.method not in known:
            raise UserError(f"unknown method '{trial.method}'; use some of {', '.join(known)}")
        if not bench.record_file(trial).exists():
            missing.append(trial)
            if trial.method != BASELINE and not only_known:
                bench.methods[trial.method].check_installed()
                bench.methods[trial.method].check_config(trial.method, trial.shrink)
    if missing and not only_known:
        _check_patterns(bench, missing)
    return missing


def _check_patterns(bench: Bench, trials: Iterable[Trial]) -> None:
    """Refuse floors and ceilings by pattern that fit no group; whether a budget can be reached is up to each trial."""
    searches = [trial.shrink for trial in trials if trial.method != BASELINE]
    searches = [
        config
        for config in searches
        if isinstance(config.floor, Mapping) or isinstance(config.ceiling, Mapping)
    ]
    if not searches:
        return
    model, inputs, outputs = bench.task.searched()
    shrink = bench.config.shrink
    groups = trace_channels(model, inputs, freeze=shrink.freeze, ties=shrink.ties, outputs=outputs).groups
    for config in searches:
        group_fractions(groups, config.floor, "floor")
        group_fractions(groups, config.ceiling, "ceiling")


def run_trials(bench: Bench, trials: Iterable[Trial], *, only_known: bool = False) -> list[dict[str, Any]]:
    """Run what the store does not hold yet (with `only_known`: leave it out); returns the records, in order.

    Raises:
        UserError: an unknown method, or whatever a search or a training raises.
        MissingData: a method that has still to be run needs a package that is not installed.
    """
    trials = list(trials)
    check_trials(bench, trials, only_known=only_known)
    records = []
    for number, trial in enumerate(trials, start=1):
        record = load(bench, trial)
        if record is None and only_known:
            continue
        if record is None:
            record = _run_alone(bench, trial, f"{number}/{len(trials)} {trial.method}, seed {trial.seed}")
        records.append(record)
    return records


def _run_alone(bench: Bench, trial: Trial, place: str) -> dict[str, Any]:
    """Run a trial while no other process works on its seed: methods of one seed may share a training."""
    locks = bench.store / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with exclusive(
        locks / f"seed{trial.seed}", lambda: bench.say(f"{place}: waiting for another command at this seed")
    ) as alone:
        if not alone:
            bench.say(f"{place}: files cannot be locked here; no second command should work on this store")
        record = load(bench, trial)
        if record is None:  # nobody has run it while we waited
            bench.say(f"{place}: {_setting_text(trial)}")
            record = _plain(_run(bench, trial))
            write_json(bench.record_file(trial), record)
            bench.say(f"{place}: {_metrics_text(bench.task, record)}")
    return record


def _run(bench: Bench, trial: Trial) -> dict[str, Any]:
    found = None if trial.method == BASELINE else _widths(bench, trial)
    architecture = None if found is None else found.architecture
    model = network(bench.task, architecture, trial.seed)
    widths = None
    if architecture is None:
        cost = base = trace_channels(model, bench.task.example_inputs).price()
    else:
        cost, base = architecture.costs
        widths = [
            architecture.widths,
            architecture.conv_groups,
            *([architecture.removed] if architecture.removed else []),
        ]
    training = key_of([bench.subject(), widths, bench.recipe(trial.seed)])
    config = replace(bench.config.train, seed=trial.seed)
    distillation = bench.config.distillation
    teacher = None
    if distillation is not None:
        own = bench.config.teacher
        undistilled = {"train": bench.recipe(trial.seed)["train"], "teacher": asdict(own)}
        folder = bench.store / "runs" / key_of([bench.subject(), "teacher", undistilled])
        teacher = teacher_network(
            bench.task, own, trial.shrink, config, folder, bench.fabric, progress=bench.progress
        )
    fitted = train_network(
        bench.task,
        model,
        config,
        bench.store / "runs" / training,
        bench.fabric,
        teacher=teacher,
        distillation=distillation,
        progress=bench.progress,
    )
    last = fitted.history[-1]
    return {
        "key": bench.record_key(trial),
        "method": trial.method,
        "seed": trial.seed,
        "subject": bench.subject(),
        "recipe": bench.recipe(trial.seed),
        "shrink": None if found is None else asdict(trial.shrink),
        "decided_by": None
        if found is None
        else bench.methods[trial.method].decided_by(bench.request(trial, bench.store)),
        "metrics": dict(last.eval_metrics),
        "train_loss": last.train_loss,
        "cost": cost.to_json(),
        "baseline_cost": base.to_json()
        if architecture is None
        else base.to_json() | {"widths": architecture.baseline_widths},
        "architecture": None if architecture is None else architecture.to_json(),
        "search_epochs": 0.0 if found is None else found.epochs,
        "search_baseline_epochs": 0.0 if found is None else found.baseline_epochs,
        "training": training,
        "images_per_second": fitted.images_seen / fitted.seconds if fitted.seconds > 0 else None,
        "environment": {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if bench.fabric.device.type == "cuda" else "cpu",
            "finished": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        },
    }


def _widths(bench: Bench, trial: Trial) -> Found:
    key = bench.search_key(trial)
    path = bench.store / "widths" / f"{key}.json"
    if not path.exists():
        request = bench.request(trial, bench.store / "runs" / f"search-{key}")
        found = find(trial.method, request, dict(bench.methods))
        value = {"architecture": found.architecture.to_json(), "epochs": found.epochs,
                 "baseline_epochs": found.baseline_epochs}  # fmt: skip
        write_json(path, value)
    value = json.loads(path.read_text(encoding="utf-8"))
    architecture = Architecture.from_json(value["architecture"], f"widths file '{path}'")
    return Found(architecture, value["epochs"], value["baseline_epochs"])


def _plain(value: Any) -> Any:
    """As it will be read back: lists for tuples, text for paths, words for numbers that are not finite."""
    return json.loads(json_text(json.loads(json.dumps(value, default=str))))


def _setting_text(trial: Trial) -> str:
    if trial.method == BASELINE:
        return "training"
    config = trial.shrink
    text = (
        f"budget {config.budget.flops}, widen {config.widen}, floor {config.floor}, {config.batches} batches"
    )
    return f"{text}, vanish {config.vanish}" if config.vanish else text


def _metrics_text(task: Task, record: Mapping[str, Any]) -> str:
    metric = task.metrics[0]
    ratio = record["cost"]["flops"]["paper"] / record["baseline_cost"]["flops"]["paper"]
    value = number_text(record["metrics"][metric.key], metric.digits)
    return f"{metric.label} {value} at {100 * ratio:.2f} % of the FLOPs"


def grid(methods: Sequence[str], settings: Sequence[ShrinkConfig], seeds: Sequence[int]) -> list[Trial]:
    """All trials, seed by seed, so that a run that is stopped early has compared every method with the baseline.

    The baseline knows no setting and is listed once per seed.
    """
    return [
        Trial(method, setting, seed)
        for seed in seeds
        for method in methods
        for setting in (settings[:1] if method == BASELINE else settings)
    ]


def our_methods() -> dict[str, Method]:
    """All methods of `core`, and Torch-Pruning's, which need its package once they run."""
    from benchmarks.pruning_peer import PEERS

    return {**METHODS, **PEERS}
