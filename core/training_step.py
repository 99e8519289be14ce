"""One optimiser step: forward, loss, distillation, backward, accumulation, clipping, running average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core.distillation import DistillationConfig, distillation_loss
from core.errors import UserError
from core.optim import build_optimizer
from core.recipe import TrainConfig

LossFunction = Callable[[Any, Any], "Tensor | tuple[Tensor, Mapping[str, Tensor | float]]"]


@dataclass(frozen=True)
class Learner:
    """What a step works on; made by `set_up_learner`.

    Args:
        fabric: devices, precision and processes.
        config: the recipe.
        model: the module that is trained.
        wrapped: `model` as Fabric wraps it (autocast, DDP, torch.compile): what is called in training.
        optimizer: as Fabric wraps it (gradient scaling).
        ema: the running average of the weights, or None.
        loss_fn: (outputs, targets) -> loss or (loss, metrics).
        teacher: source of soft targets, or None.
        distillation: how labels and teacher are weighed.
    """

    fabric: Fabric
    config: TrainConfig
    model: nn.Module
    wrapped: Any
    optimizer: Any
    ema: AveragedModel | None
    loss_fn: LossFunction
    teacher: nn.Module | None
    distillation: DistillationConfig

    @property
    def evaluated(self) -> nn.Module:
        """The module whose weights count: the running average where one is kept."""
        return self.model if self.ema is None else self.ema.module


def set_up_learner(
    model: nn.Module,
    loss_fn: LossFunction,
    config: TrainConfig,
    fabric: Fabric,
    *,
    teacher: nn.Module | None,
    distillation: DistillationConfig,
) -> Learner:
    """Move `model` and `teacher` to the device and build optimiser and running average.

    Raises:
        UserError: the fabric's precision is not the recipe's, or the optimiser does not fit the model.
    """
    found = fabric.strategy.precision.precision
    if found != config.precision:
        raise UserError(
            f"precision is {config.precision} in the recipe but {found} in the fabric: make them equal"
        )
    precision = fabric.strategy.precision
    if isinstance(precision, MixedPrecision) and precision.scaler is not None:
        # One fabric serves several runs; none may inherit the gradient scale at which the one before ended.
        precision.scaler = torch.amp.GradScaler(device=precision.device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fabric.to_device(model)
    if teacher is not None:
        fabric.to_device(teacher)
        teacher.eval()
    optimizer = build_optimizer(model, config.optimizer)
    decay = config.ema_decay
    ema = None if decay is None else AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    called: Any = torch.compile(model) if config.compile else model
    wrapped, stepper = fabric.setup(called, optimizer)
    return Learner(fabric, config, model, wrapped, stepper, ema, loss_fn, teacher, distillation)


def train_step(learner: Learner, group: list[tuple[Any, Any]], images: int) -> dict[str, Tensor]:
    """Take one optimiser step on the batches of `group`; `images` counts the images of all processes.

    Returns:
        This process' part of the loss' and the metrics' means: the sum over the processes is the mean.
    """
    fabric, max_norm = learner.fabric, learner.config.clip_grad_norm
    means: dict[str, Tensor] = {}
    for index, (inputs, targets) in enumerate(group):
        share = count_images(inputs) / images
        with fabric.no_backward_sync(learner.wrapped, enabled=index < len(group) - 1):
            loss, metrics = _loss(learner, *fabric.to_device((inputs, targets)))
            # DDP averages over the processes; times their number that is the sum, however uneven the shares.
            weight = share * fabric.world_size
            fabric.backward(loss if weight == 1 else loss * weight)
        for name, value in {**metrics, "loss": loss}.items():
            part = torch.as_tensor(value, dtype=torch.float32, device=fabric.device).detach() * share
            means[name] = means[name] + part if name in means else part
    if max_norm is not None:
        fabric.clip_gradients(learner.wrapped, learner.optimizer, max_norm=max_norm, error_if_nonfinite=False)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    if learner.ema is not None:
        learner.ema.update_parameters(learner.model)
    return means


def _loss(learner: Learner, inputs: Any, targets: Any) -> tuple[Tensor, Mapping[str, Tensor | float]]:
    if learner.config.channels_last:
        inputs = apply_to_collection(inputs, Tensor, _channels_last)
    outputs = _call(learner.wrapped, inputs)
    result = learner.loss_fn(outputs, targets)
    loss, metrics = result if isinstance(result, tuple) else (result, {})
    if "loss" in metrics:
        raise UserError("loss_fn must not call a metric 'loss': that is the name of what is minimised")
    if learner.teacher is not None:
        with torch.no_grad(), learner.fabric.autocast():
            expected = _call(learner.teacher, inputs)
        loss = distillation_loss(loss, outputs, expected.to(outputs.dtype), learner.distillation)
    return loss, metrics


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)


def count_images(inputs: Any) -> int:
    """The number of images in a batch's inputs: the first dimension of the first tensor."""
    while not isinstance(inputs, Tensor):
        inputs = next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs))
    return inputs.shape[0]


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
