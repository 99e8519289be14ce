"""What identifying widths costs, in baseline training steps: `python -m benchmarks.identification --model resnet50`.

One side: widen the network, trace it, score its channels by the gradient of one batch, search the widths. Other side:
one step of SGD with momentum on the baseline. Each runs in a process of its own, so that its peak memory is its own.
What is measured and how: `benchmarks/README.md`.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Page, benchmark
from classification.models import MODELS, build
from core.errors import UserError
from core.tables import markdown_table
from core.timing import seconds_text

ALLOWED = 5.0
BUDGET = 0.9
CLASSES = 1000
SIZES = {
    "image": (224, "height and width"),
    "score-batch": (64, "images of the one batch that scores the channels"),
    "train-batch": (256, "images of a training step"),
    "micro-batch": (32, "images that go through the network at once in a training step; gradients add up"),
}


@dataclass(frozen=True)
class Spent:
    """Seconds by stage, in order, and the peak memory of the process that ran them, in GiB, images included."""

    stages: dict[str, float]
    peak_gib: float

    @property
    def seconds(self) -> float:
        """All stages together."""
        return sum(self.stages.values())


def spent(stages: dict[str, float]) -> Spent:
    """The stages of this process, with its peak memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Spent(stages, peak * (1 if sys.platform == "darwin" else 1024) / 2**30)


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


def identify(options: Namespace) -> Spent:
    """Widen, trace, score by one batch, search: a first call, as in real use."""
    import core

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = build(options.model, CLASSES)
    images = photographs(options.score_batch, options.image)
    targets = torch.arange(options.score_batch) % CLASSES
    marks = [time.perf_counter()]
    base = core.trace_channels(model, images[:1])
    wide = core.widen(model, base, options.widen, seed=0)
    marks.append(time.perf_counter())
    graph = core.trace_channels(wide, images[:1])
    marks.append(time.perf_counter())
    scores = core.score_channels(wide, graph, [(images, targets)], nn.functional.cross_entropy)
    marks.append(time.perf_counter())
    found = core.search(graph, scores, core.Budget(flops=BUDGET), base.price(), floor=0.4)
    marks.append(time.perf_counter())
    if set(found.widths) != set(base.widths):
        raise RuntimeError("the widened network has other groups than the baseline")
    names = ("trace and widen", "trace widened", "score", "search")
    return spent({name: after - before for name, before, after in zip(names, marks, marks[1:])})


def train_step(options: Namespace) -> Spent:
    """One step of SGD on the baseline, after one micro-batch that is not counted."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = build(options.model, CLASSES).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    images = photographs(options.train_batch, options.image).split(options.micro_batch)
    targets = (torch.arange(options.train_batch) % CLASSES).split(options.micro_batch)

    def backward(part: int) -> None:
        (nn.functional.cross_entropy(model(images[part]), targets[part]) / len(images)).backward()

    backward(0)
    optimizer.step()
    start = time.perf_counter()
    optimizer.zero_grad()
    for part in range(len(images)):
        backward(part)
    optimizer.step()
    return spent({"training step": time.perf_counter() - start})


def in_own_process(job: Callable[[Namespace], Spent], options: Namespace) -> Spent:
    """Run `job` in a fresh process and wait for it.

    Raises:
        UserError: the process was killed, as systems do when memory runs out.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(job, options).result()
        except BrokenProcessPool:
            raise UserError(
                f"the process of '{job.__name__}' was killed, most likely for lack of memory: make --score-batch "
                f"(now {options.score_batch}) or --micro-batch (now {options.micro_batch}) smaller"
            ) from None


def page(options: Namespace, identification: Spent, step: Spent) -> Page:
    """The table and its figures."""
    parts = options.train_batch // options.micro_batch
    accumulated = f", in {parts} accumulated batches of {options.micro_batch}" if parts > 1 else ""
    ratio = identification.seconds / step.seconds
    rows = [
        *([name, seconds_text(value), ""] for name, value in identification.stages.items()),
        ["identification", seconds_text(identification.seconds), f"{identification.peak_gib:.1f} GiB"],
        [f"training step of {options.train_batch} images{accumulated}", seconds_text(step.seconds),
         f"{step.peak_gib:.1f} GiB"],
        ["identification in training steps", f"{ratio:.2f}", f"(allowed: {ALLOWED:.0f})"],
    ]  # fmt: skip
    text = (
        f"The network is widened {options.widen:g} times and scored by the gradient of one batch of "
        f"{options.score_batch} images of {options.image} x {options.image}; its widths are searched under "
        f"{BUDGET:.0%} of the baseline's FLOPs. Single precision, both sides on the same threads. Identification is "
        f"timed as a first call, the training step after a warm-up.\n\n"
        f"{markdown_table(['stage', 'seconds', 'peak memory'], rows)}"
    )
    sizes = ("model", "image", "widen", "score_batch", "train_batch", "micro_batch", "threads")
    value = {
        "benchmark": "identification",
        "sizes": {name: getattr(options, name) for name in sizes},
        "identification": asdict(identification),
        "training_step": asdict(step),
        "training_steps": ratio,
    }
    return Page(f"What identification costs: {options.model}", text, value)


def measure(options: Namespace) -> Page:
    """Run both sides.

    Raises:
        UserError: sizes that do not fit each other; too little memory.
    """
    if options.train_batch % options.micro_batch:
        raise UserError(
            f"--train-batch {options.train_batch} is not a multiple of --micro-batch {options.micro_batch}"
        )
    if options.widen < 1:
        raise UserError(f"--widen {options.widen:g}: expected 1 or more")
    return page(options, in_own_process(identify, options), in_own_process(train_step, options))


def add_options(parser: ArgumentParser) -> None:
    """The network, and how far it is widened."""
    parser.add_argument("--model", choices=MODELS, default="resnet50", metavar="MODEL")
    parser.add_argument(
        "--widen", type=float, default=2.0, help="growth of the widths before scoring (default: 2)"
    )


main = benchmark("identification", __doc__, measure, numbers=SIZES, options=add_options, threads=2)

if __name__ == "__main__":
    sys.exit(main(None))
