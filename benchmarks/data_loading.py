"""`python -m benchmarks.data_loading`: images a second of Tiny-ImageNet's cache, and of decoding JPEGs every epoch.

One shuffled epoch of normalised float32 batches in turns, without augmentation as in the Tiny-ImageNet protocol; one
more way shows what random crops and mirror images add. All ways read the same images, and their inputs are compared.
Files and cache are in the page cache after the warm-up.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import Page, benchmark
from classification.data import ClassificationData, DataConfig, open_dataset
from classification.data.arrays import ArraySplit
from classification.data.augmentation import Normalisation
from classification.data.images import read_rgb
from core.errors import UserError
from core.storage.data import data_root
from core.tables import markdown_table
from core.timing import Outcome, Timing, time_in_turns

CPU = torch.device("cpu")
BATCH_SIZE = 64
OURS = "cache, our loader"


@dataclass(frozen=True)
class Files(Dataset):
    """Decodes an image file when it is asked for."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """Pixels `(3, 64, 64)`, uint8, and the label."""
        return torch.from_numpy(read_rgb(self.files[row]).transpose(2, 0, 1)), self.labels[row]


@dataclass(frozen=True)
class Rows(Dataset):
    """One image of the cache at a time."""

    split: ArraySplit

    def __len__(self) -> int:
        """Number of images."""
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Pixels `(3, 64, 64)`, uint8, and the label."""
        row = self.split.rows[index]
        return self.split.images[row], int(self.split.labels[row])


@dataclass(frozen=True)
class Sums:
    """What an epoch gave, to see that all ways did the same job."""

    images: int
    labels: int
    inputs: float


def add_up(batches: Iterable[tuple[Tensor, Tensor]]) -> Sums:
    """Read an epoch to its end; one value of every image is enough to know that it was made."""
    images, labels, inputs = 0, 0, 0.0
    for batch, targets in batches:
        images += len(targets)
        labels += int(targets.sum())
        inputs += float(batch[:, :, 32, 32].sum())
    return Sums(images, labels, inputs)


def torch_loader(dataset: Dataset, split: ArraySplit, workers: int) -> Callable[[], Sums]:
    """Prepare an epoch of torch's DataLoader, normalised by the batch like ours."""
    normalise = Normalisation.of(split.mean, split.std, CPU)

    def epoch() -> Sums:
        loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=workers)
        return add_up((normalise(images), targets) for images, targets in loader)

    return epoch


def our_loader(data: ClassificationData) -> Callable[[], Sums]:
    """Prepare an epoch of the cache's own loader."""
    loader = data.train_loader(BATCH_SIZE, seed=0)
    return lambda: add_up(loader.epoch(0))


def image_files(root: Path, split: ArraySplit) -> Files:
    """The files of the used images, in the order of the cache: sorted classes, sorted names."""
    folder = root / "tiny-imagenet-200"
    names = sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())
    files = [file for name in names for file in sorted((folder / "train" / name / "images").glob("*.JPEG"))]
    rows = split.rows.tolist()
    return Files(tuple(files[row] for row in rows), tuple(split.labels[split.rows].tolist()))


def load(options: Namespace) -> Page:
    """Time an epoch of every way.

    Raises:
        UserError: fewer images than a batch; MissingData: Tiny-ImageNet is not there.
        RuntimeError: two ways did not read the same images.
    """
    root = data_root(options.data_root)
    limit = options.images - options.images % BATCH_SIZE  # whole batches: every way sees every image
    if limit < 1:
        raise UserError(f"--images {options.images}: use at least {BATCH_SIZE}, one batch")
    plain = open_dataset("tiny-imagenet", root, DataConfig(train_limit=limit))
    augmented = open_dataset("tiny-imagenet", root, DataConfig(train_limit=limit, crop_padding=4, flip=True))
    split = plain.train
    assert isinstance(split, ArraySplit)
    files = image_files(root, split)
    workers = options.workers
    ways = {
        OURS: lambda: our_loader(plain),
        "cache, our loader, crops and mirror images": lambda: our_loader(augmented),
        "cache, torch DataLoader": lambda: torch_loader(Rows(split), split, 0),
        "decoding, torch DataLoader": lambda: torch_loader(files, split, 0),
        f"decoding, torch DataLoader, {workers} workers": lambda: torch_loader(files, split, workers),
    }
    timings = checked(time_in_turns(ways, turns=options.turns, warmup=1), limit)
    rows = []
    for name, timing in timings.items():
        speeds = [limit / seconds for seconds in timing.wall]
        speed = f"{limit / timing.median:,.0f} ({min(speeds):,.0f}–{max(speeds):,.0f})"
        rows.append((name, str(timing), speed, f"{1e6 * timing.cpu_median / limit:.1f}"))
    table = markdown_table(("way", "epoch", "images a second", "own processor µs per image"), rows)
    text = f"{table}\n\n{limit:,} images of 64x64 in batches of {BATCH_SIZE}; {options.turns} turns. Processor time is "
    text += "this process's, without workers'.\n"
    result = {name: timing.to_json() for name, timing in timings.items()}
    return Page("Loading Tiny-ImageNet", text, {"benchmark": "data_loading", "images": limit, "ways": result})


def checked(outcomes: Mapping[str, Outcome[Sums]], images: int) -> dict[str, Timing]:
    """The times of all ways.

    Raises:
        RuntimeError: a way did not read the images of `OURS`, or made other inputs of them.
    """
    reference = outcomes[OURS].result
    timings = {}
    for name, outcome in outcomes.items():
        assert outcome.timing is not None
        assert outcome.result is not None
        assert reference is not None
        if (outcome.result.images, outcome.result.labels) != (reference.images, reference.labels):
            raise RuntimeError(f"{name} read {outcome.result}, not the images of {reference}")
        if "crops" not in name and abs(outcome.result.inputs - reference.inputs) > 1e-4 * images:
            raise RuntimeError(f"{name} made other inputs: {outcome.result}, not {reference}")
        timings[name] = outcome.timing
    return timings


main = benchmark(
    "data_loading",
    __doc__,
    load,
    numbers={
        "images": (12_800, "in an epoch"),
        "turns": (5, "timed epochs of each way"),
        "workers": (2, "processes that decode"),
    },
    options=lambda parser: parser.add_argument(
        "--data-root", help="folder of tiny-imagenet-200 (default: $LWDNA_DATA, else data/)"
    ),
    packages=("opencv-python", "mmcv-lite"),
)

if __name__ == "__main__":
    sys.exit(main(None))
