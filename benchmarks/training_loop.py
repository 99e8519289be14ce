"""`python -m benchmarks.training_loop`: what `core.train.fit` costs beside a bare loop.

One epoch of ResNet-20 on scikit-learn's handwritten digits (8 x 8, batch 64, SGD with momentum) in turns: the bare
loop is forward, cross-entropy, backward and step on batches that lie in memory; `fit` does the same on the same
batches, with all that it does besides: reading the losses, metrics, a checkpoint, the log, TensorBoard.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import machine, machine_text, markdown_table, time_in_turns, write_results
from classification.models import build
from core.train import OptimizerConfig, TrainConfig, fit, make_fabric

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class MemoryLoader:
    """Batches that lie in memory, the same in every epoch."""

    batches: tuple[Batch, ...]

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches from `start` on."""
        yield from self.batches[start:]

    def shard(self, rank: int, world: int) -> MemoryLoader:
        """Every `world`-th image of each batch, from image `rank` on."""
        return MemoryLoader(
            tuple((images[rank::world], labels[rank::world]) for images, labels in self.batches)
        )


def digits(batch_size: int, count: int) -> tuple[Batch, ...]:
    """`count` batches of digits as [batch_size, 1, 8, 8] in 0..1, beginning anew where the 1,797 images end."""
    images, labels = load_digits(return_X_y=True)
    chosen = torch.arange(batch_size * count) % len(labels)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[chosen] / 16
    return tuple(zip(pixels.split(batch_size), torch.tensor(labels)[chosen].split(batch_size)))


def bare_loop(model: nn.Module, batches: tuple[Batch, ...], config: OptimizerConfig) -> Callable[[], None]:
    """Prepare the loop that `fit` is measured against."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )

    def train() -> None:
        model.train()
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return train


def fit_loop(model: nn.Module, batches: tuple[Batch, ...], config: OptimizerConfig) -> Callable[[], None]:
    """Prepare one epoch of `fit` in a new folder."""
    recipe = TrainConfig(epochs=1, batch_size=len(batches[0][0]), optimizer=config)
    fabric = make_fabric("cpu")

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            loader = MemoryLoader(batches)
            fit(model, loader, F.cross_entropy, recipe, work_dir=folder, fabric=fabric, progress=False)

    return train


def main() -> None:
    """Measure, print and, where wanted, write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_loop", description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="timed epochs of each loop (default: 5)")
    parser.add_argument("--batches", type=int, default=120, help="per epoch (default: 120)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--out", type=Path, help="also write OUT.json and OUT.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batches = digits(options.batch_size, options.batches)
    config = OptimizerConfig(lr=0.01)
    model = build("resnet20", 10, dataset="digits")
    outcomes = time_in_turns(
        {
            "bare loop": lambda: bare_loop(model, batches, config),
            "fit": lambda: fit_loop(model, batches, config),
        },
        turns=options.turns,
        warmup=1,
    )
    timings = {name: outcome.timing for name, outcome in outcomes.items() if outcome.timing is not None}
    bare, ours = timings["bare loop"], timings["fit"]
    ratios = {
        "wall time": [a / b for a, b in zip(bare.wall, ours.wall)],
        "processor time": [a / b for a, b in zip(bare.cpu, ours.cpu)],
    }
    rows = [
        (
            name,
            str(timing),
            f"{1e3 * timing.median / len(batches):.2f}",
            f"{1e3 * timing.cpu_median / len(batches):.2f}",
        )
        for name, timing in timings.items()
    ]
    table = markdown_table(("loop", "epoch", "ms per step", "processor ms per step"), rows)
    facts = machine("lightning-fabric")
    speeds = "; ".join(
        f"by {name} median {statistics.median(values):.3f} ({min(values):.3f}–{max(values):.3f})"
        for name, values in ratios.items()
    )
    text = f"{table}\nSpeed of fit relative to the bare loop: {speeds}; {options.turns} turns.\n\n"
    text += f"{machine_text(facts)}\n"
    print(text)
    if options.out is not None:
        result = {name: timing.to_json() for name, timing in timings.items()}
        write_results(options.out, {"loops": result, "ratios": ratios, "machine": facts}, text)


if __name__ == "__main__":
    main()
