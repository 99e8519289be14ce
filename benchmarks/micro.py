"""Small measurements, each a command with a page of its own.

    python -m benchmarks.micro pricing --output docs/results/pricing

pricing         allocations of width priced in a second: the closed form, and building and counting each of them. A
                search over allocations (`core.methods.candidates`) is free to look at thousands only if a price costs
                nothing
identification  what finding widths costs, in training steps of the baseline. Each side runs in a process of its own, so
                that its peak memory is its own
data_loading    images a second of Tiny-ImageNet's cache, and of decoding JPEGs every epoch
training_loop   what `core.training.train.fit` costs beside a bare loop; on a GPU also which part of its limits it
                reaches

`benchmarks/README.md` says what is measured, and how.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.loops import LOOP_OPTIONS, compare_loops, load
from benchmarks.measure import Page, benchmark
from benchmarks.networks import NETWORKS, Network
from benchmarks.shrinking import peer_macs
from classification.models import MODELS, build
from core.errors import UserError, check_known
from core.graph.complexity import count
from core.methods.candidates import IntArray, built, draw, limits_of
from core.tables import markdown_table
from core.timing import seconds_text, time_in_turns, timings
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from core.widths.space import open_space

BUDGET = 0.9
USUAL = ("resnet50", "mobilenetv2", "regnety_200mf", "densenet40", "edsr")
SPREAD = 0.35  # floor of random allocations, as in `core.methods.candidates.ProxyConfig`
CLOSED, DRAWN = "closed form", "drawn under the budget"
BUILT, COUNTED, PEER = "built and counted", "counted alone", "counted by Torch-Pruning"
ALLOWED = 5.0
CLASSES = 1000


def price_network(network: Network, arguments: Namespace) -> dict[str, Any]:
    """Time all ways of pricing on one network.

    Raises:
        UserError: the closed form and the counter disagree on a network.
    """
    inputs = network.inputs()
    space = open_space(network.make(), inputs, ShrinkConfig(), seed=0)
    cost = int(BUDGET * space.base_graph.flops())
    limits = limits_of(space, ShrinkConfig(budget=Budget(flops=BUDGET, convention="macs"), floor=0.2))
    sizes = space.graph.sizes

    def random_sizes(number: int) -> IntArray:
        return np.random.default_rng(0).integers(1, sizes + 1, (number, len(sizes)))

    many, few = random_sizes(arguments.candidates), random_sizes(arguments.built)
    beforehand = [built(space, own, 0).eval() for own in few]

    def counting(counter: Callable[[nn.Module, Any], float]) -> Callable[[], Callable[[], Any]]:
        return lambda: lambda: [counter(model, inputs) for model in beforehand]

    ways: dict[str, Callable[[], Callable[[], Any]]] = {
        CLOSED: lambda: lambda: space.graph.cost("macs", many),
        DRAWN: lambda: lambda: draw(space.graph, limits, arguments.candidates, SPREAD, np.random.default_rng(0)),
        BUILT: lambda: lambda: [count(built(space, own, 0).eval(), inputs) for own in few],
        COUNTED: counting(count),
    }  # fmt: skip
    if find_spec("torch_pruning") is not None:
        ways[PEER] = counting(peer_macs)
    outcomes = time_in_turns(ways, turns=arguments.turns, warmup=1)
    expected = space.graph.cost("macs", few).tolist()
    for way in (BUILT, COUNTED):
        if outcomes[way].result != expected:
            raise UserError(
                f"{network.title}: the closed form prices {expected}, {way} are {outcomes[way].result}"
            )
    numbers = {CLOSED: arguments.candidates, DRAWN: arguments.candidates}
    times = timings(outcomes)
    drawn: Any = outcomes[DRAWN].result
    under = space.graph.cost("macs", drawn)
    return {
        "title": network.title,
        "groups": len(sizes),
        "timings": {way: timing.to_json() for way, timing in times.items()},
        "per_second": {way: numbers.get(way, arguments.built) / timing.cpu_median for way, timing in times.items()},
        "drawn_over_budget": int((under > cost).sum()),
        "drawn_least": float(under.min() / cost),
    }  # fmt: skip


def price(arguments: Namespace) -> Page:
    """Price on all requested networks.

    Raises:
        UserError: there is no such network; see also `price_network`.
    """
    check_known("unknown network", arguments.networks, NETWORKS)
    results, rows = [], []
    for name in arguments.networks:
        print(f"{name} ...", file=sys.stderr)
        results.append(price_network(NETWORKS[name], arguments))
        rates = results[-1]["per_second"]
        quicker = max(rate for way, rate in rates.items() if way in (COUNTED, PEER))
        rows.append([results[-1]["title"], str(results[-1]["groups"]), *(f"{rate:,.4g}" for rate in rates.values()),
                     f"{rates[CLOSED] / quicker:,.0f}", f"{rates[DRAWN] / quicker:,.0f}"])  # fmt: skip
    header = ["network", "groups", *rates, "closed form over the quicker counter", "drawn over it"]
    least = min(result["drawn_least"] for result in results)
    over = sum(result["drawn_over_budget"] for result in results)
    text = (
        f"Allocations per second of processor time, medians of {arguments.turns} turns: {arguments.candidates:,} at a "
        f"time in closed form, {arguments.built} one after the other through a counter. *{DRAWN.capitalize()}* are "
        f"random proportions, each scaled to {BUDGET:.0%} of the baseline's MACs and filled up to the last channel "
        f"that fits; {over} of them are above it, and the smallest has {100 * least:.2f} % of it. The prices counted "
        f"by ours equal the closed form's; Torch-Pruning counts by conventions of its own. The ratios are taken "
        f"against the quicker counter, on networks that are there already.\n\n"
        f"{markdown_table(header, rows)}"
    )
    return Page("What a price costs", text, {"networks": results})


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


def photographs(count: int, size: int) -> Tensor:
    """Crops of a photograph at `count` places, half as wide and high, normalised, (count, 3, size, size)."""
    from skimage import data

    photograph = torch.from_numpy(data.astronaut()).permute(2, 0, 1).float()
    middles = torch.rand(count, 2, 1, generator=torch.Generator().manual_seed(0)) - 0.5
    crops = torch.cat([torch.eye(2).expand(count, 2, 2) / 2, middles], dim=2)
    grid = functional.affine_grid(crops, [count, 3, size, size], align_corners=False)
    images = functional.grid_sample(photograph.expand(count, -1, -1, -1), grid, align_corners=False)
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
    scores = core.score_channels(wide, graph, [(images, targets)], functional.cross_entropy)
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
        (functional.cross_entropy(model(images[part]), targets[part]) / len(images)).backward()

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


def identification_page(options: Namespace, identification: Spent, step: Spent) -> Page:
    """The table of both sides and its figures."""
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


def identification(options: Namespace) -> Page:
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
    return identification_page(
        options, in_own_process(identify, options), in_own_process(train_step, options)
    )


ENTRIES = {
    "pricing": benchmark(
        "micro pricing",
        __doc__,
        price,
        numbers={
            "candidates": (2000, "priced in closed form"),
            "built": (5, "built and counted"),
            "turns": (5, "counted runs of each way"),
        },
        options={
            "--networks": {"nargs": "+", "default": list(USUAL), "help": f"some of {', '.join(NETWORKS)}"}
        },
        packages=("torch-pruning",),
    ),
    "identification": benchmark(
        "micro identification",
        __doc__,
        identification,
        numbers={
            "image": (224, "height and width"),
            "score-batch": (64, "images of the one batch that scores the channels"),
            "train-batch": (256, "images of a training step"),
            "micro-batch": (32, "images at once in a training step; gradients add up"),
            "threads": (2, "of torch"),
        },
        options={
            "--model": {"choices": MODELS, "default": "resnet50", "metavar": "MODEL"},
            "--widen": {"type": float, "default": 2.0, "help": "growth of the widths (default: 2)"},
        },
    ),
    "data_loading": benchmark(
        "micro data_loading",
        __doc__,
        load,
        numbers={
            "images": (12_800, "in an epoch"),
            "turns": (5, "timed epochs of each way"),
            "workers": (2, "processes that decode"),
        },
        data="tiny-imagenet-200",
        packages=("opencv-python", "mmcv-lite"),
    ),
    "training_loop": benchmark(
        "micro training_loop",
        __doc__,
        compare_loops,
        numbers={
            "turns": (5, "timed epochs of each loop"),
            "batches": (20, "per epoch"),
            "batch-size": (64, "images"),
        },
        options=LOOP_OPTIONS,
        data="the data sets",
        packages=("lightning-fabric",),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: the name of an entry, and its own options."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = ArgumentParser(prog="python -m benchmarks.micro", description=__doc__,
                            formatter_class=RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("entry", choices=ENTRIES)
    return ENTRIES[parser.parse_args(given[:1]).entry](given[1:])


if __name__ == "__main__":
    sys.exit(main(None))
