"""The wanted score maps of the target model."""

from __future__ import annotations

import numpy as np

from tracking.dimp.iou_net import COARSE_STRIDE


def gaussian_labels(boxes: np.ndarray, size: int, filter_size: int, sigma: float) -> np.ndarray:
    """A peak of height 1 at each target's centre (Bhat et al., ICCV 2019, section 3.5).

    Cell j of the map lies at crop pixel 16 j if the filter's size is even, half a cell further if it is odd.

    Args:
        boxes: `(F, 4)` x, y, width, height in crop pixels.
        size: K, the map's side.
        filter_size: of the target model's filter.
        sigma: standard deviation of the peak, in cells.

    Returns:
        `(F, K, K)` float32, rows are y.
    """
    offset = (filter_size % 2) / 2
    centres = (boxes[:, :2] + boxes[:, 2:] / 2) / COARSE_STRIDE - offset
    distances = np.arange(size) - centres[:, :, None]
    profiles = np.exp(-0.5 * (distances / sigma) ** 2)
    return (profiles[:, 1, :, None] * profiles[:, 0, None, :]).astype(np.float32)
