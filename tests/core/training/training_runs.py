"""Small runs on scikit-learn's handwritten digits, for the tests of the training loop.

As a script it runs in processes of its own: `python training_runs.py killed FOLDER` kills itself in mid-epoch,
`torchrun --nproc_per_node=2 training_runs.py processes FOLDER` trains in two processes.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import NonFiniteOutput, UserError
from core.interruption import Preempted
from core.training.devices import gathered, is_first_process, shared_out
from core.training.train import (
    FitResult,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    TrainingDiverged,
    fit,
    make_fabric,
)

# Three epochs with all that has a state: momentum, a running average, batch norm (below), dropout (below).
RECIPE = TrainConfig(
    epochs=3,
    batch_size=32,
    optimizer=OptimizerConfig(lr=0.05),
    schedule=ScheduleConfig("cosine"),
    ema_decay=0.9,
    checkpoint_every_steps=3,
    seed=5,
)


@dataclass(frozen=True)
class DigitsLoader:
    """The first `count` digits in an order drawn anew for each epoch; `part` of `parts` of each batch."""

    batch_size: int = 32
    count: int = 320
    part: int = 0
    parts: int = 1
    before_batch: Callable[[int, int], object] = lambda epoch, batch: None

    def __len__(self) -> int:
        return (self.count + self.batch_size - 1) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = load_digits(return_X_y=True)
        pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
        order = np.random.default_rng([11, epoch]).permutation(self.count)
        for batch in range(start, len(self)):
            self.before_batch(epoch, batch)
            indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            mine = np.array_split(indices, self.parts)[self.part]
            yield pixels[mine], torch.tensor(labels[mine])

    def shard(self, rank: int, world: int) -> DigitsLoader:
        return replace(self, part=rank, parts=world)


def network(dropout: float = 0.3, normalise: bool = True, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8) if normalise else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16) if normalise else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


class WithUnused(nn.Module):
    """A network with a layer that no output depends on, or only where a batch has an even number of bright images."""

    def __init__(self, sometimes: bool = False) -> None:
        super().__init__()
        self.used, self.sometimes = network(0.0, normalise=False), sometimes
        self.unused = nn.Linear(10, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        outputs: Tensor = self.used(images)
        bright = int((images.mean(dim=(1, 2, 3)) > 0.3).sum())
        return self.unused(outputs) if self.sometimes and bright % 2 == 0 else outputs


def cross_entropy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return F.cross_entropy(outputs, targets), {"accuracy": (outputs.argmax(1) == targets).float().mean()}


def held_out_accuracy(model: nn.Module) -> dict[str, float]:
    images, labels = load_digits(return_X_y=True)
    outputs = model(torch.tensor(images[1500:], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16)
    return {"top1": (outputs.argmax(1) == torch.tensor(labels[1500:])).float().mean().item()}


def run(work_dir: Any, **changes: Any) -> FitResult:
    """RECIPE on the digits; `changes` go to `fit`, or replace its model, loader or parts of the recipe."""
    recipe = replace(RECIPE, **changes.pop("recipe", {}))
    model, loader = changes.pop("model", None), changes.pop("loader", None)
    fabric = changes.pop("fabric", None) or make_fabric("cpu", recipe.precision)
    return fit(
        network() if model is None else model,
        DigitsLoader() if loader is None else loader,
        cross_entropy,
        recipe,
        work_dir=work_dir,
        **{"evaluate": held_out_accuracy, "progress": False, "fabric": fabric, **changes},
    )


def send_signal(at_epoch: int, at_batch: int, name: str) -> Callable[[int, int], None]:
    """For `before_batch`: a signal to this process while it loads that batch."""

    def before_batch(epoch: int, batch: int) -> None:
        if (epoch, batch) == (at_epoch, at_batch):
            signal.raise_signal(signal.Signals[name])

    return before_batch


def in_two_processes(folder: Path) -> None:
    """Runs for test_train_processes: one comparable with a single process, one whole and one interrupted."""
    fabric = make_fabric("cpu", devices=2)
    values = [sorted(value) for value in gathered({f"file {fabric.global_rank}", "both"})]
    judged: list[int] = []

    def square(number: int) -> int:
        judged.append(number)
        return number**2

    def refuse(number: int) -> None:
        if number == 3:  # the second process' to judge
            raise UserError("3 is no square")

    squares = shared_out(range(5), square)
    problem = None
    try:
        shared_out(range(5), refuse)
    except UserError as error:
        problem = str(error)
    told = {
        "first": is_first_process(),
        "values": values,
        "squares": squares,
        "judged": judged,
        "problem": problem,
    }
    (folder / f"gathered{fabric.global_rank}.json").write_text(json.dumps(told))
    even = network(0.0, normalise=False)
    run(folder / "plain", model=even, loader=DigitsLoader(count=309), fabric=fabric)
    run(folder / "whole", fabric=fabric)
    loader = DigitsLoader()
    if fabric.is_global_zero:  # the other process must learn of it
        loader = replace(loader, before_batch=send_signal(1, 4, "SIGUSR1"))
    try:
        run(folder / "stopped", loader=loader, fabric=fabric)
    except Preempted as stop:
        print(f"process {fabric.global_rank} was interrupted by {stop}")
    run(folder / "stopped", model=network(seed=77), fabric=fabric)

    for name, model in (("unused", WithUnused()), ("sometimes", WithUnused(sometimes=True))):
        run(folder / name, model=model, fabric=fabric)

    def evaluate(model: nn.Module) -> dict[str, float]:
        if fabric.global_rank == 1:  # the first process has nothing to complain of
            raise NonFiniteOutput("2 of 2 answers are NaN")
        return {}

    try:
        run(folder / "diverged", evaluate=evaluate, fabric=fabric)
    except TrainingDiverged as error:
        (folder / f"diverged{fabric.global_rank}").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    scenario, work_dir = sys.argv[1], Path(sys.argv[2])
    if scenario == "killed":
        run(work_dir, loader=DigitsLoader(before_batch=send_signal(1, 7, "SIGKILL")))
    else:
        in_two_processes(work_dir)
