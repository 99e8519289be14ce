"""Widths of the paper's seven networks at their own size, found on real images at the published budgets.

    python -m benchmarks.published_widths --turns 7 --output docs/results/published_widths

finds widths by every named method, writes them to shared_configs/widths/NETWORK-METHOD.json, where
`--widths NETWORK-METHOD` of the `run` commands finds them, and times each found network against its baseline: in turns,
on one thread, channels last, as in our commands. Nothing is trained: the results are widths and their cost, without an
accuracy.

Widths are multiples of --round-to (protocols that ask for more keep theirs), since kernels compute channels in blocks:
the limit of a found network's time is its ratio of FLOPs + 0.05. Images are those at hand: the sample of ImageNet, one
image per class, at 224 pixels; Tiny-ImageNet; BSDS500.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Page, benchmark
from classification.config import CONFIGS as CLASSIFICATION
from classification.config import RunConfig as ClassificationConfig
from classification.data import open_dataset
from classification.data.arrays import ArraySplit
from classification.data.config import IMAGENET_MEAN, IMAGENET_STD
from classification.data.images import read_rgb
from classification.data.views import central_view
from classification.models import build as build_classifier
from classification.task import loss_and_error
from core.command_line.config import load_config
from core.errors import MissingData, check_known
from core.experiments.given import SHIPPED
from core.experiments.width_plots import layer_widths, plot_widths
from core.methods.method import Request, SearchConfig
from core.methods.registry import METHODS, find
from core.methods.subject import Subject, fresh_baseline
from core.storage.data import data_root
from core.surgery.architecture import Architecture
from core.tables import markdown_table
from core.timing import Timing, time_in_turns, timings
from core.training.train import TrainConfig, make_fabric
from core.widths.config import ShrinkConfig
from super_resolution.config import CONFIGS as SUPER_RESOLUTION
from super_resolution.config import RunConfig as SuperResolutionConfig
from super_resolution.config import with_ties
from super_resolution.data import CropLoader, open_cache, open_training_set
from super_resolution.models import build as build_upscaler
from super_resolution.task import l1_and_psnr
from super_resolution.tiling import lay_out

# Rows of LW-DNA's tables 6 and 2, by their protocols.
NETWORKS = {
    "resnet50": CLASSIFICATION / "resnet50_imagenet.py",
    "regnetx_4gf": CLASSIFICATION / "regnetx_4gf_imagenet.py",
    "mobilenetv3_small": CLASSIFICATION / "mobilenetv3_small_imagenet.py",
    "mobilenetv1": CLASSIFICATION / "mobilenetv1_tiny_imagenet.py",
    "mobilenetv2": CLASSIFICATION / "mobilenetv2_tiny_imagenet.py",
    "srresnet": SUPER_RESOLUTION / "srresnet_div2k.py",
    "edsr": SUPER_RESOLUTION / "edsr_div2k.py",
}
DRAWN = ("resnet50", "regnetx_4gf")  # figure 1 (a) and (b)
USUAL = ("gradient", "hypernetwork-magnitude", "diminishing-returns", "uniform")
# The table of 32,768 networks (docs/results/channel_bench.md): a floor of 0.4 excludes this method's best widths.
FLOORS = {"diminishing-returns": 0.25}
FLOORED = ", ".join(f"`{method}` has a floor of {floor:g}" for method, floor in FLOORS.items())
SCALE = 4
SIDE = 128  # LR pixels of super-resolution at which published FLOPs are counted and time is measured
CROP = 24  # LR pixels on which channels of super-resolution are scored
MARGIN = 0.05  # margin of the ratio of time over that of FLOPs
TURN = 0.3  # least seconds of the baseline per turn: one pass of a small network is too short
IMAGENET_SIDE = 224
IMAGENET_BATCH = 32  # for lack of memory, as in the reference, which takes a quarter of its batches


@dataclass(frozen=True)
class Row:
    """One network of the tables.

    Attributes:
        name: its name in `--networks` and in the widths files.
        subject: the network in which widths are searched.
        shrink: the protocol's.
        images: where scores come from, for the page.
        timed: the input for timing.
    """

    name: str
    subject: Subject
    shrink: ShrinkConfig
    images: str
    timed: Tensor


def classifier(name: str, path: Path, root: Path) -> Row:
    """A row of table 6.

    Raises:
        MissingData: its images are not there.
    """
    config = load_config(path, ClassificationConfig)
    if config.dataset == "imagenet":
        split = imagenet_sample(root)
        classes, side, text = (
            1000,
            IMAGENET_SIDE,
            f"{config.shrink.batches * IMAGENET_BATCH} of {len(split)} images of ImageNet, one a class",
        )
        shrink = replace(config.shrink, batch_size=min(config.shrink.batch_size, IMAGENET_BATCH))

        def loader(batch_size: int, seed: int) -> Any:
            return split.loader(batch_size, torch.device("cpu"), training=True, seed=seed, config=config.data)

    else:
        data = open_dataset(config.dataset, root, config.data)
        classes, side, text = (
            data.num_classes,
            data.input_shape[1],
            f"{len(data.train)} images of {data.name}",
        )
        shrink = config.shrink

        def loader(batch_size: int, seed: int) -> Any:
            return data.train_loader(batch_size, seed, torch.device("cpu"))

    subject = Subject(
        model_name=name,
        build=lambda: build_classifier(config.model, classes, dataset=config.dataset),
        example_inputs=torch.zeros(1, 3, side, side),
        train_loader=loader,
        loss_fn=loss_and_error,
    )
    return Row(name, subject, shrink, text, torch.rand(1, 3, side, side))


def imagenet_sample(root: Path) -> ArraySplit:
    """`imagenet-sample/CLASS/*` at 224 pixels; labels count the classes of the sample.

    To a fresh network all classes are alike, so it does not matter which of the 1,000 outputs are theirs.

    Raises:
        MissingData: it is not there.
    """
    files = sorted((root / "imagenet-sample").glob("*/*.JPEG"))
    if not files:
        raise MissingData(
            f"no images under '{root / 'imagenet-sample'}': put the sample of ImageNet (imagenet-sample-images, one "
            "image a class) there as CLASS/*.JPEG"
        )
    names = sorted({file.parent.name for file in files})
    views = [central_view(read_rgb(file), IMAGENET_SIDE).transpose(2, 0, 1) for file in files]
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    return ArraySplit(torch.from_numpy(np.stack(views)), labels, torch.arange(len(files)),
                      IMAGENET_MEAN, IMAGENET_STD)  # fmt: skip


def upscaler(name: str, path: Path, root: Path, cache: Path) -> Row:
    """A row of table 2.

    Raises:
        MissingData: BSDS500 is not there.
    """
    config = with_ties(load_config(path, SuperResolutionConfig, [f"scale={SCALE}"]))
    images = open_training_set("bsds500", root, SCALE)
    subject = Subject(
        model_name=name,
        build=lambda: build_upscaler(config.model, SCALE, **config.options),
        example_inputs=torch.zeros(1, 3, SIDE, SIDE),
        train_loader=lambda batch_size, seed: CropLoader(
            open_cache(images, cache), batch_size, CROP * SCALE, 4 * batch_size, seed
        ),
        loss_fn=l1_and_psnr,
    )
    return Row(name, subject, config.shrink, f"crops of {images.name}", torch.rand(1, 3, SIDE, SIDE))


def search(row: Row, method: str, arguments: Namespace, work_dir: Path) -> Architecture:
    """Widths by one method, rounded and at the protocol's budget.

    Raises:
        UserError: see `core.methods.registry.find`.
    """
    assert isinstance(row.shrink.round_to, int)
    shrink = replace(row.shrink, round_to=max(row.shrink.round_to, arguments.round_to))
    shrink = replace(shrink, floor=FLOORS.get(method, shrink.floor))
    train = TrainConfig(seed=arguments.seed, batch_size=shrink.batch_size)
    request = Request(row.subject, shrink, train, SearchConfig(), make_fabric("cpu"), work_dir)
    return find(method, request).architecture


def laid_out(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, in the memory layout of our commands."""
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def clock(row: Row, found: Mapping[str, Architecture], turns: int) -> dict[str, Timing]:
    """Seconds of equally many passes of one input through the baseline (called "baseline") and each found network."""
    baseline = fresh_baseline(row.subject, 0)
    networks = {"baseline": baseline, **{name: one.build(baseline) for name, one in found.items()}}
    inputs = lay_out(row.timed)

    with torch.inference_mode():
        networks = {name: laid_out(network) for name, network in networks.items()}
        networks["baseline"](inputs)
        start = time.perf_counter()
        networks["baseline"](inputs)
        passes = math.ceil(TURN / (time.perf_counter() - start))

        def way(network: nn.Module) -> Callable[[], Callable[[], list[Tensor]]]:
            return lambda: lambda: [network(inputs) for _ in range(passes)]

        ways = {name: way(network) for name, network in networks.items()}
        return timings(time_in_turns(ways, turns=turns, warmup=1))


def result_of(found: Architecture, times: Mapping[str, Timing], method: str) -> dict[str, Any]:
    """One line of the page as JSON."""
    cost, base = found.costs
    # Of the groups that are left: a method may leave blocks out.
    groups = np.array([width / found.baseline_widths[name] for name, width in found.widths.items()])
    ratios = times[method].over(times["baseline"], "wall")
    return {
        "flops": cost.paper,
        "flops_ratio": cost.paper / base.paper,
        "params": cost.params,
        "params_ratio": cost.params / base.params,
        "sd_log_width": float(np.log(groups).std()),
        "least": float(groups.min()),
        "most": float(groups.max()),
        "round_to": found.found_by["round_to"],
        "floor": found.found_by["floor"],
        "time_ratio": {"median": float(np.median(ratios)), "min": min(ratios), "max": max(ratios)},
        "seconds": times[method].to_json(),
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """All networks and methods, in Markdown."""
    header = [
        "network",
        "method",
        "FLOPs %",
        "parameters %",
        "sd log w",
        "width over the baseline's",
        "time %",
    ]
    header += ["limit %", "kept"]
    rows = []
    for name, entry in results.items():
        for method, value in entry["methods"].items():
            clocked, limit = value["time_ratio"], value["flops_ratio"] + MARGIN
            rows.append([
                name, method, f"{100 * value['flops_ratio']:.2f}", f"{100 * value['params_ratio']:.1f}",
                f"{value['sd_log_width']:.2f}", f"{value['least']:.2f} to {value['most']:.2f}",
                f"{100 * clocked['median']:.1f} ({100 * clocked['min']:.1f}–{100 * clocked['max']:.1f})",
                f"{100 * limit:.1f}", "yes" if clocked["median"] <= limit else "no",
            ])  # fmt: skip
    return markdown_table(header, rows)


def draw(name: str, images: str, model: nn.Module, found: Mapping[str, Architecture], path: Path) -> None:
    """Channels per layer of the baseline and the found networks (figure 1 (a) and (b) of LW-DNA).

    Args:
        name: of the network.
        images: where scores come from.
        model: the baseline.
        found: by method.
        path: the PNG; an SVG is written beside it.
    """
    graph = next(iter(found.values())).graph(model)
    layers = [name for name in graph.producers if name not in graph.depthwise]
    widths = {name: [layer_widths(one.reshape(model), layers)] for name, one in found.items()}
    share = 100 * next(iter(found.values())).costs[0].paper / next(iter(found.values())).costs[1].paper
    below = f"{share:.1f} % of the FLOPs, scored on {images}, n = 1 (one seed)."
    plot_widths(path, f"{name}: channels per layer", layers, layer_widths(model, layers), widths, below)


def text(results: Mapping[str, Any], arguments: Namespace, pictures: Sequence[Path]) -> str:
    """The page below its head."""
    lines = [
        "Found, not trained: what these networks reach in accuracy is open here "
        "([the tables, row by row](README.md#the-papers-tables-row-by-row)). Budgets are the published ratios.",
        "",
        *(f"![Channels of every layer of {picture.stem.rpartition('-')[2]}, regular and found]({picture.name})"
          for picture in pictures),
        "",
        table(results),
        "",
        f"- *FLOPs*, *parameters*: of the baseline's, FLOPs in the paper's convention. *sd log w*: standard deviation, "
        f"over a network's groups, of the logarithm of width over the baseline's. Widths are multiples of "
        f"{arguments.round_to} or what the protocol asks for, if that is more, and may leave a part of the "
        f"budget unused; the space is the protocol's, "
        f"except that {FLOORED}.",
        f"- *Time*: of one input through the found network over the baseline's, median (least–most) of "
        f"{arguments.turns} turns on {arguments.threads} thread, channels last; the *limit* is the ratio of FLOPs + "
        f"{100 * MARGIN:g} points, *kept* is by the median.",
        *(f"- {name}: {entry['images']}, input {entry['input']}, baseline {entry['baseline_flops'] / 1e9:.4g} G FLOPs, "
          f"{entry['baseline_params'] / 1e6:.4g} M parameters." for name, entry in results.items()),
        "- A widths file is used by name: `python -m classification.run --config "
        "shared_configs/classification/mobilenetv2_tiny_imagenet.py --widths mobilenetv2-gradient`.",
    ]  # fmt: skip
    return "\n".join(lines)


def find_all(arguments: Namespace) -> Page:
    """Search, write the widths, time, draw.

    Raises:
        UserError: an unknown network or method, or a search that cannot be done; MissingData: images are not there.
    """
    check_known("unknown network", arguments.networks, NETWORKS)
    check_known("unknown method", arguments.methods, METHODS)
    root = data_root(arguments.data_root)
    results: dict[str, Any] = {}
    pictures = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.networks:
            path = NETWORKS[name]
            row = (
                upscaler(name, path, root, Path(scratch))
                if path.parent == SUPER_RESOLUTION
                else classifier(name, path, root)
            )
            found = {}
            for method in arguments.methods:
                found[method] = search(row, method, arguments, Path(scratch))
                print(f"{name}, {method}: {100 * found[method].costs[0].paper / found[method].costs[1].paper:.2f} %",
                      file=sys.stderr, flush=True)  # fmt: skip
                if not arguments.keep_files:
                    found[method].save(SHIPPED / f"{name}-{method}.json")
            times = clock(row, found, arguments.turns)
            base = next(iter(found.values())).costs[1]
            results[name] = {
                "images": row.images,
                "input": "x".join(map(str, row.timed.shape[1:])),
                "baseline_flops": base.paper,
                "baseline_params": base.params,
                "baseline_seconds": times["baseline"].to_json(),
                "methods": {method: result_of(one, times, method) for method, one in found.items()},
            }
            if arguments.output and name in DRAWN:
                pictures.append(arguments.output.with_name(f"{arguments.output.name}-{name}.png"))
                draw(name, row.images, fresh_baseline(row.subject, 0), found, pictures[-1])
    value = {"networks": results, "round_to": arguments.round_to, "turns": arguments.turns}
    return Page("Widths of the paper's seven networks", text(results, arguments, pictures), value)


main = benchmark(
    "published_widths",
    __doc__,
    find_all,
    numbers={"turns": (7, "of timing"), "round-to": (8, "multiples that widths are")},
    options={
        "--networks": {"nargs": "+", "default": list(NETWORKS), "help": f"some of {', '.join(NETWORKS)}"},
        "--methods": {"nargs": "+", "default": list(USUAL), "help": f"default: {', '.join(USUAL)}"},
        "--seed": {"type": int, "default": 0, "help": "of weights and images (0)"},
        "--keep-files": {
            "action": "store_true",
            "help": "leave shared_configs/widths as it is: measure alone",
        },
    },
    data="imagenet-sample, tiny-imagenet-200 and BSDS500",
)

if __name__ == "__main__":
    sys.exit(main(None))
