"""What a training run shows: a bar on a terminal, one line per epoch elsewhere, nothing when not wanted."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from core.training.run_files import EpochRecord


class TrainingDisplay:
    """Shows epoch, batch, loss, images per second and the time that is left, on standard error.

    Args:
        enabled: False shows nothing at all.
        epochs: epochs of the whole run.
        batches: batches per epoch.
        console: where to write; standard error by default.
    """

    def __init__(self, enabled: bool, epochs: int, batches: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._enabled, self._epochs, self._batches = enabled, epochs, batches
        self._bar: Progress | None = None
        if enabled and self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, speed_estimate_period=300)
            self._task = self._bar.add_task("", total=epochs * batches)
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

    def advance(self, epoch: int, batch: int, images: int, loss: float) -> None:
        """Show that `batch` batches of epoch `epoch` (from 0) are done, with `images` new images."""
        if self._bar is None:
            return
        self._images += images
        rate = self._images / max(time.perf_counter() - self._since, 1e-9)
        text = f"epoch {epoch + 1}/{self._epochs}  batch {batch}/{self._batches}  loss {loss:.4g}"
        text += f"  {rate:.0f} images/s"
        self._bar.update(self._task, completed=epoch * self._batches + batch, description=text)

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if self._enabled:
            self._console.print(line, highlight=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """Print a line that is to be read where no progress is wanted, too; "" prints nothing."""
        if line:
            self._console.print(f"note: {line}", highlight=False, soft_wrap=True)

    def end_epoch(self, record: EpochRecord, images_per_second: float) -> None:
        """Print the line of an epoch."""
        if self._enabled:
            values = {"loss": record.train_loss, **record.train_metrics}
            values |= {f"eval {name}": value for name, value in record.eval_metrics.items()}
            values |= {f"raw {name}": value for name, value in record.raw_metrics.items()}
            if record.skipped_steps:
                values["skipped steps"] = record.skipped_steps
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            line = f"epoch {record.epoch}/{self._epochs}  {shown}  {images_per_second:.0f} images/s"
            self._console.print(line, highlight=False, soft_wrap=True)
