"""Image files: colours, truncation, damage; ImageNet's crops."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from classification.data.images import read_rgb
from classification.data.views import central_view, draw_resized_crop, train_view
from core.storage.images import BadImage


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return np.ascontiguousarray(load_sample_image("china.jpg")[:240, :320])


def encode(image: np.ndarray, mode: str = "RGB", form: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def read(content: bytes, folder) -> np.ndarray:
    path = folder / "image.JPEG"
    path.write_bytes(content)
    return read_rgb(path)


def test_colour_image_is_rgb(photograph, tmp_path):
    image = read(encode(photograph, quality=95), tmp_path)
    assert image.shape == photograph.shape
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - photograph).mean() < 3  # red and blue exchanged: more than 10


def test_grey_image_has_three_equal_channels(photograph, tmp_path):
    image = read(encode(photograph, "L"), tmp_path)
    assert image.shape == photograph.shape
    assert (image == image[:, :, :1]).all()


def test_cmyk_image_has_the_colours_of_the_original(photograph, tmp_path):
    image = read(encode(photograph, "CMYK", quality=95), tmp_path)
    assert np.abs(image.astype(int) - photograph).mean() < 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_png_named_jpeg_is_read(photograph, tmp_path, mode):
    image = read(encode(photograph, mode, "PNG"), tmp_path)
    expected = np.asarray(Image.fromarray(photograph).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "TIFF"])
def test_every_format_is_read_exactly(photograph, tmp_path, form):
    content = encode(photograph, form=form, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(read(content, tmp_path), photograph)


@pytest.mark.parametrize(
    ("mode", "form"), [("1", "TIFF"), ("P", "PNG"), ("P", "GIF"), ("CMYK", "TIFF"), ("L", "WEBP")]
)
def test_palettes_and_the_like_become_rgb(photograph, tmp_path, mode, form):
    shown = Image.fromarray(photograph).convert(mode)
    stream = io.BytesIO()
    shown.save(stream, form, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(read(stream.getvalue(), tmp_path), np.asarray(shown.convert("RGB")))


def disc() -> tuple[np.ndarray, np.ndarray]:
    """A white disc on transparent black, and its straight alpha with soft edges."""
    rows, columns = np.mgrid[:40, :40] - 19.5
    alpha = np.clip(15 - np.hypot(rows, columns), 0, 1)
    white = np.where(alpha > 0, 255, 0).astype(np.uint8)
    return np.dstack([white] * 3), np.rint(255 * alpha).astype(np.uint8)


@pytest.mark.parametrize(
    ("mode", "form"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF")]
)
def test_a_white_disc_on_transparent_black_has_no_dark_rim(tmp_path, mode, form):
    colour, alpha = disc()
    options = {"lossless": True} if form == "WEBP" else {}
    stream = io.BytesIO()
    Image.fromarray(np.dstack([colour, alpha]), "RGBA").convert(mode).save(stream, form, **options)
    image = read(stream.getvalue(), tmp_path)
    assert image.min() == 255
    assert central_view(image).min() == 255


def test_transparency_is_mixed_with_white(tmp_path):
    pixels = np.array([[[200, 100, 0, 0], [200, 100, 0, 51], [200, 100, 0, 255]]], np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, "PNG")
    # 51/255 = 0.2: 0.2 * 200 + 0.8 * 255 = 244, 0.2 * 100 + 204 = 224, 204
    expected = [[[255, 255, 255], [244, 224, 204], [200, 100, 0]]]
    assert read(stream.getvalue(), tmp_path).tolist() == expected


def test_a_transparent_palette_entry_and_a_transparent_colour_show_white(tmp_path):
    indices = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    indices.putpalette([10, 20, 30, 40, 50, 60])
    stream = io.BytesIO()
    indices.save(stream, "PNG", transparency=0)
    assert read(stream.getvalue(), tmp_path).tolist() == [[[255] * 3, [40, 50, 60]]]
    stream = io.BytesIO()
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)).save(stream, "PNG", transparency=(1, 2, 3))
    assert read(stream.getvalue(), tmp_path).tolist() == [[[255] * 3, [4, 5, 6]]]


@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_and_rounded(tmp_path, ending):
    """257 levels of 16 bits are one of 8: 128 rounds down to 0, 129 up to 1; 65535 is 255."""
    levels = np.array([0, 128, 129, 257, 32896, 65406, 65407, 65535], np.uint16)
    expected = [0, 0, 1, 1, 128, 254, 255, 255]
    colour = np.dstack([levels[None], levels[None, ::-1], levels[None]])
    content = cv2.imencode(ending, np.ascontiguousarray(colour[..., ::-1]))[1].tobytes()
    image = read(content, tmp_path)
    assert image[0, :, 0].tolist() == expected
    assert image[0, :, 1].tolist() == expected[::-1]
    grey = read(cv2.imencode(ending, levels[None])[1].tobytes(), tmp_path)
    assert grey[0].tolist() == [[level] * 3 for level in expected]


def test_sixteen_bits_with_alpha_are_mixed_with_white(tmp_path):
    pixels = np.array([[[0, 0, 51400, 13107], [0, 0, 51400, 0]]], np.uint16)  # blue, green, red, alpha
    image = read(cv2.imencode(".png", pixels)[1].tobytes(), tmp_path)
    assert image.tolist() == [[[244, 204, 204], [255, 255, 255]]]


def test_floating_point_pixels_are_refused(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.ones((2, 2), np.float32)).save(stream, "TIFF")
    with pytest.raises(BadImage, match="have 32 bits, not 8 or 16"):
        read(stream.getvalue(), tmp_path)


@pytest.mark.parametrize(
    ("form", "options"), [("WEBP", {}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("GIF", {})]
)
def test_every_truncation_of_other_formats_is_found(photograph, tmp_path, form, options):
    content = encode(photograph[:32, :32], form=form, **options)
    for length in range(0, len(content) - 4, len(content) // 20):
        with pytest.raises(BadImage):
            read(content[:length], tmp_path)


def test_exif_orientation_is_ignored(photograph, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the tag that asks viewers for a quarter turn
    assert read(encode(photograph, exif=exif), tmp_path).shape == photograph.shape


def test_trailing_bytes_are_no_damage(photograph, tmp_path):
    content = encode(photograph)
    np.testing.assert_array_equal(read(content + b"\0" * 7, tmp_path), read(content, tmp_path))


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (b"", "empty"),
        (b"not an image", "no decoder"),
        (b"\xff\xd8", "no decoder"),
        (b"\x89PNG\r\n\x1a\n\0\0", "truncated PNG"),
        (b"\xff\xd8\xff\xe0\0\4ab\xff\xd9", "no decoder"),
    ],
)
def test_damage_is_named_with_the_path_in_one_line(content, damage, tmp_path):
    with pytest.raises(BadImage, match=damage) as caught:
        read(content, tmp_path)
    assert str(tmp_path / "image.JPEG") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_of_absurd_size_is_damage(photograph, tmp_path):
    content = encode(photograph, form="PNG")
    header = b"IHDR" + struct.pack(">II", 10**6, 10**6) + content[24:29]
    forged = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    with pytest.raises(BadImage, match="exceed the limit"):
        read(forged, tmp_path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BadImage, match=f"absent.JPEG.*{os.strerror(2)}"):
        read_rgb(tmp_path / "absent.JPEG")


def test_central_view_is_resize_256_and_centre_crop_224(photograph):
    for image in (photograph, photograph.transpose(1, 0, 2)):
        height, width = image.shape[:2]
        size = (int(256 * width / height), 256) if height <= width else (256, int(256 * height / width))
        resized = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
        left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
        expected = np.asarray(resized.crop((left, top, left + 224, top + 224)))
        np.testing.assert_array_equal(central_view(np.ascontiguousarray(image)), expected)


def test_views_equal_torchvisions(photograph):
    try:
        from torchvision.transforms import functional
    except (ImportError, RuntimeError):
        pytest.skip("no torchvision that fits this torch")
    picture = Image.fromarray(photograph)
    expected = functional.center_crop(functional.resize(picture, 256), [224, 224])
    np.testing.assert_array_equal(central_view(photograph), np.asarray(expected))
    crop = draw_resized_crop(*photograph.shape[:2], np.random.default_rng(3))
    expected = functional.resized_crop(picture, *crop, [224, 224])
    np.testing.assert_array_equal(
        train_view(photograph, np.random.default_rng(3), False), np.asarray(expected)
    )


def test_train_view_depends_on_its_generator_alone(photograph):
    def view(seed: int, flip: bool) -> np.ndarray:
        return train_view(photograph, np.random.default_rng(seed), flip)

    np.testing.assert_array_equal(view(1, True), view(1, True))
    assert not np.array_equal(view(1, False), view(2, False))
    mirrored = [not np.array_equal(view(seed, True), view(seed, False)) for seed in range(40)]
    assert 8 < sum(mirrored) < 32
    for seed in range(40):  # the crop itself is the same with and without the option
        plain = view(seed, False)
        np.testing.assert_array_equal(view(seed, True), plain[:, ::-1] if mirrored[seed] else plain)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_resized_crops_lie_within_the_image(height, width, seed):
    top, left, crop_height, crop_width = draw_resized_crop(height, width, np.random.default_rng(seed))
    assert crop_height >= 1
    assert crop_width >= 1
    assert 0 <= top <= height - crop_height
    assert 0 <= left <= width - crop_width


def test_resized_crops_have_the_areas_and_aspect_ratios_of_the_recipe():
    generator = np.random.default_rng(0)
    crops = np.array([draw_resized_crop(1000, 1000, generator) for _ in range(4000)])
    area = crops[:, 2] * crops[:, 3] / 1e6
    aspect = crops[:, 3] / crops[:, 2]
    assert 0.079 < area.min() < 0.09
    assert 0.97 < area.max() <= 1
    assert 0.745 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 1.34
    assert abs(np.log(aspect).mean()) < 0.01  # log-uniform: tall and wide are equally likely


def test_an_image_too_narrow_for_any_crop_gives_its_centre():
    # 4/3 of 10 rows is 13.3 columns; (1000 - 13) // 2 = 493 to the left
    assert draw_resized_crop(10, 1000, np.random.default_rng(0)) == (0, 493, 10, 13)
    assert draw_resized_crop(1000, 10, np.random.default_rng(0)) == (493, 0, 13, 10)
