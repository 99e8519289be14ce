"""The building blocks of experiments: find widths once, train one network, train or load its teacher."""

from __future__ import annotations

from pathlib import Path

from lightning_fabric import Fabric
from torch import nn

from core.experiments.settings import TeacherConfig
from core.experiments.task import Task
from core.graph.channels import trace_channels
from core.methods.subject import fresh_baseline
from core.storage.checkpoint import load_weights
from core.surgery.architecture import Architecture
from core.surgery.resize import widen
from core.training.distillation import DistillationConfig
from core.training.divergence import goes_on_lower, with_rate
from core.training.train import FitResult, TrainConfig, fit
from core.widths.config import ShrinkConfig


def network(task: Task, architecture: Architecture | None, seed: int) -> nn.Module:
    """The network that is trained: the baseline (None), or fresh weights at found widths."""
    if architecture is not None and task.part is not None:
        return task.part.insert(architecture, seed)
    model = fresh_baseline(task, seed)
    return model if architecture is None else architecture.build(model, seed=seed)


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
    """
    loader = task.train_loader(config.batch_size, config.seed)
    if lowered_lr is not None and goes_on_lower(work_dir):
        config = with_rate(config, lowered_lr)
    return fit(model, loader, task.loss_fn, config, work_dir=work_dir, evaluate=task.evaluate, teacher=teacher,
               distillation=distillation, fabric=fabric, progress=progress)  # fmt: skip


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
) -> nn.Module:
    """The widened baseline, trained by the same recipe without a teacher, or loaded; in eval mode."""
    baseline = fresh_baseline(task, config.seed)
    graph = trace_channels(
        baseline, task.example_inputs, freeze=shrink_config.freeze, ties=shrink_config.ties
    )
    model = widen(baseline, graph, teacher.widen, seed=config.seed)
    if teacher.checkpoint is not None:
        load_weights(model, teacher.checkpoint)
    else:
        train_network(task, model, config, work_dir, fabric, lowered_lr=lowered_lr, progress=progress)
    return model.eval()
