"""Optimisers and learning rates, built from a recipe."""

from __future__ import annotations

import difflib
import math
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from core.errors import UserError
from core.training.recipe import OptimizerConfig, TrainConfig


def learning_rate_factor(config: TrainConfig, epoch: int) -> float:
    """The factor of the learning rate in an epoch, counted from 0.

    A closed form instead of a scheduler object: it has no state that a resumed run could get wrong.
    """
    schedule, lr, epochs = config.schedule, config.optimizer.lr, config.planned(epoch)
    warmup = schedule.warmup_epochs
    if epoch < warmup:
        return schedule.warmup_factor + (1 - schedule.warmup_factor) * epoch / warmup
    if schedule.name == "step":
        return schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)
    if schedule.name == "cosine":
        end = schedule.min_lr / lr if lr > 0 else 0.0
        return end + (1 - end) * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2
    return 1.0


def schedule_notes(config: TrainConfig) -> list[str]:
    """Where a training departs from what its recipe suggests, or changes on the way: one sentence each."""
    schedule, epochs = config.schedule, config.epochs
    notes = []

    def rate(epoch: int) -> str:
        return f"{config.optimizer.lr * learning_rate_factor(config, epoch):.3g} in epoch {epoch + 1}"

    if schedule.warmup_epochs >= epochs:
        notes.append(
            f"the warm-up of {_epochs(schedule.warmup_epochs)} is not over in {epochs}: the learning rate ends with "
            f"{rate(epochs - 1)}, below the recipe's {config.optimizer.lr:g}"
        )
    late = [milestone for milestone in schedule.milestones if milestone >= epochs]
    if late:
        named = ", ".join(map(str, late))
        notes.append(
            f"milestone{'s' * (len(late) > 1)} {named} (counted from 0) come{'s' * (len(late) == 1)} after the last of "
            f"{_epochs(epochs)}: the learning rate is not lowered there"
        )
    early = [milestone for milestone in schedule.milestones if milestone < schedule.warmup_epochs < epochs]
    if early:
        named = ", ".join(map(str, early))
        notes.append(
            f"milestone{'s' * (len(early) > 1)} {named} lie{'s' * (len(early) == 1)} within the warm-up of "
            f"{_epochs(schedule.warmup_epochs)}: the learning rate is lowered at its end"
        )
    for number, (until, planned) in enumerate(config.extended):
        more = [*(pair[1] for pair in config.extended[number + 1 :]), epochs][0]
        notes.append(
            f"extended from {planned} to {more} epochs: up to epoch {until} the learning rates are those of "
            f"{_epochs(planned)} ({rate(until - 1)}), then those of {more} ({rate(until)}), by the schedule "
            f"'{schedule.name}'"
        )
    return notes


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' * (number != 1)}"


def set_learning_rate(optimizer: Optimizer, config: OptimizerConfig, factor: float) -> float:
    """Set every group's rate to lr · its multiplier · `factor`; return lr · `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["lr_multiplier"] * factor
    return config.lr * factor


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Build the optimiser over `model`'s parameters that require a gradient, grouped by `config.groups`.

    Raises:
        UserError: no parameter requires a gradient, or a group's prefix fits none.
    """
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    parameter_groups = _parameter_groups(model, config.groups)
    if config.name == "sgd":
        return SGD(parameter_groups, momentum=config.momentum, nesterov=config.nesterov, **options)
    adam = Adam if config.name == "adam" else AdamW
    return adam(parameter_groups, betas=config.betas, eps=config.eps, **options)


def _parameter_groups(model: nn.Module, groups: tuple[tuple[str, float], ...]) -> list[dict[str, Any]]:
    multipliers = {"": 1.0, **dict(groups)}
    members: dict[str, list[nn.Parameter]] = {prefix: [] for prefix in multipliers}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            fitting = [
                prefix for prefix in multipliers if f"{name}.".startswith(f"{prefix}." if prefix else "")
            ]
            members[max(fitting, key=len)].append(parameter)
    if not any(members.values()):
        raise UserError(
            f"{type(model).__name__} has no parameter that requires a gradient: there is nothing to train"
        )
    for prefix, parameters in members.items():
        if prefix and not parameters:
            names = [name for name, _ in model.named_modules() if name]
            close = difflib.get_close_matches(prefix, names, n=3) or names[:3]
            raise UserError(
                f"optimizer.groups: no trainable parameter under '{prefix}'; modules: {', '.join(close)}, …"
            )
    return [
        {"params": parameters, "lr_multiplier": multipliers[prefix]}
        for prefix, parameters in members.items()
        if parameters
    ]
