"""Everything that a training run needs to go on at any step as if it had never stopped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from core.differences import differences
from core.errors import UserError
from core.storage.checkpoint import load_state, read_values, save_state
from core.training.recipe import planned_epochs
from core.training.run_files import EpochRecord
from core.training.seeding import random_state, restore_random_state

AVERAGING = "averaging"  # in a state's identity: how the running average is made


@dataclass
class Position:
    """Where a run stands, between two optimiser steps."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    first_loss: float | None = None
    skipped: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[EpochRecord] = field(default_factory=list)

    def next_epoch(self, record: EpochRecord) -> None:
        """Close the epoch with its record."""
        self.history.append(record)
        self.epoch, self.batch, self.images, self.seconds, self.sums = self.epoch + 1, 0, 0, 0.0, {}
        self.first_loss, self.skipped = None, 0


@dataclass(frozen=True)
class RunState:
    """The live objects of a run whose state a checkpoint holds.

    Args:
        fabric: devices and processes; its gradient scaler has a state.
        model: the network that is trained.
        optimizer: the bare optimiser, not Fabric's wrapper.
        ema: the running average of the weights, or None.
        position: where the run stands.
        identity: what must be equal for a state to be resumed.
        control: process group (gloo) for the few numbers that must not wait for a GPU; None with one process.
        infinite: buffers that hold infinities by design, such as an attention mask.
    """

    fabric: Fabric
    model: nn.Module
    optimizer: Optimizer
    ema: AveragedModel | None
    position: Position
    identity: Mapping[str, Any]
    control: Any = None
    infinite: frozenset[str] = frozenset()

    def not_finite(self) -> str | None:
        """Which tensors of this state are not finite, in words; None if all are finite. Every process must call this.

        One reduction over all floating-point tensors (the largest magnitude, which cannot overflow as a sum of squares
        does); they are looked at one by one only if that is not finite.
        """
        tensors = dict(_floating(self.model, self.infinite))
        names: dict[Any, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        if self.ema is not None:
            average = _floating(self.ema.module, self.infinite)
            tensors |= {f"average of {name}": value for name, value in average}
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
                    tensors[f"{key} of {names.get(parameter, 'a parameter')}"] = value
        bad: list[str] = []
        if tensors and not get_total_norm(tensors.values(), norm_type=math.inf).isfinite():
            bad = [name for name, value in tensors.items() if not value.isfinite().all()]
        found = (
            f"{len(bad)} of {len(tensors)} tensors of the state not finite, such as '{bad[0]}'"
            if bad
            else None
        )
        return self.first(found)

    def first(self, problem: str | None) -> str | None:
        """The problem of the first process that has one; every process must call this."""
        if self.control is None:
            return problem
        problems: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(problems, problem, group=self.control)
        return next((problem for problem in problems if problem is not None), None)

    def save(self, path: Path) -> None:
        """Write the state; every process must call this, and the first one writes."""
        generators = self._gather_random_states()
        if self.fabric.is_global_zero:
            position = {key.name: getattr(self.position, key.name) for key in dataclasses.fields(Position)}
            position["history"] = [dataclasses.asdict(record) for record in self.position.history]
            state = {
                "identity": self.identity,
                "model": self.model.state_dict(),
                "ema": None if self.ema is None else self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.fabric.strategy.precision.state_dict(),
                "random": generators,
                "position": position,
            }
            save_state(path, state)

    def _gather_random_states(self) -> dict[str, Tensor]:
        """The generators' states, stacked over the processes."""
        own = random_state(self.fabric.device)
        if self.control is None:
            return {name: state.unsqueeze(0) for name, state in own.items()}
        gathered: dict[str, Tensor] = {}
        for name, state in own.items():
            states = [torch.empty_like(state) for _ in range(self.fabric.world_size)]
            torch.distributed.all_gather(states, state, group=self.control)
            gathered[name] = torch.stack(states)
        return gathered

    def restore(self, path: Path) -> None:
        """Bring every object to the state in `path`.

        Raises:
            UserError: the file is damaged, belongs to another run or holds values that are not finite; the message
                names the first difference.
        """
        state = load_state(path)
        difference = next(differences(self._of_longer(state), self.identity), None)
        if difference is not None:
            what = str(difference)
            if difference.key == AVERAGING and difference.there is None:
                what = f"an earlier release averaged its weights otherwise ({AVERAGING} is now {difference.here!r})"
            raise UserError(
                f"'{path}' belongs to another run: {what}; resume with the same settings, "
                "use another work directory or start anew with resume=False"
            )
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        _match_memory_format(self.optimizer)
        if state["scaler"]:
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
        generators = {name: states[self.fabric.global_rank] for name, states in state["random"].items()}
        restore_random_state(generators, self.fabric.device)
        history = [EpochRecord(**record) for record in state["position"].pop("history")]
        for name, value in {**state["position"], "history": history}.items():
            setattr(self.position, name, value)
        if problem := self.not_finite():
            raise UserError(
                f"'{path}' cannot be resumed: {problem}; the run had diverged: start it anew in another work "
                "directory, with a lower learning rate"
            )

    def _of_longer(self, state: dict[str, Any]) -> Any:
        """The identity of a state; this run's if the two differ only in epochs that the state has not seen.

        A training that is given more epochs goes on from states of the shorter one.
        """
        identity: Any = state.get("identity")
        try:
            own, recipe, position = identity["recipe"], self.identity["recipe"], state["position"]
            trained = range(position["epoch"] + (position["batch"] > 0))
            lengths = [
                [planned_epochs(one["epochs"], one.get("extended", ()), epoch) for epoch in trained]
                for one in (own, recipe)
            ]
        except (KeyError, TypeError, AttributeError):  # not our state: reported as a difference
            return identity
        if lengths[0] != lengths[1] or len(trained) > recipe["epochs"]:
            return identity
        length = {key: recipe[key] for key in ("epochs", "extended") if key in recipe}
        return {
            **identity,
            "recipe": {**{key: own[key] for key in own if key != "extended"}, **length},
        }


def epochs_begun(path: Path) -> int:
    """How many epochs the training of a state has begun, from the file's header.

    Raises:
        UserError: the file is damaged.
    """
    try:
        position = read_values(path)["position"]
        return int(position["epoch"]) + (position["batch"] > 0)
    except (KeyError, TypeError) as error:
        raise UserError(f"'{path}' is no training state: it does not say how far the training got") from error


def infinite_buffers(model: nn.Module) -> frozenset[str]:
    """Names of buffers that hold infinities and no NaN, except running statistics, which are measured."""
    statistics = {
        id(value)
        for part in model.modules()
        if isinstance(part, _NormBase)
        for value in part.buffers(recurse=False)
    }
    return frozenset(
        name
        for name, value in model.named_buffers()
        if value.is_floating_point()
        and value.isinf().any()
        and not value.isnan().any()
        and id(value) not in statistics
    )


def _floating(model: nn.Module, but: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() and name not in but:
            yield name, value


def model_identity(model: nn.Module) -> dict[str, list[int]]:
    """Names and shapes of a model's state: they show whether a checkpoint belongs to another network."""
    return {
        name: list(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)
    }


def _match_memory_format(optimizer: Optimizer) -> None:
    """Lay the optimiser's tensors out as the parameters are.

    A checkpoint holds them contiguous; element-wise kernels may round the last bit differently when the
    operands' strides differ, and then a channels-last run would not resume exactly.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
