"""The target's box: a few starting boxes climb the predicted overlap (Danelljan et al., CVPR 2019, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tracking.dimp.settings import TrackerSettings

Judge = Callable[[Tensor], tuple[Tensor, Tensor]]
SMALLEST = 1.0  # side of a box, in crop pixels


def starting_boxes(box: Tensor, settings: TrackerSettings, generator: torch.Generator) -> Tensor:
    """A box and random ones around it, (1 + `settings.random_boxes`, 4).

    Args:
        box: (4,), x, y, w, h in crop pixels, on the CPU.
        settings: how many, and how far.
        generator: on the CPU.
    """
    centre, size = box[:2] + box[2:] / 2, box[2:]
    random = torch.rand(settings.random_boxes, 4, generator=generator, dtype=box.dtype) - 0.5
    unit = size.prod().sqrt()
    sizes = size + random[:, 2:] * settings.jitter_size * unit
    sizes = torch.maximum(sizes, size.min() / 3)
    centres = centre + random[:, :2] * settings.jitter_position * unit
    return torch.cat([box[None], torch.cat([centres - sizes / 2, sizes], dim=1)])


def refine(judge: Judge, boxes: Tensor, settings: TrackerSettings) -> tuple[Tensor, Tensor]:
    """Gradient ascent on the overlap; a box moves in units of its own width and height.

    Args:
        judge: boxes (P, 4) to predicted overlaps (P,) and their gradients (P, 4).
        boxes: starting boxes, (P, 4), x, y, w, h in crop pixels.
        settings: steps and their length.

    Returns:
        The boxes after the last step and the overlaps before it, as the published code pairs them.
    """
    overlaps = boxes.new_zeros(len(boxes))
    length = settings.refinement_step
    for _ in range(settings.refinement_iterations):
        overlaps, gradient = judge(boxes)
        boxes = boxes + length * gradient * boxes[:, 2:].repeat(1, 2)
        length *= settings.refinement_decay
    return boxes, overlaps


def best_box(boxes: Tensor, overlaps: Tensor, settings: TrackerSettings) -> Tensor | None:
    """The mean of the best boxes that are not too elongated; None if none is left.

    Args:
        boxes: (P, 4), x, y, w, h in crop pixels; widths and heights below a pixel count as one.
        overlaps: (P,).
        settings: how many are averaged, and what is too elongated.
    """
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:].clamp_min(SMALLEST)], dim=1)
    ratio = boxes[:, 2] / boxes[:, 3]
    limit = settings.maximal_aspect_ratio
    kept = (ratio > 1 / limit) & (ratio < limit) & torch.isfinite(boxes).all(1) & torch.isfinite(overlaps)
    if not bool(kept.any()):
        return None
    boxes, overlaps = boxes[kept], overlaps[kept]
    best = overlaps.topk(min(settings.refinement_average, len(overlaps))).indices
    return boxes[best].mean(0)
