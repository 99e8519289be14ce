"""One trial: find widths, train a network, keep a record; and what all trials of a command share.

A trial is done once: its record stands in the store under all that decides it (`Engine.record_key`), and whoever asks
for it again, in another command too, reads it. One that fails is told as data and stops no other.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from core.command_line.exits import FAILURES
from core.errors import UserError, check_known
from core.experiments.checkpoints import header
from core.experiments.forecast import Forecast
from core.experiments.plan import SCHEMA, Start, Trial, finder_of
from core.experiments.pretrained import as_json
from core.experiments.processes import from_first
from core.experiments.provenance import commit
from core.experiments.settings import TeacherConfig
from core.experiments.starts import check_start, refuse_unknown_start, unknown_text
from core.experiments.statistics import number_text
from core.experiments.store import Record, Store, held, key_of, plain
from core.experiments.task import Task
from core.graph.channels import ChannelGraph, trace_channels
from core.methods.method import Found, Method, Request, SearchConfig
from core.methods.registry import BASELINE, find
from core.methods.subject import find_architecture, fresh_baseline
from core.storage.checkpoint import load_weights
from core.surgery.architecture import Architecture, describe_inputs
from core.surgery.depth import blocks_to_lift, lifted
from core.surgery.initialise import UnknownStartWarning, initialise_, seeded
from core.surgery.resize import widen, widened_widths
from core.training.distillation import DistillationConfig
from core.training.divergence import TrainingDiverged, goes_on_lower, read_divergences, with_rate
from core.training.pace import Pace
from core.training.run_files import RunFiles
from core.training.train import FitResult, TrainConfig, fit
from core.widths.budget import BudgetError
from core.widths.config import ShrinkConfig
from core.widths.selection import search
from core.widths.shrinkage import check_latency
from core.widths.space import open_space


@dataclass(frozen=True)
class Engine:
    """What all trials of a command share.

    Attributes:
        task: data set, network, loss.
        train: the recipe of every network; each trial puts its seed into it.
        store: where results are kept.
        fabric: device and processes.
        methods: by the name that trials have.
        search: options of the methods.
        distillation: train every network with a teacher.
        teacher: which one.
        lowered_lr: learning rate with which trainings that have diverged go on.
        allow_unknown_start: train networks of which some tensors may start otherwise than the baseline's.
        start: what trainings begin with; "pretrained" needs a task that has trained weights.
        schema: of the trials; that of an earlier release where its records are only looked at.
        say: takes one line of news at a time.
        progress: show bars.
    """

    task: Task
    train: TrainConfig
    store: Store
    fabric: Fabric
    methods: Mapping[str, Method]
    search: SearchConfig = field(default_factory=SearchConfig)
    distillation: DistillationConfig | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    lowered_lr: float | None = None
    allow_unknown_start: bool = False
    start: Start = "scratch"
    schema: int = SCHEMA
    say: Callable[[str], None] = print
    progress: bool = False

    def subject(self) -> dict[str, Any]:
        """Network and data, as far as they decide a result."""
        return {"schema": self.schema, **self.task.subject}

    def recipe(self, seed: int) -> dict[str, Any]:
        """The training, as far as it decides a result."""
        recipe = asdict(replace(self.train, seed=seed))
        del recipe["checkpoint_every_steps"], recipe["eval_every"]
        distilled = self.distillation is not None
        return {
            "train": recipe,
            "distillation": asdict(self.distillation) if self.distillation else None,
            "teacher": asdict(self.teacher) if distilled else None,
        }

    def starts_from(self, trial: Trial) -> Start:
        """What the trial's training begins with."""
        return "scratch" if trial.from_scratch else self.start

    def started(self, trial: Trial) -> list[dict[str, str]]:
        """The start, as far as it decides a result; nothing for fresh weights."""
        if self.starts_from(trial) == "scratch":
            return []
        assert self.task.pretrained is not None
        return [{"pretrained": self.task.pretrained.checksum}]

    def request(self, trial: Trial, work_dir: Path) -> Request:
        """The trial as a search for widths."""
        train = replace(self.train, seed=trial.seed)
        return Request(self.task, trial.shrink, train, self.search, self.fabric, work_dir, self.progress)

    def decided_by(self, trial: Trial) -> dict[str, Any] | None:
        """All settings that decide the widths; None for the baseline."""
        if trial.finder.method == BASELINE:
            return None
        decided = self.method(trial.method).decided_by(self.request(trial, Path()))
        weights = self.task.pretrained if trial.shrink.keep_weights else None
        return decided if weights is None else {**decided, "pretrained": weights.checksum}

    def method(self, name: str) -> Method:
        """How a method finds widths.

        Raises:
            UserError: there is no such method.
        """
        check_known("unknown method", [finder_of(name)], [BASELINE, *self.methods])
        return self.methods[finder_of(name)]

    def search_key(self, trial: Trial) -> str:
        """Of all that decides the widths."""
        return key_of([self.subject(), trial.finder.method, self.decided_by(trial)])

    def record_key(self, trial: Trial) -> str:
        """Of all that decides the trial's result; a baseline does not depend on how widths are found."""
        widths = BASELINE if trial.finder.method == BASELINE else self.search_key(trial)
        # The control of an experiment has a record of its own, for that bears its name.
        start = [{"start": "scratch"}] if trial.from_scratch else self.started(trial)
        return key_of([self.subject(), widths, self.recipe(trial.seed), *start])

    def load(self, trial: Trial) -> Record | None:
        """The record of a trial, or None where it has not been run.

        Raises:
            UserError: the record is of something else than what is asked for, or of an earlier release.
        """
        return self.store.load(trial, self.record_key(trial))


@dataclass(frozen=True)
class Failure:
    """A trial that failed, as plain data.

    Attributes:
        trial: which.
        kind: name of the exception.
        error: its message, one line.
        usage: it is the user's to repair (`UserError`).
    """

    trial: Trial
    kind: str
    error: str
    usage: bool

    def __str__(self) -> str:
        return f"{self.trial}: {'' if self.usage else f'{self.kind}: '}{self.error}"

    def to_json(self) -> dict[str, Any]:
        """For result.json: {"method", "seed", "error"}."""
        error = self.error if self.usage else f"{self.kind}: {self.error}"
        return {"method": self.trial.method, "seed": self.trial.seed, "error": error}


def check_trials(engine: Engine, trials: Iterable[Trial], *, budgets: bool = True) -> list[Trial]:
    """Find out what would stop trials once others have run for hours; returns those that are still to be run.

    Args:
        engine: of the trials.
        trials: all of them.
        budgets: refuse a budget that cannot be reached; else that is up to each trial.

    Raises:
        UserError: there is no such method, or one cannot do what is asked of it here; or see `check_start`, `check`.
        MissingData: a method that has still to be run needs a package that is not installed.
    """
    missing = []
    for trial in trials:
        if trial.finder.method != BASELINE:
            engine.method(trial.method).check_config(trial.finder.method, trial.shrink)
        if engine.load(trial) is None:
            missing.append(trial)
    found = [trial for trial in missing if trial.finder.method != BASELINE]
    if any(engine.starts_from(trial) == "scratch" for trial in found):
        check_start(engine.task, found[0].shrink, engine.allow_unknown_start)
    searches = {(trial.finder.method, repr(trial.shrink)): trial.finder for trial in found}
    configs = {}
    for trial in searches.values():
        method = engine.method(trial.method)
        method.check(trial.method, trial.shrink, engine.task)
        # Neither a budget nor floors depend on these.
        config = replace(method.config(trial.shrink), score="uniform", allocation="threshold", latents="gate")
        configs[repr(config)] = config
    for config in configs.values():
        try:
            check(engine.task, config, engine.fabric.device if budgets else None)
        except BudgetError:
            if budgets:
                raise
    return missing


def check(task: Task, config: ShrinkConfig, device: torch.device | None = None) -> None:
    """Find out in seconds what would otherwise fail after the baseline's training.

    Args:
        task: whose widths are searched.
        config: how.
        device: where a limit on latency is tried on the narrowest network; None looks at no clock.

    Raises:
        UserError: the model cannot be built or traced, there is no batch to score channels on, floors, ceilings or
            round_to are out of range or fit no group, or the budget cannot be reached.
    """
    if len(task.train_loader(config.batch_size, 0)) < 1:
        raise UserError(
            f"shrink.batch_size={config.batch_size}: the training set holds no batch of that size"
        )
    if config.budget.latency is None and not config.vanish:
        find_architecture(task, replace(config, score="uniform"), seed=0)
        return
    with seeded(0):
        model, inputs = task.searched(config.keep_weights)
    space = open_space(model, inputs, task.traced(config), seed=0)
    # A clock that stands still lets every latency pass: the search says what is wrong with all the rest. Which blocks
    # vanish is up to the scores: what no choice of blocks can change is whether the budget can be met without floors.
    inner = blocks_to_lift(model, inputs, space.graph) if config.by_scores else {}
    search(
        space.graph,
        {group.name: torch.zeros(group.size) for group in space.graph.groups},
        config.budget,
        replace(space.baseline, latency=1.0),
        floor=lifted(config.floor, inner),
        ceiling=config.ceiling,
        round_to=config.round_to,
        measure=lambda widths: 0.0,
    )
    if device is not None:
        space.model.to(device)
        check_latency(space, config)


def attempt(
    engine: Engine, trial: Trial, place: str = "", *, train: bool = True, forecast: Forecast | None = None
) -> Failure | None:
    """Run a trial as `run_trial` does; what goes wrong with it is returned, and what stops everything is raised.

    Raises:
        KeyboardInterrupt, BrokenPipeError: the command is to end.
    """
    try:
        run_trial(engine, trial, place, train=train, forecast=forecast)
    except BrokenPipeError:
        raise
    except FAILURES as error:
        return failure(trial, error)
    return None


def failure(trial: Trial, error: BaseException) -> Failure:
    """What there is to be said of a trial that raised."""
    line = (str(error).strip().splitlines() or [""])[0].removeprefix(f"{trial}: ")
    return Failure(trial, type(error).__name__, line, isinstance(error, UserError))


def run_trial(
    engine: Engine, trial: Trial, place: str = "", *, train: bool = True, forecast: Forecast | None = None
) -> Record | None:
    """Find widths, train and record, as far as that has not been done; returns the record.

    Args:
        engine: what all trials share.
        trial: the trial.
        place: what news of it begin with; "" for its name.
        train: False stops at the widths, and returns None where there is no record.
        forecast: of all trainings of the command; None says nothing of how long they take.

    Raises:
        UserError, RuntimeError and what else searching and training raise.
    """
    place = place or str(trial)
    record = engine.load(trial)
    if record is not None:
        return record
    found = None if trial.finder.method == BASELINE else _widths(engine, trial.finder, place)
    if not train:
        return None
    record = _train(engine, trial, found, place, forecast)
    engine.fabric.barrier()  # all have looked for the record before it is written
    if engine.fabric.is_global_zero:
        engine.store.save(trial, record)
        engine.say(f"{place}: {metrics_text(engine.task, record)}")
    return record


def _alone(engine: Engine, folder: Path, place: str) -> AbstractContextManager[None]:
    """Hold a folder against other commands; launched processes are one command, which holds its work directory."""
    if engine.fabric.world_size > 1:
        return nullcontext()
    return held(folder, lambda line: engine.say(f"{place}: {line}"))


def _widths(engine: Engine, trial: Trial, place: str) -> Found:
    key, store = engine.search_key(trial), engine.store

    def find_once() -> None:
        folder = store.search(trial, key)
        with _alone(engine, folder, place):
            if store.load_widths(trial, key) is None:
                engine.say(f"{place}: {setting_text(trial.shrink)}")
                found = find(trial.method, engine.request(trial, folder), dict(engine.methods))
                store.save_widths(trial, key, found)
                _tell(engine, found.architecture, place)

    from_first(engine.fabric, find_once)
    again = store.load_widths(trial, key)
    if again is None:
        raise RuntimeError(f"the widths of {trial} have disappeared from the store")
    return again


def _tell(engine: Engine, architecture: Architecture, place: str) -> None:
    cost, base = architecture.costs
    score = architecture.found_by.get("score")
    how = f"found widths by {score}" if score else "given widths"
    engine.say(
        f"{place}: {how} at {100 * cost.paper / base.paper:.2f} % of the baseline's FLOPs, "
        f"{100 * cost.params / base.params:.2f} % of its parameters"
    )
    if free := architecture.found_by.get("without_floor"):
        engine.say(f"{place}: no pattern of shrink.floor fits {len(free)} groups: {', '.join(free)}")


def _train(
    engine: Engine, trial: Trial, found: Found | None, place: str, forecast: Forecast | None
) -> Record:
    task, store = engine.task, engine.store
    architecture = None if found is None else found.architecture
    model = network(task, architecture, trial.seed, engine.starts_from(trial))
    unknown = refuse_unknown_start(task, model, engine.allow_unknown_start)
    if unknown:
        engine.say(f"{place}: {unknown_text(unknown)}")
    at_start = None
    if (
        engine.starts_from(trial) == "pretrained" and task.part is None
    ):  # else the rest of the network is fresh
        at_start = metrics_at_start(engine, model)
        metric = task.metrics[0]
        value = number_text(at_start[metric.key], metric.digits)
        engine.say(f"{place}: {metric.label} {value} with its trained weights, before fine-tuning")
    widths: list[Any] | None = None
    if architecture is None:
        cost = base = baseline_graph(task, trial.shrink).price()
        baseline_cost = base.to_json()
    else:
        cost, base = architecture.costs
        baseline_cost = base.to_json() | {"widths": architecture.baseline_widths}
        widths = [
            architecture.widths,
            architecture.conv_groups,
            *([architecture.removed] if architecture.removed else []),
            *([architecture.kept] if engine.starts_from(trial) == "pretrained" else []),
        ]
    training = key_of([engine.subject(), widths, engine.recipe(trial.seed), *engine.started(trial)])
    config = replace(engine.train, seed=trial.seed)
    teacher = None if engine.distillation is None else _teacher(engine, trial, config, place)
    folder = store.run(trial, training)

    def told() -> dict[str, str]:
        if task.described is None:
            return {}
        divergences = read_divergences(folder)
        return header(
            task.described(architecture),
            trial.method,
            config,
            engine.distillation,
            engine.teacher,
            divergences,
            as_json(task.pretrained, engine.starts_from(trial)),
        )

    with _alone(engine, folder, place), _naming(str(trial)):
        engine.say(f"{place}: {_begins(task.model_name, RunFiles(folder), config.epochs)}")
        fitted = train_network(
            task,
            model,
            config,
            folder,
            engine.fabric,
            teacher=teacher,
            distillation=engine.distillation,
            lowered_lr=engine.lowered_lr,
            progress=engine.progress,
            told=told,
            pace=_saying(engine, forecast, config.epochs),
        )
    last = fitted.history[-1]
    on_gpu = engine.fabric.device.type == "cuda"
    record: Record = plain({
        "key": engine.record_key(trial),
        "method": trial.method,
        "seed": trial.seed,
        "subject": engine.subject(),
        "recipe": engine.recipe(trial.seed),
        "shrink": None if found is None else asdict(trial.shrink),
        "decided_by": engine.decided_by(trial),
        "metrics": dict(last.eval_metrics),
        "metrics_at_start": at_start,
        "train_loss": last.train_loss,
        "losses": [float(f"{epoch.train_loss:.4g}") for epoch in fitted.history],  # the curve, in pages too
        "cost": cost.to_json(),
        "baseline_cost": baseline_cost,
        "architecture": None if architecture is None else architecture.to_json(),
        "search_epochs": 0.0 if found is None else found.epochs,
        "search_baseline_epochs": 0.0 if found is None else found.baseline_epochs,
        "training": training,
        "unknown_start": unknown,
        "weights": as_json(task.pretrained, engine.starts_from(trial)),
        "images_per_second": fitted.images_seen / fitted.seconds if fitted.seconds > 0 else None,
        "environment": {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "finished": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),  # UTC
            "commit": commit(),
        },
    })  # fmt: skip
    return record


def metrics_at_start(engine: Engine, model: nn.Module) -> dict[str, float]:
    """The metrics of a network that begins with trained weights before it is fine-tuned."""
    with torch.no_grad():
        return dict(engine.task.evaluate(model.to(engine.fabric.device).eval()))


def _begins(name: str, files: RunFiles, epochs: int) -> str:
    """What a training is about to do."""
    number = f"{epochs} epoch{'s' * (epochs != 1)}"
    if files.weights.exists():
        return f"{name} is trained already"
    if files.state.exists() or files.previous.exists():
        return f"going on with the training of {name} for {number}"
    return f"training {name} for {number}"


def _saying(engine: Engine, forecast: Forecast | None, epochs: int) -> Callable[[Pace], None] | None:
    """Says how long it takes once a training shows its pace."""
    if forecast is None:
        return None

    def say(pace: Pace) -> None:
        if line := forecast.line(pace, epochs):
            engine.say(line)

    return say


def _teacher(engine: Engine, trial: Trial, config: TrainConfig, place: str) -> nn.Module:
    undistilled = {"train": engine.recipe(trial.seed)["train"], "teacher": asdict(engine.teacher)}
    folder = engine.store.teacher(trial.seed, key_of([engine.subject(), "teacher", undistilled]))
    forecast = Forecast(1)  # of itself alone: it is wider than its students

    def told(widened: Architecture) -> dict[str, str]:
        described = engine.task.described
        if described is None:
            return {}
        divergences = read_divergences(folder)
        return header(described(widened), "teacher", config, None, engine.teacher, divergences)

    with _alone(engine, folder, place), _naming(f"teacher, seed {trial.seed}"):
        if engine.teacher.checkpoint is None:
            engine.say(f"{place}: {_begins('the teacher', RunFiles(folder), config.epochs)}")
        return teacher_network(
            engine.task,
            engine.teacher,
            trial.shrink,
            config,
            folder,
            engine.fabric,
            lowered_lr=engine.lowered_lr,
            progress=engine.progress,
            told=told,
            pace=_saying(engine, forecast, config.epochs),
        )


@contextmanager
def _naming(training: str) -> Iterator[None]:
    """Say of a divergence which training it was."""
    try:
        yield
    except TrainingDiverged as error:
        raise error.of(training) from error


def baseline_graph(task: Task, shrink: ShrinkConfig) -> ChannelGraph:
    """The groups of the baseline, or of the part of it that is searched."""
    model, inputs = task.searched()
    config = task.traced(shrink)
    return trace_channels(model, inputs, freeze=config.freeze, ties=config.ties, outputs=config.outputs)


def setting_text(config: ShrinkConfig) -> str:
    """How widths are searched, for a terminal."""
    text = (
        f"budget {config.budget.flops}, widen {config.widen}, floor {config.floor}, {config.batches} batches"
    )
    return f"{text}, vanish {config.vanish}" if config.vanish else text


def metrics_text(task: Task, record: Mapping[str, Any]) -> str:
    """What came out, for a terminal."""
    metric = task.metrics[0]
    ratio = record["cost"]["flops"]["paper"] / record["baseline_cost"]["flops"]["paper"]
    value = number_text(record["metrics"][metric.key], metric.digits)
    return f"{metric.label} {value} at {100 * ratio:.2f} % of the FLOPs"


def network(task: Task, architecture: Architecture | None, seed: int, start: Start = "scratch") -> nn.Module:
    """The network that is trained: the baseline (None), or one of found widths.

    From scratch both are what the task's factory gives, by the same initialiser; `core.unknown_start` lists what it
    does not know. From trained weights both have these, the found network as far as it shares the channels.
    """
    if start == "pretrained":
        with seeded(seed):
            model = task.searched(keep_weights=True).model
            model = model if architecture is None else architecture.cut(model)
            return model if task.part is None else task.part.around(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownStartWarning)  # trials refuse such networks, or tell of them
        if architecture is not None and task.part is not None:
            return task.part.insert(architecture, seed)
        model = fresh_baseline(task, seed)
        if architecture is not None:
            return architecture.build(model, factory=task.build, seed=seed)
        if task.part is None:
            initialise_(model, like=model, factory=task.build, seed=seed)
        return model


def train_network(
    task: Task,
    model: nn.Module,
    config: TrainConfig,
    work_dir: Path,
    fabric: Fabric,
    *,
    teacher: nn.Module | None = None,
    distillation: DistillationConfig | None = None,
    lowered_lr: float | None = None,
    progress: bool = True,
    told: Callable[[], Mapping[str, str]] = dict,
    pace: Callable[[Pace], None] | None = None,
) -> FitResult:
    """Train one network by the recipe; goes on where an earlier call in `work_dir` stopped.

    Args:
        task: loader, loss and evaluation.
        model: trained in place.
        config: the recipe; its seed is also the data's.
        work_dir: see `core.training.train.fit`, as for the rest.
        fabric: device and processes.
        teacher: see `fit`.
        distillation: see `fit`.
        lowered_lr: the learning rate with which to go on if the last that happened here was a divergence.
        progress: see `fit`.
        told: see `header` of `fit`.
        pace: see `fit`.
    """
    loader = task.train_loader(config.batch_size, config.seed)
    if lowered_lr is not None and goes_on_lower(work_dir):
        config = with_rate(config, lowered_lr)
    return fit(model, loader, task.loss_fn, config, work_dir=work_dir, evaluate=task.evaluate, teacher=teacher,
               distillation=distillation, fabric=fabric, progress=progress, header=told, pace=pace)  # fmt: skip


def teacher_network(
    task: Task,
    teacher: TeacherConfig,
    shrink_config: ShrinkConfig,
    config: TrainConfig,
    work_dir: Path,
    fabric: Fabric,
    *,
    lowered_lr: float | None = None,
    progress: bool = True,
    told: Callable[[Architecture], Mapping[str, str]] = lambda widened: {},
    pace: Callable[[Pace], None] | None = None,
) -> nn.Module:
    """The widened baseline, trained by the same recipe without a teacher, or loaded; in eval mode.

    `told` makes the header of its weights of its widths, for the rest see `train_network`.
    """
    baseline = fresh_baseline(task, config.seed)
    graph = trace_channels(
        baseline, task.example_inputs, freeze=shrink_config.freeze, ties=shrink_config.ties
    )
    model = widen(baseline, graph, teacher.widen, factory=task.build, seed=config.seed)
    widths, conv_groups = widened_widths(graph, teacher.widen)
    widened = Architecture(
        task.model_name, widths, describe_inputs(task.example_inputs), conv_groups, graph.options,
        found_by={"widen": teacher.widen},
    ).priced(baseline, task.example_inputs)  # fmt: skip
    if teacher.checkpoint is not None:
        load_weights(model, teacher.checkpoint)
    else:
        train_network(
            task,
            model,
            config,
            work_dir,
            fabric,
            lowered_lr=lowered_lr,
            progress=progress,
            told=lambda: told(widened),
            pace=pace,
        )
    return model.eval()
