"""Small networks, one per operation and combination, with channel groups that were derived by hand.

A toy is its modules and a forward function of them; `groups` says, for every free group, its width in channels and the
channels per independent choice. Whatever is not listed has to keep its size. The tables lie in `toys_*.py`.

`toy_task` is a task of an experiment that takes a second: a small network on a few batches of noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from core.experiments.task import Metric, Task
from tests.toy_parts import IMAGE, Net, Toy, channels, conv
from tests.toys_attention import ATTENTION
from tests.toys_blocks import BLOCKS
from tests.toys_computed import COMPUTED
from tests.toys_frozen import FROZEN
from tests.toys_inexact import INEXACT
from tests.toys_layers import LAYERS
from tests.toys_movement import MOVEMENT
from tests.toys_sizes import SIZES

__all__ = ["IMAGE", "TOYS", "Batches", "Net", "Toy", "channels", "conv", "toy_task"]

TOYS: dict[str, Toy] = {**LAYERS, **MOVEMENT, **BLOCKS, **SIZES, **COMPUTED, **INEXACT, **ATTENTION, **FROZEN}


@dataclass(frozen=True)
class Batches:
    """Batches of noise, the same in every epoch; fulfils `core.training.train.Loader`."""

    batch_size: int = 4
    count: int = 1
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return self.count

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(start, self.count):
            generator = torch.Generator().manual_seed(number)
            images = torch.rand(self.batch_size, 1, 8, 8, generator=generator)
            targets = torch.arange(self.batch_size) % 3
            yield images[self.rank :: self.world], targets[self.rank :: self.world]

    def shard(self, rank: int, world: int) -> Batches:
        return replace(self, rank=rank, world=world)


def toy_task(**changes: Any) -> Task:
    """Two convolutions and a classifier on one batch of noise; `changes` are fields of the task."""
    task = Task(
        name="toy",
        dataset="noise",
        model_name="net",
        build=lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(),
                                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3)),
        example_inputs=torch.zeros(1, 1, 8, 8),
        train_loader=lambda batch_size, seed: Batches(batch_size),
        loss_fn=nn.functional.cross_entropy,
        evaluate=lambda model: {"error": 1.0},
        metrics=(Metric("error", "error", higher_is_better=False),),
        curves=("loss", "error", "error"),
    )  # fmt: skip
    return replace(task, **changes)
