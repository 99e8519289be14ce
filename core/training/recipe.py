"""Training recipes as frozen dataclasses: optimiser, schedule and all else that decides a run's result.

The defaults are the published recipe of the heterogeneity hypothesis for ImageNet: SGD, learning rate 0.1,
momentum 0.9, weight decay 1e-4 on every parameter, cosine to 0 in per-epoch steps, 150 epochs of batch 256.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from core.errors import UserError
from core.training.devices import Precision

OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["cosine", "step", "constant"]


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimiser.

    Args:
        name: "sgd", "adam" or "adamw".
        lr: learning rate at the schedule's factor 1.
        momentum: SGD's momentum.
        nesterov: SGD's Nesterov variant.
        weight_decay: applied to every parameter, biases and normalisation included.
        betas: Adam's and AdamW's decay rates.
        eps: Adam's and AdamW's epsilon.
        groups: (module prefix, learning-rate multiplier) pairs; a parameter belongs to the longest prefix of
            its name, and has multiplier 1 where none fits.

    Raises:
        UserError: a value is out of range.
    """

    name: OptimizerName = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    groups: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        require_choice("optimizer.name", self.name, get_args(OptimizerName))
        require_range("optimizer.lr", self.lr, 0, math.inf)
        require_range("optimizer.momentum", self.momentum, 0, 1)
        require_range("optimizer.weight_decay", self.weight_decay, 0, math.inf)
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise UserError(f"optimizer.betas must be at least 0 and below 1, got {beta}")
        require_range("optimizer.eps", self.eps, 0, math.inf)
        for prefix, multiplier in self.groups:
            require_range(f"optimizer.groups '{prefix}'", multiplier, 0, math.inf)
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise UserError("optimizer.nesterov needs name='sgd' and a momentum above 0")


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes from epoch to epoch; it is constant within an epoch.

    Args:
        name: "cosine" (from `lr` towards `min_lr` over the epochs after the warm-up), "step" (times
            `gamma` at each milestone) or "constant".
        milestones: epochs, counted from 0, from which on "step" multiplies by `gamma` once more.
        gamma: factor of "step".
        warmup_epochs: length of the linear warm-up, in epochs.
        warmup_factor: the warm-up's first factor of the learning rate, in (0, 1].
        min_lr: the learning rate towards which "cosine" falls (times the group's multiplier).

    Raises:
        UserError: a value is out of range.
    """

    name: ScheduleName = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_epochs: int = 0
    warmup_factor: float = 0.1
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        require_choice("schedule.name", self.name, get_args(ScheduleName))
        require_range("schedule.gamma", self.gamma, 0, math.inf)
        require_range("schedule.warmup_epochs", self.warmup_epochs, 0, math.inf)
        if not 0 < self.warmup_factor <= 1:
            raise UserError(f"schedule.warmup_factor must be in (0, 1], got {self.warmup_factor}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise UserError(f"schedule.milestones must rise, got {self.milestones}")
        if bool(self.milestones) != (self.name == "step"):
            raise UserError(
                f"schedule.milestones belong to name='step' alone, got {self.milestones} for '{self.name}'"
            )


@dataclass(frozen=True)
class TrainConfig:
    """A training recipe; the defaults are the heterogeneity hypothesis' for ImageNet.

    Args:
        epochs: exactly that many are trained.
        batch_size: images per batch over all processes; the tasks' loaders read it, `fit` takes what comes.
        optimizer: the optimiser.
        schedule: the learning rate over the epochs.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        channels_last: keep 4-D weights and inputs with the channels innermost in memory.
        compile: run the model through torch.compile.
        ema_decay: decay per step of a running average of the weights, in [0, 1), which is then evaluated and saved
            beside the score of the weights themselves; see `core.training.averaging`.
        accumulate: batches per optimiser step; their mean gradient is that of one batch of all their images.
        clip_grad_norm: largest Euclidean norm of all gradients together.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        checkpoint_every_steps: optimiser steps between states on disk; each epoch's end is always one.
        seed: of everything random during training; process `rank` uses `seed` + rank.

    Raises:
        UserError: a value is out of range.
    """

    epochs: int = 150
    batch_size: int = 256
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    precision: Precision = "32-true"
    channels_last: bool = False
    compile: bool = False
    ema_decay: float | None = None
    accumulate: int = 1
    clip_grad_norm: float | None = None
    eval_every: int = 1
    checkpoint_every_steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "eval_every", "checkpoint_every_steps"):
            value = getattr(self, name)
            if value is not None:
                require_range(name, value, 1, math.inf)
        require_choice("precision", self.precision, get_args(Precision))
        require_range("seed", self.seed, 0, 2**63)  # torch takes numbers of 64 bits; repetitions add to it
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise UserError(
                f"ema_decay must be at least 0 and below 1, got {self.ema_decay}: at 1 the average never moves; "
                "use None for no average"
            )
        require_range("schedule.min_lr", self.schedule.min_lr, 0, self.optimizer.lr)
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise UserError(f"clip_grad_norm must be above 0, got {self.clip_grad_norm}")


def cut_short(config: TrainConfig) -> list[str]:
    """What of a schedule lies behind the last epoch, as where `--epochs` is small; sentences."""
    schedule, epochs = config.schedule, config.epochs
    number = f"{epochs} epoch{'s' * (epochs != 1)}"
    lines = []
    if schedule.warmup_epochs >= epochs:
        lines.append(
            f"The warm-up (train.schedule.warmup_epochs={schedule.warmup_epochs}) does not end within "
            f"{number}: the learning rate stays below train.optimizer.lr."
        )
    behind = [str(milestone) for milestone in schedule.milestones if milestone >= epochs]
    if behind:
        lines.append(
            f"{len(behind)} of {len(schedule.milestones)} train.schedule.milestones ({', '.join(behind)}) lie behind "
            f"the last of {number}: the learning rate does not fall there."
        )
    return lines


def require_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise a UserError that names `key` and the allowed values, unless `value` is one of them."""
    if value not in allowed:
        raise UserError(f"{key} must be one of {', '.join(allowed)}; got {value!r}")


def require_range(key: str, value: float, low: float, high: float) -> None:
    """Raise a UserError that names `key`, unless `low` <= `value` <= `high` and it is finite (NaN is neither)."""
    if not low <= value <= high or math.isinf(value):
        finite = "finite and " * math.isinf(value)
        wanted = f"{finite}>= {low}" if high == math.inf else f"between {low} and {high}"
        raise UserError(f"{key} must be {wanted}, got {value}")
