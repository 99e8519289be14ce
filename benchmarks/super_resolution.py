"""`python -m benchmarks.super_resolution`: speed of super-resolution, each figure against its rival in one
run.

Three comparisons, each measured in alternation (ours, theirs, ours, …) after a warm-up, medians with the
spread:

- inference of one frame of 320 x 180 pixels x4 on the CPU: this project's EDSR against BasicSR's, same
weights; - the found network against the baseline on that frame: the ratio of times beside the ratio of FLOPs;
- training batches of 16 crops of 192 x 192: the pixel cache against BasicSR's PairedImageDataset, which
decodes
  PNG files from the disk (both in one process).

Needs the extra `basicsr`. Images are BSDS500's where they lie under the data root, else scikit-image's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from core import Architecture, Budget, MissingData, UserError, shrink, trace_channels
from core.data import data_root
from core.files import write_json
from super_resolution.data import CropLoader, ImageSet, open_cache, open_training_set
from super_resolution.images import write_image
from super_resolution.models import build

SCALE = 4
FRAME = (1, 3, 180, 320)
BATCH, PATCH, BATCHES = 16, 192, 10


class Timing(NamedTuple):
    """Seconds on the clock, and of all cores' work; the latter hardly moves when others use the machine."""

    wall: float
    cpu: float


def alternate(contestants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[Timing]]:
    """Timings of each contestant's runs, in turns so that a slow moment of the machine hits all alike."""
    for run in contestants.values():
        run()
    timings: dict[str, list[Timing]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            timings[name].append(Timing(time.perf_counter() - wall, time.process_time() - cpu))
    return timings


def compare_inference(network: nn.Module, rival: nn.Module, repeats: int) -> dict[str, Any]:
    """Time our EDSR and BasicSR's on one frame; their outputs must agree."""
    frame = torch.rand(FRAME)
    with torch.inference_mode():
        difference = float((network(frame) - rival(frame)).abs().max())
        if difference > 1e-4:
            raise UserError(
                f"the two networks differ by {difference:.1e}; they do not hold the same weights."
            )
        timings = alternate({"ours": lambda: network(frame), "basicsr": lambda: rival(frame)}, repeats)
    return _ratio(timings, "ours", "basicsr") | {"largest_difference": difference}


def compare_widths(network: nn.Module, architecture: Architecture, repeats: int) -> dict[str, Any]:
    """Time the found network and the baseline on one frame."""
    found = architecture.build(network).eval()
    frame = torch.rand(FRAME)
    flops = [trace_channels(net, torch.zeros(FRAME)).flops() for net in (found, network)]
    with torch.inference_mode():
        timings = alternate({"lwdna": lambda: found(frame), "baseline": lambda: network(frame)}, repeats)
    return _ratio(timings, "lwdna", "baseline") | {"flops_ratio": flops[0] / flops[1]}


def compare_loading(images: ImageSet, folder: Path, repeats: int) -> dict[str, Any]:
    """Time ten batches from our cache and from BasicSR's data set over the same images as PNG files."""
    from basicsr.data.paired_image_dataset import PairedImageDataset

    cached = open_cache(images, folder)
    for index, name in enumerate(cached.names):
        write_image(folder / "hr" / f"{name}.png", np.ascontiguousarray(cached.hr(index).transpose(1, 2, 0)))
        write_image(folder / "lr" / f"{name}.png", np.ascontiguousarray(cached.lr(index).transpose(1, 2, 0)))
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

    def rival_epoch() -> None:
        for batch in order:
            pairs = [rival[int(index)] for index in batch]
            torch.stack([pair["gt"] for pair in pairs])
            torch.stack([pair["lq"] for pair in pairs])

    # Whole epochs, so that batches that our thread prepares ahead are paid for within the time.
    timings = alternate({"ours": lambda: list(loader.epoch(0)), "basicsr": rival_epoch}, repeats)
    found = _ratio(timings, "ours", "basicsr")
    return found | {"times_faster": 1 / found["wall_ratio"]["median"], "images": images.name}


def find_widths(network: nn.Module, images: ImageSet, folder: Path, round_to: int) -> Architecture:
    """Widths at 61.34 % of the baseline's FLOPs (Table 2 of the LW-DNA paper) by one batch's gradients."""
    loader = CropLoader(open_cache(images, folder), BATCH, 96, crops_per_epoch=BATCH)
    batches = list(loader.epoch(0))
    return shrink(
        network,
        torch.zeros(1, 3, 24, 24),
        batches,
        nn.functional.l1_loss,
        widen=2.0,
        budget=Budget(flops=0.6134),
        score="gradient",
        floor=0.2,
        round_to=round_to,
        seed=0,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 0 done, 2 wrong usage or missing parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.super_resolution", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each contestant (default: 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--blocks", type=int, default=8, help="of EDSR (default: 8)")
    parser.add_argument("--feats", type=int, default=128, help="channels of EDSR (default: 128)")
    parser.add_argument("--widths", type=Path, help="a widths file of that EDSR (default: found now)")
    parser.add_argument(
        "--round-to",
        type=int,
        default=16,
        help="widths found now are multiples of this; CPU kernels work on 16 channels at a time (default: 16)",
    )
    parser.add_argument("--data-root", type=Path, help="default: $LWDNA_DATA, else data/")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        figures = measure(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures, indent=2))
    if options.json:
        write_json(options.json, figures)
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All three comparisons, with the machine that they ran on."""
    if options.repeats < 1 or options.threads < 1:
        raise UserError("--repeats and --threads are at least 1.")
    edsr = _import_basicsr_edsr()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = build("edsr", SCALE, n_blocks=options.blocks, n_feats=options.feats).eval()
    rival = edsr(3, 3, num_feat=options.feats, num_block=options.blocks, upscale=SCALE).eval()
    weights = {k: v for k, v in network.state_dict().items() if not k.startswith(("sub_mean", "add_mean"))}
    rival.load_state_dict(weights)
    with tempfile.TemporaryDirectory() as folder:
        images = _images(data_root(options.data_root))
        cache = Path(folder)
        if options.widths:
            widths = Architecture.load(options.widths)
        else:
            widths = find_widths(network, images, cache, options.round_to)
        return {
            "machine": _machine(),
            "network": f"EDSR {options.blocks} x {options.feats}, x{SCALE}, frame {FRAME[3]} x {FRAME[2]}",
            "repeats": options.repeats,
            "inference": compare_inference(network, rival, options.repeats),
            "widths": compare_widths(network, widths, options.repeats),
            "loading": compare_loading(images, cache, options.repeats),
        }


def _ratio(timings: Mapping[str, list[Timing]], first: str, second: str) -> dict[str, Any]:
    """Medians and spreads, and the median of the paired ratios first / second, by both clocks."""
    found: dict[str, Any] = {}
    for clock in Timing._fields:
        runs = {name: [getattr(timing, clock) for timing in timings[name]] for name in (first, second)}
        ratios = [a / b for a, b in zip(runs[first], runs[second], strict=True)]
        found |= {f"{name}_{clock}_s": _spread(seconds) for name, seconds in runs.items()}
        found[f"{clock}_ratio"] = _spread(ratios)
    return found


def _spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _import_basicsr_edsr() -> Callable[..., nn.Module]:
    """BasicSR's EDSR class."""
    from super_resolution.torchvision_shim import make_importable

    try:
        make_importable()
        from basicsr.archs.edsr_arch import EDSR
    except ImportError as error:
        raise MissingData(f"basicsr can't be imported ({error}); pip install 'lwdna[basicsr]'.") from error
    return EDSR


def _images(root: Path) -> ImageSet:
    """BSDS500 where it is, else the bundled photographs."""
    try:
        return open_training_set("bsds500", root, SCALE)
    except MissingData:
        return open_training_set("skimage", root, SCALE)


def _machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
