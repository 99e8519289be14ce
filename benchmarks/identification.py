"""What identifying widths costs, in baseline training steps: `python -m benchmarks.identification --model resnet50`.

One side: widen the network, trace it, score its channels by the gradient of one batch, search the widths. Other side:
one step of SGD with momentum on the baseline. Each runs in a process of its own, so that its peak memory is its own.
What is measured and how: `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.measure import command_text, machine, machine_text, seconds_text, write_results
from classification.models import MODELS, build
from core.errors import UserError
from core.tables import markdown_table, text_table

ALLOWED = 5.0
BUDGET = 0.9
CLASSES = 1000


@dataclass(frozen=True)
class Sizes:
    """What is run.

    Attributes:
        model: a name of `classification.models`.
        image: height and width of the images.
        widen: growth of the widths before scoring.
        score_batch: images of the one batch that scores the channels.
        train_batch: images of a training step.
        micro_batch: images that go through the network at once in a training step; gradients add up.
        threads: torch's.
    """

    model: str = "resnet50"
    image: int = 224
    widen: float = 2.0
    score_batch: int = 64
    train_batch: int = 256
    micro_batch: int = 32
    threads: int = 2

    def __post_init__(self) -> None:
        if self.train_batch % self.micro_batch:
            raise UserError(
                f"--train-batch {self.train_batch} is not a multiple of --micro-batch {self.micro_batch}"
            )


@dataclass(frozen=True)
class Cost:
    """Seconds by stage, in order, and the peak memory of the process that ran them, in GiB."""

    stages: dict[str, float]
    peak_gib: float

    @property
    def seconds(self) -> float:
        """All stages together."""
        return sum(self.stages.values())


def photographs(count: int, size: int, seed: int = 0) -> Tensor:
    """Square crops of scikit-image's photographs, normalised, (count, 3, size, size).

    Args:
        count: crops.
        size: height and width; crops are larger or smaller squares that are scaled to it.
        seed: of the places and sizes of the crops.
    """
    from skimage import data

    sources = [
        torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
        for image in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    ]
    generator = np.random.default_rng(seed)
    crops = []
    for index in range(count):
        image = sources[index % len(sources)]
        side = int(generator.integers(min(image.shape[1:]) // 3, min(image.shape[1:]) + 1))
        top, left = (int(generator.integers(0, length - side + 1)) for length in image.shape[1:])
        crop = image[None, :, top : top + side, left : left + side]
        crops.append(nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True))
    images = torch.cat(crops)
    return (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)


def identify(sizes: Sizes) -> Cost:
    """Widen, trace, score by one batch, search: seconds of each, a first call as in real use."""
    import core

    torch.set_num_threads(sizes.threads)
    torch.manual_seed(0)
    model = build(sizes.model, CLASSES)
    images = photographs(sizes.score_batch, sizes.image)
    targets = torch.arange(sizes.score_batch) % CLASSES
    example = images[:1]
    marks = [time.perf_counter()]
    base = core.trace_channels(model, example)
    wide = core.widen(model, base, sizes.widen, seed=0)
    marks.append(time.perf_counter())
    graph = core.trace_channels(wide, example)
    marks.append(time.perf_counter())
    scores = core.score_channels(wide, graph, [(images, targets)], nn.functional.cross_entropy)
    marks.append(time.perf_counter())
    found = core.search(graph, scores, core.Budget(flops=BUDGET), base.price(), floor=0.4)
    marks.append(time.perf_counter())
    if set(found.widths) != set(base.widths):
        raise RuntimeError("the widened network has other groups than the baseline")
    stages = ("trace and widen", "trace widened", "score", "search")
    return Cost({name: marks[i + 1] - marks[i] for i, name in enumerate(stages)}, _peak_gib())


def train_step(sizes: Sizes) -> Cost:
    """One step of SGD on the baseline, after one micro-batch that is not counted."""
    torch.set_num_threads(sizes.threads)
    torch.manual_seed(0)
    model = build(sizes.model, CLASSES).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    images = photographs(sizes.train_batch, sizes.image)
    targets = torch.arange(sizes.train_batch) % CLASSES
    parts = sizes.train_batch // sizes.micro_batch

    def backward(part: int) -> None:
        rows = slice(part * sizes.micro_batch, (part + 1) * sizes.micro_batch)
        (nn.functional.cross_entropy(model(images[rows]), targets[rows]) / parts).backward()

    backward(0)
    optimizer.step()
    start = time.perf_counter()
    optimizer.zero_grad()
    for part in range(parts):
        backward(part)
    optimizer.step()
    return Cost({"training step": time.perf_counter() - start}, _peak_gib())


def _peak_gib() -> float:
    """Peak resident memory of this process, images and libraries included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30


def in_own_process(job: Callable[[Sizes], Cost], sizes: Sizes) -> Cost:
    """Run `job` in a fresh process and wait for it.

    Raises:
        UserError: the process was killed, as systems do when memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(job, sizes).result()
        except BrokenProcessPool:
            raise UserError(
                f"the process of '{job.__name__}' was killed, most likely for lack of memory: make --score-batch "
                f"(now {sizes.score_batch}) or --micro-batch (now {sizes.micro_batch}) smaller"
            ) from None


def tables(sizes: Sizes, identification: Cost, step: Cost) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the result."""
    rows = [[name, seconds_text(value), ""] for name, value in identification.stages.items()]
    rows.append(
        ["identification", seconds_text(identification.seconds), f"{identification.peak_gib:.1f} GiB"]
    )
    rows.append([_step_name(sizes), seconds_text(step.seconds), f"{step.peak_gib:.1f} GiB"])
    ratio = identification.seconds / step.seconds
    rows.append(["identification in training steps", f"{ratio:.2f}", f"(allowed: {ALLOWED:.0f})"])
    return ["stage", "seconds", "peak memory"], rows


def _step_name(sizes: Sizes) -> str:
    if sizes.micro_batch == sizes.train_batch:
        return f"training step of {sizes.train_batch} images"
    parts = sizes.train_batch // sizes.micro_batch
    return (
        f"training step of {sizes.train_batch} images, in {parts} accumulated batches of {sizes.micro_batch}"
    )


def to_markdown(
    sizes: Sizes, table: tuple[list[str], list[list[str]]], facts: dict[str, Any], command: str
) -> str:
    """The page for `docs/results`."""
    return (
        f"# What identification costs: {sizes.model}\n\nMade by `{command}`; how it is measured: "
        f"`benchmarks/README.md`.\n{machine_text(facts)}\n\nThe network is widened {sizes.widen:g} times and scored by "
        f"the gradient of one batch of {sizes.score_batch} images of {sizes.image} x {sizes.image}; its widths are "
        f"searched under {BUDGET:.0%} of the baseline's FLOPs. Single precision, both sides on the same threads. "
        f"Identification is timed as a first call, the training step after a warm-up.\n\n{markdown_table(*table)}"
    )


def _arguments(argv: Sequence[str] | None) -> tuple[Sizes, str | None]:
    default = Sizes()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.identification", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default=default.model, metavar="MODEL")
    parser.add_argument("--widen", type=float, default=default.widen)
    for name in ("image", "score-batch", "train-batch", "micro-batch", "threads"):
        value = getattr(default, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
    parser.add_argument("--output", help="write OUTPUT.json and OUTPUT.md (docs/results/identification)")
    options = vars(parser.parse_args(argv))
    output = options.pop("output")
    for name, value in options.items():
        if name != "model" and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: has to be at least 1")
    return Sizes(**options), output


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write it if asked."""
    console = Console(stderr=True)
    try:
        sizes, output = _arguments(argv)
        torch.set_num_threads(sizes.threads)
        facts = machine()
        identification = in_own_process(identify, sizes)
        console.print(f"identification: {seconds_text(identification.seconds)}", highlight=False)
        step = in_own_process(train_step, sizes)
        console.print(f"{_step_name(sizes)}: {seconds_text(step.seconds)}", highlight=False)
    except UserError as error:
        console.print(str(error), highlight=False, soft_wrap=True)
        return 2
    table = tables(sizes, identification, step)
    print(text_table(*table))
    if output:
        command = command_text("benchmarks.identification", argv)
        value = {
            "benchmark": "identification",
            "machine": facts,
            "sizes": asdict(sizes),
            "identification": asdict(identification),
            "training_step": asdict(step),
            "training_steps": identification.seconds / step.seconds,
        }
        for path in write_results(output, value, to_markdown(sizes, table, facts, command)):
            console.print(f"written: {path}", highlight=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
