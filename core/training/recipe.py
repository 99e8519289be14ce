"""Training recipes as frozen dataclasses: optimiser, schedule and all else that decides a run's result.

The defaults are the published recipe of the heterogeneity hypothesis for ImageNet: SGD, learning rate 0.1,
momentum 0.9, weight decay 1e-4 on every parameter, cosine to 0 in per-epoch steps, 150 epochs of batch 256.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from core.errors import UserError, check_known
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
        check_known("unknown optimizer.name", [self.name], get_args(OptimizerName))
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
        milestones: epochs, counted from 0, at which "step" multiplies by `gamma` once more.
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
        check_known("unknown schedule.name", [self.name], get_args(ScheduleName))
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
        epochs: number of epochs that are trained.
        batch_size: images per batch over all processes; the tasks' loaders read it, `fit` takes any batch.
        optimizer: the optimiser.
        schedule: the learning rate over the epochs.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        channels_last: keep 4-D weights and inputs with the channels innermost in memory.
        compile: run the model through torch.compile.
        ema_decay: decay per step of a running average of the weights, in [0, 1). The average is then evaluated and
            saved, and the score of the weights themselves stands beside its score; see `core.training.averaging`.
        accumulate: batches per optimiser step, whose mean gradient equals that of one batch of all their images.
        clip_grad_norm: largest Euclidean norm of all gradients together.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        checkpoint_every_steps: optimiser steps between states on disk; a state is always written at an epoch's end.
        seed: of everything random during training; process `rank` uses `seed` + rank.
        sync_batchnorm: with several processes on GPUs, normalise by the whole batch instead of each process' part.
        extended: (until, planned) pairs of a training that was given more epochs: up to epoch `until` its learning
            rates are those of a training of `planned` epochs, and afterwards those of `epochs`. `--resume --epochs`
            writes them (`longer`).

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
    sync_batchnorm: bool = False
    extended: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "eval_every", "checkpoint_every_steps"):
            value = getattr(self, name)
            if value is not None:
                require_range(name, value, 1, math.inf)
        check_known("unknown precision", [self.precision], get_args(Precision))
        require_range("seed", self.seed, 0, 2**63)  # torch takes numbers of 64 bits; repetitions add to it
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise UserError(
                f"ema_decay must be at least 0 and below 1, got {self.ema_decay}: at 1 the average never moves; "
                "use None for no average"
            )
        require_range("schedule.min_lr", self.schedule.min_lr, 0, self.optimizer.lr)
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise UserError(f"clip_grad_norm must be above 0, got {self.clip_grad_norm}")
        stands, before = 0, 0
        for until, planned in self.extended:
            if not (stands < until <= planned and before < planned < self.epochs):
                raise UserError(
                    f"extended={self.extended}: pairs (until, planned) rise, with until <= planned < epochs "
                    f"({self.epochs})"
                )
            stands, before = until, planned

    def planned(self, epoch: int) -> int:
        """The epochs that were planned when epoch `epoch` (from 0) was trained, and on which its schedule is based."""
        return planned_epochs(self.epochs, self.extended, epoch)

    def began(self) -> TrainConfig:
        """The recipe before it was given more epochs."""
        return replace(self, epochs=self.planned(0), extended=())

    def longer(self, epochs: int, until: int) -> TrainConfig:
        """The recipe with more epochs, whose schedule holds from epoch `until` (from 0) on.

        A planned length that was never reached is forgotten.

        Raises:
            UserError: the new number is not larger.
        """
        reached = self.extended[-1][0] if self.extended else 0
        new = ((until, self.epochs),) if until > reached else ()
        return replace(self, epochs=epochs, extended=(*self.extended, *new))

    def decisive(self) -> dict[str, Any]:
        """The recipe as plain data, without what does not affect results; it identifies states and records."""
        recipe = self.plain()
        del recipe["checkpoint_every_steps"]
        return recipe

    def plain(self) -> dict[str, Any]:
        """The recipe as data for headers; entries younger than the first stores and states only if they are set."""
        recipe = asdict(self)
        for young in ("sync_batchnorm", "extended"):
            if not recipe[young]:
                del recipe[young]
        return recipe


def planned_epochs(epochs: int, extended: Sequence[Sequence[int]], epoch: int) -> int:
    """`TrainConfig.planned`, also for a recipe as plain data."""
    return next((planned for until, planned in extended if epoch < until), epochs)


def require_range(key: str, value: float, low: float, high: float) -> None:
    """Raise a UserError that names `key`, unless `low` <= `value` <= `high` and it is finite (NaN is neither)."""
    if not low <= value <= high or math.isinf(value):
        finite = "finite and " * math.isinf(value)
        wanted = f"{finite}>= {low}" if high == math.inf else f"between {low} and {high}"
        raise UserError(f"{key} must be {wanted}, got {value}")
