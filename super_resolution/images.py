"""Image files and what networks take: arrays of 8 or 16 bits in, float tensors in [0, 1], arrays out.

Everywhere in this package an image is a NumPy array of uint8 or uint16 with shape H x W (grey), H x W x 2
(grey and alpha), H x W x 3 (RGB) or H x W x 4 (RGB and alpha).
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.ndimage import distance_transform_edt

from core.errors import MissingData, UserError
from core.storage.data import is_hidden, require
from core.storage.files import write_with

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""File name endings that count as images when a folder is read."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G, B in the grey that a network of one channel sees (ITU-R BT.601, full range)."""

_MODES = {
    "1": "L",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _EXIF_ORIENTATION = 258, 262, 274
_PNG_HEADER = 33  # bytes of a PNG's signature and first chunk
_RGB_OF_BGR = {3: [2, 1, 0], 4: [2, 1, 0, 3]}
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, cv2.error)


def find_images(folder: str | Path, what: str, get: str) -> list[Path]:
    """The image files directly in `folder`, by name; a warning counts those that are none by their ending.

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


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as it is: grey stays grey, alpha stays, 16-bit stays 16-bit (PNG and TIFF).

    Palettes become RGB, CMYK becomes RGB without regard to its profile, and a camera's orientation tag is applied.
    Pillow's limit of 179 million pixels does not hold here; OpenCV's of 2^30 pixels and a million a side do for
    colour and PNGs of 16 bits.

    Raises:
        MissingData: there is no such file.
        UserError: it is broken, cut short, an animation, or of a kind that has no faithful uint8 or uint16 form.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingData(f"image '{path}' not found; check the name.")
    content = path.read_bytes()
    try:
        with _of_any_size(), Image.open(io.BytesIO(content)) as file:
            _refuse_several(file)
            file.load()  # also checks what OpenCV forgives: checksums, and pixels that are not there
            if _is_deep_png(content):
                pixels = _upright(_decode_deep_png(content, file), file)
            elif _is_deep_tiff(file):
                pixels = _decode_deep_tiff(content, file)
            else:
                pixels = _decode(file)
    except _DECODER_ERRORS as error:
        raise UserError(
            f"'{path}' cannot be read as an image ({_one_line(error)}); replace it or leave it out."
        ) from error
    return np.ascontiguousarray(pixels)


def read_profile(path: str | Path) -> bytes | None:
    """The ICC colour profile of an image file that describes what `read_image` gives; None where there is none.

    Raises:
        UserError: the file is no image.
    """
    try:
        with _of_any_size(), Image.open(path) as file:
            described = file.mode not in ("CMYK", "LAB", "YCbCr", "HSV")  # those become RGB
            return (file.info.get("icc_profile") or None) if described else None
    except _DECODER_ERRORS as error:
        raise UserError(
            f"'{path}' cannot be read as an image ({_one_line(error)}); replace it or leave it out."
        ) from error


def read_photo(path: str | Path) -> np.ndarray:
    """Read an image for training or scoring: H x W (x 3) uint8, alpha dropped, 16 bits rounded to 8."""
    colour, _ = split_alpha(read_image(path))
    return np.rint(colour / 257).astype(np.uint8) if colour.dtype == np.uint16 else colour


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


def split_alpha(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour (H x W or H x W x 3) and alpha (H x W) of an image; alpha is None where there is none."""
    if image.ndim == 2 or image.shape[2] == 3:
        return image, None
    colour = image[..., 0] if image.shape[2] == 2 else image[..., :3]
    return colour, image[..., -1]


def join_alpha(colour: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """The inverse of `split_alpha`."""
    return colour if alpha is None else np.dstack([colour, alpha])


def fill_transparent(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours with those of fully transparent pixels replaced by the nearest visible pixel's.

    What is stored there is not to be seen and often black: enlarging would draw it into the edges of what is.

    Args:
        colour: H x W or H x W x 3.
        alpha: H x W.

    Returns:
        An array of the same shape and type; `colour` itself where all is visible, or nothing.
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
    """1 x C x H x W in [0, 1] -> pixels of `like`'s type, clamped and rounded; grey where it is grey."""
    values = output[0].detach().float().cpu().numpy().transpose(1, 2, 0)
    if like.ndim == 2:
        values = values @ LUMA.astype(np.float32) if values.shape[2] == 3 else values[..., 0]
    elif values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    limit = np.iinfo(like.dtype).max
    return np.rint(values.clip(0, 1) * limit).astype(like.dtype)


class _PillowLimit:
    """Pillow's limit on pixels, which is one number for the whole process, and who has lifted it."""

    lock = threading.Lock()
    readers = 0
    own: int | None = None


@contextmanager
def _of_any_size() -> Iterator[None]:
    """Read images that Pillow would refuse as too large: their names come from the user, not from a stranger.

    The limit is back as soon as no thread reads here any more.
    """
    with _PillowLimit.lock:
        if _PillowLimit.readers == 0:
            _PillowLimit.own, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _PillowLimit.readers += 1
    try:
        yield
    finally:
        with _PillowLimit.lock:
            _PillowLimit.readers -= 1
            if _PillowLimit.readers == 0:
                Image.MAX_IMAGE_PIXELS = _PillowLimit.own


def _decode(file: Image.Image) -> np.ndarray:
    """Pixels of an opened file, without loss."""
    upright = ImageOps.exif_transpose(file)
    mode = upright.mode
    if mode.startswith("I"):
        deep = np.asarray(upright)
        if deep.min() < 0 or deep.max() > np.iinfo(np.uint16).max:
            raise ValueError("its values do not fit in 16 bits")
        if file.format == "TIFF" and file.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
            deep = np.iinfo(np.uint16).max - deep  # counted from white, which Pillow heeds in 8 bits alone
        return deep.astype(np.uint16)
    if mode == "F":
        raise ValueError("floating-point pixels; convert it to 8 or 16 bits")
    transparent = "transparency" in upright.info
    if mode == "P":
        mode = "RGBA" if transparent else "RGB"
    elif transparent and mode in ("1", "L", "RGB"):
        mode = "RGBA" if mode == "RGB" else "LA"
    mode = _MODES.get(mode, mode)
    return np.asarray(upright if upright.mode == mode else upright.convert(mode))


def _refuse_several(file: Image.Image) -> None:
    """Refuse animations and documents: all but the first picture would be lost. Phones' JPEGs with extras are fine."""
    count = getattr(file, "n_frames", 1)
    if count > 1 and file.format in ("PNG", "WEBP", "TIFF"):
        raise ValueError(f"it holds {count} pictures; save each as a file of its own")


def _is_deep_png(content: bytes) -> bool:
    """Whether this is a PNG of 16 bits per sample (byte 24 of a PNG is the bit depth of its header)."""
    return content.startswith(b"\x89PNG") and len(content) > 25 and content[24] == 16


def _is_deep_tiff(file: Image.Image) -> bool:
    """Whether this is a TIFF of several samples of more than 8 bits, of which Pillow keeps 8."""
    if file.format != "TIFF":
        return False
    bits = file.tag_v2.get(_TIFF_BITS, (1,))  # type: ignore[attr-defined]
    return len(bits) > 1 and max(bits) > 8


def _decode_deep_png(content: bytes, file: Image.Image) -> np.ndarray:
    """Decode a 16-bit PNG with OpenCV: Pillow would cut colour down to 8 bits."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("the 16-bit PNG cannot be decoded")
    if pixels.dtype != np.uint16:
        raise ValueError("OpenCV cuts this 16-bit PNG down to 8 bits")
    kind = content[25]  # the PNG colour type
    clear = file.info.get("transparency")
    if pixels.ndim == 3:
        pixels = (
            pixels[..., 0]
            if kind == 0
            else pixels[..., [0, -1]]
            if kind == 4
            else pixels[..., _RGB_OF_BGR[pixels.shape[2]]]
        )
    if clear is None or kind not in (0, 2):
        return pixels
    # One colour stands for transparent (the chunk tRNS).
    colour = pixels if kind == 0 else pixels[..., :3]
    hidden = colour == clear if kind == 0 else (colour == np.array(clear)).all(axis=2)
    return np.dstack([colour, np.where(hidden, 0, 65535).astype(np.uint16)])


def _decode_deep_tiff(content: bytes, file: Image.Image) -> np.ndarray:
    """Decode a colour TIFF of 16 bits with OpenCV, checked against the 8 bits that Pillow reads."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    shallow = np.asarray(file)
    if (
        pixels is not None
        and pixels.dtype == np.uint16
        and pixels.shape == shallow.shape
        and file.mode in ("RGB", "RGBA")
    ):
        deep: np.ndarray = pixels[..., _RGB_OF_BGR[pixels.shape[2]]]
        if np.array_equal(deep >> 8, shallow):
            return deep
    raise ValueError(
        f"a TIFF of {file.mode} with more than 8 bits that is not read in full; save it as a PNG of 16 bits"
    )


def _upright(pixels: np.ndarray, file: Image.Image) -> np.ndarray:
    """Pixels turned as a camera's orientation tag says (TIFF 6.0, tag 274)."""
    orientation = file.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


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


def _one_line(error: BaseException) -> str:
    """The error's message without line breaks and without the name of Pillow's byte buffer."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or its header is broken"
    return " ".join(str(error).split()) or type(error).__name__
