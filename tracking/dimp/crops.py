"""Square crops around a target, and where a source pixel lies in them. Training and tracking crop in the same way.

Coordinates are 0-based indices of pixel centres, in the image as in the crop. A box `x, y, w, h` has its centre at
`x + w / 2`. In data sets `x` is the number of the first pixel: `to_centres` converts such boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import torch
from torch import Tensor
from torch.nn import functional

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class CropFrame:
    """Where a crop was cut; maps image coordinates to crop coordinates and back.

    Attributes:
        x, y: the crop's centre in the image.
        scale: image pixels per crop pixel.
        size: side of the crop in pixels.
    """

    x: float
    y: float
    scale: float
    size: int

    def boxes_to_crop(self, boxes: Tensor) -> Tensor:
        """Boxes `(..., 4)` x, y, w, h of the image, in crop coordinates."""
        return torch.cat([(boxes[..., :2] - self._centre(boxes)) / self.scale + self._middle,
                          boxes[..., 2:] / self.scale], dim=-1)  # fmt: skip

    def boxes_to_image(self, boxes: Tensor) -> Tensor:
        """The inverse of `boxes_to_crop`."""
        return torch.cat([(boxes[..., :2] - self._middle) * self.scale + self._centre(boxes),
                          boxes[..., 2:] * self.scale], dim=-1)  # fmt: skip

    @property
    def _middle(self) -> float:
        return (self.size - 1) / 2

    def _centre(self, boxes: Tensor) -> Tensor:
        return boxes.new_tensor([self.x, self.y])


def cut(image: Tensor, x: float, y: float, side: float, size: int) -> tuple[Tensor, CropFrame]:
    """Cut a square and resize it bilinearly; outside the image, its border is repeated.

    A square far larger than the crop is first subsampled by a whole number. The centre is truncated to a pixel and the
    side rounded; the returned frame says where the crop really lies (ATOM's sampling, Danelljan et al., CVPR 2019).

    Args:
        image: (3, H, W), any real type, on any device.
        x, y: centre of the square.
        side: its side in image pixels.
        size: side of the crop in pixels.

    Returns:
        The crop, (3, size, size) float32 with the image's range of values, and its frame.
    """
    stride = max(int(side / size - 0.1), 1)
    column, row = int(x), int(y)
    # In an image smaller than the stride a phase may lie outside.
    phase_x, phase_y = min(column % stride, image.shape[2] - 1), min(row % stride, image.shape[1] - 1)
    decimated = image[:, phase_y::stride, phase_x::stride]
    length = max(round(side / stride), 2)
    left = column // stride - (length - 1) // 2
    top = row // stride - (length - 1) // 2
    patch = replicated(decimated, left, top, length)
    if length != size:
        patch = _resized(patch, size)
    middle = (length - 1) / 2
    frame = CropFrame(
        (left + middle) * stride + phase_x, (top + middle) * stride + phase_y, length * stride / size, size
    )
    return patch, frame


def replicated(image: Tensor, left: int, top: int, length: int) -> Tensor:
    """`image[:, top:top + length, left:left + length]` in float32, with the border repeated beyond the image."""
    height, width = image.shape[-2:]
    # Where the square misses the image altogether, its nearest pixels stand for it.
    first_x, last_x = min(max(left, 0), width - 1), max(min(left + length, width), 1)
    first_y, last_y = min(max(top, 0), height - 1), max(min(top + length, height), 1)
    inside = image[:, first_y:last_y, first_x:last_x].to(torch.float32)
    if inside.shape[-2:] == (length, length):
        return inside
    beyond = (first_x - left, left + length - last_x, first_y - top, top + length - last_y)
    if min(beyond) < 0:
        return _repeated(inside, tuple(min(max(side, 0), length - 1) for side in beyond))
    return _repeated(inside, beyond)


def _repeated(inside: Tensor, beyond: tuple[int, ...]) -> Tensor:
    """Border pixels repeated: left, right, top, bottom."""
    return functional.pad(inside[None], beyond, mode="replicate")[0]


def _resized(patch: Tensor, size: int) -> Tensor:
    """The patch with `size` pixels a side, bilinearly, without smoothing."""
    if patch.device.type != "cpu":
        return functional.interpolate(patch[None], (size, size), mode="bilinear", align_corners=False)[0]
    # The same, several times as fast for three channels; the two differ by less than 0.02 of 255.
    pixels = cv2.resize(patch.permute(1, 2, 0).numpy(), (size, size), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def normalise(images: Tensor) -> Tensor:
    """RGB images (..., 3, H, W) with values in [0, 255], normalised by ImageNet's mean and spread as for backbones."""
    mean = images.new_tensor(MEAN, dtype=torch.float32)[:, None, None] * 255
    std = images.new_tensor(STD, dtype=torch.float32)[:, None, None] * 255
    return (images.to(torch.float32) - mean) / std


def to_centres(boxes: Tensor) -> Tensor:
    """Boxes `(..., 4)` of a data set (first pixel, number of pixels; 0-based) in coordinates of pixel centres.

    The box of the single pixel 7 is (7, 1) there and (6.5, 1) here: its middle is 7 either way.
    """
    return torch.cat([boxes[..., :2] - 0.5, boxes[..., 2:]], dim=-1)


def from_centres(boxes: Tensor) -> Tensor:
    """The inverse of `to_centres`."""
    return torch.cat([boxes[..., :2] + 0.5, boxes[..., 2:]], dim=-1)
