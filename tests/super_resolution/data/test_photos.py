"""Image files of every kind come in right or are refused in one line, and go out without loss."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from PIL import Image

from core.errors import MissingData, UserError
from super_resolution.images import (
    fill_transparent,
    find_images,
    join_alpha,
    read_photo,
    read_upright,
    split_alpha,
    to_pixels,
    to_tensor,
    write_image,
)
from tests.properties import examples

BUNDLED = Path(skimage.data_dir)


def sample(photo: np.ndarray, channels: int, dtype: type) -> np.ndarray:
    """A real picture of 1 to 4 channels in 8 or 16 bits, every 16-bit value beyond 8 bits' reach."""
    image = np.dstack([photo[:31, :45], photo[50:81, 50:95]])[..., :channels].astype(dtype)
    if dtype is np.uint16:
        image = image * 251 + 3
    return np.ascontiguousarray(image[..., 0] if channels == 1 else image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_every_value(photo: np.ndarray, tmp_path: Path, channels: int, dtype: type) -> None:
    image = sample(photo, channels, dtype)
    write_image(tmp_path / "a.png", image)
    found = read_upright(tmp_path / "a.png")
    if channels == 2 and dtype is np.uint16:  # written as RGBA
        image = np.dstack([image[..., 0], image[..., 0], image])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".webp", ".jpg"])
def test_other_formats(photo: np.ndarray, tmp_path: Path, suffix: str) -> None:
    image = sample(photo, 3, np.uint8)
    write_image(tmp_path / f"a{suffix}", image)
    found = read_upright(tmp_path / f"a{suffix}")
    assert found.shape == image.shape
    assert np.abs(found.astype(int) - image).mean() < (0.01 if suffix in (".bmp", ".tif") else 6)


def test_colour_order_is_rgb(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), np.uint16)
    red[..., 0] = 65535
    write_image(tmp_path / "red.png", red)
    assert Image.open(tmp_path / "red.png").convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    np.testing.assert_array_equal(read_upright(tmp_path / "red.png"), red)


def test_cmyk_jpeg_becomes_rgb(photo: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(photo).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    found = read_upright(tmp_path / "cmyk.jpg")
    assert found.shape == photo.shape
    assert np.abs(found.astype(int) - photo).mean() < 3


def test_palettes_transparency_and_bilevel(photo: np.ndarray, tmp_path: Path) -> None:
    palette = Image.fromarray(photo).quantize(64)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_upright(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    palette.save(tmp_path / "clear.png", transparency=0)
    assert read_upright(tmp_path / "clear.png").shape == (*photo.shape[:2], 4)
    Image.fromarray(photo[..., 0] > 128).save(tmp_path / "bilevel.png")
    np.testing.assert_array_equal(
        read_upright(tmp_path / "bilevel.png"), (photo[..., 0] > 128) * np.uint8(255)
    )


def test_sixteen_bit_grey_with_alpha(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (3, 5, 2), dtype=np.uint16)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 5, 3, 16, 4, 0, 0, 0)  # colour type 4: grey with alpha
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    np.testing.assert_array_equal(read_upright(tmp_path / "a.png"), pixels)


def test_the_orientation_tag_is_applied(photo: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the picture is to be rotated by 90 degrees clockwise
    Image.fromarray(photo).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_upright(tmp_path / "turned.png"), np.rot90(photo, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_to_deep_pngs_as_to_others(
    photo: np.ndarray, tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo[:20, :30]).save(tmp_path / "shallow.png", exif=exif)
    write_image(tmp_path / "deep.png", photo[:20, :30].astype(np.uint16) * 257)
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    content = (tmp_path / "deep.png").read_bytes()
    (tmp_path / "deep.png").write_bytes(content[:33] + chunk + content[33:])
    shallow = read_upright(tmp_path / "shallow.png")
    np.testing.assert_array_equal(read_upright(tmp_path / "deep.png"), shallow.astype(np.uint16) * 257)


@pytest.mark.parametrize("colour", [False, True])
def test_the_transparent_colour_of_a_deep_png(tmp_path: Path, colour: bool) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    image = image if colour else image[..., 0].copy()
    write_image(tmp_path / "a.png", image)
    body = b"tRNS" + np.atleast_1d(image[1, 2]).astype(">u2").tobytes()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    alpha = np.full((4, 5), 65535, np.uint16)
    alpha[1, 2] = 0
    np.testing.assert_array_equal(read_upright(tmp_path / "a.png"), np.dstack([image, alpha]))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_deep_tiffs_keep_every_value_or_are_refused(
    photo: np.ndarray, tmp_path: Path, channels: int, compression: str | None
) -> None:
    image = sample(photo, channels, np.uint16)
    tifffile = pytest.importorskip("tifffile")
    extra = ["unassalpha"] if channels in (2, 4) else None
    kind = "rgb" if channels > 2 else "minisblack"
    options = {"planarconfig": "contig", "extrasamples": extra, "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric=kind, **(options if channels > 1 else {}))
    if channels == 2:
        with pytest.raises(UserError, match=r"a\.tif.*save it as a PNG of 16 bits|a\.tif.*cannot be read"):
            read_upright(tmp_path / "a.tif")
    else:
        np.testing.assert_array_equal(read_upright(tmp_path / "a.tif"), image)


def test_other_deep_tiffs_are_refused_in_one_line(photo: np.ndarray, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    deep = sample(photo, 4, np.uint16)
    tifffile.imwrite(tmp_path / "cmyk.tif", deep, photometric="separated")
    tifffile.imwrite(tmp_path / "premultiplied.tif", deep, photometric="rgb", extrasamples=["assocalpha"])
    tifffile.imwrite(tmp_path / "float.tif", deep[..., :3].astype(np.float32), photometric="rgb")
    tifffile.imwrite(tmp_path / "int.tif", deep[..., :3].astype(np.uint32), photometric="rgb")
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([deep[..., :3]] * 2), photometric="rgb")
    for name in ("cmyk", "premultiplied", "float", "int", "pages"):
        with pytest.raises(UserError, match=rf"{name}\.tif") as caught:
            read_upright(tmp_path / f"{name}.tif")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_animations_are_refused(photo: np.ndarray, tmp_path: Path, suffix: str) -> None:
    first, second = (Image.fromarray(photo[k : k + 20, :20]) for k in (0, 50))
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second])
    with pytest.raises(UserError, match="it holds 2 pictures"):
        read_upright(tmp_path / f"a{suffix}")


def test_hidden_colours_are_replaced_by_the_nearest_visible_ones() -> None:
    colour = np.array([[1, 2, 3, 4, 5]], np.uint8)
    alpha = np.array([[0, 9, 0, 255, 0]], np.uint8)
    found = fill_transparent(colour, alpha)
    assert found[0, [0, 1, 3, 4]].tolist() == [2, 2, 4, 4]
    assert found[0, 2] in (2, 4)
    assert fill_transparent(colour, np.zeros_like(alpha)) is colour
    assert fill_transparent(colour, np.full_like(alpha, 1)) is colour


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_pillows_limit_on_pixels_does_not_hold(
    photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"large{suffix}"
    write_image(path, photo)
    broken = tmp_path / "broken.png"
    broken.write_text("not an image")
    limit = photo[..., 0].size // 3
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path).load()
    with ThreadPoolExecutor(4) as pool:  # the limit is the whole process's, and readers overlap
        assert {found.shape for found in pool.map(read_upright, [path] * 8)} == {photo.shape}
    with pytest.raises(UserError):
        read_upright(broken)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_deep_png_beyond_opencvs_limits_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((1, 10**6 + 1), np.uint16)).save(tmp_path / "wide.png")
    with pytest.raises(UserError, match=r"wide\.png") as caught:
        read_upright(tmp_path / "wide.png")
    assert "\n" not in str(caught.value)

    def refuse(*arguments: object) -> None:
        raise cv2.error("OpenCV: pixels <= CV_IO_MAX_IMAGE_PIXELS\n")  # 2 GiB of pixels would be needed

    monkeypatch.setattr(cv2, "imdecode", refuse)
    write_image(tmp_path / "large.png", np.zeros((2, 2), np.uint16))
    with pytest.raises(UserError, match=r"large\.png.*CV_IO_MAX_IMAGE_PIXELS") as caught:
        read_upright(tmp_path / "large.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["astronaut.png", "rocket.jpg"])
def test_an_image_cut_short_is_refused_and_named(tmp_path: Path, name: str) -> None:
    content = (BUNDLED / name).read_bytes()
    for part in (0, 10, len(content) // 2, len(content) * 95 // 100):
        path = tmp_path / f"cut{part}{Path(name).suffix}"
        path.write_bytes(content[:part])
        with pytest.raises(UserError, match=path.name) as caught:
            read_upright(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@examples(40, [HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_png_is_read_or_refused_never_worse(
    photo: np.ndarray, tmp_path: Path, dtype: type, data: st.DataObject
) -> None:
    write_image(tmp_path / "whole.png", sample(photo, 3, dtype))
    content = bytearray((tmp_path / "whole.png").read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] ^= data.draw(st.integers(1, 255))
    (tmp_path / "damaged.png").write_bytes(content)
    try:
        found = read_upright(tmp_path / "damaged.png")
    except UserError:
        return
    assert found.dtype in (np.uint8, np.uint16)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UserError, match=r"text\.png.*not an image"):
        read_upright(tmp_path / "text.png")
    with pytest.raises(UserError, match=r"none\.png.*No such file"):
        read_upright(tmp_path / "none.png")
    Image.fromarray(np.zeros((3, 3), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="floating-point"):
        read_upright(tmp_path / "float.tif")


@pytest.mark.parametrize(
    ("name", "channels", "word"),
    [("deep.jpg", 3, "16-bit"), ("a.jpg", 4, "alpha"), ("a.gif", 3, "ending")],
)
def test_formats_that_cannot_hold_an_image_are_refused(
    photo: np.ndarray, tmp_path: Path, name: str, channels: int, word: str
) -> None:
    image = sample(photo, channels, np.uint16 if name.startswith("deep") else np.uint8)
    with pytest.raises(UserError, match=word):
        write_image(tmp_path / name, image)
    assert not list(tmp_path.iterdir())


def test_photos_are_eight_bit_without_alpha(photo: np.ndarray, tmp_path: Path) -> None:
    write_image(tmp_path / "deep.png", np.dstack([photo, photo[..., 0]]).astype(np.uint16) * 257 + 100)
    np.testing.assert_array_equal(read_photo(tmp_path / "deep.png"), photo)


def test_alpha_is_split_and_joined(photo: np.ndarray) -> None:
    for channels in (1, 2, 3, 4):
        image = sample(photo, channels, np.uint8)
        colour, alpha = split_alpha(image)
        assert (alpha is None) == (channels in (1, 3))
        assert colour.ndim == (2 if channels < 3 else 3)
        np.testing.assert_array_equal(join_alpha(colour, alpha), image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_tensors_and_back(photo: np.ndarray, channels: int, dtype: type) -> None:
    image = sample(photo, channels, dtype)
    tensor = to_tensor(image)
    assert tensor.shape == (1, 3, 31, 45)
    assert tensor.dtype == torch.float32
    limit = np.iinfo(dtype).max
    first = image if channels == 1 else image[..., 0]
    np.testing.assert_allclose(tensor[0, 0].numpy(), first / limit, rtol=1e-6)
    np.testing.assert_array_equal(to_pixels(tensor, like=image), image)


def test_output_is_clamped_and_rounded() -> None:
    output = torch.tensor([-0.5, 0.0, 1.4 / 255, 1.6 / 255, 1.0, 7.0]).reshape(1, 1, 1, 6)
    assert to_pixels(output, like=np.zeros((1, 1), np.uint8)).tolist() == [[0, 0, 1, 2, 255, 255]]


def test_a_grey_network_gets_luma(photo: np.ndarray) -> None:
    luma = np.asarray(Image.fromarray(photo).convert("L"))
    assert np.abs(to_tensor(photo, channels=1)[0, 0].numpy() * 255 - luma).max() < 1


def test_finding_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".hidden.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [path.name for path in find_images(tmp_path, "images", "anywhere")] == ["a.jpg", "b.PNG"]
    for name in ("notes.txt", "photo"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match="2 files or folders in '.*' are not used, .* such as 'notes.txt'"):
        assert len(find_images(tmp_path, "images", "anywhere")) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingData, match="no image"):
        find_images(tmp_path / "empty", "images", "anywhere")
    with pytest.raises(MissingData, match="is a file"):
        find_images(tmp_path / "a.jpg", "images", "anywhere")
    with pytest.raises(MissingData, match=r"not found.*anywhere"):
        find_images(tmp_path / "none", "images", "anywhere")


def test_a_decoder_never_prints(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = io.BytesIO()
    Image.open(BUNDLED / "coffee.png").crop((0, 0, 64, 64)).save(content, "PNG")
    (tmp_path / "cut.png").write_bytes(content.getvalue()[:-200])
    with pytest.raises(UserError):
        read_upright(tmp_path / "cut.png")
    assert capfd.readouterr() == ("", "")


def test_deep_grey_counted_from_white(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    stored = np.array([[0, 1000], [40000, 65535]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    assert read_upright(tmp_path / "a.tif").tolist() == [[65535, 64535], [25535, 0]]
