"""The memory of a tracker over many frames, and the video that this and `benchmarks.dimp` track."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import machine_text
from core.tables import markdown_table
from tracking.datasets import load
from tracking.dimp import DiMPConfig, DiMPNet
from tracking.dimp.backbones import backbone_trunk
from tracking.dimp.settings import TrackerSettings
from tracking.dimp.tracker import DiMPTracker
from tracking.files.images import read_image

# A network without training finds its target in every frame, so that all stages run.
FOUND = {"target_not_found": -1e9, "distractor": 1e9, "hard_negative": 1e9}
MOMENTS = 10


def frames_of(count: int) -> tuple[list[Any], list[float]]:
    """Frames of `demo`, forward and backward again until there are enough, and the target in the first."""
    (sequence,) = load("demo", frames=True, patterns=["face"]).sequences
    assert sequence.frames is not None
    images = [read_image(path) for path in sequence.frames.paths()]
    there_and_back = images + images[-2:0:-1]
    box = sequence.boxes[0] - [sequence.first_pixel, sequence.first_pixel, 0, 0]
    return [there_and_back[number % len(there_and_back)] for number in range(count)], box.tolist()


def endurance(frames: int) -> dict[int, float]:
    """Track so many frames with a small network.

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


def endurance_report(
    held: Mapping[int, float], command: str, facts: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The page and the JSON of a run.

    Args:
        held: of `endurance`.
        command: that gave it.
        facts: of `benchmarks.measure.machine`.
    """
    rows = [[f"{number:,}", f"{value:.1f}"] for number, value in held.items()]
    values = list(held.values())
    text = (
        "# Memory of a tracker over many frames\n\n"
        f"`{command}`: a small network, crops of 96 pixels, all stages in every frame. From the first to the last row "
        f"the resident memory changes by {values[-1] - values[0]:+.1f} MiB.\n\n"
        f"{markdown_table(['frames', 'resident memory, MiB'], rows)}\n\n{machine_text(facts)}\n"
    )
    return text, {"machine": dict(facts), "command": command, "resident_mib": dict(held)}
