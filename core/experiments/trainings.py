"""The networks that trials train, the baseline, found ones and teachers, and their trainings by one recipe."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from lightning_fabric import Fabric
from torch import nn

from core.experiments.plan import Start
from core.experiments.settings import TeacherConfig
from core.experiments.task import Task
from core.graph.channels import ChannelGraph, trace_channels
from core.methods.subject import fresh_baseline
from core.storage.checkpoint import load_weights
from core.surgery.architecture import Architecture, describe_inputs
from core.surgery.initialise import UnknownStartWarning, initialise_, seeded
from core.surgery.resize import widen, widened_widths
from core.training.distillation import DistillationConfig
from core.training.divergence import goes_on_lower, with_rate
from core.training.pace import Pace
from core.training.train import FitResult, TrainConfig, fit
from core.widths.config import ShrinkConfig


def baseline_graph(task: Task, shrink: ShrinkConfig) -> ChannelGraph:
    """The groups of the baseline, or of the part of it that is searched."""
    model, inputs = task.searched()
    config = task.traced(shrink)
    return trace_channels(model, inputs, freeze=config.freeze, ties=config.ties, outputs=config.outputs)


def network(task: Task, architecture: Architecture | None, seed: int, start: Start = "scratch") -> nn.Module:
    """The network that is trained: the baseline (None), or one of found widths.

    From scratch both are what the task's factory gives, by the same initialiser; `core.unknown_start` lists what it
    does not know. From trained weights both have these, the found network as far as it shares the channels.
    """
    if start == "pretrained":
        with seeded(seed):
            model = task.searched(keep_weights=True).model
        return model if architecture is None else architecture.cut(model)
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
