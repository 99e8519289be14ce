"""The networks that trials train (the baseline, found ones, teachers), and their trainings by one recipe."""

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

    From scratch, both start as the task's factory starts them, by the same initialiser; `core.unknown_start` lists
    tensors whose rule it does not know. Otherwise both have the trained weights, the found network in its channels.
    """
    if start == "pretrained":
        with seeded(seed):
            model = task.searched(keep_weights=True).model
            model = model if architecture is None else architecture.cut(model)
            return model if task.part is None else task.part.around(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownStartWarning)  # trials refuse such networks, or report them
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
    """Train one network by the recipe; it goes on where an earlier call in `work_dir` stopped.

    Args:
        task: loader, loss and evaluation.
        model: trained in place.
        config: the recipe; its seed is also the data's.
        work_dir: see `core.training.train.fit`.
        fabric: device and processes.
        teacher: see `fit`.
        distillation: see `fit`.
        lowered_lr: the learning rate with which to go on if the training has diverged.
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
    task: Task, teacher: TeacherConfig, shrink: ShrinkConfig, seed: int
) -> tuple[nn.Module, Architecture]:
    """The network from which students learn (the widened baseline, freshly initialised), and its widths."""
    baseline = fresh_baseline(task, seed)
    graph = trace_channels(baseline, task.example_inputs, freeze=shrink.freeze, ties=shrink.ties)
    model = widen(baseline, graph, teacher.widen, factory=task.build, seed=seed)
    widths, conv_groups = widened_widths(graph, teacher.widen)
    widened = Architecture(
        task.model_name, widths, describe_inputs(task.example_inputs), conv_groups, graph.options,
        found_by={"widen": teacher.widen},
    ).priced(baseline, task.example_inputs)  # fmt: skip
    return model, widened
