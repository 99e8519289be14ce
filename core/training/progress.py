"""What a training run shows: a bar on a terminal, one line per epoch elsewhere, or nothing."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from core.training.pace import PaceMeter, duration_text
from core.training.run_files import EpochRecord


class TrainingDisplay:
    """Shows epoch, batch, loss, images per second and the time that is left, on standard error.

    Args:
        enabled: False shows nothing but notes.
        epochs: epochs of the whole run.
        batches: batches per epoch.
        meter: estimates the time that is left.
        console: where to write; standard error by default.
    """

    def __init__(
        self, enabled: bool, epochs: int, batches: int, meter: PaceMeter, console: Console | None = None
    ) -> None:
        self._console = console or Console(stderr=True)
        self._enabled, self._epochs, self._batches, self._meter = enabled, epochs, batches, meter
        self._bar: Progress | None = None
        if enabled and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
                       TextColumn("{task.fields[left]}"))  # fmt: skip
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("", total=epochs * batches, left="")
        self._since, self._images = time.perf_counter(), 0

    def __enter__(self) -> TrainingDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start_epoch(self) -> None:
        """Begin to measure the throughput anew."""
        self._since, self._images = time.perf_counter(), 0
        self._meter.start_epoch()

    def advance(self, epoch: int, batch: int, images: int, loss: float) -> None:
        """Show that `batch` batches of epoch `epoch` (from 0) are done, with `images` new images."""
        self._meter.advance(epoch, batch)
        if self._bar is None:
            return
        self._images += images
        rate = self._images / max(time.perf_counter() - self._since, 1e-9)
        text = f"epoch {epoch + 1}/{self._epochs}  batch {batch}/{self._batches}  loss {loss:.4g}"
        text += f"  {rate:.0f} images/s"
        self._bar.update(self._task, completed=epoch * self._batches + batch, description=text,
                         left=self._left(epoch, batch))  # fmt: skip

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if self._enabled:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """Print a line even where no progress is wanted; "" prints nothing."""
        if line:
            self._console.print(f"note: {line}", highlight=False, markup=False, soft_wrap=True)

    def end_epoch(self, record: EpochRecord, images_per_second: float, after: float = 0.0) -> None:
        """Print the line of an epoch.

        Args:
            record: results of the epoch.
            images_per_second: in training.
            after: seconds since its last step.
        """
        self._meter.end_epoch(record.epoch - 1, after, bool(record.eval_metrics))
        if self._enabled:
            values = {"loss": record.train_loss, **record.train_metrics}
            values |= {f"eval {name}": value for name, value in record.eval_metrics.items()}
            values |= {f"raw {name}": value for name, value in record.raw_metrics.items()}
            if record.skipped_steps:
                values["skipped steps"] = record.skipped_steps
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            line = f"epoch {record.epoch}/{self._epochs}  {shown}  {images_per_second:.0f} images/s"
            left = self._left(record.epoch, 0) if record.epoch < self._epochs else ""
            self.say(f"{line}  {left}" if left else line)

    def _left(self, epoch: int, batch: int) -> str:
        seconds = self._meter.left(epoch, batch)
        return "" if not seconds else f"{duration_text(seconds)} left"
