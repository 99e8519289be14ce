"""The one reader of image files: pixels as they are stored. Each task has its own rules for what follows.

An image is a NumPy array of uint8 or uint16 with shape H x W (grey), H x W x 2 (grey and alpha), H x W x 3 (RGB) or
H x W x 4 (RGB and alpha), alpha not multiplied into the colours.

JPEGs are decoded by libjpeg-turbo (`jpeg_decoder`), else by OpenCV. All other files are decoded by Pillow, which is
stricter than OpenCV, except colours of 16 bits: these by OpenCV, as Pillow keeps only 8 bits.
"""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from core.errors import UserError
from core.storage.opencv import cv2
from core.storage.truncation import JPEG, PNG, find_truncation, jpeg_size

MAX_PIXELS = 2**28
"""The usual limit: a camera of 200 megapixels is below it, and a file of some kilobytes can be far above."""

PIXELS_VARIABLE = "LWDNA_MAX_PIXELS"
"""The environment variable that sets another limit; workers inherit it."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# What Pillow's readers raise on damaged files, documented or not.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, MemoryError,
                   struct.error, zlib.error, cv2.error)  # fmt: skip
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
_RGB_OF_BGR = {3: [2, 1, 0], 4: [2, 1, 0, 3]}


def max_pixels() -> int:
    """The most pixels that an image or a video's frame may have.

    Raises:
        UserError: the environment variable is no such number.
    """
    text = os.environ.get(PIXELS_VARIABLE, str(MAX_PIXELS))
    number = int(text) if len(text) < 20 and text.isdecimal() else 0
    if number < 1:
        raise UserError(f"${PIXELS_VARIABLE} is '{text}': it has to be a number of pixels, at least 1")
    return number


def check_pixels(width: int, height: int) -> None:
    """Refuse an image or a frame before it is decoded: a header of some bytes can promise any size.

    Raises:
        ValueError: the image is larger than the limit.
    """
    most = max_pixels()
    if width * height > most:
        raise ValueError(
            f"its {width} x {height} pixels exceed the limit of {most}: raise it by --max-pixels, where the command "
            f"has it, or ${PIXELS_VARIABLE}"
        )


class BadImage(UserError):
    """An image file that is missing, is damaged, or has no decoder; the message names file and damage."""


def decode_in_one_thread() -> None:
    """Keep OpenCV from using threads of its own in this process."""
    cv2.setNumThreads(0)


def read_image(path: str | Path, *, upright: bool, first: bool = False) -> np.ndarray:
    """Read an image file as it is: grey stays grey, alpha stays, 16 bits stay 16 (PNG and TIFF).

    Palettes become RGB, CMYK becomes RGB without regard to its profile, 1, 2 and 4 bits become 8.

    Args:
        path: a JPEG, PNG, WebP, BMP, TIFF or GIF of up to `max_pixels()`; the content decides, not the suffix.
        upright: turn the image as the camera's orientation tag says; else its pixels come as they are stored.
        first: take the first of several pictures (animations, pages); otherwise such a file is an error. The extra
            pictures that phones add to JPEGs never count.

    Returns:
        An image as described above; contiguous, the caller's own.

    Raises:
        BadImage: the file is missing, empty, truncated, no image or too large, or has pixels without a faithful form
            of 8 or 16 bits. Truncated JPEGs are found by their missing end-of-image marker: some decoders fill the
            missing part with grey and say nothing.
    """
    try:
        content = Path(path).read_bytes()
        damage = find_truncation(content)
        if damage is not None:
            raise ValueError(damage)
        image = _decode_jpeg(content) if content.startswith(JPEG) else None
        if image is None:
            image = _decode(content, upright, first)
        elif upright:
            with _opened(content) as file:
                image = _turned(image, _orientation(file))
        return image if image.flags.carray else np.array(image, order="C")
    except UserError:  # of a limit that is no number
        raise
    except _DECODER_ERRORS as error:
        raise _bad_image(path, error) from error


def read_profile(path: str | Path) -> bytes | None:
    """The ICC colour profile that describes what `read_image` returns for a file; None if there is none.

    Raises:
        BadImage: the file is no image.
    """
    try:
        with _opened(Path(path).read_bytes()) as file:
            described = file.mode not in ("CMYK", "LAB", "YCbCr", "HSV")  # those become RGB
            return (file.info.get("icc_profile") or None) if described else None
    except UserError:  # of a limit that is no number
        raise
    except _DECODER_ERRORS as error:
        raise _bad_image(path, error) from error


def split_alpha(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour (H x W or H x W x 3) and alpha (H x W) of an image; alpha is None if there is none."""
    if image.ndim == 2 or image.shape[2] == 3:
        return image, None
    return image[..., 0] if image.shape[2] == 2 else image[..., :3], image[..., -1]


def eight_bits(image: np.ndarray) -> np.ndarray:
    """16 bits to 8, rounded: 65535 is 255; 8 bits as they are."""
    return np.rint(image / np.float32(257)).astype(np.uint8) if image.dtype == np.uint16 else image


def three_channels(colour: np.ndarray) -> np.ndarray:
    """H x W or H x W x 3 -> H x W x 3: grey is repeated."""
    return cv2.cvtColor(colour, cv2.COLOR_GRAY2RGB) if colour.ndim == 2 else colour


@cache
def jpeg_decoder() -> Callable[[bytes], np.ndarray] | None:
    """The decoder for JPEGs: jpeg4py, else mmcv with PyTurboJPEG, which looks for the library in more places.

    Both bind libjpeg-turbo, whose pixels equal OpenCV's and Pillow's. None if neither finds the system's library.
    """
    with suppress(ImportError, OSError):
        import jpeg4py

        class Probe(jpeg4py.JPEG):
            decompressor = None  # the destructor reads it even after the constructor has failed

        Probe(np.zeros(0, np.uint8))  # loads the library
        return _jpeg4py_decode
    if importlib.util.find_spec("turbojpeg") is not None:
        import mmcv

        default = mmcv.image.io.imread_backend
        with suppress(ImportError, OSError, RuntimeError):
            try:
                mmcv.use_backend("turbojpeg")  # the only way to make mmcv create its decoder
            finally:
                mmcv.use_backend(default)
            return _mmcv_decode
    return None


def _mmcv_decode(content: bytes) -> np.ndarray:
    import mmcv
    from turbojpeg import TJSAMP_GRAY

    grey = mmcv.image.io.jpeg.decode_header(content)[2] == TJSAMP_GRAY
    flag = "grayscale" if grey else "color"
    return mmcv.imfrombytes(content, flag=flag, channel_order="rgb", backend="turbojpeg")


def _jpeg4py_decode(content: bytes) -> np.ndarray:
    import jpeg4py

    jpeg = jpeg4py.JPEG(np.frombuffer(content, np.uint8))
    jpeg.parse_header()
    return jpeg.decode(
        pixfmt=jpeg4py.TJPF_GRAY if jpeg.subsampling == jpeg4py.TJSAMP_GRAY else jpeg4py.TJPF_RGB
    )


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    """Decode a JPEG; None if Pillow has to say what is wrong with it."""
    size = jpeg_size(content)
    if size is None:
        return None
    check_pixels(*size)
    turbo = jpeg_decoder()
    if turbo is not None:
        with suppress(OSError, RuntimeError):  # CMYK, for which libjpeg-turbo has no rule, or damage
            return turbo(content)
    with suppress(cv2.error):  # a header that promises an absurd size
        image = _opencv(content)
        return image if image is None or image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return None


def _opencv(content: bytes) -> np.ndarray | None:
    """What OpenCV reads, in full depth and as it is stored, BGR; CMYK is converted."""
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def _decode(content: bytes, upright: bool, first: bool) -> np.ndarray:
    with _opened(content) as file:
        count = getattr(file, "n_frames", 1)
        if count > 1 and not first and file.format not in ("JPEG", "MPO"):
            raise ValueError(f"it holds {count} pictures; save each as a file of its own")
        matters = upright or file.format == "TIFF"
        stored = _orientation(file) if matters else 1
        file.load()  # also finds wrong checksums and missing pixels
        left = _orientation(file) if matters else 1  # decoders always turn a TIFF
        pixels = _pixels(content, file)
    if upright:
        return _turned(pixels, left)
    return pixels if stored == left else _turned(pixels, {6: 8, 8: 6}.get(stored, stored))


def _pixels(content: bytes, file: Image.Image) -> np.ndarray:
    """Pixels of a loaded file, without loss."""
    mode = file.mode
    bits = content[24] if content.startswith(PNG) else 8
    if file.format == "TIFF":
        bits = max(file.tag_v2.get(ExifTags.Base.BitsPerSample, (1,)))  # type: ignore[attr-defined]
    if mode == "F" or bits not in (1, 2, 4, 8, 16):
        kind = "floating-point samples" if mode == "F" else "samples"
        raise ValueError(f"its {kind} have {bits} bits, not 8 or 16; convert it")
    if bits == 16:
        if content.startswith(PNG):
            return _deep_png(content, file)
        return _deep_grey(file) if mode.startswith("I") else _deep_tiff(content, file)
    transparent = "transparency" in file.info
    if mode == "P":
        mode = "RGBA" if transparent else "RGB"
    elif transparent and mode in ("1", "L", "RGB"):
        mode = "RGBA" if mode == "RGB" else "LA"
    mode = _MODES.get(mode, mode)
    return np.asarray(file if file.mode == mode else file.convert(mode))


def _deep_grey(file: Image.Image) -> np.ndarray:
    """A grey TIFF of 16 bits."""
    deep = np.asarray(file)
    full = np.iinfo(np.uint16).max
    if deep.min() < 0 or deep.max() > full:
        raise ValueError("its values do not fit in 16 bits")
    if file.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0:  # type: ignore[attr-defined]
        deep = full - deep  # counted from white, which Pillow heeds only in 8 bits
    return deep.astype(np.uint16)


def _deep_png(content: bytes, file: Image.Image) -> np.ndarray:
    pixels = _opencv(content)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("its 16-bit pixels cannot be decoded in full; convert it to 8 bits")
    kind = content[25]  # the PNG colour type
    clear = file.info.get("transparency")
    if pixels.ndim == 3:
        grey: dict[int, Any] = {0: 0, 4: [0, -1]}
        pixels = pixels[..., grey[kind] if kind in grey else _RGB_OF_BGR[pixels.shape[2]]]
    if clear is None or kind not in (0, 2):
        return pixels
    # One colour means transparent (the chunk tRNS).
    colour = pixels if kind == 0 else pixels[..., :3]
    hidden = colour == clear if kind == 0 else (colour == np.array(clear)).all(axis=2)
    return np.dstack([colour, np.where(hidden, 0, 65535).astype(np.uint16)])


def _deep_tiff(content: bytes, file: Image.Image) -> np.ndarray:
    """A colour TIFF of 16 bits, checked against the upper 8 that Pillow reads."""
    pixels = _opencv(content)
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
        f"a TIFF of {file.mode} with 16 bits that is not read in full; save it as a PNG of 16 bits"
    )


def _orientation(file: Image.Image) -> int:
    return file.getexif().get(ExifTags.Base.Orientation, 1)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels turned as a camera's orientation tag says (TIFF 6.0, tag 274)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _bad_image(path: str | Path, error: Exception) -> BadImage:
    """The error for what a decoder raised, in one line."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "no decoder knows it: not an image, or its header is broken"
    return BadImage(f"image '{path}' cannot be read: {reason}")


class _PillowLimit:
    """Pillow's limit on pixels, one number for the whole process, and how many readers have lifted it."""

    lock = threading.Lock()
    readers = 0
    own: int | None = None


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image of up to `max_pixels()`; Pillow's own limit is restored when no thread reads here."""
    with _PillowLimit.lock:
        if _PillowLimit.readers == 0:
            _PillowLimit.own, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _PillowLimit.readers += 1
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
            check_pixels(file.width, file.height)
            yield file
    finally:
        with _PillowLimit.lock:
            _PillowLimit.readers -= 1
            if _PillowLimit.readers == 0:
                Image.MAX_IMAGE_PIXELS = _PillowLimit.own
