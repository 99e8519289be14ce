"""Precise RoI pooling (Jiang et al., ECCV 2018, equation 3) in closed form: no sampling, no compiled extension.

A map is the function that interpolates its samples bilinearly and falls to zero over one cell outside; a bin's value is
the mean of that function over the bin. The interpolant is a sum of products of hat functions, so the integral over a
rectangle is a product of two one-dimensional integrals: pooling is multiplication with a small matrix on either side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.errors import UserError
from tracking.dimp.precision import full_precision

NARROWEST = 1e-8  # map cells: for a narrower bin the difference of two integrals loses all digits


def prroi_pool(features: Tensor, rois: Tensor, size: int | tuple[int, int], scale: float) -> Tensor:
    """Pool regions of any images of a batch; differentiable in the maps and in the regions, twice.

    Args:
        features: (N, C, H, W).
        rois: (R, 5), image index, x1, y1, x2, y2 in image pixels; nothing is rounded, sample (i, j) lies at
            (j / scale, i / scale).
        size: bins (rows, columns), or one number for both.
        scale: map cells per image pixel, 1/16 for a map of stride 16.

    Returns:
        (R, C, rows, columns); zero for regions without area.

    Raises:
        UserError: shapes that do not fit, or an image index that the batch does not have.
    """
    if features.dim() != 4 or rois.dim() != 2 or rois.shape[1] != 5:
        raise UserError(
            "prroi_pool takes features (N, C, H, W) and rois (R, 5), "
            f"got {tuple(features.shape)} and {tuple(rois.shape)}"
        )
    index = rois[:, 0].long()
    if len(rois) and not 0 <= int(index.min()) <= int(index.max()) < len(features):
        raise UserError(f"prroi_pool: the image indices of rois must lie in 0 ... {len(features) - 1}")
    boxes = torch.cat([rois[:, 1:3], rois[:, 3:] - rois[:, 1:3]], dim=1)
    parts, order = [features.new_zeros(0, features.shape[1], *_pair(size))], []
    for image in index.unique().tolist():
        chosen = (index == image).nonzero()[:, 0]
        parts.append(pool_boxes(features[image : image + 1], boxes[None, chosen], size, scale)[0])
        order.append(chosen)
    if not order:
        return parts[0]
    return torch.cat(parts)[torch.cat(order).argsort()]


def pool_boxes(features: Tensor, boxes: Tensor, size: int | tuple[int, int], scale: float) -> Tensor:
    """`prroi_pool` for equally many boxes in every image.

    Args:
        features: (N, C, H, W).
        boxes: (N, P, 4), x, y, w, h in image pixels.
        size: bins (rows, columns), or one number for both.
        scale: map cells per image pixel.

    Returns:
        (N, P, C, rows, columns).
    """
    rows, columns = _pair(size)
    with full_precision(features):
        if features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        # Differences of the integral lose digits in float32 on small boxes (3e-4 at one pixel); the matrices are small.
        exact = torch.float32 if features.device.type == "mps" else torch.float64
        low = boxes[..., :2].to(exact) * scale
        extent = boxes[..., 2:].to(exact).clamp_min(0) * scale
        high = low + extent
        columns_used = _support(low[..., 0], high[..., 0], features.shape[3])
        rows_used = _support(low[..., 1], high[..., 1], features.shape[2])
        across = _bin_weights(low[..., 0], extent[..., 0], columns, columns_used).to(features.dtype)
        down = _bin_weights(low[..., 1], extent[..., 1], rows, rows_used).to(features.dtype)
        images, count = boxes.shape[:2]
        maps = features[:, :, rows_used.start : rows_used.stop, columns_used.start : columns_used.stop]
        maps = maps.permute(0, 2, 3, 1)  # channels innermost: both products are then large and contiguous
        height, width, channels = maps.shape[1:]
        pooled = torch.matmul(down.reshape(images, count * rows, height), maps.reshape(images, height, -1))
        pooled = torch.matmul(across[:, :, None], pooled.reshape(images, count, rows, width, channels))
        return pooled.permute(0, 1, 4, 2, 3)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _support(low: Tensor, high: Tensor, samples: int) -> range:
    """The samples that any of the intervals reaches; all if asking the device would cost more than it saves."""
    if low.device.type != "cpu" or low.numel() == 0:
        return range(samples)
    first, last = float(low.detach().min()), float(high.detach().max())
    if not math.isfinite(first + last):
        return range(samples)
    start = min(max(math.floor(first), 0), samples - 1)
    return range(start, min(max(math.ceil(last) + 1, start + 1), samples))


def _bin_weights(low: Tensor, extent: Tensor, bins: int, samples: range) -> Tensor:
    """The weight of each sample in the mean over each bin of [low, low + extent]: (..., bins, samples)."""
    step = (extent / bins)[..., None]
    inside = (step > 0)[..., None]
    step = step.clamp_min(NARROWEST)
    edges = low[..., None] + step * torch.arange(bins + 1, dtype=low.dtype, device=low.device)
    positions = torch.arange(samples.start, samples.stop, dtype=low.dtype, device=low.device)
    integral = _hat_integral(edges[..., None] - positions)
    difference = integral[..., 1:, :] - integral[..., :-1, :]
    return torch.where(inside, difference / step[..., None], 0)


def _hat_integral(distance: Tensor) -> Tensor:
    """Integral of the hat function max(0, 1 - |t|) from minus infinity to `distance`."""
    inside = distance.clamp(-1, 1)
    return 0.5 + inside - inside * inside.abs() / 2
