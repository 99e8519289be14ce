"""Two measurements on training data, entries of `benchmarks.micro`: loading Tiny-ImageNet, and the training loop.

Loading: one shuffled epoch of normalised float32 batches in turns, without augmentation as in the Tiny-ImageNet
protocol; one more way shows the extra time of random crops and flips. All ways read the same images, and their inputs
are compared. Files and cache are in the page cache after the warm-up.

Training: one epoch in turns (SGD with momentum). The bare loop is forward, cross-entropy, backward and step on batches
that lie ready on the device; `fit` also shuffles, gathers and normalises the images, reads losses and metrics, and
writes a checkpoint, the log and TensorBoard events. By default ResNet-20 on handwritten digits, whose steps are so
short that every overhead shows. On a GPU (`--device cuda`, `--precision bf16-mixed --channels-last`) both of the
device's limits, a large matrix product and a large copy, are measured in the same run.
"""

from __future__ import annotations

import statistics
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import Page
from classification.data import DataConfig, open_dataset
from classification.data.arrays import ArraySplit
from classification.data.augmentation import Normalisation
from classification.data.images import read_rgb
from classification.models import build
from core.errors import UserError
from core.graph.complexity import count
from core.modules import RELU_MODULES, evaluating, hooked
from core.storage.data import data_root
from core.tables import markdown_table
from core.timing import time_in_turns, timings, wait
from core.training.train import Loader, OptimizerConfig, TrainConfig, fit, make_fabric

Batch = tuple[Tensor, Tensor]
Sums = tuple[int, int, float]  # images, labels, and one value of every image of an epoch
BATCH_SIZE = 64
OURS = "cache, our loader"
# Options for network, data and device, as `benchmarks.measure.benchmark` takes them.
LOOP_OPTIONS: dict[str, dict[str, Any]] = {
    "--warmup": {"type": int, "default": 1, "help": "epochs that are not counted (default: 1)"},
    "--dataset": {"choices": ("digits", "tiny-imagenet"), "default": "digits"},
    "--model": {"default": "resnet20", "help": "such as mobilenetv2 (default: resnet20)"},
    "--device": {"default": "cpu", "help": "cpu or cuda (default: cpu)"},
    "--precision": {"choices": ("32-true", "bf16-mixed"), "default": "32-true"},
    "--channels-last": {"action": "store_true"},
    "--compile": {"action": "store_true", "help": "torch.compile, on both sides"},
}


@dataclass(frozen=True)
class Images(Dataset):
    """One image at a time, as torch's DataLoader asks for it.

    Attributes:
        sources: files, or rows of an array.
        read: returns the pixels of a source, (3, 64, 64), uint8.
        labels: of the images.
    """

    sources: Sequence[Any]
    read: Callable[[Any], Tensor]
    labels: Sequence[int]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Pixels and label."""
        return self.read(self.sources[index]), self.labels[index]


def decoded(path: Path) -> Tensor:
    """An image file's pixels, (3, H, W), uint8."""
    return torch.from_numpy(read_rgb(path).transpose(2, 0, 1))


def add_up(batches: Iterable[Batch]) -> Sums:
    """Read an epoch to its end; one value of every image suffices to know that it was made."""
    images, labels, inputs = 0, 0, 0.0
    for batch, targets in batches:
        images += len(targets)
        labels += int(targets.sum())
        inputs += float(batch[:, :, 32, 32].sum())
    return images, labels, inputs


def image_files(root: Path, split: ArraySplit) -> list[Path]:
    """The files of the used images, in the order of the cache: sorted classes, sorted names."""
    folder = root / "tiny-imagenet-200"
    names = sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())
    files = [file for name in names for file in sorted((folder / "train" / name / "images").glob("*.JPEG"))]
    return [files[row] for row in split.rows.tolist()]


def load(options: Namespace) -> Page:
    """Time an epoch of every way of loading.

    Raises:
        UserError: fewer images than a batch; MissingData: Tiny-ImageNet is not there.
        RuntimeError: two ways read different images.
    """
    root, workers = data_root(options.data_root), options.workers
    limit = options.images - options.images % BATCH_SIZE  # whole batches: every way sees every image
    if limit < 1:
        raise UserError(f"--images {options.images}: use at least {BATCH_SIZE}, one batch")
    plain = open_dataset("tiny-imagenet", root, DataConfig(train_limit=limit))
    augmented = open_dataset("tiny-imagenet", root, DataConfig(train_limit=limit, crop_padding=4, flip=True))
    split = plain.train
    assert isinstance(split, ArraySplit)
    labels = split.labels[split.rows].tolist()
    rows = Images(split.rows, split.images.__getitem__, labels)  # type: ignore[arg-type]
    files = Images(image_files(root, split), decoded, labels)
    normalise = Normalisation.of(split.mean, split.std, torch.device("cpu"))

    def ours(loader: Loader) -> Callable[[], Callable[[], Sums]]:
        return lambda: lambda: add_up(loader.epoch(0))

    def theirs(dataset: Images, workers: int) -> Callable[[], Callable[[], Sums]]:
        def epoch() -> Sums:
            loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=workers)
            return add_up((normalise(images), targets) for images, targets in loader)

        return lambda: epoch

    ways = {
        OURS: ours(plain.train_loader(BATCH_SIZE, seed=0)),
        "cache, our loader, crops and mirror images": ours(augmented.train_loader(BATCH_SIZE, seed=0)),
        "cache, torch DataLoader": theirs(rows, 0),
        "decoding, torch DataLoader": theirs(files, 0),
        f"decoding, torch DataLoader, {workers} workers": theirs(files, workers),
    }
    outcomes = time_in_turns(ways, turns=options.turns, warmup=1)
    check_sums({name: outcome.result or (0, 0, 0.0) for name, outcome in outcomes.items()})
    cells = []
    for name, timing in timings(outcomes).items():
        speeds = [limit / seconds for seconds in timing.wall]
        speed = f"{limit / timing.median:,.0f} ({min(speeds):,.0f}–{max(speeds):,.0f})"
        cells.append((name, str(timing), speed, f"{1e6 * timing.cpu_median / limit:.1f}"))
    text = (
        f"{markdown_table(('way', 'epoch', 'images a second', 'own processor µs per image'), cells)}\n\n"
        f"{limit:,} images of 64x64 in batches of {BATCH_SIZE}; {options.turns} turns. Processor time is this "
        f"process's, without workers'.\n"
    )
    result = {name: timing.to_json() for name, timing in timings(outcomes).items()}
    return Page("Loading Tiny-ImageNet", text, {"benchmark": "data_loading", "images": limit, "ways": result})


def check_sums(sums: Mapping[str, Sums]) -> None:
    """Check that all ways did the same job.

    Raises:
        RuntimeError: a way read other images than `OURS`, or made other inputs of them.
    """
    reference = sums[OURS]
    for name, own in sums.items():
        if own[:2] != reference[:2]:
            raise RuntimeError(f"{name} read {own}, not the images of {reference}")
        if "crops" not in name and abs(own[2] - reference[2]) > 1e-4 * reference[0]:
            raise RuntimeError(f"{name} made other inputs: {own}, not {reference}")


@dataclass(frozen=True)
class Subject:
    """The network, data and recipe of a measurement.

    Attributes:
        model: the network, on the device.
        loader: the images for `fit`.
        batches: the same, ready on the device, for the bare loop.
        config: the recipe of `fit`, one epoch.
        device: where.
    """

    model: nn.Module
    loader: Loader
    batches: tuple[Batch, ...]
    config: TrainConfig
    device: torch.device


def prepare(options: Namespace) -> Subject:
    """Network, batches and recipe of a command line.

    Raises:
        UserError: an unknown network; MissingData: the data set is not there.
    """
    device = torch.device(options.device)
    config = TrainConfig(
        epochs=1, batch_size=options.batch_size, optimizer=OptimizerConfig(lr=0.01), precision=options.precision,
        channels_last=options.channels_last, compile=options.compile,
    )  # fmt: skip
    limit = options.batch_size * options.batches
    data = open_dataset(options.dataset, data_root(options.data_root), DataConfig(train_limit=limit))
    if len(data.train) < limit:
        raise UserError(
            f"--batches {options.batches} of {options.batch_size}: {data.name} has {len(data.train):,} images"
        )
    loader = data.train_loader(options.batch_size, 0, device)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    batches = tuple((images.contiguous(memory_format=layout), labels) for images, labels in loader.epoch(0))
    model = build(options.model, data.num_classes, dataset=options.dataset).to(device)
    return Subject(model, loader, batches, config, device)


def bare_loop(subject: Subject) -> Callable[[], None]:
    """Prepare the loop with which `fit` is compared."""
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
                loss = functional.cross_entropy(called(images), labels)
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
            fit(subject.model, subject.loader, functional.cross_entropy, subject.config, work_dir=folder,
                fabric=fabric, progress=False)  # fmt: skip
        wait(subject.device)

    return train


def step_traffic(model: nn.Module, image: Tensor, bytes_per_value: int) -> int:
    """Bytes that one image's training step moves if no two layers are fused: a lower limit for such kernels.

    Forward, a layer reads its input and writes its output; backward, it reads both again, or their gradients, and
    writes the input's gradient. Weights do not count: a batch shares them.

    Args:
        model: convolutions, linear layers, BatchNorms and ReLU modules are counted.
        image: one sample, (1, C, H, W).
        bytes_per_value: 2 in bfloat16, 4 in float32.
    """
    values: list[int] = []
    layers = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm, *RELU_MODULES)

    def measure(module: nn.Module, inputs: Any, output: Tensor) -> None:
        values.append(3 * inputs[0].numel() + 2 * output.numel())

    handles = [
        module.register_forward_hook(measure) for module in model.modules() if isinstance(module, layers)
    ]
    with hooked(handles), torch.no_grad(), evaluating(model):
        model(image)
    return sum(values) * bytes_per_value


def device_limits(device: torch.device, precision: str) -> tuple[float, float]:
    """(FLOP/s of a large matrix product, bytes/s read and written by a large copy), the best of ten each."""
    kind = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    a, b = (torch.randn(8192, 8192, device=device, dtype=kind) for _ in range(2))
    source = torch.empty(2**28, device=device, dtype=torch.float32)
    target = torch.empty_like(source)

    def way(job: Callable[[], object]) -> Callable[[], Callable[[], None]]:
        def work() -> None:
            job()
            wait(device)

        return lambda: work

    ways = {"product": way(lambda: a @ b), "copy": way(lambda: target.copy_(source))}
    times = timings(time_in_turns(ways, turns=10, before=lambda: wait(device)))
    return 2 * 8192**3 / min(times["product"].wall), 2 * source.nbytes / min(times["copy"].wall)


def reached(subject: Subject, images_per_second: float) -> str:
    """On a GPU: lines on the share of its limits that a training speed reaches."""
    image = subject.batches[0][0][:1]
    flops, copied = device_limits(subject.device, subject.config.precision)
    # For each multiply-accumulate of the network: one forward and two backward, of two operations each.
    used = 6 * count(subject.model, image) * images_per_second
    width = 2 if subject.config.precision == "bf16-mixed" else 4
    moved = step_traffic(subject.model, image.float(), width) * images_per_second
    return (
        f"\n- {images_per_second:,.0f} images/s\n"
        f"- {used / 1e12:.2f} of {flops / 1e12:.0f} TFLOP/s that a matrix product reaches "
        f"({100 * used / flops:.1f} %)\n"
        f"- {moved / 1e12:.2f} of {copied / 1e12:.2f} TB/s that a copy reaches ({100 * moved / copied:.1f} %), if no "
        f"two layers are fused\n"
    )


def compare_loops(options: Namespace) -> Page:
    """Time both loops.

    Raises:
        UserError, MissingData: see `prepare`.
    """
    subject = prepare(options)
    ways = {"bare loop": lambda: bare_loop(subject), "fit": lambda: fit_loop(subject)}
    times = timings(time_in_turns(ways, turns=options.turns, warmup=options.warmup))
    bare, ours = times["bare loop"], times["fit"]
    ratios = {"wall time": bare.over(ours, "wall"), "processor time": bare.over(ours)}
    steps = len(subject.batches)
    rows = [
        (name, str(timing), f"{1e3 * timing.median / steps:.2f}", f"{1e3 * timing.cpu_median / steps:.2f}")
        for name, timing in times.items()
    ]
    speeds = "; ".join(
        f"by {name} median {statistics.median(values):.3f} ({min(values):.3f}–{max(values):.3f})"
        for name, values in ratios.items()
    )
    rate = steps * options.batch_size / ours.median
    text = (
        f"{markdown_table(('loop', 'epoch', 'ms per step', 'processor ms per step'), rows)}\n\n"
        f"Speed of fit relative to the bare loop: {speeds}; {options.turns} turns.\n\n"
        f"{options.model} on {options.dataset}, {options.precision}: {rate:,.1f} images/s of training.\n"
    )
    if subject.device.type == "cuda":
        text += reached(subject, rate)
    loops = {name: timing.to_json() for name, timing in times.items()}
    return Page(
        f"What the training loop costs: {options.model} on {options.dataset}",
        text,
        {"benchmark": "training_loop", "loops": loops, "ratios": ratios},
    )
