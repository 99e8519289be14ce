"""`python -m benchmarks.training_loop`: what `core.training.train.fit` costs beside a bare loop.

One epoch in turns (batch 64, SGD with momentum): the bare loop is forward, cross-entropy, backward and step on batches
that lie ready on the device; `fit` does the same and all that it does besides: reading the losses, metrics, a
checkpoint, the log, TensorBoard. By default ResNet-20 on scikit-learn's handwritten digits, whose steps are so short
that every overhead shows. `--dataset tiny-imagenet --model mobilenetv2` trains on real images of 64 x 64, which `fit`
takes from the data set's own loader (shuffled, gathered and normalised anew), the bare loop from memory.

On a GPU (`--device cuda`, `--precision bf16-mixed --channels-last`) it also says which part of the device's limits the
training reaches: both limits, a large matrix product and a large copy, are measured in the same run.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import Page, benchmark
from classification.data import DataConfig, open_dataset
from classification.models import build
from core.graph.complexity import count
from core.modules import RELU_MODULES
from core.storage.data import data_root
from core.tables import markdown_table
from core.timing import Timing, time_in_turns, wait
from core.training.train import Loader, OptimizerConfig, TrainConfig, fit, make_fabric

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


@dataclass(frozen=True)
class Subject:
    """What is trained.

    Attributes:
        model: the network, on the device.
        batches: ready on the device, for the bare loop.
        loader: the same images for `fit`.
        config: the recipe of `fit`, one epoch.
        device: where.
    """

    model: nn.Module
    batches: tuple[Batch, ...]
    loader: Loader
    config: TrainConfig
    device: torch.device


def digits(batch_size: int, count: int) -> tuple[Batch, ...]:
    """`count` batches of digits as [batch_size, 1, 8, 8] in 0..1, beginning anew where the 1,797 images end."""
    images, labels = load_digits(return_X_y=True)
    chosen = torch.arange(batch_size * count) % len(labels)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[chosen] / 16
    return tuple(zip(pixels.split(batch_size), torch.tensor(labels)[chosen].split(batch_size)))


def prepare(options: Namespace) -> Subject:
    """Network, batches and recipe of a command line.

    Raises:
        MissingData: the data set is not there.
    """
    device = torch.device(options.device)
    config = TrainConfig(
        epochs=1, batch_size=options.batch_size, optimizer=OptimizerConfig(lr=0.01), precision=options.precision,
        channels_last=options.channels_last, compile=options.compile,
    )  # fmt: skip
    if options.dataset == "digits":
        batches = tuple((x.to(device), y.to(device)) for x, y in digits(options.batch_size, options.batches))
        loader: Loader = MemoryLoader(batches)
    else:
        limit = options.batch_size * options.batches
        data = open_dataset(options.dataset, data_root(options.data_root), DataConfig(train_limit=limit))
        loader = data.train_loader(options.batch_size, 0, device)
        batches = tuple(loader.epoch(0))
    if options.channels_last:
        batches = tuple((x.contiguous(memory_format=torch.channels_last), y) for x, y in batches)
    model = build(options.model, 10 if options.dataset == "digits" else 200, dataset=options.dataset).to(
        device
    )
    return Subject(model, batches, loader, config, device)


def bare_loop(subject: Subject) -> Callable[[], None]:
    """Prepare the loop that `fit` is measured against."""
    model, recipe = subject.model, subject.config.optimizer
    if subject.config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    mixed = subject.config.precision == "bf16-mixed"
    called = torch.compile(model) if subject.config.compile else model

    def train() -> None:
        model.train()
        for images, labels in subject.batches:
            with torch.autocast(subject.device.type, torch.bfloat16, enabled=mixed):
                loss = F.cross_entropy(called(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        wait(subject.device)

    return train


def fit_loop(subject: Subject) -> Callable[[], None]:
    """Prepare one epoch of `fit` in a new folder."""
    fabric = make_fabric(str(subject.device), subject.config.precision)

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            fit(subject.model, subject.loader, F.cross_entropy, subject.config, work_dir=folder, fabric=fabric,
                progress=False)  # fmt: skip
        wait(subject.device)

    return train


def step_traffic(model: nn.Module, image: Tensor, bytes_per_value: int) -> int:
    """Bytes that one image's training step moves if no two layers are fused: a lower limit for such kernels.

    Forward, a layer reads its input and writes its output; backward, it reads both again, or their gradients, and
    writes the input's gradient. Weights are left out: a batch shares them.

    Args:
        model: convolutions, linear layers, BatchNorms and ReLU modules are counted.
        image: one sample, (1, C, H, W).
        bytes_per_value: 2 in bfloat16, 4 in float32.
    """
    values = 0
    layers = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm, *RELU_MODULES)

    def measure(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal values
        read, written = inputs[0].numel(), output.numel()
        values += (read + written) + (read + written) + read

    handles = [
        module.register_forward_hook(measure) for module in model.modules() if isinstance(module, layers)
    ]
    mode = model.training
    with torch.no_grad():
        model.eval()(image)
    model.train(mode)
    for handle in handles:
        handle.remove()
    return values * bytes_per_value


def device_limits(device: torch.device, precision: str) -> tuple[float, float]:
    """(FLOP/s of a large matrix product, bytes/s read and written by a large copy), the best of ten each."""
    kind = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    a, b = (torch.randn(8192, 8192, device=device, dtype=kind) for _ in range(2))
    source = torch.empty(2**28, device=device, dtype=torch.float32)
    target = torch.empty_like(source)

    def work(job: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            job()
            wait(device)

        return run

    product, copy = work(lambda: a @ b), work(lambda: target.copy_(source))
    outcomes = time_in_turns(
        {"product": lambda: product, "copy": lambda: copy}, turns=10, before=lambda: wait(device)
    )
    best = {name: min(outcome.timing.wall) for name, outcome in outcomes.items() if outcome.timing}
    return 2 * 8192**3 / best["product"], 2 * source.nbytes / best["copy"]


def reached(subject: Subject, images_per_second: float) -> list[str]:
    """On a GPU: lines that say which part of its limits a training speed is."""
    image = subject.batches[0][0][:1]
    flops, copied = device_limits(subject.device, subject.config.precision)
    # Forward one, backward two multiply-accumulates of two operations for each of the network's.
    used = 6 * count(subject.model, image) * images_per_second
    width = 2 if subject.config.precision == "bf16-mixed" else 4
    moved = step_traffic(subject.model, image.float(), width) * images_per_second
    return [
        f"{images_per_second:,.0f} images/s",
        f"{used / 1e12:.2f} of {flops / 1e12:.0f} TFLOP/s that a matrix product reaches ({100 * used / flops:.1f} %)",
        f"{moved / 1e12:.2f} of {copied / 1e12:.2f} TB/s that a copy reaches ({100 * moved / copied:.1f} %), if no two "
        f"layers are fused",
    ]


def add_options(parser: ArgumentParser) -> None:
    """What is trained, and where."""
    parser.add_argument(
        "--warmup", type=int, default=1, help="epochs of each that are not counted (default: 1)"
    )
    parser.add_argument("--dataset", choices=("digits", "tiny-imagenet"), default="digits")
    parser.add_argument("--model", default="resnet20", help="such as mobilenetv2 (default: resnet20)")
    parser.add_argument("--data-root", help="folder of the data sets (default: $LWDNA_DATA, else data/)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile, on both sides")


def compare(options: Namespace) -> Page:
    """Time both loops.

    Raises:
        UserError: an unknown network; MissingData: the data set is not there.
    """
    subject = prepare(options)
    outcomes = time_in_turns(
        {"bare loop": lambda: bare_loop(subject), "fit": lambda: fit_loop(subject)},
        turns=options.turns,
        warmup=options.warmup,
    )
    timings = {name: outcome.timing for name, outcome in outcomes.items() if outcome.timing is not None}
    bare, ours = timings["bare loop"], timings["fit"]
    ratios = {
        "wall time": [a / b for a, b in zip(bare.wall, ours.wall)],
        "processor time": [a / b for a, b in zip(bare.cpu, ours.cpu)],
    }
    loops = {name: timing.to_json() for name, timing in timings.items()}
    return Page(
        f"What the training loop costs: {options.model} on {options.dataset}",
        _text(subject, options, timings, ratios),
        {"benchmark": "training_loop", "loops": loops, "ratios": ratios},
    )


def _text(
    subject: Subject, options: Namespace, timings: dict[str, Timing], ratios: dict[str, list[float]]
) -> str:
    """Table and figures in Markdown."""
    steps = len(subject.batches)
    rows = [
        (
            name,
            str(timing),
            f"{1e3 * timing.median / steps:.2f}",
            f"{1e3 * timing.cpu_median / steps:.2f}",
        )
        for name, timing in timings.items()
    ]
    table = markdown_table(("loop", "epoch", "ms per step", "processor ms per step"), rows)
    speeds = "; ".join(
        f"by {name} median {statistics.median(values):.3f} ({min(values):.3f}–{max(values):.3f})"
        for name, values in ratios.items()
    )
    rate = steps * options.batch_size / timings["fit"].median
    text = (
        f"{table}\n\nSpeed of fit relative to the bare loop: {speeds}; {options.turns} turns.\n\n"
        f"{options.model} on {options.dataset}, {options.precision}: {rate:,.1f} images/s of training.\n"
    )
    if subject.device.type == "cuda":
        text += "\n" + "\n".join(f"- {line}" for line in reached(subject, rate)) + "\n"
    return text


main = benchmark(
    "training_loop",
    __doc__,
    compare,
    numbers={
        "turns": (5, "timed epochs of each loop"),
        "batches": (120, "per epoch"),
        "batch-size": (64, "images"),
    },
    options=add_options,
    packages=("lightning-fabric",),
)

if __name__ == "__main__":
    sys.exit(main(None))
