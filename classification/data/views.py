"""ImageNet's crops on single images, at any size: torchvision's default recipe, on mmcv's image operations.

mmcv's own transforms draw from NumPy's global generator and have no random resized crop; these take a generator.
Resizing goes through Pillow: its bilinear filter is widened when shrinking (antialiased), as for the published ImageNet
figures; OpenCV's is not.
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
_LONGEST = 100


def shorter_side(size: int) -> int:
    """The shorter side that an image is resized to before its central crop of `size` pixels: 256 for 224."""
    return round(size * RESIZE / CROP)


def train_view(image: np.ndarray, generator: np.random.Generator, flip: bool, size: int = CROP) -> np.ndarray:
    """Random resized crop to a square (8 % to 100 % of the area, aspect 3/4 to 4/3), perhaps mirrored.

    Args:
        image: `(H, W, 3)`, uint8.
        generator: the only source of randomness; the crop does not depend on `flip`.
        flip: mirror with probability 1/2.
        size: of the square's side in pixels.

    Returns:
        `(size, size, 3)`, uint8.
    """
    top, left, height, width = draw_resized_crop(image.shape[0], image.shape[1], generator)
    view = _resize(_crop(image, top, left, height, width), size, size)
    mirrored = generator.random() < 0.5
    return mmcv.imflip(view) if flip and mirrored else view


def central_view(image: np.ndarray, size: int = CROP) -> np.ndarray:
    """Resize the shorter side to `shorter_side(size)` pixels, then take the central square: of 256 pixels, 224x224."""
    resized = _with_shorter_side(without_ends(image), shorter_side(size))
    height, width = resized.shape[:2]
    return _crop(resized, round((height - size) / 2), round((width - size) / 2), size, size)


def without_ends(image: np.ndarray) -> np.ndarray:
    """Of an image of which one side is more than 100 times the other, the central part of that shape.

    Enlarged as it is, a line of pixels from a small file would fill any memory; a central view shows none of its ends.
    """
    height, width = (min(length, _LONGEST * min(image.shape[:2])) for length in image.shape[:2])
    return _crop(image, (image.shape[0] - height) // 2, (image.shape[1] - width) // 2, height, width)


def shrunk(image: np.ndarray, size: int) -> np.ndarray:
    """The image shrunk to a shorter side of at most `shorter_side(size)`; its central view is that of the original."""
    side = shorter_side(size)
    return _with_shorter_side(image, side) if min(image.shape[:2]) > side else image


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


def _with_shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    if height <= width:
        return _resize(image, side, int(side * width / height))
    return _resize(image, int(side * height / width), side)


def _crop(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    return mmcv.imcrop(image, np.array([left, top, left + width - 1, top + height - 1]))


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return mmcv.imresize(image, (width, height), interpolation="bilinear", backend="pillow")
