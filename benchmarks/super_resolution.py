"""Super-resolution on the CPU, in turns: inference of EDSR, BasicSR's EDSR and found networks; training batches.

- Inference: one frame of 320 x 180 pixels, x4. EDSR with 8 blocks of 128 channels (the paper's), BasicSR's with the
  same weights, and networks found at the paper's budget (61.34 % of the FLOPs) with widths rounded in several ways.
  The time that a found network saves should be what its FLOPs promise: its limit is its ratio of FLOPs + 0.05.
- Convolutions: the first upsampling layer alone at some widths, which shows what roundings are for.
- Loading: ten training batches of 16 crops of 192 x 192 from the pixel cache and from BasicSR's PairedImageDataset,
  which decodes PNG files from the disk; both in one process.

Needs the extra `basicsr`. Images are BSDS500's where they lie under the data root, else scikit-image's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.measure import (
    Timing,
    machine,
    machine_text,
    markdown_table,
    seconds_text,
    time_in_turns,
    write_results,
)
from core import Architecture, Budget, MissingData, UserError, shrink
from core.complexity import count
from core.data import data_root
from core.exits import run_command
from super_resolution.data import CropLoader, ImageSet, open_cache, open_training_set
from super_resolution.images import write_image
from super_resolution.models import build

SCALE = 4
BLOCKS, FEATS = 8, 128
FRAME = (1, 3, 180, 320)
BATCH, PATCH, BATCHES = 16, 192, 10
BUDGET = 0.6134  # Table 2 of the LW-DNA paper: 55.44 of 90.37 G
MARGIN = 0.05
CONVOLUTIONS = (448, 480, 488, 496, 500, 512)  # output channels of the first upsampling layer
BASELINE = "EDSR"


def find_widths(network: nn.Module, images: ImageSet, folder: Path, round_to: int) -> Architecture:
    """Widths at the paper's budget by one batch's gradients, as multiples of `round_to`."""
    loader = CropLoader(open_cache(images, folder), BATCH, 96, crops_per_epoch=BATCH)
    return shrink(
        network,
        torch.zeros(1, 3, 24, 24),
        list(loader.epoch(0)),
        nn.functional.l1_loss,
        widen=2.0,
        budget=Budget(flops=BUDGET),
        score="gradient",
        floor=0.2,
        round_to=round_to,
        seed=0,
    )


def compare_inference(networks: Mapping[str, nn.Module], threads: int, turns: int) -> dict[str, Timing]:
    """Times of every network on one frame; BasicSR's output must be ours."""
    torch.set_num_threads(threads)
    frame = torch.rand(FRAME)

    def way(network: nn.Module) -> Callable[[], Callable[[], torch.Tensor]]:
        return lambda: lambda: network(frame)

    with torch.inference_mode():
        difference = float((networks[BASELINE](frame) - networks["BasicSR's EDSR"](frame)).abs().max())
        if difference > 1e-4:
            raise UserError(f"the two EDSRs differ by {difference:.1e}; they do not hold the same weights")
        return times({name: way(network) for name, network in networks.items()}, turns)


def compare_convolutions(turns: int) -> dict[str, Timing]:
    """Times of the upsampling layer `128 -> width` on the frame, one thread."""
    torch.set_num_threads(1)
    features = torch.rand(1, FEATS, *FRAME[2:])

    def way(width: int) -> Callable[[], Callable[[], torch.Tensor]]:
        layer = nn.Conv2d(FEATS, width, 3, padding=1)
        return lambda: lambda: layer(features)

    with torch.inference_mode():
        return times({str(width): way(width) for width in CONVOLUTIONS}, turns)


def compare_loading(images: ImageSet, folder: Path, turns: int) -> dict[str, Timing]:
    """Times of ten batches from our cache and from BasicSR's data set over the same images as PNG files."""
    from basicsr.data.paired_image_dataset import PairedImageDataset

    cached = open_cache(images, folder)
    for index, name in enumerate(cached.names):
        for kind, planes in (("hr", cached.hr(index)), ("lr", cached.lr(index))):
            write_image(folder / kind / f"{name}.png", np.ascontiguousarray(planes.transpose(1, 2, 0)))
    loader = CropLoader(cached, BATCH, PATCH, crops_per_epoch=BATCH * BATCHES)
    options = {
        "dataroot_gt": str(folder / "hr"),
        "dataroot_lq": str(folder / "lr"),
        "io_backend": {"type": "disk"},
        "gt_size": PATCH,
        "scale": SCALE,
        "use_hflip": True,
        "use_rot": True,
        "phase": "train",
    }
    rival = PairedImageDataset(options)
    order = np.random.default_rng(0).integers(0, len(rival), (BATCHES, BATCH))

    def our_epoch() -> None:
        # A whole epoch, so that batches that our thread prepares ahead are paid for within the time.
        for _ in loader.epoch(0):
            pass

    def rival_epoch() -> None:
        for batch in order:
            pairs = [rival[int(index)] for index in batch]
            torch.stack([pair["gt"] for pair in pairs])
            torch.stack([pair["lq"] for pair in pairs])

    return times({"pixel cache": lambda: our_epoch, "BasicSR": lambda: rival_epoch}, turns)


def times(ways: Mapping[str, Callable[[], Callable[[], Any]]], turns: int) -> dict[str, Timing]:
    """`time_in_turns` after one warm-up turn, where no way may fail."""
    outcomes = time_in_turns(ways, turns=turns, warmup=1)
    return {name: outcome.timing for name, outcome in outcomes.items() if outcome.timing is not None}


def ratios(timings: Mapping[str, Timing], first: str, second: str) -> dict[str, dict[str, float]]:
    """Time of `first` over time of `second` turn by turn: median and extremes, by both clocks."""
    found = {}
    for clock in ("wall", "cpu"):
        pairs = zip(getattr(timings[first], clock), getattr(timings[second], clock), strict=True)
        values = [one / other for one, other in pairs]
        found[clock] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 0 done, 1 failed, 2 wrong usage or missing parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.super_resolution", description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="counted runs of each way (default: 5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of torch (default: 1)")
    parser.add_argument(
        "--round-to",
        type=int,
        nargs="+",
        default=[1, 16, 64],
        help="widths of found networks are multiples of this (default: 1 16 64)",
    )
    parser.add_argument("--data-root", type=Path, help="default: $LWDNA_DATA, else data/")
    parser.add_argument("--output", type=Path, help="also write OUTPUT.json and OUTPUT.md")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    return run_command(lambda: run(options), options.debug, "start it again")


def run(options: argparse.Namespace) -> int:
    """Measure, print and, where wanted, write the result."""
    if min(options.turns, *options.threads, *options.round_to) < 1:
        raise UserError("--turns, --threads and --round-to are at least 1")
    torch.set_num_threads(max(options.threads))
    facts = machine("basicsr")
    networks, architectures, inference = {}, {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder, images = Path(name), training_images(data_root(options.data_root))
        torch.manual_seed(0)
        baseline = build("edsr", SCALE, n_blocks=BLOCKS, n_feats=FEATS).eval()
        networks = {BASELINE: baseline, "BasicSR's EDSR": basicsr_edsr(baseline)}
        for round_to in options.round_to:
            found = find_widths(baseline, images, folder, round_to)
            architectures[found_name(round_to)] = found
            networks[found_name(round_to)] = found.build(baseline).eval()
        for threads in options.threads:
            inference[threads] = compare_inference(networks, threads, options.turns)
        convolutions = compare_convolutions(options.turns)
        loading = compare_loading(images, folder, options.turns)
    # The networks are fully convolutional: any size has their ratio of FLOPs.
    flops = {name: count(network, torch.zeros(1, 3, 24, 24)) for name, network in networks.items()}
    promised = {name: value / flops[BASELINE] for name, value in flops.items()}
    text = "\n".join(
        [
            "# Super-resolution: speed\n",
            f"{machine_text(facts)} {options.turns} turns after a warm-up.\n",
            f"A found network should take no larger part of the baseline's time than its ratio of FLOPs + {MARGIN}:\n",
            verdict(inference, promised, list(architectures)),
            *inference_text(inference, promised, architectures),
            *convolution_text(convolutions),
            *loading_text(loading, images),
        ]
    )
    print(text)
    if options.output is not None:
        result = {
            "machine": facts,
            "turns": options.turns,
            "flops_ratio": promised,
            "widths": {name: found.widths for name, found in architectures.items()},
            "inference": {
                str(threads): {
                    name: timing.to_json() | {"ratio": ratios(timings, name, BASELINE)}
                    for name, timing in timings.items()
                }
                for threads, timings in inference.items()
            },
            "convolutions": {name: timing.to_json() for name, timing in convolutions.items()},
            "loading": {name: timing.to_json() for name, timing in loading.items()},
        }
        write_results(options.output, result, text)
    return 0


def within(ratio: Mapping[str, Mapping[str, float]], promised: float) -> dict[str, bool]:
    """Whether a found network's median ratio of times keeps its limit, by each clock."""
    return {clock: values["median"] <= promised + MARGIN for clock, values in ratio.items()}


def verdict(
    inference: Mapping[int, Mapping[str, Timing]], promised: Mapping[str, float], names: Sequence[str]
) -> str:
    """What the table of inference says, misses first."""
    lines = []
    for clock, what in (("wall", "elapsed"), ("cpu", "CPU")):
        for threads, timings in inference.items():
            kept = {name: within(ratios(timings, name, BASELINE), promised[name])[clock] for name in names}
            over = ", ".join(name for name in names if not kept[name]) or "none"
            fine = ", ".join(name for name in names if kept[name]) or "none"
            lines.append(
                f"- {what} time, {threads} thread{'s' * (threads != 1)}: over the limit: {over}; within it: {fine}."
            )
    return "\n".join(lines) + "\n"


def found_name(round_to: int) -> str:
    """A found network's name in the tables."""
    return f"found, multiples of {round_to}" if round_to > 1 else "found, any width"


def inference_text(
    inference: Mapping[int, Mapping[str, Timing]],
    promised: Mapping[str, float],
    architectures: Mapping[str, Architecture],
) -> list[str]:
    """The section on inference: one table, and the widths."""
    rows = []
    for threads, timings in inference.items():
        for name, timing in timings.items():
            ratio = ratios(timings, name, BASELINE)
            kept = within(ratio, promised[name]) if name in architectures else {}
            rows.append(
                (
                    name,
                    str(threads),
                    f"{promised[name]:.3f}",
                    str(timing),
                    seconds_text(timing.cpu_median),
                    *(ratio_text(ratio[clock]) for clock in ("wall", "cpu")),
                    " / ".join("within" if held else "over" for held in kept.values()) or "–",
                )
            )
    header = ("network", "threads", "FLOPs ratio", "elapsed", "CPU", "elapsed ratio", "CPU ratio", "limit")
    lines = [
        "## Inference\n",
        f"EDSR {BLOCKS} x {FEATS}, x{SCALE}, one frame of {FRAME[3]} x {FRAME[2]}. Ratios are to EDSR in the same "
        f"turn: median (lowest–highest). Limit: FLOPs ratio + {MARGIN}, by elapsed / CPU time.\n",
        markdown_table(header, rows),
        "Widths:\n",
    ]
    for name, found in architectures.items():
        widths = ", ".join(f"{group} {width}" for group, width in found.widths.items())
        lines.append(f"- {name}: {widths}")
    return [*lines, ""]


def convolution_text(timings: Mapping[str, Timing]) -> list[str]:
    """The section on single convolutions."""
    rows = [
        (width, str(timing), seconds_text(timing.cpu_median), f"{1e6 * timing.cpu_median / int(width):.0f}")
        for width, timing in timings.items()
    ]
    return [
        "## One upsampling convolution\n",
        f"3 x 3, {FEATS} channels in, on the frame, one thread. CPU kernels take channels in blocks of 16, and several "
        "blocks at once: widths whose number of blocks has small factors are quick, others are not.\n",
        markdown_table(("channels out", "elapsed", "CPU", "µs a channel"), rows),
    ]


def loading_text(timings: Mapping[str, Timing], images: ImageSet) -> list[str]:
    """The section on training batches."""
    rows = [(name, str(timing), seconds_text(timing.cpu_median)) for name, timing in timings.items()]
    ratio = ratios(timings, "BasicSR", "pixel cache")["wall"]
    return [
        "## Training batches\n",
        f"{BATCHES} batches of {BATCH} crops of {PATCH} x {PATCH} from {images.name}, x{SCALE}. BasicSR's time over "
        f"the pixel cache's, turn by turn: {ratio_text(ratio)}.\n",
        markdown_table(("source", "elapsed", "CPU"), rows),
    ]


def ratio_text(ratio: Mapping[str, float]) -> str:
    """Median and extremes: '0.617 (0.600–0.630)'."""
    return f"{ratio['median']:.3f} ({ratio['min']:.3f}–{ratio['max']:.3f})"


def basicsr_edsr(network: nn.Module) -> nn.Module:
    """BasicSR's EDSR with the weights of ours."""
    from super_resolution.torchvision_shim import make_importable

    try:
        make_importable()
        from basicsr.archs.edsr_arch import EDSR
    except ImportError as error:
        raise MissingData(f"basicsr can't be imported ({error}); pip install 'lwdna[basicsr]'.") from error
    rival = EDSR(3, 3, num_feat=FEATS, num_block=BLOCKS, upscale=SCALE).eval()
    weights = {k: v for k, v in network.state_dict().items() if not k.startswith(("sub_mean", "add_mean"))}
    rival.load_state_dict(weights)
    return rival


def training_images(root: Path) -> ImageSet:
    """BSDS500 where it is, else the bundled photographs."""
    try:
        return open_training_set("bsds500", root, SCALE)
    except MissingData:
        return open_training_set("skimage", root, SCALE)


if __name__ == "__main__":
    sys.exit(main())
