"""Converts any image file to a trained classifier's input, as its test images were converted.

Test images of any size ("crop": ImageNet; "photograph": the user's own folders, and others that are read upright) are
cropped, and so is a file, by the same function (`classification.data.views.central_view`). For test images of one size
("fit": digits, CIFAR, Tiny-ImageNet) the shorter side of a file is resized to it, antialiased, and the central part is
taken; an image of this size stays as it is. Then the file is treated like the data set's own images: grey for grey data
sets, 0 to 16 for digits (bright strokes on dark), averages if the run averaged.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from classification.checkpoint import Description
from classification.data.images import read_rgb
from classification.data.reduction import averaged
from classification.data.views import central_view, shrunk, without_ends
from core.errors import UserError


def white_of(dataset: str) -> int:
    """The pixel value of white in a data set's images."""
    return 16 if dataset == "digits" else 255


def white_in(description: Description) -> int:
    """The pixel value of white in a classifier's input; files of older releases do not hold it."""
    return description.white or white_of(description.dataset)


def view_of(description: Description) -> str:
    """How an image file is brought to a classifier's size; files of older releases do not hold it."""
    return description.view or ("crop" if description.dataset == "imagenet" else "fit")


def read_input(path: str | Path, description: Description) -> np.ndarray:
    """Read an image file as pixels for a classifier's normalisation.

    Args:
        path: see `core.storage.images.read_image`; of several pages or frames the first is read.
        description: of the classifier.

    Returns:
        (C, H, W), uint8, of the description's input shape.

    Raises:
        BadImage: the file cannot be read.
    """
    return to_input(read_rgb(path, upright=description.view == "photograph"), description)


def to_input(image: np.ndarray, description: Description) -> np.ndarray:
    """(H, W, 3), uint8, RGB -> (C, h, w), uint8, of the description's input shape; see this module.

    Raises:
        UserError: the description asks for an unknown conversion.
    """
    view, white = view_of(description), white_in(description)
    channels, height, width = description.input_shape
    if view in ("crop", "photograph"):
        pixels = central_view(shrunk(image, height) if view == "photograph" else image, height)
    elif view == "fit":
        pixels = fitted(image, height * description.downsample, width * description.downsample)
    else:
        raise UserError(
            f"the checkpoint's inputs are made by '{view}', which this release does not know: update it"
        )
    if channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]  # ITU-R 601
    if white != 255:
        pixels = np.rint(pixels * (white / 255)).astype(np.uint8)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if view == "fit" and description.downsample > 1:
        planes = averaged(planes[None], description.downsample)[0]
    if planes.shape != (channels, height, width):
        raise UserError(
            f"the checkpoint takes inputs of shape {description.input_shape}, but its conversion gives {planes.shape}"
        )
    return planes


def fitted(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, 3), uint8, until it just covers (height, width), and keep the central part."""
    image = without_ends(image)
    rows, columns = image.shape[:2]
    scale = max(height / rows, width / columns)
    size = max(height, round(rows * scale)), max(width, round(columns * scale))
    if size != (rows, columns):
        resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
        image = np.asarray(resized)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return image[top : top + height, left : left + width]
