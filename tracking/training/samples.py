"""One training sample: crops of N + M frames, the target in them, labels and proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tracking.dimp.crops import cut
from tracking.dimp.filters import score_size
from tracking.dimp.iou_net import COARSE_STRIDE
from tracking.training.config import ViewConfig
from tracking.training.frames import AnnotatedFrame
from tracking.training.jitter import draw_proposals, jitter
from tracking.training.labels import gaussian_labels

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Sample(NamedTuple):
    """A training sample from one sequence. Boxes are x, y, width, height in crop pixels.

    Attributes:
        train_images: `(N, 3, crop, crop)` uint8 RGB.
        test_images: `(M, 3, crop, crop)` uint8 RGB.
        train_boxes: `(N, 4)` float32.
        proposals: `(M, P, 4)` float32.
        labels: `(M, K, K)` float32, the wanted score maps.
        ious: `(M, P)` float32, the proposals' overlaps.
    """

    train_images: Tensor
    test_images: Tensor
    train_boxes: Tensor
    proposals: Tensor
    labels: Tensor
    ious: Tensor


def make_sample(
    frames: Sequence[AnnotatedFrame],
    train_frames: int,
    config: ViewConfig,
    filter_size: int,
    random: np.random.Generator,
) -> Sample:
    """Cut and vary the frames of a sample.

    Args:
        frames: N + M of them.
        train_frames: N.
        config: how.
        filter_size: of the target model's filter, which determines the score map's side.
        random: the only source of randomness.
    """
    truth = np.stack([frame.box for frame in frames])
    around = np.concatenate(
        [
            jitter(truth[:train_frames], config.train_jitter, random),
            jitter(truth[train_frames:], config.test_jitter, random),
        ]
    )
    grey, flip = random.random() < config.grey, random.random() < config.flip
    order = random.permutation(3).tolist() if random.random() < config.swap_colours else [0, 1, 2]
    brightness = 1 + config.brightness * random.uniform(-1, 1, len(frames))
    tint = torch.from_numpy(np.exp(config.tint * random.uniform(-1, 1, 3))).float()[:, None, None]
    if grey:
        tint.fill_(1)
    images = torch.empty(len(frames), 3, config.crop, config.crop, dtype=torch.uint8)
    boxes = np.empty((len(frames), 4))
    for index, frame in enumerate(frames):
        crop, boxes[index] = _crop(frame, around[index], config)
        if grey:
            crop = torch.einsum("chw,c->hw", crop, crop.new_tensor(_LUMA)).expand(3, -1, -1)
        if flip:
            crop = crop.flip(-1)
            boxes[index, 0] = config.crop - 1 - boxes[index, 0] - boxes[index, 2]
        images[index] = (crop[order] * (tint * brightness[index])).round_().clamp_(0, 255)
    size = score_size(config.crop // COARSE_STRIDE, filter_size)
    labels = gaussian_labels(boxes[train_frames:], size, filter_size, config.label_sigma)
    drawn = [
        draw_proposals(box, config.proposals, config.proposal_sigmas, config.min_iou, random)
        for box in boxes[train_frames:]
    ]
    return Sample(
        train_images=images[:train_frames],
        test_images=images[train_frames:],
        train_boxes=torch.from_numpy(boxes[:train_frames]).float(),
        proposals=torch.from_numpy(np.stack([proposals for proposals, _ in drawn])).float(),
        labels=torch.from_numpy(labels),
        ious=torch.from_numpy(np.stack([ious for _, ious in drawn])).float(),
    )


def _crop(frame: AnnotatedFrame, around: np.ndarray, config: ViewConfig) -> tuple[Tensor, np.ndarray]:
    """The square around a box, and the target in it."""
    x, y, width, height = around.tolist()
    side = config.area_factor * (width * height) ** 0.5
    pixels = torch.from_numpy(frame.image).permute(2, 0, 1)
    crop, place = cut(pixels, x + width / 2, y + height / 2, side, config.crop)
    return crop, place.boxes_to_crop(torch.from_numpy(frame.box.astype(np.float64))).numpy()
