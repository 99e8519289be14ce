"""Image files and networks' inputs and outputs: arrays of 8 or 16 bits, and float tensors in [0, 1].

`core.storage.images` says what an image is.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt

from core.errors import MissingData, UserError
from core.storage.data import is_hidden, require
from core.storage.files import write_with
from core.storage.images import BadImage, eight_bits, read_image, split_alpha

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""File name endings that count as images when a folder is read."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G, B in the grey that a network of one channel sees (ITU-R BT.601, full range)."""

_PNG_HEADER = 33  # bytes of a PNG's signature and first chunk


def find_images(folder: str | Path, what: str, get: str) -> list[Path]:
    """The image files directly in `folder`, by name; a warning counts files with other endings.

    Args:
        folder: where to look.
        what: what is looked for, in words, for the message.
        get: where to get it, for the message.

    Raises:
        MissingData: there is no such folder, or no image in it.
    """
    folder = require(folder, what, get)
    if not folder.is_dir():
        raise MissingData(f"{what}: '{folder}' is a file; name a folder of images.")
    entries = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    found = [path for path in entries if path.suffix.lower() in SUFFIXES]
    if not found:
        raise MissingData(f"{what}: no image ({', '.join(SUFFIXES)}) in '{folder}'. Get it from {get}.")
    if len(entries) > len(found):
        others = [path.name for path in entries if path.suffix.lower() not in SUFFIXES]
        warnings.warn(
            f"{what}: {len(others)} files or folders in '{folder}' are not used, as they do not end in "
            f"{', '.join(SUFFIXES)}, such as '{others[0]}'",
            stacklevel=2,
        )
    return found


def read_upright(path: str | Path) -> np.ndarray:
    """Read an image file with its own depth and channels, turned upright; see `core.storage.images.read_image`.

    Raises:
        BadImage: see there; a file of several pictures is refused, as all but the first would be lost.
    """
    try:
        return read_image(path, upright=True)
    except BadImage as error:
        raise BadImage(f"{error}; replace it or leave it out.") from error


def read_photo(path: str | Path) -> np.ndarray:
    """Read an image for training or scoring: H x W (x 3) uint8, alpha dropped, 16 bits rounded to 8."""
    return eight_bits(split_alpha(read_upright(path))[0])


def write_image(path: str | Path, image: np.ndarray, profile: bytes | None = None) -> None:
    """Write an image, atomically; the ending chooses the format, JPEG and WebP at quality 95.

    Grey with alpha in 16 bits is written as RGBA.

    Args:
        path: the file.
        image: see above.
        profile: an ICC colour profile to go with it; a BMP has no place for one.

    Raises:
        UserError: as for `require_format`.
    """
    path = Path(path)
    require_format(path, image)
    if image.dtype == np.uint16:
        write_with(path, lambda temporary: temporary.write_bytes(_encode_deep(image, profile)))
        return
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    if profile is not None and path.suffix.lower() != ".bmp":
        options["icc_profile"] = profile
    write_with(path, lambda temporary: Image.fromarray(image).save(temporary, **options))


def require_format(path: Path, image: np.ndarray) -> None:
    """Check that the format of `path`'s ending can hold an image of this type and these channels.

    Raises:
        UserError: alpha or 16 bits in a JPEG, or an ending that is not known.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"'{path}': the ending '{path.suffix}' is not one of {', '.join(SUFFIXES)}; use .png."
        )
    has_alpha = image.ndim == 3 and image.shape[2] in (2, 4)
    if image.dtype == np.uint16 and suffix != ".png":
        raise UserError(f"'{path}': 16-bit images are written as .png only; change the ending.")
    if has_alpha and suffix in (".jpg", ".jpeg", ".bmp"):
        raise UserError(f"'{path}': {suffix} cannot hold the image's alpha channel; use .png.")


def join_alpha(colour: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """The inverse of `split_alpha`."""
    return colour if alpha is None else np.dstack([colour, alpha])


def fill_transparent(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Give fully transparent pixels the colour of the nearest visible pixel.

    Their stored colour is invisible and often black: enlarging would draw it into the edges of visible parts.

    Args:
        colour: H x W or H x W x 3.
        alpha: H x W.

    Returns:
        An array of the same shape and type; `colour` itself if all pixels are visible, or none.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return colour
    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return np.ascontiguousarray(colour[rows, columns])


def to_tensor(image: np.ndarray, channels: int = 3) -> torch.Tensor:
    """H x W or H x W x 3, uint8 or uint16 -> 1 x channels x H x W float32 in [0, 1].

    Grey is repeated for a colour network; colour becomes luma (ITU-R BT.601) for a grey one.
    """
    values = image.astype(np.float32) / np.iinfo(image.dtype).max
    if values.ndim == 3 and channels == 1:
        values = values @ LUMA.astype(np.float32)
    if values.ndim == 2:
        return torch.from_numpy(values)[None, None].repeat(1, channels, 1, 1)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]


def to_pixels(output: torch.Tensor, like: np.ndarray) -> np.ndarray:
    """1 x C x H x W in [0, 1] -> pixels of `like`'s type, clamped and rounded; grey if `like` is grey."""
    values = output[0].detach().float().cpu().numpy().transpose(1, 2, 0)
    if like.ndim == 2:
        values = values @ LUMA.astype(np.float32) if values.shape[2] == 3 else values[..., 0]
    elif values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    limit = np.iinfo(like.dtype).max
    return np.rint(values.clip(0, 1) * limit).astype(like.dtype)


def _encode_deep(image: np.ndarray, profile: bytes | None) -> bytes:
    """Encode as a 16-bit PNG."""
    if image.ndim == 3:
        order = {2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[image.shape[2]]
        image = np.ascontiguousarray(image[..., order])
    encoded, content = cv2.imencode(".png", image)
    if not encoded:
        raise OSError("OpenCV could not encode the image as a 16-bit PNG")
    png = content.tobytes()
    if profile is None:
        return png
    body = b"iCCP" + b"ICC profile\0\0" + zlib.compress(profile)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:_PNG_HEADER] + chunk + png[_PNG_HEADER:]  # it has to come before the pixels
