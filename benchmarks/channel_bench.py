"""Channel-Bench-Macro: judges every method by a table of 32,768 trained networks, without a training.

    python -m benchmarks.channel_bench --output docs/results/channel_bench

finds widths by every method of the registry in both spaces of the table, at several budgets and floors, and looks up
such networks' accuracy on CIFAR-10 (`benchmarks.channel_bench_table`). Images are needed for scores alone: CIFAR-10's
own or, by default, those of ten classes of Tiny-ImageNet at 32x32 pixels. Budgets count FLOPs in the convention of the
paper, as everywhere; `--convention macs` counts multiply-accumulates, as the table does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

from benchmarks.channel_bench_networks import IMAGE, SPACES
from benchmarks.channel_bench_report import plot, report, summarise
from benchmarks.channel_bench_search import LEAST_FLOOR, OWN, Setting, left_out, open_place, run_place
from benchmarks.channel_bench_table import read_table
from benchmarks.measure import Page, benchmark
from classification.data import DataConfig, open_dataset
from core.errors import UserError, check_known
from core.methods.registry import METHODS
from core.storage.data import data_root

BUDGETS = (0.5, 0.75, 0.9, 1.0)
FLOORS = (0.4, 0.25)
DATASETS = {"tiny-imagenet": DataConfig(classes=10, downsample=2), "cifar10": DataConfig()}


def check(arguments: Namespace) -> None:
    """Refuse options that cannot be run, before anything is read.

    Raises:
        UserError: an unknown method or space, or a number out of range.
    """
    check_known("unknown method", arguments.methods or [], [*METHODS, *OWN])
    check_known("unknown space", arguments.spaces, SPACES)
    for floor in arguments.floors:
        if not LEAST_FLOOR <= floor <= 1:
            raise UserError(
                f"--floors {floor:g}: use {LEAST_FLOOR} to 1, the table ends at a quarter of the full widths"
            )
    for budget in arguments.budgets:
        if not 0 < budget <= 4:
            raise UserError(f"--budgets {budget:g}: use shares of the baseline's FLOPs, above 0 and up to 4")


def judge_methods(arguments: Namespace) -> Page:
    """Search, look up, draw.

    Raises:
        UserError: see `check` and `run_place`; MissingData: the table or the images are not there.
    """
    check(arguments)
    root = data_root(arguments.data_root)
    tables = {name: read_table(root, name) for name in arguments.spaces}
    data = open_dataset(arguments.dataset, root, DATASETS[arguments.dataset])
    if data.input_shape != IMAGE:
        raise UserError(f"images of {data.name} are {data.input_shape}, the networks take {IMAGE}")
    out = left_out(METHODS, len(data.train_loader(1, seed=0)))
    usual = ["uniform", *OWN, *(name for name in METHODS if name not in out and name != "uniform")]
    # The others are compared with uniform widths.
    names = list(dict.fromkeys(["uniform", *arguments.methods])) if arguments.methods else usual
    settings = [Setting(budget, floor) for budget in arguments.budgets for floor in arguments.floors]
    summaries = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as work_dir:
        for name, table in tables.items():
            place = open_place(name, table, data)
            series, space = run_place(place, names, settings, arguments, Path(work_dir))
            summaries.append(summarise(place, series, space, arguments, settings))
    not_asked = {name: "not asked for" for name in METHODS if name not in names and name not in out}
    results = {
        "convention": arguments.convention, "dataset": f"{data.num_classes} classes of {data.name}",
        "seeds": arguments.seeds, "images": arguments.images, "proxy_images": arguments.proxy_images,
        "candidates": arguments.candidates, "spaces": summaries, "seconds": time.perf_counter() - start,
        "left_out": {**{name: reason for name, reason in out.items() if name not in names}, **not_asked},
    }  # fmt: skip
    text = report(results, arguments, arguments.output and f"{arguments.output.name}.png")
    if arguments.output:
        plot(arguments.output.with_name(f"{arguments.output.name}.png"), summaries, min(arguments.floors),
             arguments.budgets, arguments.seeds)  # fmt: skip
    return Page("Methods judged by 32,768 trained networks", text, results)


main = benchmark(
    "channel_bench",
    __doc__,
    judge_methods,
    numbers={
        "seeds": (3, "of methods that draw"),
        "images": (16, "that channels are scored on"),
        "proxy-images": (4, "that a proxy sees"),
        "candidates": (8, "that a proxy ranks"),
    },
    options={
        "--spaces": {"nargs": "+", "default": list(SPACES), "help": f"some of {', '.join(SPACES)}"},
        "--methods": {"nargs": "+", "help": "default: those that neither train nor leave blocks out"},
        "--budgets": {"nargs": "+", "type": float, "default": list(BUDGETS), "help": "shares of the FLOPs"},
        "--floors": {
            "nargs": "+",
            "type": float,
            "default": list(FLOORS),
            "help": "shares of the widened widths",
        },
        "--convention": {
            "choices": ("macs", "paper"),
            "default": "paper",
            "help": "of FLOPs (default: paper)",
        },
        "--dataset": {"choices": list(DATASETS), "default": "tiny-imagenet", "help": "of the scoring images"},
    },
    data="channel-bench-macro and the data set",
)

if __name__ == "__main__":
    sys.exit(main(None))
