"""Boxes moved at random: for the places of crops, and as proposals whose overlap the network learns to predict."""

from __future__ import annotations

import numpy as np

from tracking.evaluation.metrics import overlap
from tracking.training.config import JitterConfig

_TRIES = 100
_SHRINK = 0.9


def jitter(boxes: np.ndarray, config: JitterConfig, random: np.random.Generator) -> np.ndarray:
    """The boxes around which crops are cut.

    Width and height are each multiplied by exp(scale * N(0, 1)); then the centre moves by U(-0.5, 0.5) * shift *
    sqrt(width * height) of the new size, per axis (Danelljan et al., "ATOM", CVPR 2019, section 4).

    Args:
        boxes: `(F, 4)` x, y, width, height.
        config: how far.
        random: the only source of randomness.
    """
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    sizes = boxes[:, 2:] * np.exp(config.scale * random.standard_normal((len(boxes), 2)))
    reach = config.shift * np.sqrt(sizes.prod(axis=1, keepdims=True))
    centres = centres + (random.random((len(boxes), 2)) - 0.5) * reach
    return np.concatenate([centres - sizes / 2, sizes], axis=1)


def draw_proposals(
    box: np.ndarray, count: int, sigmas: tuple[float, ...], min_iou: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around a target, and their overlaps with it.

    Each draws one of `sigmas`; centre and size then move by N(0, sigma * sqrt(width * height)). A side of at most one
    pixel becomes U(0.15, 0.5) of the target's. Proposals that overlap too little are drawn again with 0.9 of their
    spread, up to 100 times; one that never overlaps enough is the target itself. ATOM's own training rounds the boxes
    to whole pixels; these are not rounded, for small crops.

    Args:
        box: `(4,)` the target.
        count: P.
        sigmas: spreads to draw from.
        min_iou: overlaps above this are accepted.
        random: the only source of randomness.

    Returns:
        `(P, 4)` boxes and `(P,)` overlaps, in (min_iou, 1].
    """
    spread = random.choice(np.asarray(sigmas), count) * np.sqrt(box[2] * box[3])
    proposals = np.tile(box.astype(np.float64), (count, 1))
    overlaps = np.ones(count)
    waiting = np.arange(count)
    for _ in range(_TRIES):
        drawn = _perturbed(box, spread[waiting], random)
        found = overlap(drawn, np.broadcast_to(box, drawn.shape))
        accepted = found > min_iou
        proposals[waiting[accepted]], overlaps[waiting[accepted]] = drawn[accepted], found[accepted]
        waiting = waiting[~accepted]
        if not len(waiting):
            break
        spread[waiting] *= _SHRINK
    return proposals, overlaps


def _perturbed(box: np.ndarray, spread: np.ndarray, random: np.random.Generator) -> np.ndarray:
    noise = random.standard_normal((len(spread), 4)) * spread[:, None]
    centres = box[:2] + box[2:] / 2 + noise[:, :2]
    sizes = box[2:] + noise[:, 2:]
    small = sizes <= 1
    sizes[small] = (box[2:] * random.uniform(0.15, 0.5, sizes.shape))[small]
    return np.concatenate([centres - sizes / 2, sizes], axis=1)
