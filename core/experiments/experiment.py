"""The whole experiment, shared by all tasks: baseline → shrink → train → compare, with controls and seeds.

Every network, whether baseline, LW-DNA or control, goes through the same `core.training.train.fit` with the same
recipe and the same seeds. Each stage reads what the one before wrote into the work directory, so a run that was
stopped goes on where it was, and each stage can be run alone.

    work_dir/
        config.py  plan.json  widths.json  result.json  report.md  channels.png  curves.png
        widths/METHOD-seedS.json        what `shrink` found for each method and seed
        runs/METHOD-seedS/              checkpoints, weights, log.jsonl and TensorBoard events of each training
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning_fabric import Fabric
from torch import nn

from core.errors import UserError
from core.experiments.plots import plot_channels, plot_curves
from core.experiments.report import markdown_report, results_table
from core.experiments.task import Metric, Task, TeacherConfig
from core.experiments.trial import network, teacher_network, train_network
from core.methods.registry import METHODS
from core.methods.subject import find_architecture
from core.storage.files import atomic_write, write_json
from core.surgery.architecture import Architecture
from core.surgery.depth import blocks_to_lift, lifted
from core.surgery.initialise import seeded
from core.training.distillation import DistillationConfig
from core.training.divergence import Divergence, TrainingDiverged, read_divergences
from core.training.run_files import EpochRecord, read_history, training_notes
from core.training.train import TrainConfig
from core.widths.config import ShrinkConfig
from core.widths.scores import NAMES, check_score
from core.widths.selection import search
from core.widths.space import open_space

__all__ = ["BASELINE", "FOUND", "STAGES", "Metric", "Run", "Settings", "ShrinkConfig", "Task", "TeacherConfig",
           "check", "find_architecture", "run_experiment", "summarise"]  # fmt: skip

Stage = Literal["baseline", "shrink", "train", "compare"]
STAGES: tuple[Stage, ...] = get_args(Stage)
BASELINE, FOUND = "baseline", "lwdna"


@dataclass(frozen=True)
class Settings:
    """One experiment.

    Attributes:
        train: the recipe of every network; its seed is the first of `seeds`.
        shrink: how widths are found.
        work_dir: where everything is written.
        controls: scores to compare with, at the same budget: "random", "uniform", "magnitude", ...
        seeds: number of repetitions, each with its own widths, weights and data order.
        stages: which parts to run.
        distillation: train every network with a teacher.
        teacher: which one.
        progress: show bars.
        lowered_lr: learning rate with which trainings that have diverged go on; see `core.training.divergence`.
    """

    train: TrainConfig
    shrink: ShrinkConfig
    work_dir: Path
    controls: tuple[str, ...] = ()
    seeds: int = 1
    stages: tuple[Stage, ...] = STAGES
    distillation: DistillationConfig | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    progress: bool = True
    lowered_lr: float | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"seeds={self.seeds}: use at least 1")
        for control in self.controls:
            if control not in NAMES:
                raise UserError(f"control '{control}': use some of {', '.join(NAMES)}")
            if control == self.shrink.score:
                raise UserError(f"control '{control}' is the score of the found network itself; name another")
            check_score(control, self.shrink.latents, "control")
        for stage in self.stages:
            if stage not in STAGES:
                raise UserError(f"stage '{stage}': use some of {', '.join(STAGES)}")

    @property
    def scores(self) -> dict[str, str]:
        """Method -> score, for every method that has widths to find."""
        return {FOUND: self.shrink.score_name, **{control: control for control in self.controls}}

    @property
    def seed_list(self) -> list[int]:
        """The seeds of the repetitions."""
        return [self.train.seed + number for number in range(self.seeds)]

    def widths_file(self, method: str, seed: int) -> Path:
        """Where the widths of one method and seed are kept."""
        return self.work_dir / "widths" / f"{method}-seed{seed}.json"

    def run_dir(self, method: str, seed: int) -> Path:
        """Where one training is kept."""
        return self.work_dir / "runs" / f"{method}-seed{seed}"


@dataclass(frozen=True)
class Run:
    """One trained network, as the report needs it."""

    method: str
    seed: int
    history: tuple[EpochRecord, ...]
    architecture: Architecture | None
    divergences: tuple[Divergence, ...] = ()


def run_experiment(
    task: Task, settings: Settings, fabric: Fabric, say: Callable[[str], None] = print
) -> dict[str, Any] | None:
    """Run the stages that are asked for; returns the content of result.json if "compare" is among them.

    Args:
        task: what is trained and measured.
        settings: the experiment.
        fabric: device and processes (`core.training.train.make_fabric`).
        say: takes one line of news at a time.

    Raises:
        UserError: a stage needs what an earlier stage has not made yet; and whatever `shrink` and `fit` raise.
        TrainingDiverged: a training diverged; its message says which. What was trained before stays.
    """
    if "baseline" in settings.stages:
        for seed in settings.seed_list:
            say(f"baseline, seed {seed}: training {task.model_name} for {settings.train.epochs} epochs")
            _train(task, settings, fabric, BASELINE, seed)
    if "shrink" in settings.stages:
        for method, score in settings.scores.items():
            for seed in settings.seed_list:
                _find_widths(task, settings, fabric, method, score, seed, say)
    if "train" in settings.stages:
        for method in settings.scores:
            for seed in settings.seed_list:
                say(f"{method}, seed {seed}: training for {settings.train.epochs} epochs")
                _train(task, settings, fabric, method, seed)
    if "compare" not in settings.stages or not fabric.is_global_zero:
        return None
    return _compare(task, settings, say)


def check(task: Task, config: ShrinkConfig, controls: Sequence[str] = ()) -> None:
    """Find out in a second what would otherwise fail after the baseline's training.

    Args:
        task: what is trained.
        config: how widths are found.
        controls: methods that are compared with, by name.

    Raises:
        UserError: the model cannot be built or traced, there is no batch to score channels on, floors, ceilings or
            round_to are out of range or fit no group, the budget cannot be reached (a latency is not looked at), or a
            control cannot honour a setting (docs/methods.md).
    """
    for name in controls:
        METHODS[name].check_config(name, config, task)
    if len(task.train_loader(config.batch_size, 0)) < 1:
        raise UserError(
            f"shrink.batch_size={config.batch_size}: the training set holds no batch of that size"
        )
    if config.budget.latency is None and not config.vanish:
        find_architecture(task, replace(config, score="uniform"), seed=0)
        return
    with seeded(0):
        model, inputs = task.searched()
    space = open_space(model, inputs, task.traced(config), seed=0)
    # Timing takes its time and differs from machine to machine: a clock that stands still lets every latency pass, and
    # the search says what is wrong with all the rest. Which blocks vanish is up to the scores: what no choice of blocks
    # can change is whether the budget can be met without their floors.
    inner = blocks_to_lift(model, inputs, space.graph) if config.vanish else {}
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


def _train(task: Task, settings: Settings, fabric: Fabric, method: str, seed: int) -> Run:
    architecture: Architecture | None = None
    if method != BASELINE:
        path = settings.widths_file(method, seed)
        if not path.exists():
            raise UserError(
                f"no widths for '{method}', seed {seed}, in '{settings.work_dir}': run the stage shrink first"
            )
        architecture = Architecture.load(path)
    model = network(task, architecture, seed)
    config = replace(settings.train, seed=seed)
    teacher: nn.Module | None = None
    if settings.distillation is not None:
        folder = settings.run_dir("teacher", seed)
        with _naming(f"teacher, seed {seed}"):
            teacher = teacher_network(
                task,
                settings.teacher,
                settings.shrink,
                config,
                folder,
                fabric,
                lowered_lr=settings.lowered_lr,
                progress=settings.progress,
            )
    with _naming(f"{method}, seed {seed}"):
        fitted = train_network(
            task,
            model,
            config,
            settings.run_dir(method, seed),
            fabric,
            teacher=teacher,
            distillation=settings.distillation,
            lowered_lr=settings.lowered_lr,
            progress=settings.progress,
        )
    return Run(method, seed, fitted.history, architecture)


@contextmanager
def _naming(trial: str) -> Iterator[None]:
    """Say of a divergence which training it was."""
    try:
        yield
    except TrainingDiverged as error:
        raise error.of(trial) from error


def _find_widths(
    task: Task,
    settings: Settings,
    fabric: Fabric,
    method: str,
    score: str,
    seed: int,
    say: Callable[[str], None],
) -> None:
    path = settings.widths_file(method, seed)
    if fabric.is_global_zero and not path.exists():
        given = task.given if method == FOUND else None
        config = settings.shrink if method == FOUND else replace(settings.shrink, score=score)
        architecture = given or find_architecture(task, config, seed, fabric.device)
        architecture.save(path)
        cost, base = architecture.costs
        how = f"found widths by {score}" if given is None else "given widths"
        say(
            f"{method}, seed {seed}: {how} at {100 * cost.paper / base.paper:.2f} % of the baseline's FLOPs, "
            f"{100 * cost.params / base.params:.2f} % of its parameters"
        )
        if free := architecture.found_by.get("without_floor"):
            say(
                f"{method}, seed {seed}: no pattern of shrink.floor fits {len(free)} groups: {', '.join(free)}"
            )
    fabric.barrier()
    if fabric.is_global_zero and method == FOUND and seed == settings.seed_list[0]:
        Architecture.load(path).save(settings.work_dir / "widths.json")


def _compare(task: Task, settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    runs = []
    for method in (BASELINE, *settings.scores):
        for seed in settings.seed_list:
            history = read_history(settings.run_dir(method, seed))
            if len(history) < settings.train.epochs:
                stage = "baseline" if method == BASELINE else "train"
                raise UserError(f"'{method}', seed {seed}, is not trained yet: run the stage {stage} first")
            path = settings.widths_file(method, seed)
            architecture = None if method == BASELINE else Architecture.load(path)
            divergences = read_divergences(settings.run_dir(method, seed))
            runs.append(Run(method, seed, history, architecture, divergences))
    result = summarise(task, runs, settings.seed_list, settings.train.epochs)
    if settings.distillation is not None:
        for seed in settings.seed_list:
            found = read_divergences(settings.run_dir("teacher", seed))
            for key, lines in _told(f"teacher, seed {seed}", found, ()).items():
                result[key] += lines
    write_json(settings.work_dir / "result.json", result)
    table = results_table(task.metrics, result)
    sections = task.finish(settings, runs)
    with atomic_write(settings.work_dir / "report.md") as file:
        file.write(markdown_report(task, settings, result, sections))
    plot_channels(settings.work_dir / "channels.png", task, runs)
    plot_curves(settings.work_dir / "curves.png", task, runs)
    for line in table.splitlines():
        say(line)
    say(f"report: {settings.work_dir / 'report.md'}")
    return result


def summarise(task: Task, runs: Sequence[Run], seeds: Sequence[int], epochs: int) -> dict[str, Any]:
    """The content of result.json: costs and metrics (mean, std, values over seeds) by method.

    Args:
        task: what was trained.
        runs: one per method and seed, at least one of them with found widths.
        seeds: their seeds, in the order of the runs of each method.
        epochs: of every training.
    """
    any_found = next(run.architecture for run in runs if run.architecture is not None)
    base = any_found.costs[1]
    told = [_told(f"{run.method}, seed {run.seed}", run.divergences, run.history) for run in runs]
    methods: dict[str, Any] = {}
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        costs = [run.architecture.costs[0] if run.architecture else base for run in own]
        flops = [cost.paper for cost in costs]
        params = [cost.params for cost in costs]
        widths = [(run.architecture.widths if run.architecture else any_found.baseline_widths) for run in own]
        methods[method] = {
            "flops": _mean(flops),
            "params": _mean(params),
            "flops_ratio": _mean(flops) / base.paper,
            "params_ratio": _mean(params) / base.params,
            "metrics": _metrics(task, [run.history[-1].eval_metrics for run in own]),
            "raw_metrics": _metrics(task, [run.history[-1].raw_metrics for run in own]),
            "widths": widths[0],
            "per_seed": [
                {"seed": run.seed, "flops": f, "params": p, "widths": w}
                for run, f, p, w in zip(own, flops, params, widths, strict=True)
            ],
        }
    return {
        "task": task.name,
        "dataset": task.dataset,
        "model": task.model_name,
        "seeds": list(seeds),
        "epochs": epochs,
        "methods": methods,
        **{
            key: [line for lines in told for line in lines[key]]
            for key in ("recipe_changes", "training_notes")
        },
        "references": {name: dict(values) for name, values in task.references.items()},
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        },
    }


def _told(
    trial: str, divergences: Sequence[Divergence], history: Sequence[EpochRecord]
) -> dict[str, list[str]]:
    """Sentences on one training: where it left the common recipe, and what else is to be known of it."""
    lowered = [divergence for divergence in divergences if divergence.lowered_to is not None]
    others = [divergence for divergence in divergences if divergence.lowered_to is None]
    return {
        "recipe_changes": [f"{trial}: {divergence}." for divergence in lowered],
        "training_notes": [f"{trial}: {note}." for note in (*others, *training_notes(history))],
    }


def _metrics(task: Task, scores: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Statistics over the seeds of every metric that there is."""
    return {
        metric.key: _statistics([score[metric.key] for score in scores])
        for metric in task.metrics
        if metric.key in scores[0]
    }


def _mean(values: Sequence[int]) -> float:
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation; of infinite values the mean is infinite (or NaN), the deviation undefined: NaN."""
    mean = sum(values) / len(values)
    if not all(math.isfinite(value) for value in values):
        return {"mean": mean, "std": math.nan, "values": list(values)}
    std = float(torch.tensor(values, dtype=torch.float64).std()) if len(values) > 1 else 0.0
    return {"mean": mean, "std": std, "values": list(values)}
