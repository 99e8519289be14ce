"""One trial: find widths, train a network, keep a record.

A trial is done once: the store keeps its record under a key of all that decides it (`Engine.record_key`), and later
requests, also of other commands, read it. A trial that fails is returned as data and stops no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.command_line.exits import FAILURES
from core.errors import UserError
from core.experiments.checkpoints import header
from core.experiments.engine import Engine
from core.experiments.forecast import Forecast
from core.experiments.plan import Trial
from core.experiments.pretrained import as_json
from core.experiments.processes import from_first
from core.experiments.provenance import commit
from core.experiments.starts import refuse_unknown_start, unknown_text
from core.experiments.statistics import number_text
from core.experiments.store import Record, held, key_of, plain
from core.experiments.task import Task
from core.experiments.trainings import baseline_graph, network, teacher_network, train_network
from core.methods.method import Found
from core.methods.registry import BASELINE, find
from core.storage.checkpoint import load_weights
from core.storage.claims import claimed
from core.surgery.architecture import Architecture
from core.training.distillation import DistillationConfig
from core.training.divergence import TrainingDiverged, read_divergences
from core.training.run_files import RunFiles
from core.training.train import FitResult, TrainConfig
from core.widths.config import ShrinkConfig


@dataclass(frozen=True)
class Failure:
    """A trial that failed, as plain data.

    Attributes:
        trial: the trial.
        kind: name of the exception.
        error: its message, one line.
        usage: whether the user can repair it (`UserError`).
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


def attempt(
    engine: Engine, trial: Trial, place: str = "", *, train: bool = True, forecast: Forecast | None = None
) -> Failure | None:
    """Run a trial as `run_trial` does; returns its failure, and raises only what stops everything.

    Raises:
        KeyboardInterrupt, BrokenPipeError: the command has to end.
    """
    try:
        run_trial(engine, trial, place, train=train, forecast=forecast)
    except BrokenPipeError:
        raise
    except FAILURES as error:
        return failure(trial, error)
    return None


def failure(trial: Trial, error: BaseException) -> Failure:
    """The failure of a trial that raised."""
    line = (str(error).strip().splitlines() or [""])[0].removeprefix(f"{trial}: ")
    return Failure(trial, type(error).__name__, line, isinstance(error, UserError))


def run_trial(
    engine: Engine, trial: Trial, place: str = "", *, train: bool = True, forecast: Forecast | None = None
) -> Record | None:
    """Find widths, train and record, as far as that is not done yet; returns the record.

    Args:
        engine: what all trials share.
        trial: the trial.
        place: the beginning of lines about it; "" for its name.
        train: False stops at the widths, and returns None if there is no record.
        forecast: of all trainings of the command; None prints nothing about how long they take.

    Raises:
        UserError, RuntimeError: and whatever else search and training raise.
    """
    place = place or str(trial)
    record = engine.load(trial)
    if record is not None:
        return record
    found = None if trial.finder.method == BASELINE else _widths(engine, trial.finder, place)
    if not train:
        return None
    return _train(engine, trial, found, place, forecast)


def _alone(engine: Engine, folder: Path, place: str) -> AbstractContextManager[None]:
    """Hold a folder against other commands; launched processes are one command, which already holds its folder."""
    if engine.fabric.world_size > 1:
        return nullcontext()
    return (held if engine.waits else claimed)(folder, lambda line: engine.say(f"{place}: {line}"))


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
    ):  # otherwise the rest of the network is fresh
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
    teacher = None
    if engine.distillation is not None:  # even if students get more epochs, the teacher stays as it was
        began = replace(engine, train=engine.train.began())
        teacher = _teacher(began, trial, config.began(), place)
    folder = store.run(trial, training)
    weights = as_json(task.pretrained, engine.starts_from(trial))
    told = partial(_told, engine, architecture, trial.method, config, folder, engine.distillation, weights)
    with _alone(engine, folder, place):
        finished = engine.load(trial)  # by another command in the meantime
        if finished is not None:
            return finished
        fitted = _fit(
            engine, model, config, folder, place, (task.model_name, str(trial)), told, forecast, teacher
        )
        last = fitted.history[-1]
        detail = task.detail(model)  # all processes share the work, as in an evaluation
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
            **({"detail": detail} if detail else {}),
            "train_loss": last.train_loss,
            "losses": [float(f"{epoch.train_loss:.4g}") for epoch in fitted.history],  # the curve, also for reports
            "cost": cost.to_json(),
            "baseline_cost": baseline_cost,
            "architecture": None if architecture is None else architecture.to_json(),
            "search_epochs": 0.0 if found is None else found.epochs,
            "search_baseline_epochs": 0.0 if found is None else found.baseline_epochs,
            "training": training,
            "unknown_start": unknown,
            "weights": weights,
            "images_per_second": fitted.images_seen / fitted.seconds if fitted.seconds > 0 else None,
            "environment": {
                "torch": torch.__version__,
                "device": torch.cuda.get_device_name() if on_gpu else "cpu",
                "finished": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),  # UTC
                "commit": commit(),
            },
        })  # fmt: skip
        engine.fabric.barrier()  # all processes have looked for the record before it is written
        if engine.fabric.is_global_zero:
            store.save(trial, record)
            engine.say(f"{place}: {metrics_text(task, record)}")
        return record


def metrics_at_start(engine: Engine, model: nn.Module) -> dict[str, float]:
    """The metrics, before fine-tuning, of a network that begins with trained weights."""
    with torch.no_grad():
        return dict(engine.task.evaluate(model.to(engine.fabric.device).eval()))


def _begins(name: str, files: RunFiles, epochs: int) -> str:
    """The line before a training: whether it begins, goes on, or is done."""
    number = f"{epochs} epoch{'s' * (epochs != 1)}"
    if files.weights.exists():
        return f"{name} is trained already"
    if files.state.exists() or files.previous.exists():
        return f"going on with the training of {name} for {number}"
    return f"training {name} for {number}"


def _told(
    engine: Engine,
    architecture: Architecture | None,
    method: str,
    config: TrainConfig,
    folder: Path,
    distillation: DistillationConfig | None = None,
    weights: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The header of a training's weights; empty if the task does not describe its networks."""
    if engine.task.described is None:
        return {}
    described, divergences = engine.task.described(architecture), read_divergences(folder)
    return header(described, method, config, distillation, engine.teacher, divergences, weights)


def _fit(
    engine: Engine,
    model: nn.Module,
    config: TrainConfig,
    folder: Path,
    place: str,
    names: tuple[str, str],
    told: Callable[[], Mapping[str, str]],
    forecast: Forecast | None,
    teacher: nn.Module | None = None,
) -> FitResult:
    """Train a network in a folder that the caller holds; `names` are those of the network and of its training."""
    with _naming(names[1]):
        engine.say(f"{place}: {_begins(names[0], RunFiles(folder), config.epochs)}")
        return train_network(
            engine.task,
            model,
            config,
            folder,
            engine.fabric,
            teacher=teacher,
            distillation=None if teacher is None else engine.distillation,
            lowered_lr=engine.lowered_lr,
            progress=engine.progress,
            told=told,
            pace=None if forecast is None else forecast.teller(config.epochs, engine.say),
        )


def _teacher(engine: Engine, trial: Trial, config: TrainConfig, place: str) -> nn.Module:
    undistilled = {"train": engine.recipe(trial.seed)["train"], "teacher": asdict(engine.teacher)}
    folder = engine.store.teacher(trial.seed, key_of([engine.subject(), "teacher", undistilled]))
    model, widened = teacher_network(engine.task, engine.teacher, trial.shrink, config.seed)
    if engine.teacher.checkpoint is not None:
        load_weights(model, engine.teacher.checkpoint)
    else:
        told = partial(_told, engine, widened, "teacher", config, folder)
        forecast = Forecast(1)  # only for itself: it is wider than its students
        names = "the teacher", f"teacher, seed {trial.seed}"
        with _alone(engine, folder, place):
            _fit(engine, model, config, folder, place, names, told, forecast)
    return model.eval()


@contextmanager
def _naming(training: str) -> Iterator[None]:
    """Name the training in the error of a divergence."""
    try:
        yield
    except TrainingDiverged as error:
        raise error.of(training) from error


def setting_text(config: ShrinkConfig) -> str:
    """How widths are searched, as a line for a terminal."""
    batches = f"{config.batches} batch{'es' * (config.batches != 1)}"
    limits = {name: limit for name, limit in config.budget.to_json().items() if name != "convention"}
    budget = ", ".join(str(limit) if name == "flops" else f"{name} {limit}" for name, limit in limits.items())
    text = f"budget {budget}, widen {config.widen}, floor {config.floor}, {batches}"
    return f"{text}, vanish {config.vanish}" if config.vanish else text


def metrics_text(task: Task, record: Mapping[str, Any]) -> str:
    """The result of a trial, for a terminal."""
    metric = task.metrics[0]
    ratio = record["cost"]["flops"]["paper"] / record["baseline_cost"]["flops"]["paper"]
    value = number_text(record["metrics"][metric.key], metric.digits)
    return f"{metric.label} {value} at {100 * ratio:.2f} % of the FLOPs"
