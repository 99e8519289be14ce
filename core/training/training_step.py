"""One optimiser step: forward, loss, distillation, backward, accumulation, clipping, running average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from core.errors import UserError
from core.modules import call, map_tensors, tensors_in
from core.training.averaging import recompute_statistics, running_average
from core.training.distillation import DistillationConfig, distillation_loss
from core.training.optim import build_optimizer
from core.training.recipe import TrainConfig

LossFunction = Callable[[Any, Any], "Tensor | tuple[Tensor, Mapping[str, Tensor | float]]"]


class StepCounter:
    """Counts the steps that an optimiser takes."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, *_: object) -> None:
        """Count one more step."""
        self.count += 1


@dataclass(frozen=True)
class Learner:
    """What a step works on; made by `set_up_learner`.

    Args:
        fabric: devices, precision and processes.
        config: the recipe.
        model: the module that is trained.
        wrapped: `model` as Fabric wraps it (autocast, DDP, torch.compile), which training calls.
        optimizer: as Fabric wraps it (gradient scaling).
        ema: the running average of the weights, or None.
        loss_fn: (outputs, targets) -> loss or (loss, metrics).
        teacher: source of soft targets, or None.
        distillation: how labels and teacher are weighed.
        steps: counts the optimiser's steps.
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
    steps: StepCounter

    @property
    def gradient_scale(self) -> float | None:
        """The factor on the loss that keeps gradients within float16; None if there is none. Waits for a GPU."""
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return None if scaler is None else scaler.get_scale()

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
        UserError: the fabric's precision is not the recipe's, the optimiser does not fit the model, or statistics are
            to be shared on CPUs.
    """
    found = fabric.strategy.precision.precision
    if found != config.precision:
        raise UserError(
            f"precision is {config.precision} in the recipe but {found} in the fabric: make them equal"
        )
    precision = fabric.strategy.precision
    if isinstance(precision, MixedPrecision) and precision.scaler is not None:
        # One fabric serves several runs; none may inherit the last gradient scale of the run before.
        precision.scaler = torch.amp.GradScaler(device=precision.device)
    if config.sync_batchnorm and fabric.world_size > 1:
        share_statistics(model, fabric.device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fabric.to_device(model)
    if teacher is not None:
        fabric.to_device(teacher)
        teacher.eval()
    optimizer = build_optimizer(model, config.optimizer)
    steps = StepCounter()
    optimizer.register_step_post_hook(steps.add)  # not called for steps that a gradient scaler leaves out
    ema = None if config.ema_decay is None else running_average(model, config.ema_decay)
    called: Any = torch.compile(model) if config.compile else model
    wrapped, stepper = fabric.setup(called, optimizer)
    return Learner(fabric, config, model, wrapped, stepper, ema, loss_fn, teacher, distillation, steps)


def share_statistics(model: nn.Module, device: torch.device) -> None:
    """Make every BatchNorm layer normalise by the whole batch of all processes, in place.

    Raises:
        UserError: the processes run on CPUs, for which torch has no such layer.
    """
    if device.type != "cuda":
        raise UserError(
            "train.sync_batchnorm=True needs GPUs: torch's SyncBatchNorm does not run on a CPU; leave it out, and "
            "every process has its own statistics, or use one process"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(model)


def batch_norm_note(model: nn.Module, processes: int, batch_size: int) -> str:
    """What the user should know of BatchNorm in several processes; "" where there is nothing."""
    layers = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    own = sum(not isinstance(layer, nn.SyncBatchNorm) for layer in layers)
    if processes == 1 or not own:
        return ""
    return (
        f"{own} BatchNorm layers have statistics per process: each of {processes} normalises by about "
        f"{batch_size // processes} of a batch's {batch_size} samples, and the first one's running statistics are "
        f"evaluated and saved. On GPUs train.sync_batchnorm=True normalises by the whole batch"
    )


@dataclass(frozen=True)
class Step:
    """The results of one optimiser step.

    Args:
        images: number of images of all processes.
        means: this process' part of the means of loss and metrics (the sum over the processes is the mean), still on
            the device.
        norm: of all gradients before they were clipped; None without clipping.
        taken: False where the gradient scaler left the step out.
        unused: parameters without a gradient, of a process' first step alone.
    """

    images: int
    means: dict[str, Tensor]
    norm: Tensor | None
    taken: bool
    unused: tuple[str, ...] = ()


def train_step(learner: Learner, group: list[tuple[Any, Any]], images: int) -> Step:
    """Take one optimiser step on the batches of `group`; `images` counts the images of all processes."""
    fabric, max_norm = learner.fabric, learner.config.clip_grad_norm
    means: dict[str, Tensor] = {}
    for index, (inputs, targets) in enumerate(group):
        share = count_images(inputs) / images
        with fabric.no_backward_sync(learner.wrapped, enabled=index < len(group) - 1):
            loss, metrics = _loss(learner, *fabric.to_device((inputs, targets)))
            # DDP averages over the processes; times their number this is the sum, however uneven their shares.
            weight = share * fabric.world_size
            fabric.backward(loss if weight == 1 else loss * weight)
        for name, value in {**metrics, "loss": loss}.items():
            part = torch.as_tensor(value, dtype=torch.float32, device=fabric.device).detach() * share
            means[name] = means[name] + part if name in means else part
    unused: tuple[str, ...] = ()
    if learner.steps.count == 0:
        unused = tuple(name for name, value in learner.model.named_parameters() if _lacks_gradient(value))
    norm = None
    if max_norm is not None:
        # Not checked here, which would wait for a GPU at every step; the reader of the losses checks it.
        norm = fabric.clip_gradients(
            learner.wrapped, learner.optimizer, max_norm=max_norm, error_if_nonfinite=False
        )
    before = learner.steps.count
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    taken = learner.steps.count > before
    if learner.ema is not None and taken:
        learner.ema.update_parameters(learner.model)
    return Step(images, means, norm, taken, unused)


def _lacks_gradient(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.grad is None


def settle_average(learner: Learner, batches: Iterable[Any]) -> None:
    """Give the running average its own batch-norm statistics, measured on the inputs of `batches`.

    In full precision, like its evaluation. Every process must call this.
    """
    assert learner.ema is not None
    fabric = learner.fabric

    def forward(module: nn.Module, inputs: Any) -> None:
        call(module, _laid_out(learner, fabric.to_device(inputs)))

    recompute_statistics(
        learner.ema.module,
        forward,
        batches,
        lambda value: cast(Tensor, fabric.all_reduce(value, reduce_op="mean")),
    )


def _loss(learner: Learner, inputs: Any, targets: Any) -> tuple[Tensor, Mapping[str, Tensor | float]]:
    inputs = _laid_out(learner, inputs)
    outputs = call(learner.wrapped, inputs)
    result = learner.loss_fn(outputs, targets)
    loss, metrics = result if isinstance(result, tuple) else (result, {})
    if "loss" in metrics:
        raise UserError("loss_fn must not call a metric 'loss': that is the name of what is minimised")
    if learner.teacher is not None:
        with torch.no_grad(), learner.fabric.autocast():
            expected = call(learner.teacher, inputs)
        loss = distillation_loss(loss, outputs, expected.to(outputs.dtype), learner.distillation)
    return loss, metrics


def _laid_out(learner: Learner, inputs: Any) -> Any:
    return map_tensors(inputs, _channels_last) if learner.config.channels_last else inputs


def count_images(inputs: Any) -> int:
    """The number of images in a batch's inputs: the first dimension of the first tensor."""
    return tensors_in(inputs)[0].shape[0]


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
