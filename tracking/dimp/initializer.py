"""The filter's first guess (Bhat et al., ICCV 2019, section 3.3): features pooled over the target."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tracking.dimp.roi import pool_boxes


class FilterInitializer(nn.Module):
    """A convolution, then the mean of its precisely pooled target regions.

    Args:
        channels: of the classification features.
        filter_size: bins per side.
        stride: image pixels per feature cell.
    """

    def __init__(self, channels: int, filter_size: int, stride: int) -> None:
        super().__init__()
        self.filter_size = filter_size
        self.stride = stride
        self.filter_conv = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.normal_(self.filter_conv.weight, 0, math.sqrt(2 / (9 * channels)))
        assert self.filter_conv.bias is not None
        nn.init.zeros_(self.filter_conv.bias)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """A filter per sequence.

        Args:
            features: (S, N, C, h, w), classification features of the training images.
            boxes: (S, N, 4), x, y, w, h of the target in crop pixels.

        Returns:
            (S, C, k, k).
        """
        sequences, images = boxes.shape[:2]
        maps, boxes = features.flatten(0, 1), boxes.reshape(-1, 4)
        if features.device.type == "cpu":
            convolved, boxes = self._convolve_around(maps, boxes)
        else:
            convolved = self.filter_conv(maps)
        pooled = pool_boxes(convolved, boxes[:, None], self.filter_size, 1 / self.stride)
        return pooled.reshape(sequences, images, *pooled.shape[2:]).mean(1)

    def _convolve_around(self, maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The convolution in a window that the boxes reach, about a tenth of the map, and the boxes in the window.

        Cells beyond the map's border, which pooling takes as zero, stay zero: windows end at the border.
        """
        height, width = maps.shape[-2:]
        x = _window(boxes[:, 0] / self.stride, boxes[:, 2] / self.stride, width)
        y = _window(boxes[:, 1] / self.stride, boxes[:, 3] / self.stride, height)
        if x is None or y is None:
            return self.filter_conv(maps), boxes
        (left, columns), (top, rows) = x, y
        padded = functional.pad(maps, (1, 1, 1, 1))
        windows = torch.stack(
            [
                padded[image, :, row : row + rows + 2, column : column + columns + 2]
                for image, (row, column) in enumerate(zip(top.tolist(), left.tolist(), strict=True))
            ]
        )
        convolved = functional.conv2d(windows, self.filter_conv.weight, self.filter_conv.bias)
        corners = torch.stack([left, top], dim=1) * self.stride
        return convolved, torch.cat([boxes[:, :2] - corners, boxes[:, 2:]], dim=1)


def _window(low: Tensor, extent: Tensor, samples: int) -> tuple[Tensor, int] | None:
    """First samples of windows of one length that hold all that the intervals reach; None for the whole map."""
    if not bool(torch.isfinite(low + extent).all()):
        return None
    first = low.floor().clamp(0, samples - 1).long()
    last = (low + extent.clamp_min(0)).ceil().clamp(0, samples - 1).long()
    length = int((last - first).max()) + 1
    if length >= samples:
        return None
    return first.clamp_max(samples - length), length
