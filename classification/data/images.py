"""Reading image files for classification: always three channels, and damaged files are found and named."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from functools import cache
from pathlib import Path

import cv2
import mmcv
import numpy as np
from PIL import ExifTags, Image

from core.errors import UserError
from core.storage.truncation import JPEG, PNG, find_truncation

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_EXTRA_SAMPLES = 338  # a TIFF's tag
# What Pillow's readers raise on damaged files, over and above what they promise.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    cv2.error,
    Image.DecompressionBombError,
)


class BadImage(UserError):
    """An image file that is truncated or that no decoder reads; the message names the path and the damage."""


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file.

    Grey images are repeated over three channels, CMYK and palettes are converted, 16 bits are scaled to 8, and what is
    transparent shows white. Of several pages or frames the first is read. EXIF orientation is ignored, as in the
    pipelines that published ImageNet figures come from.

    Args:
        path: a JPEG, PNG, WebP, BMP, TIFF or GIF; the content decides, not the suffix (ImageNet holds a PNG that is
            named .JPEG).

    Returns:
        The pixels, `(height, width, 3)`, uint8, RGB.

    Raises:
        BadImage: the file is missing, empty, truncated, no image, or has floating-point pixels. Truncated JPEGs are
            found by their missing end-of-image marker: some decoders fill the missing part with grey and say nothing.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadImage(f"image '{path}' cannot be read: {error.strerror}") from error
    damage = find_truncation(content)
    if damage is not None:
        raise BadImage(f"image '{path}' cannot be read: {damage}")
    try:
        return _decode_jpeg(content) if content.startswith(JPEG) else _decode(content)
    except Image.UnidentifiedImageError as error:
        raise BadImage(
            f"image '{path}' cannot be read: no decoder recognises its {len(content)} bytes"
        ) from error
    except _DECODER_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(f"image '{path}' cannot be read: {reason}") from error


def _decode_jpeg(content: bytes) -> np.ndarray:
    if turbojpeg_is_usable():
        try:
            return mmcv.imfrombytes(content, flag="color", channel_order="rgb", backend="turbojpeg")
        except OSError:
            pass  # CMYK: libjpeg-turbo offers no conversion to RGB, OpenCV does
    image = mmcv.imfrombytes(content, flag="color_ignore_orientation", backend="cv2")
    if image is None:
        raise Image.UnidentifiedImageError
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode(content: bytes) -> np.ndarray:
    """Pixels of anything but a JPEG. OpenCV would drop alpha, and with it show what was hidden, mostly black."""
    with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
        deep = _is_deep(content, file)
        file.load()  # also finds checksums that are wrong and pixels that are not there, which OpenCV forgives
        if not deep:
            shown = file.convert("RGBA" if _is_transparent(file) else "RGB")
            return _on_white(np.asarray(shown)) if shown.mode == "RGBA" else np.array(shown)
        transparent_grey = file.info.get("transparency")
    # Pillow would cut colours of 16 bits to 8.
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("its 16-bit pixels cannot be decoded; convert it to 8 bits")
    if pixels.ndim == 2:
        grey = _scaled(pixels)
        if transparent_grey is not None:
            grey[pixels == transparent_grey] = 255
        return np.repeat(grey[..., None], 3, axis=2)
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(_scaled(pixels)[..., ::-1])
    return _on_white(pixels[..., [2, 1, 0, 3]])


def _is_transparent(file: Image.Image) -> bool:
    return "transparency" in file.info or file.mode in ("RGBA", "LA", "PA", "La", "RGBa")


def _is_deep(content: bytes, file: Image.Image) -> bool:
    """Whether samples have 16 bits, in an arrangement that OpenCV decodes as it is meant.

    Raises:
        ValueError: nothing decodes them.
    """
    if content.startswith(PNG):
        return content[24] == 16
    if file.format != "TIFF":
        return False
    tags = file.tag_v2  # type: ignore[attr-defined]
    bits = max(tags.get(ExifTags.Base.BitsPerSample, (1,)))
    if file.mode == "F" or bits not in (1, 2, 4, 8, 16):
        raise ValueError(f"its samples of {bits} bits are not of 8 or 16; convert it")
    planar = tags.get(ExifTags.Base.PlanarConfiguration, 1) != 1
    usual = (
        tags.get(ExifTags.Base.PhotometricInterpretation) in (1, 2)  # grey from black, RGB
        and not planar
        and 1 not in tags.get(_EXTRA_SAMPLES, ())  # colours multiplied by alpha
    )
    if bits == 16 and not usual and (planar or file.mode.startswith("I")):
        raise ValueError("its 16 bits lie in separate planes or are not counted from black; convert it")
    return bits == 16 and usual  # of the rest Pillow takes the upper 8 bits


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """16 bits to 8, rounded: 65535 is 255."""
    return np.rint(pixels / np.float32(257)).astype(np.uint8)


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """`(H, W, 4)`, uint8 or uint16, RGB with straight alpha -> `(H, W, 3)`, uint8."""
    full = np.float32(np.iinfo(pixels.dtype).max)
    alpha = pixels[..., 3:] / full
    return np.rint(255 * (pixels[..., :3] / full * alpha + (1 - alpha))).astype(np.uint8)


@cache
def turbojpeg_is_usable() -> bool:
    """True where PyTurboJPEG and the libturbojpeg it wants are installed: mmcv's fastest JPEG backend."""
    if importlib.util.find_spec("turbojpeg") is None:
        return False
    default = mmcv.image.io.imread_backend
    try:
        mmcv.use_backend("turbojpeg")  # the only way to make mmcv create its decoder
    except (ImportError, OSError, RuntimeError):
        return False
    finally:
        mmcv.use_backend(default)
    return True
