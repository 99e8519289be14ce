"""ImageNet's crops on single images: torchvision's default recipe, on mmcv's image operations.

mmcv's own transforms draw from numpy's global generator and know no random resized crop; these take a
generator. Resizing goes through Pillow, whose bilinear filter is widened when shrinking (antialiased), as
the published ImageNet figures were measured; OpenCV's is not.
"""

from __future__ import annotations

import math

import mmcv
import numpy as np

CROP = 224
RESIZE = 256
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def train_view(image: np.ndarray, generator: np.random.Generator, flip: bool) -> np.ndarray:
    """Random resized crop to 224x224 (8 % to 100 % of the area, aspect 3/4 to 4/3), perhaps mirrored.

    Args:
        image: `(H, W, 3)`, uint8.
        generator: the only source of randomness; the crop does not depend on `flip`.
        flip: mirror with probability 1/2.

    Returns:
        `(224, 224, 3)`, uint8.
    """
    top, left, height, width = draw_resized_crop(image.shape[0], image.shape[1], generator)
    view = _resize(_crop(image, top, left, height, width), CROP, CROP)
    mirrored = generator.random() < 0.5
    return mmcv.imflip(view) if flip and mirrored else view


def central_view(image: np.ndarray) -> np.ndarray:
    """Resize the shorter side to 256 pixels, then take the central 224x224."""
    height, width = image.shape[:2]
    if height <= width:
        height, width = RESIZE, int(RESIZE * width / height)
    else:
        height, width = int(RESIZE * height / width), RESIZE
    resized = _resize(image, height, width)
    return _crop(resized, round((height - CROP) / 2), round((width - CROP) / 2), CROP, CROP)


def draw_resized_crop(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw the crop of Szegedy et al. (CVPR 2015) as torchvision does: `(top, left, height, width)`.

    Area fraction uniform, aspect ratio log-uniform; after ten draws that do not fit, the largest central
    crop of an allowed aspect ratio.
    """
    for _ in range(_ATTEMPTS):
        area = height * width * generator.uniform(*_AREA)
        aspect = math.exp(generator.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(generator.integers(height - crop_height + 1))
            left = int(generator.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height, crop_width = height, width
    if width / height < _ASPECT[0]:
        crop_height = round(width / _ASPECT[0])
    elif width / height > _ASPECT[1]:
        crop_width = round(height * _ASPECT[1])
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _crop(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    return mmcv.imcrop(image, np.array([left, top, left + width - 1, top + height - 1]))


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return mmcv.imresize(image, (width, height), interpolation="bilinear", backend="pillow")
