"""Small folders of sequences for the tests of training: windows that slide over a photograph of scikit-image.

As a script it trains in two processes: `torchrun --nproc_per_node=2 training_trees.py FOLDER`, where FOLDER holds
`sequences/`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from core.training.recipe import OptimizerConfig, TrainConfig
from tracking.dimp.net import DiMPConfig
from tracking.training import TrackingConfig
from tracking.training.config import CacheConfig, DataConfig, SamplingConfig, SourceConfig, ViewConfig
from tracking.training.network import BackboneConfig

WIDTH, HEIGHT = 96, 72
# Where the target lies in the photograph (column, row, width, height): the astronaut's face, her badge, her helmet.
TARGETS = {"face": (200, 70, 36, 40), "badge": (172, 386, 24, 24), "helmet": (410, 432, 40, 30)}


def sequence_folder(folder: Path, target: str, frames: int = 24, images: str = "img") -> np.ndarray:
    """Write a sequence; returns its boxes, `(frames, 4)`."""
    photo = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    x, y, width, height = TARGETS[target]
    place = folder / target / images
    place.mkdir(parents=True)
    boxes = []
    for frame in range(frames):
        left = min(max(x - 30 + frame, 0), photo.shape[1] - WIDTH)
        top = min(max(y - 20, 0), photo.shape[0] - HEIGHT)
        cv2.imwrite(str(place / f"{frame:04d}.png"), photo[top : top + HEIGHT, left : left + WIDTH])
        boxes.append((x - left, y - top, width, height))
    text = "".join(",".join(map(str, box)) + "\n" for box in boxes)
    (folder / target / "groundtruth.txt").write_text(text)
    return np.array(boxes, float)


def small_config(folder: Path, **changes: object) -> TrackingConfig:
    """A protocol whose network and batches are as small as they can be."""
    config = TrackingConfig(
        name="tiny",
        backbone=BackboneConfig("resnet18-small"),
        network=DiMPConfig(classification_channels=16, iou_channels=16, optimizer_iterations=2),
        data=DataConfig(
            sources=(SourceConfig("folder", folder=folder),),
            sequences_per_epoch=8,
            sampling=SamplingConfig(train_frames=2, test_frames=1),
            views=ViewConfig(crop=64, proposals=4),
            cache=CacheConfig(enabled=True, target=16),
            workers=0,
        ),
        train=TrainConfig(
            epochs=2, batch_size=4, optimizer=OptimizerConfig("adam", lr=1e-3, weight_decay=0.0)
        ),
    )
    return replace(config, **changes)


def shared_config(folder: Path, batch_size: int) -> TrackingConfig:
    """What two processes train; three batches of five are judged after the epoch, by one of them each."""
    config = small_config(folder)
    data = replace(config.data, validation=config.data.sources, validation_sequences=3 * batch_size)
    return replace(config, data=data, train=replace(config.train, epochs=1, batch_size=batch_size))


def in_two_processes(folder: Path) -> None:
    """A training whose batches can be shared, and one whose batches are too small for that."""
    from core.command_line.config import dump_config
    from tracking import train

    for name, batch_size in (("enough", 5), ("too-few", 3)):
        protocol = folder / f"{name}-{os.environ['RANK']}.py"
        dump_config(shared_config(folder / "sequences", batch_size), protocol)
        arguments = ["--config", str(protocol), "--work-dir", str(folder / name), "--device", "cpu"]
        print(f"{name}: {train.main(arguments)}", flush=True)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    in_two_processes(Path(sys.argv[1]))
