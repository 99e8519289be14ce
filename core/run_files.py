"""The files of a training run, and what they say about its epochs."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.files import atomic_write, json_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave.

    Args:
        epoch: counted from 1.
        lr: learning rate (of parameters outside all groups).
        train_loss: mean over the epoch's images, as seen while training.
        train_metrics: means of the loss function's metrics over the epoch's images.
        eval_metrics: what `evaluate` returned, empty in epochs without an evaluation.
        seconds: wall time of training and evaluation.
        images: training images seen.
    """

    epoch: int
    lr: float
    train_loss: float
    train_metrics: dict[str, float]
    eval_metrics: dict[str, float]
    seconds: float
    images: int


@dataclass(frozen=True)
class RunFiles:
    """The files that `fit` writes into its work directory."""

    folder: Path

    @property
    def state(self) -> Path:
        """The full state of the run, for resuming."""
        return self.folder / "last.safetensors"

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
        """Remove what an earlier run left, so that no file speaks of another run than the rest."""
        for path in (self.state, self.weights, self.log, *self.tensorboard.glob("events.out.tfevents.*")):
            path.unlink(missing_ok=True)

    def remove_partial_writes(self) -> None:
        """Remove the temporary files of a process that was killed while it wrote."""
        for path in (self.state, self.weights, self.log):
            for partial in self.folder.glob(f".{path.name}.*.tmp"):
                partial.unlink(missing_ok=True)

    def write_log(self, history: list[EpochRecord]) -> None:
        """Write the log anew from the history: a resumed run can neither repeat nor lose a line."""
        with atomic_write(self.log) as file:
            for record in history:
                file.write(json_text(dataclasses.asdict(record)) + "\n")

    def open_tensorboard(self, epoch: int) -> SummaryWriter:
        """Make a writer that goes on after `epoch` epochs; TensorBoard drops what was written beyond."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self.tensorboard, purge_step=epoch + 1)


def write_scalars(writer: SummaryWriter, record: EpochRecord) -> None:
    """Add an epoch's numbers to TensorBoard, on disk before this returns."""
    writer.add_scalar("train/loss", record.train_loss, record.epoch)
    writer.add_scalar("train/lr", record.lr, record.epoch)
    for name, value in record.train_metrics.items():
        writer.add_scalar(f"train/{name}", value, record.epoch)
    for name, value in record.eval_metrics.items():
        writer.add_scalar(f"eval/{name}", value, record.epoch)
    writer.flush()


def read_history(folder: str | Path) -> tuple[EpochRecord, ...]:
    """The epochs that the run in `folder` has finished, from its log; none where it was never started."""
    path = RunFiles(Path(folder)).log
    if not path.exists():
        return ()
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        for key in ("lr", "train_loss", "seconds"):
            values[key] = float(values[key])
        for key in ("train_metrics", "eval_metrics"):
            values[key] = {name: float(value) for name, value in values[key].items()}
        records.append(EpochRecord(**values))
    return tuple(records)
