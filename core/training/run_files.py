"""The files of a training run, and the records of its epochs in them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError
from core.storage.files import atomic_write, file_alone, from_words, json_text, naming
from core.storage.schema import lower

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

DIVERGENCES = "divergences.json"  # see `core.training.divergence`


@dataclass(frozen=True)
class EpochRecord:
    """The results of one epoch.

    Args:
        epoch: counted from 1.
        lr: learning rate (of parameters outside all groups).
        train_loss: mean over the epoch's images, as seen while training.
        train_metrics: means of the loss function's metrics over the epoch's images.
        eval_metrics: what `evaluate` returned, empty in epochs without an evaluation.
        seconds: wall time of training and evaluation.
        images: training images seen.
        first_loss: loss of the epoch's first step; None in logs of earlier releases.
        raw_metrics: what `evaluate` returned for the weights themselves, where `eval_metrics` belong to their average.
        skipped_steps: optimiser steps left out because scaled gradients overflowed (precision 16-mixed).
    """

    epoch: int
    lr: float
    train_loss: float
    train_metrics: dict[str, float]
    eval_metrics: dict[str, float]
    seconds: float
    images: int
    first_loss: float | None = None
    raw_metrics: dict[str, float] = field(default_factory=dict)
    skipped_steps: int = 0


@dataclass(frozen=True)
class RunFiles:
    """The files that `fit` writes into its work directory."""

    folder: Path

    @property
    def state(self) -> Path:
        """The full state of the run, for resuming."""
        return self.folder / "last.safetensors"

    @property
    def previous(self) -> Path:
        """The state before the last one, to go back to if the last turns out bad; removed when the run ends."""
        return self.folder / "previous.safetensors"

    @property
    def weights(self) -> Path:
        """The final weights."""
        return self.folder / "model.safetensors"

    @property
    def log(self) -> Path:
        """One JSON object per epoch and line."""
        return self.folder / "log.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.folder / "tensorboard"

    def clear(self) -> None:
        """Remove what an earlier run left, so that all files belong to one run."""
        events = self.tensorboard.glob("events.out.tfevents.*")
        for path in (self.state, self.previous, self.weights, self.log, *events):
            path.unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Keep the last state, if there is one, as the previous one, before a new one is written."""
        if self.state.exists():
            os.replace(self.state, self.previous)

    def set_weights_aside(self, epochs: int) -> None:
        """Before a training gets more epochs, keep its weights under a name with the number of epochs so far."""
        if self.weights.exists():
            os.replace(self.weights, self.folder / f"{self.weights.stem}-{epochs}-epochs.safetensors")

    def recover(self) -> None:
        """Take the previous state if a process was killed right after setting the last one aside."""
        if not self.state.exists() and self.previous.exists():
            os.replace(self.previous, self.state)

    def fall_back(self, good: bool) -> None:
        """After a divergence, leave only a state from which the run can go on, if there is one.

        Args:
            good: whether the last state is known to be such a state; if not, the previous one replaces it.
        """
        if not good:
            self.state.unlink(missing_ok=True)
        self.recover()

    def restore_log(self, history: list[EpochRecord]) -> str:
        """Write the log that belongs to a resumed state; returns what was wrong with the old log, "" for nothing.

        A log that is ahead of its state comes from a process that was killed between the two: it is cut silently.
        """
        wrong = ""
        try:
            found = len(read_history(self.folder))
            if found < len(history):
                wrong = f"has {found} of {len(history)} epochs" if self.log.exists() else "is gone"
        except UserError:
            wrong = "is damaged"
        self.write_log(history)
        return wrong and f"'{self.log}' {wrong}: written anew from '{self.state}'"

    def write_log(self, history: list[EpochRecord]) -> None:
        """Write the log anew from the history, so that a resumed run neither repeats nor loses a line."""
        with atomic_write(self.log) as file:
            for record in history:
                file.write(json_text(dataclasses.asdict(record)) + "\n")

    def open_tensorboard(self, epoch: int) -> SummaryWriter:
        """Make a writer that goes on after `epoch` epochs; TensorBoard drops what was written beyond them."""
        from torch.utils.tensorboard import SummaryWriter

        with naming(self.tensorboard):
            return SummaryWriter(self.tensorboard, purge_step=epoch + 1)


def write_scalars(writer: SummaryWriter, record: EpochRecord) -> None:
    """Add an epoch's numbers to TensorBoard, on disk before this returns."""
    train = {"loss": record.train_loss, "lr": record.lr, **record.train_metrics}
    with naming(writer.log_dir):
        for part, values in (
            ("train", train),
            ("eval", record.eval_metrics),
            ("eval_raw", record.raw_metrics),
        ):
            for name, value in values.items():
                writer.add_scalar(f"{part}/{name}", value, record.epoch)
        writer.flush()
    writer.flush()


def training_notes(history: Sequence[EpochRecord]) -> list[str]:
    """What readers of the results should know about a finished training, one sentence each."""
    notes = []
    first, last = (history[0].first_loss, history[-1].train_loss) if history else (None, 0.0)
    if first is not None and not last <= first:
        notes.append(
            f"did not learn: the training loss is {last:.4g} in the last epoch and was {first:.4g} at the first step"
        )
    if skipped := sum(record.skipped_steps for record in history):
        notes.append(f"{skipped} optimiser steps were left out, as scaled gradients overflowed (16-mixed)")
    return notes


def read_history(folder: str | Path) -> tuple[EpochRecord, ...]:
    """The epochs that the run in `folder` has finished, from its log; none if it was never started.

    Raises:
        UserError: the log is damaged; the message names the line.
    """
    path = RunFiles(Path(folder)).log
    if not path.exists():
        return ()
    records: list[EpochRecord] = []
    try:
        with file_alone():
            content = path.read_bytes()
    except ValueError as error:
        raise UserError(
            f"log '{path}' cannot be read: {error}; remove it, and --resume writes it anew"
        ) from error
    for number, line in enumerate(content.splitlines(), 1):
        try:
            records.append(lower(from_words(json.loads(line)), EpochRecord))
            if records[-1].epoch != number:
                raise ValueError(f"it belongs to epoch {records[-1].epoch!r}")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(
                f"'{path}', line {number}, is damaged: {type(error).__name__}: {error}; there is one line for every "
                f"epoch: --resume writes it anew from '{path.with_name('last.safetensors')}'"
            ) from error
    return tuple(records)
