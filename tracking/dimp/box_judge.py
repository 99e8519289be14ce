"""Predicted overlap and its gradient in the box, in closed form, as every step of a box refinement needs them.

It is the same function as `IoUNet.predict_iou` for one target in evaluation mode. The target's modulation and the batch
norms are folded into the two fully connected layers once per video. The gradient needs no graph: with bin weights W(x)
on either axis and their derivatives, the chain rule is three more matrix products.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tracking.dimp.iou_net import COARSE_STRIDE, FINE_STRIDE, IoUNet, LinearBlock, Maps


class _Level(NamedTuple):
    """One fully connected layer with everything folded in.

    Attributes:
        weight: (width, bins * bins * C), rows of bins outermost, channels innermost.
        bias: (width,).
        answer: (width,), the predictor's weights of this layer.
        bins: per side.
        scale: map cells per crop pixel.
    """

    weight: Tensor
    bias: Tensor
    answer: Tensor
    bins: int
    scale: float


class _Bins(NamedTuple):
    """Mean over each of K bins of intervals on both axes, as weights of the samples, and derivatives in crop pixels.

    Attributes:
        weight: (2, P, K, n).
        by_low: derivative in the interval's lower end, its length kept.
        by_extent: derivative in its length.
    """

    weight: Tensor
    by_low: Tensor
    by_extent: Tensor


class BoxJudge:
    """Judges boxes in frames of one video.

    Args:
        net: the box regressor, in evaluation mode.
        modulation: the target's vectors, (1, width) each, of `IoUNet.modulation`.
    """

    def __init__(self, net: IoUNet, modulation: Maps) -> None:
        width = net.iou_predictor.in_features // 2
        answers = net.iou_predictor.weight.detach()[0].split(width)
        self._constant = net.iou_predictor.bias.detach()
        self._levels = tuple(
            _fold(layer, vector[0], answer, bins, stride)
            for layer, vector, answer, bins, stride in zip(
                (net.fc3_rt, net.fc4_rt),
                modulation,
                answers,
                (5, 3),
                (FINE_STRIDE, COARSE_STRIDE),
                strict=True,
            )
        )

    @torch.no_grad()
    def __call__(self, maps: Maps, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Judge boxes in one frame.

        Args:
            maps: of `IoUNet.iou_features`, one frame.
            boxes: (P, 4), x, y, w, h in crop pixels.

        Returns:
            Predictions of 2 IoU - 1, (P,), and their gradients in the boxes, (P, 4).
        """
        overlap = self._constant.expand(len(boxes))
        gradient = torch.zeros_like(boxes)
        for level, features in zip(self._levels, maps, strict=True):
            value, slope = _judge(level, features, boxes)
            overlap = overlap + value
            gradient += slope
        return overlap, gradient


def _fold(layer: LinearBlock, vector: Tensor, answer: Tensor, bins: int, stride: int) -> _Level:
    norm = layer.bn
    assert norm.running_var is not None
    assert norm.running_mean is not None
    factor = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    weight = layer.linear.weight.detach() * factor[:, None]
    bias = (layer.linear.bias.detach() - norm.running_mean) * factor + norm.bias.detach()
    weight = weight.unflatten(1, (len(vector), bins * bins)) * vector[:, None]
    return _Level(weight.transpose(1, 2).flatten(1).contiguous(), bias, answer, bins, 1 / stride)


def _judge(level: _Level, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """One level's part of the overlap, (P,), and its gradient, (P, 4)."""
    count, bins = len(boxes), level.bins
    # Float64 until the differences are taken, as in `pool_boxes`.
    exact = torch.float32 if boxes.device.type == "mps" else torch.float64
    low, extent = (boxes * level.scale).to(exact).split(2, dim=1)
    left, top, length = _support(low, extent, features.shape[3], features.shape[2])
    axes = _bins(low, extent, bins, (left, top), length, level.scale, features.dtype)
    width, height = min(length, features.shape[3] - left), min(length, features.shape[2] - top)
    across, down = axes.weight[0, ..., :width], axes.weight[1, ..., :height]
    channels = features.shape[1]
    region = features[0, :, top : top + height, left : left + width].permute(1, 2, 0)
    flat = region.reshape(height, width * channels)
    partial = (down.reshape(count * bins, height) @ flat).view(count, bins, width, channels)
    pooled = across[:, None] @ partial  # (P, bins, bins, C)

    hidden = functional.linear(pooled.reshape(count, -1), level.weight, level.bias)
    overlap = hidden.clamp_min(0) @ level.answer
    slope = torch.where(hidden > 0, level.answer, 0) @ level.weight
    slope = slope.view(count, bins, bins, channels)
    by_across = (slope @ partial.transpose(2, 3)).sum(1)  # (P, bins, width)
    by_partial = across.transpose(1, 2)[:, None] @ slope
    by_down = (by_partial.reshape(count * bins, width * channels) @ flat.T).view(count, bins, height)
    by_low = [
        (factor * axes.by_low[axis, ..., : factor.shape[2]]).sum((1, 2))
        for axis, factor in enumerate((by_across, by_down))
    ]
    by_extent = [
        (factor * axes.by_extent[axis, ..., : factor.shape[2]]).sum((1, 2))
        for axis, factor in enumerate((by_across, by_down))
    ]
    return overlap, torch.stack(by_low + by_extent, dim=1)


def _support(low: Tensor, extent: Tensor, width: int, height: int) -> tuple[int, int, int]:
    """First column, first row and side of a square that holds all samples that a box reaches.

    All samples if asking the device would cost more than it saves.
    """
    if low.device.type != "cpu":
        return 0, 0, max(width, height)
    first, last = low.amin(0).tolist(), (low + extent).amax(0).tolist()
    starts, stops = [], []
    for lowest, highest, samples in zip(first, last, (width, height), strict=True):
        start = int(min(max(lowest // 1, 0), samples - 1))
        starts.append(start)
        stops.append(int(min(max(-(-highest // 1) + 1, start + 1), samples)))
    return starts[0], starts[1], max(stops[0] - starts[0], stops[1] - starts[1])


def _bins(
    low: Tensor,
    extent: Tensor,
    bins: int,
    starts: tuple[int, int],
    length: int,
    scale: float,
    dtype: torch.dtype,
) -> _Bins:
    """The weights of `tracking.dimp.roi` and their derivatives for both axes; intervals without length have none.

    Args:
        low, extent: (P, 2), of the intervals along x and y, in map cells.
        bins: number of bins of each interval.
        starts: the first sample along x and y.
        length: number of samples.
        scale: map cells per crop pixel.
        dtype: of the result.
    """
    low, extent = low.T, extent.T
    number = torch.arange(bins + 1, dtype=low.dtype, device=low.device)
    positions = torch.arange(length, dtype=low.dtype, device=low.device)
    origin = low.new_tensor(starts)[:, None]
    there = extent > 0
    step = torch.where(there, extent / bins, 1)[..., None, None]
    edges = (low - origin)[..., None] + step[..., 0] * number
    inside = (edges[..., None] - positions).clamp_(-1, 1)  # (2, P, bins + 1, length)
    distance = inside.abs()
    integral = inside - inside * distance / 2
    hat = 1 - distance
    moved = hat * number[:, None]
    factor = there[..., None, None] / step
    weight = (integral[:, :, 1:] - integral[:, :, :-1]) * factor
    by_low = (hat[:, :, 1:] - hat[:, :, :-1]) * (factor * scale)
    by_extent = (moved[:, :, 1:] - moved[:, :, :-1] - weight) * (factor * (scale / bins))
    return _Bins(weight.to(dtype), by_low.to(dtype), by_extent.to(dtype))
