"""`python -m benchmarks.dimp`: the time of a frame of DiMP-50 on a CPU, stage by stage, beside its bare convolutions.

Random weights, crops of 288 pixels, frames of the data set `demo`, a full memory of 50 samples. Thresholds are set so
that the target counts as found in every frame: all stages run. `--endurance N` tracks N frames with a small network
instead and reports the memory in use; `--output` writes either result.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from benchmarks.measure import Page, benchmark
from core.errors import UserError
from core.tables import markdown_table
from core.timing import Outcome, Timing, time_in_turns, timings
from tracking.datasets import load
from tracking.dimp import DiMPConfig, DiMPNet
from tracking.dimp.backbones import backbone_trunk
from tracking.dimp.box_judge import BoxJudge
from tracking.dimp.filter_optimizer import FilterOptimizer
from tracking.dimp.inference import InferenceNetwork
from tracking.dimp.roi import pool_boxes
from tracking.dimp.settings import TrackerSettings
from tracking.dimp.tracker import STAGES, DiMPTracker
from tracking.files.images import read_frame

TARGET, FIRST_FRAME_TARGET = 1.15, 10.0
TRACKER, BARE, PREPARED, FIRST = "tracker", "bare convolutions", "bare convolutions, prepared", "first frame"
POINTS = 4  # points of grid_sample along each side of a bin

# With these thresholds an untrained network finds its target in every frame, so that all stages run.
FOUND = {"target_not_found": -1e9, "distractor": 1e9, "hard_negative": 1e9}
MOMENTS = 10


def frames_of(count: int) -> tuple[list[Any], list[float]]:
    """Frames of `demo`, forward and backward again until there are enough, and the target in the first."""
    (sequence,) = load("demo", frames=True, patterns=["face"]).sequences
    assert sequence.frames is not None
    images = [read_frame(path) for path in sequence.frames.paths()]
    there_and_back = images + images[-2:0:-1]
    box = sequence.boxes[0] - [sequence.first_pixel, sequence.first_pixel, 0, 0]
    return [there_and_back[number % len(there_and_back)] for number in range(count)], box.tolist()


class Stages:
    """A tracker in the middle of a video, whose next frames are timed stage by stage, in CPU seconds.

    Args:
        net: prepared for tracking.
        settings: with a memory that is full after `memory_size` frames.
        frames: number of frames timed together; a multiple of `train_skipping`, so that all runs improve the filter
            equally often.
    """

    def __init__(self, net: InferenceNetwork, settings: TrackerSettings, frames: int) -> None:
        warm = settings.memory_size - settings.initial_samples
        self._images, box = frames_of(1 + warm + frames)
        self._images, first = self._images[1:], self._images[0]
        self._frames = frames
        self.tracker = DiMPTracker(net, settings, clock=time.process_time)
        self.tracker.init(first, box)
        for image in self._images[:warm]:
            self.tracker.update(image)
        self.runs: list[dict[str, float]] = []

    def __call__(self) -> int:
        """Track; the stages' seconds are added to `runs`."""
        total = dict.fromkeys(STAGES, 0.0)
        for image in self._images[-self._frames :]:
            self.tracker.update(image)
            for name, seconds in self.tracker.seconds.items():
                total[name] += seconds
        self.runs.append(total)
        return self._frames


def whole_ways(net: DiMPNet, settings: TrackerSettings, frames: int) -> tuple[dict[str, Any], Stages]:
    """The tracker, the convolutions alone (as built, and prepared as the tracker's are), and the first frame."""
    prepared = InferenceNetwork(net)
    stages = Stages(prepared, settings, frames)
    crop = torch.randn(1, 3, settings.crop_size, settings.crop_size)
    (image,), box = frames_of(1)
    starter = DiMPTracker(prepared, settings)

    def bare() -> int:
        with torch.inference_mode():
            for _ in range(frames):
                maps = net.extract(crop)
                net.bb_regressor.iou_features(maps)
                net.classifier.features(maps)
        return frames

    def bare_prepared() -> int:
        for _ in range(frames):
            maps = prepared.stages(crop)
            prepared.iou_features(maps)
            prepared.classification_features(maps)
        return frames

    def first() -> int:
        starter.init(image, box)
        return 1

    works: dict[str, Callable[[], int]] = {TRACKER: stages, BARE: bare, PREPARED: bare_prepared, FIRST: first}
    return {name: (lambda work=work: work) for name, work in works.items()}, stages


# The parts, each beside its usual implementation


def grid_sample_pool(features: Tensor, boxes: Tensor, bins: int, scale: float) -> Tensor:
    """The mean of `POINTS` x `POINTS` bilinear samples in each bin: (1, C, h, w) and (P, 4) to (P, C, bins, bins)."""
    height, width = features.shape[-2:]
    steps = (torch.arange(bins * POINTS, dtype=features.dtype) + 0.5) / (bins * POINTS)
    x = (boxes[:, 0, None] + boxes[:, 2, None] * steps) * scale
    y = (boxes[:, 1, None] + boxes[:, 3, None] * steps) * scale
    x, y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    rows = grid.reshape(1, -1, bins * POINTS, 2)  # all boxes in one call
    samples = functional.grid_sample(features, rows, align_corners=False)
    samples = samples.reshape(features.shape[1], len(boxes), bins * POINTS, bins * POINTS)
    return functional.avg_pool2d(samples, POINTS).transpose(0, 1)


@torch.inference_mode()
def plain_descent(
    optimiser: FilterOptimizer, weight: Tensor, features: Tensor, boxes: Tensor, shares: Tensor, steps: int
) -> Tensor:
    """The same descent with convolutions: three applications of the operator per step, one output channel each."""
    size = features.shape[-1] + 1
    maps = optimiser.residual_maps(boxes[None], size, size)
    label, mask, strength = maps.label[0], maps.mask[0], shares.sqrt()[:, None, None] * maps.weight[0]
    ridge = optimiser.filter_reg.square()

    def scores_of(taps: Tensor) -> Tensor:
        return functional.conv2d(features, taps, padding=2)[:, 0]

    for _ in range(steps):
        scores = scores_of(weight)
        residual = strength * ((1 - mask) / 2 * scores.abs() + (1 + mask) / 2 * scores - label)
        slope = strength * ((1 - mask) / 2 * scores.sign() + (1 + mask) / 2)
        gradient = conv2d_weight(features, weight.shape, (slope * residual)[:, None], padding=2)
        gradient = gradient + ridge * weight
        curvature = (slope * scores_of(gradient)).square().sum() + ridge * gradient.square().sum()
        length = optimiser.log_step_length.exp() * gradient.square().sum() / curvature
        weight = weight - length * gradient
    return weight


@torch.inference_mode()
def descent(
    optimiser: FilterOptimizer, weight: Tensor, features: Tensor, boxes: Tensor, shares: Tensor, steps: int
) -> Tensor:
    """Ours: products and fold."""
    found, _ = optimiser(weight, features[None], boxes[None], shares[None], iterations=steps)
    return found[-1]


def ready(work: Callable[[], Tensor]) -> Callable[[], Callable[[], Tensor]]:
    """A way without preparation."""
    return lambda: work


def part_ways(net: DiMPNet) -> dict[str, dict[str, Callable[[], Callable[[], Tensor]]]]:
    """Title -> name -> way. The first way of each part is ours."""
    torch.manual_seed(1)
    boxes = torch.tensor([115.0, 115, 57, 57]) + 5 * torch.randn(10, 4)
    maps = (torch.randn(1, 256, 36, 36), torch.randn(1, 256, 18, 18))
    vectors = (torch.rand(1, 256), torch.rand(1, 256))
    regressor = net.bb_regressor
    judge = BoxJudge(regressor, vectors)

    def pooled(backward: bool, own: bool) -> Tensor:
        given = boxes.clone().requires_grad_(backward)
        fine, coarse = (
            pool_boxes(map_, given[None], bins, scale)[0]
            if own
            else grid_sample_pool(map_, given, bins, scale)
            for map_, bins, scale in zip(maps, (5, 3), (1 / 8, 1 / 16), strict=True)
        )
        if backward:
            return torch.autograd.grad(fine.sum() + coarse.sum(), given)[0]
        return fine

    def overlap_by_autograd() -> Tensor:
        given = boxes.clone().requires_grad_(True)
        overlap = regressor.predict_iou(vectors, maps, given[None])
        return torch.autograd.grad(overlap.sum(), given)[0]

    ways: dict[str, dict[str, Callable[[], Callable[[], Tensor]]]] = {}
    for backward in (False, True):
        title = f"pooling 10 boxes on both maps, forward{' and backward' if backward else ''}"
        ways[title] = {
            "exact": ready(partial(pooled, backward, True)),
            f"grid_sample, {POINTS} x {POINTS} points": ready(partial(pooled, backward, False)),
        }
    ways["overlap of 10 boxes and its gradient"] = {
        "closed form": ready(lambda: judge(maps, boxes)[1]),
        "autograd": ready(overlap_by_autograd),
    }
    optimiser = net.classifier.filter_optimizer
    for samples, steps in ((50, 2), (50, 1), (15, 10)):
        features = torch.randn(samples, 512, 18, 18).mul_(0.011).to(memory_format=torch.channels_last)
        planar = features.contiguous()  # the layout that suits convolutions best
        places = torch.tensor([115.0, 115, 57, 57]) + torch.randn(samples, 4)
        shares = torch.full((samples,), 1 / samples)
        weight = 0.01 * torch.randn(1, 512, 4, 4)

        ways[f"steepest descent, {samples} samples, {steps} step{'s' * (steps > 1)}"] = {
            "products and fold": ready(partial(descent, optimiser, weight, features, places, shares, steps)),
            "convolutions": ready(partial(plain_descent, optimiser, weight, planar, places, shares, steps)),
        }
    return ways


def time_parts(net: DiMPNet, turns: int) -> dict[str, dict[str, Outcome[Tensor]]]:
    """Time all parts, and check that both ways of each agree where they should.

    Raises:
        RuntimeError: they do not.
    """
    found = {}
    for title, ways in part_ways(net).items():
        found[title] = time_in_turns(ways, turns=turns, warmup=2)
        ours, other = (outcome.result for outcome in found[title].values())
        assert ours is not None
        assert other is not None
        # Sampling only approximates the mean over a bin.
        allowed = 0.5 if "pooling" in title else 1e-3
        if (ours - other).abs().max() > allowed * other.abs().max():
            raise RuntimeError(f"{title}: the two ways give different results")
    return found


def milliseconds(seconds: float) -> str:
    """'412', '3.4', '0.52'."""
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def cpu_ratio(first: Timing, second: Timing) -> float:
    """CPU time of one against another: the median over turns."""
    return statistics.median(first.over(second))


def whole_report(
    outcomes: Mapping[str, Outcome[int]], stages: Stages, frames: int
) -> tuple[str, dict[str, Any]]:
    """The table of a frame and the ratios for which there are targets."""
    timing = timings(outcomes)
    tracker, bare, prepared, first = (timing[name] for name in (TRACKER, BARE, PREPARED, FIRST))
    runs = stages.runs[-len(tracker.cpu) :]
    rows = []
    stage_values = {}
    for name in STAGES:
        values = sorted(run[name] / frames for run in runs)
        stage_values[name] = [1e3 * value for value in values]
        rows.append([name, milliseconds(statistics.median(values)), milliseconds(values[0])])
    for name, item in ((TRACKER, tracker), (BARE, bare), (PREPARED, prepared)):
        rows.append(
            [f"**{name}**", milliseconds(item.cpu_median / frames), milliseconds(min(item.cpu) / frames)]
        )
    rows.append([f"**{FIRST}**", milliseconds(first.cpu_median), milliseconds(min(first.cpu))])
    ratios = {
        "frame": cpu_ratio(tracker, bare),
        "frame_prepared": cpu_ratio(tracker, prepared),
        "first_frame": cpu_ratio(first, bare) * frames,
        "first_frame_prepared": cpu_ratio(first, prepared) * frames,
    }
    met = {
        True: "which meets the target",
        False: "which misses the target",
    }
    text = (
        f"A frame takes {ratios['frame']:.2f} times the CPU time of its bare convolutions, "
        f"{met[ratios['frame'] <= TARGET]} of {TARGET}, and {ratios['frame_prepared']:.2f} times that of the same "
        "convolutions prepared as the tracker's are (batch norms folded in, oneDNN's own layout). The first frame "
        f"takes {ratios['first_frame']:.1f} bare frames, {met[ratios['first_frame'] < FIRST_FRAME_TARGET]} of less "
        f"than {FIRST_FRAME_TARGET:.0f}, and {ratios['first_frame_prepared']:.1f} prepared ones.\n\n"
    )
    text += markdown_table(["ms of CPU time per frame", "median", "lowest"], rows)
    value = {
        "ratios": ratios,
        "stages_ms": stage_values,
        "ways": {name: item.to_json() for name, item in timing.items()},
    }
    return text, value


def part_report(parts: Mapping[str, Mapping[str, Outcome[Tensor]]]) -> tuple[str, dict[str, Any]]:
    """One row for each part: ours, the usual way, and the ratio of its time to ours."""
    rows, values = [], {}
    for title, outcomes in parts.items():
        (name, ours), (other_name, other) = timings(outcomes).items()
        ratio = cpu_ratio(other, ours)
        rows.append(
            [
                title,
                f"{milliseconds(ours.cpu_median)} ({name})",
                f"{milliseconds(other.cpu_median)} ({other_name})",
                f"{ratio:.1f}",
            ]
        )
        values[title] = {name: ours.to_json(), other_name: other.to_json(), "ratio": ratio}
    header = ["ms of CPU time, median", "ours", "the usual way", "times as long"]
    return markdown_table(header, rows), values


def endurance(frames: int) -> dict[int, float]:
    """Track this many frames with a small network.

    Returns:
        Number of frames -> resident memory after them in MiB, at `MOMENTS` moments (fewer of fewer frames).
    """
    torch.manual_seed(0)
    config = DiMPConfig(classification_channels=64, iou_channels=32)
    net = DiMPNet(backbone_trunk("resnet18-small"), config).eval()
    tracker = DiMPTracker(net, TrackerSettings(crop_size=96).replaced(FOUND))
    images, box = frames_of(158)
    tracker.init(images[0], box)
    moments = {frames * part // MOMENTS for part in range(1, MOMENTS + 1)}
    held = {}
    for number in range(1, frames + 1):
        tracker.update(images[number % len(images)])
        if number in moments:
            held[number] = resident_mib()
            print(f"{number} frames: {held[number]:.1f} MiB", file=sys.stderr)
    return held


def resident_mib() -> float:
    """Memory of this process that is in RAM (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def endurance_page(held: Mapping[int, float]) -> Page:
    """The memory at every moment of `endurance`."""
    rows = [[f"{number:,}", f"{value:.1f}"] for number, value in held.items()]
    values = list(held.values())
    text = (
        f"A small network, crops of 96 pixels, all stages in every frame. From the first to the last row the resident "
        f"memory changes by {values[-1] - values[0]:+.1f} MiB.\n\n"
        f"{markdown_table(['frames', 'resident memory, MiB'], rows)}"
    )
    return Page("Memory of a tracker over many frames", text, {"resident_mib": dict(held)})


def measure(options: Namespace) -> Page:
    """Time everything, or track many frames.

    Raises:
        UserError: numbers with which nothing can be measured.
    """
    settings = TrackerSettings().replaced(FOUND)
    if options.endurance is not None:
        if options.endurance < 1:
            raise UserError(f"--endurance {options.endurance}: expected 1 or more")
        return endurance_page(endurance(options.endurance))
    if options.frames % settings.train_skipping:
        raise UserError(f"--frames {options.frames}: expected a multiple of {settings.train_skipping}")
    torch.manual_seed(0)
    net = DiMPNet(backbone_trunk("resnet50")).eval().requires_grad_(False)
    parts = time_parts(net, 3 * options.turns)
    ways, stages = whole_ways(net, settings, options.frames)
    text, value = whole_report(time_in_turns(ways, turns=options.turns), stages, options.frames)
    part_text, part_value = part_report(parts)
    text = (
        f"Random weights, crops of 288 pixels, a memory of 50 samples; {options.turns} runs of {options.frames} "
        f"frames.\n\n{text}\n\n{part_text}"
    )
    return Page("Speed of DiMP-50 on a CPU", text, {**value, "parts": part_value})


main = benchmark(
    "dimp",
    __doc__,
    measure,
    numbers={"turns": (5, "counted runs of each way"), "frames": (20, "frames of a run, a multiple of 20")},
    options={
        "--endurance": {"type": int, "metavar": "N", "help": "track N frames and report the memory instead"}
    },
    packages=("opencv-python",),
)

if __name__ == "__main__":
    sys.exit(main(None))
