"""What jobs of the tests do. Only the training imports torch: every job is a process that has just been started."""

from __future__ import annotations

import os
from pathlib import Path


def double(number: int) -> int:
    if number == 3:
        raise RuntimeError("no threes")
    return 2 * number


def shown(name: str) -> str | None:
    return os.environ.get(name)


def train(folder: Path) -> int:
    """Train; the first time a signal asks for the end, as SLURM does before a job's time is up."""
    from dataclasses import replace

    import torch

    from tests.core.training.training_runs import DigitsLoader, run, send_signal

    torch.set_num_threads(1)  # as in the process that it is compared with
    loader = DigitsLoader()
    if not (folder / "signalled").exists():
        (folder / "signalled").touch()
        loader = replace(loader, before_batch=send_signal(1, 4, "SIGUSR2"))
    return len(run(folder / "run", loader=loader).history)
