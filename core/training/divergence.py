"""Trainings whose numbers stopped being finite: the error, its record on disk, and going on at a lower rate.

`divergences.json`, beside the states, records this. With it a resumed run may change its recipe in one thing, a lower
learning rate, and reports say that there was a divergence.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.storage.files import from_words, read_json, write_json
from core.storage.schema import lower
from core.training.recipe import TrainConfig
from core.training.run_files import DIVERGENCES as FILE
from core.training.run_files import RunFiles


@dataclass(frozen=True)
class Divergence:
    """One divergence of a training, and what followed.

    Args:
        what: what was not finite.
        epoch: in which it was seen, counted from 1.
        step: optimiser steps taken by then.
        lr: the recipe's learning rate (without the schedule's factor).
        kept_step: steps of the state to which the training went back; 0 where it starts anew.
        lowered_to: the recipe's learning rate from that state on; None while nobody has lowered it.
    """

    what: str
    epoch: int
    step: int
    lr: float
    kept_step: int
    lowered_to: float | None = None

    def __str__(self) -> str:
        text = f"diverged at step {self.step} (epoch {self.epoch}) at learning rate {self.lr:g}: {self.what}"
        if self.lowered_to is None:
            return f"{text}; continued at the same rate"
        start = f"from step {self.kept_step} on" if self.kept_step else "started anew"
        return f"{text}; {start} at {self.lowered_to:g}"


class TrainingDiverged(RuntimeError):
    """Numbers of a training stopped being finite. The message is one line: what, where, what is kept, what to do.

    Args:
        divergence: what happened.
        lr: the learning rate of that step.
        kept: the state from which the training can go on, in words; None if there is none.
        least: the lowest learning rate that the recipe allows.
        trial: name of the training within an experiment.
    """

    def __init__(
        self, divergence: Divergence, lr: float, kept: str | None, *, least: float = 0.0, trial: str = ""
    ) -> None:
        self.divergence, self.step, self.lr = divergence, divergence.step, lr
        self.kept, self.least, self.trial = kept, least, trial
        lower = f"--resume and --cfg-options train.optimizer.lr={max(divergence.lr / 10, least):.3g}"
        where = f"step {divergence.step} (epoch {divergence.epoch}), learning rate {lr:.3g}"
        if kept is None:
            left = f"there is no good state to return to; {lower} starts this training anew at a lower rate"
        else:
            left = f"the last good state, {kept}, is kept; {lower} goes on from it at a lower rate"
        super().__init__(
            f"{f'{trial}: ' if trial else ''}training diverged: {divergence.what} at {where}; {left}; "
            "a new run may also add warm-up epochs or set clip_grad_norm"
        )

    def of(self, trial: str) -> TrainingDiverged:
        """The same error with the training's name in front."""
        return TrainingDiverged(self.divergence, self.lr, self.kept, least=self.least, trial=trial)


def read_divergences(folder: str | Path) -> tuple[Divergence, ...]:
    """The divergences of the training in `folder`, in order; none where it has not diverged.

    Raises:
        UserError: the record is damaged.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return ()
    try:
        record: tuple[Divergence, ...] = lower(from_words(read_json(path)), tuple[Divergence, ...])
        if not record:
            raise ValueError("it is a list of divergences, each with its step and its learning rate")
        return record
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"'{path}' is damaged: restore it from a copy, or start the training anew: {error}"
        ) from error


def write_divergences(folder: str | Path, divergences: tuple[Divergence, ...]) -> None:
    """Write the record; an empty record removes the file."""
    path = Path(folder) / FILE
    if divergences:
        write_json(path, [dataclasses.asdict(divergence) for divergence in divergences])
    else:
        path.unlink(missing_ok=True)


def added(divergences: tuple[Divergence, ...], new: Divergence) -> tuple[Divergence, ...]:
    """The record with a new divergence, which replaces one after which nobody lowered the rate: it happened again."""
    earlier = divergences[:-1] if awaits_lower_rate(divergences) else divergences
    return (*earlier, new)


def awaits_lower_rate(divergences: tuple[Divergence, ...]) -> bool:
    """Whether a divergence is the last thing on record, with no lower rate after it."""
    return bool(divergences) and divergences[-1].lowered_to is None


def goes_on_lower(folder: str | Path) -> bool:
    """Whether the training in `folder` ended with a divergence; a training that has since finished did not."""
    return not RunFiles(Path(folder)).weights.exists() and awaits_lower_rate(read_divergences(folder))


def settle_rate(
    config: TrainConfig, divergences: tuple[Divergence, ...]
) -> tuple[TrainConfig, TrainConfig, tuple[Divergence, ...]]:
    """The recipe with which a training that may have diverged goes on.

    Args:
        config: the recipe that is asked for: the one with which the training began, or that one at a lower rate.
        divergences: the training's record.

    Returns:
        The recipe at the rate that holds now, the recipe with which the training began, and the record after this. The
        first rate is allowed, the present one and, after a divergence, a lower one. A `config` with any other rate is
        another recipe: it is returned as it is, with an empty record.
    """
    if not divergences:
        return config, config, ()
    first, last, wanted = divergences[0].lr, divergences[-1], config.optimizer.lr
    present = last.lr if last.lowered_to is None else last.lowered_to
    if last.lowered_to is None and wanted < present:
        divergences, present = (*divergences[:-1], replace(last, lowered_to=wanted)), wanted
    elif wanted not in (first, present):
        return config, config, ()
    return with_rate(config, present), with_rate(config, first), divergences


def with_rate(config: TrainConfig, lr: float) -> TrainConfig:
    """The recipe with another learning rate."""
    return replace(config, optimizer=replace(config.optimizer, lr=lr))


def lowered_rate(config: Any, stored: Any, folder: Path) -> tuple[Any, float | None]:
    """Allow a learning rate below the stored protocol's after a divergence, and no other change.

    Args:
        config: the protocol that is asked for; its field `train` is a `TrainConfig`.
        stored: the protocol in the work directory, or None.
        folder: the work directory.

    Returns:
        The stored protocol and the rate for the trainings in `folder` that have diverged; or `config` and None.
    """
    if stored is None:
        return config, None
    wanted, before = config.train.optimizer.lr, stored.train.optimizer.lr
    if not wanted < before or replace(config, train=with_rate(config.train, before)) != stored:
        return config, None
    diverged = [path.parent for path in folder.rglob(FILE)]
    if any(goes_on_lower(place) or read_divergences(place)[-1].lowered_to == wanted for place in diverged):
        return stored, wanted
    return config, None
