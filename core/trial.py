"""The building blocks of experiments: find widths once, train one network, train or load its teacher."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from core.architecture import Architecture
from core.channels import trace_channels
from core.checkpoint import load_weights
from core.distillation import DistillationConfig
from core.divergence import goes_on_lower, with_rate
from core.initialise import seeded
from core.resize import widen
from core.shrinkage import shrink
from core.task import ShrinkConfig, Task, TeacherConfig
from core.train import FitResult, TrainConfig, fit


def fresh_baseline(task: Task, seed: int) -> nn.Module:
    """The task's network, its weights a function of `seed`."""
    with seeded(seed):
        return task.build()


def only_loss(task: Task) -> Callable[[Any, Any], Tensor]:
    """The task's loss function without the metrics that it may return beside the loss."""

    def loss_fn(outputs: Any, targets: Any) -> Tensor:
        loss = task.loss_fn(outputs, targets)
        return loss[0] if isinstance(loss, tuple) else loss

    return loss_fn


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
        work_dir: see `core.train.fit`, as for the rest.
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


def find_architecture(
    task: Task, config: ShrinkConfig, score: str, seed: int, device: torch.device | str = "cpu"
) -> Architecture:
    """Shrink the task's baseline, or the part of it that is searched, once.

    Raises:
        UserError: see `core.shrinkage.shrink`.
    """
    with seeded(seed):
        model, inputs, outputs = task.searched()
    batches = first_batches(task, config, seed)
    part = task.part
    return shrink(
        model.to(device),
        inputs,
        batches if part is None else (part.batch(*batch) for batch in batches),
        only_loss(task) if part is None else part.loss_fn,
        widen=config.widen,
        budget=config.budget,
        score=score,
        allocation=config.allocation,
        floor=config.floor,
        ceiling=config.ceiling,
        round_to=config.round_to,
        seed=seed,
        latents=config.latents,
        embedding=config.embedding,
        name=task.model_name,
        freeze=config.freeze,
        ties=config.ties,
        outputs=outputs,
        vanish=config.vanish,
    )


def first_batches(task: Task, config: ShrinkConfig, seed: int) -> Iterable[tuple[Any, Any]]:
    """The first `config.batches` batches of the data set, from the second epoch on where the first has not as many."""
    loader = task.train_loader(config.batch_size, seed)
    endless = (batch for epoch in itertools.count() for batch in loader.epoch(epoch))
    return itertools.islice(endless, config.batches if len(loader) else 0)
