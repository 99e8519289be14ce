"""Every file of pixels comes in as it is stored, by whichever decoder, or is refused by name in one line."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import skimage
from PIL import Image

from core.errors import UserError
from core.storage import images
from core.storage.images import BadImage, eight_bits, jpeg_decoder, read_image, split_alpha, three_channels

BUNDLED = Path(skimage.data_dir)
PHOTO = np.asarray(Image.open(BUNDLED / "coffee.png").convert("RGB"))[:40, :50]
GREY = np.asarray(Image.fromarray(PHOTO).convert("L"))
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image.swapaxes(0, 1), 2),
    8: np.rot90,
}


def stored(path: Path, image: np.ndarray | Image.Image, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


@pytest.fixture
def choice() -> Iterator[None]:
    """Forget the decoder that was chosen, before and after."""
    jpeg_decoder.cache_clear()
    yield
    jpeg_decoder.cache_clear()


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLED.glob("*.png")))
def test_photographs_have_pillows_pixels(name: str) -> None:
    with Image.open(BUNDLED / name) as file:
        wanted = np.asarray(file)
    found = read_image(BUNDLED / name, upright=False)
    assert (found.dtype == np.uint16) == (
        name == "chessboard_RGB.png"
    )  # of which Pillow reads the upper 8 bits
    np.testing.assert_array_equal(found >> 8 if found.dtype == np.uint16 else found, wanted)
    assert found.flags.writeable
    assert found.flags.c_contiguous


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_one_argument_turns_every_format(
    tmp_path: Path, suffix: str, orientation: int, upright: bool
) -> None:
    """A TIFF is turned by the decoders themselves: asked for as it is stored, it is turned back."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {".jpg": {"quality": 100}, ".webp": {"lossless": True}}.get(suffix, {})
    path = stored(tmp_path / f"a{suffix}", PHOTO, exif=exif, **lossless)
    found = read_image(path, upright=upright)
    wanted = TURNS[orientation](PHOTO) if upright else PHOTO
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() < (2 if suffix == ".jpg" else 1e-9)


def test_grey_stays_grey_and_alpha_stays(tmp_path: Path) -> None:
    assert read_image(stored(tmp_path / "a.jpg", GREY), upright=False).shape == GREY.shape
    with_alpha = np.dstack([PHOTO, GREY])
    np.testing.assert_array_equal(
        read_image(stored(tmp_path / "a.png", with_alpha), upright=False), with_alpha
    )
    grey_alpha = Image.fromarray(with_alpha).convert("LA")
    found = read_image(stored(tmp_path / "b.png", grey_alpha), upright=False)
    np.testing.assert_array_equal(found, np.asarray(grey_alpha))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_stay(tmp_path: Path, suffix: str, channels: int) -> None:
    deep = np.dstack([PHOTO, GREY]).astype(np.uint16)[..., :channels] * 251 + 3
    assert cv2.imwrite(
        str(tmp_path / f"a{suffix}"), deep[..., [[0], [], [2, 1, 0], [2, 1, 0, 3]][channels - 1]]
    )
    found = read_image(tmp_path / f"a{suffix}", upright=False)
    np.testing.assert_array_equal(found, deep[..., 0] if channels == 1 else deep)


def test_tiffs_of_other_depths_are_refused_and_white_may_be_zero(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    deep = GREY.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "white.tif", 65535 - deep, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "white.tif", upright=False), deep)
    tifffile.imwrite(tmp_path / "a.tif", GREY.astype(np.int32), photometric="minisblack")
    with pytest.raises(BadImage, match="its samples have 32 bits, not 8 or 16"):
        read_image(tmp_path / "a.tif", upright=False)
    tifffile.imwrite(tmp_path / "b.tif", GREY.astype(np.float32), photometric="minisblack")
    with pytest.raises(BadImage, match="its floating-point samples have 32 bits"):
        read_image(tmp_path / "b.tif", upright=False)
    cmyk = np.dstack([deep] * 4)
    tifffile.imwrite(tmp_path / "c.tif", cmyk, photometric="separated")
    tifffile.imwrite(tmp_path / "d.tif", cmyk, photometric="rgb", extrasamples=["assocalpha"])
    for name in ("c", "d"):
        with pytest.raises(BadImage, match=rf"{name}\.tif.* with 16 bits that is not read in full"):
            read_image(tmp_path / f"{name}.tif", upright=False)


def test_the_first_of_several_is_taken_where_asked_for(tmp_path: Path) -> None:
    for suffix in (".tif", ".gif", ".webp", ".png"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(255 - GREY)])
        with pytest.raises(BadImage, match="it holds 2 pictures"):
            read_image(path, upright=True)
        assert read_image(path, upright=True, first=True).shape[:2] == GREY.shape


def test_rules_for_tasks() -> None:
    assert eight_bits(np.array([0, 128, 129, 65406, 65407, 65535], np.uint16)).tolist() == [
        0,
        0,
        1,
        254,
        255,
        255,
    ]
    assert eight_bits(GREY) is GREY
    assert three_channels(PHOTO) is PHOTO
    np.testing.assert_array_equal(three_channels(GREY), np.dstack([GREY] * 3))
    assert split_alpha(PHOTO)[1] is None
    colour, alpha = split_alpha(np.dstack([GREY, 255 - GREY]))
    np.testing.assert_array_equal(colour, GREY)
    np.testing.assert_array_equal(alpha, 255 - GREY)


@pytest.mark.parametrize("decoder", ["mmcv", "jpeg4py"])
@pytest.mark.usefixtures("choice")
def test_turbojpeg_gives_opencvs_pixels_where_its_library_is(
    decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if decoder == "jpeg4py":
        monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.setitem(sys.modules, "jpeg4py", None)
    turbo = jpeg_decoder()
    if turbo is None:
        pytest.skip(f"{decoder} finds no libturbojpeg here")
    for path in (BUNDLED / "rocket.jpg", stored(tmp_path / "grey.jpg", GREY)):
        found = turbo(path.read_bytes())
        opencv = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        wanted = opencv if opencv.ndim == 2 else opencv[..., ::-1]
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).max() <= 2  # releases may differ by a level
    cmyk = stored(tmp_path / "cmyk.jpg", Image.fromarray(PHOTO).convert("CMYK"), quality=98)
    with pytest.raises((OSError, RuntimeError)):
        turbo(cmyk.read_bytes())
    assert np.abs(read_image(cmyk, upright=False).astype(int) - PHOTO).mean() < 3


def test_jpegs_alone_go_to_turbojpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = np.full((2, 3, 3), 7, np.uint8)
    seen: list[bytes] = []

    def decode(content: bytes) -> np.ndarray:
        seen.append(content)
        return marked

    monkeypatch.setattr(images, "jpeg_decoder", lambda: decode)
    assert read_image(BUNDLED / "rocket.jpg", upright=False) is marked
    assert read_image(BUNDLED / "coffee.png", upright=False).shape == (400, 600, 3)
    assert seen == [(BUNDLED / "rocket.jpg").read_bytes()]


class Refused(RuntimeError):
    pass


def jpeg4py_that_refuses() -> SimpleNamespace:
    class JPEG:
        def __init__(self, content: np.ndarray) -> None:
            assert content.dtype == np.uint8

        def parse_header(self) -> None:
            raise Refused

    return SimpleNamespace(JPEG=JPEG, JPEGRuntimeError=Refused)


@pytest.mark.usefixtures("choice")
def test_others_take_over_what_a_decoder_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """jpeg4py, then OpenCV, then Pillow, which says what is wrong."""
    with Image.open(BUNDLED / "rocket.jpg") as file:
        wanted = np.asarray(file)
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "jpeg4py", jpeg4py_that_refuses())
    assert jpeg_decoder() is not None
    assert np.abs(read_image(BUNDLED / "rocket.jpg", upright=False).astype(int) - wanted).max() <= 4
    monkeypatch.setattr(images, "_opencv", lambda content: None)
    np.testing.assert_array_equal(read_image(BUNDLED / "rocket.jpg", upright=False), wanted)


@pytest.mark.usefixtures("choice")
def test_mmcv_decodes_where_pyturbojpeg_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    mmcv = pytest.importorskip("mmcv")
    asked: list[str] = []

    def use_backend(name: str) -> None:
        asked.append(name)
        monkeypatch.setattr(mmcv.image.io, "imread_backend", name)
        if name == "turbojpeg" and not there:
            raise ImportError("libturbojpeg")

    def imfrombytes(content: bytes, flag: str, channel_order: str, backend: str) -> np.ndarray:
        assert (channel_order, backend) == ("rgb", "turbojpeg")
        return {"color": PHOTO, "grayscale": GREY}[flag].copy()

    class Header:
        subsampling = 2

        def decode_header(self, content: bytes) -> tuple[int, int, int, int]:
            return 50, 40, self.subsampling, 1

    default = mmcv.image.io.imread_backend
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(mmcv, "use_backend", use_backend)
    monkeypatch.setattr(mmcv, "imfrombytes", imfrombytes)
    monkeypatch.setattr(mmcv.image.io, "jpeg", Header())
    monkeypatch.setitem(sys.modules, "turbojpeg", SimpleNamespace(TJSAMP_GRAY=3))
    monkeypatch.setitem(sys.modules, "jpeg4py", None)
    there = True
    np.testing.assert_array_equal(read_image(BUNDLED / "rocket.jpg", upright=False), PHOTO)
    monkeypatch.setattr(Header, "subsampling", 3)
    np.testing.assert_array_equal(read_image(BUNDLED / "rocket.jpg", upright=False), GREY)
    assert mmcv.image.io.imread_backend == default
    jpeg_decoder.cache_clear()
    there = False
    assert jpeg_decoder() is None
    assert mmcv.image.io.imread_backend == default
    assert asked == ["turbojpeg", default] * 2


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (b"", "the file is empty"),
        (b"not an image", "no decoder knows it"),
        (b"\x89PNG\r\n\x1a\n\0\0", "truncated PNG"),
        (b"\xff\xd8\xff\xe0\0\4ab\xff\xd9", "no decoder knows it"),
        ((BUNDLED / "rocket.jpg").read_bytes()[:30_000], "truncated JPEG"),
    ],
)
def test_damage_is_named_with_the_file_in_one_line(tmp_path: Path, content: bytes, damage: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImage, match=rf"a\.jpg' cannot be read: {damage}") as caught:
        read_image(tmp_path / "a.jpg", upright=False)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (lambda path: read_image(path, upright=True), images.read_profile):
        with pytest.raises(BadImage, match=r"none\.png' cannot be read: No such file"):
            read(tmp_path / "none.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".gif", ".bmp"])
def test_pixels_beyond_the_limit_are_refused_in_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setenv("LWDNA_MAX_PIXELS", str(GREY.size - 1))
    path = stored(tmp_path / f"a{suffix}", GREY)
    for read in (lambda: read_image(path, upright=False), lambda: images.read_profile(path)):
        with pytest.raises(
            BadImage,
            match=rf"a\{suffix}' .*50 x 40 pixels exceed the limit of {GREY.size - 1}: .*--max-pixels",
        ):
            read()
    monkeypatch.setenv("LWDNA_MAX_PIXELS", str(GREY.size))
    assert read_image(path, upright=False).shape[:2] == GREY.shape


@pytest.mark.parametrize("text", ["0", "-1", "many", "9" * 30, ""])
def test_a_limit_that_is_no_number_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("LWDNA_MAX_PIXELS", text)
    with pytest.raises(UserError, match=rf"^\$LWDNA_MAX_PIXELS is '{text}'"):
        read_image(stored(tmp_path / "a.png", GREY), upright=False)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bombs() -> dict[str, bytes]:
    """Files of some kilobytes that are 30,000 pixels a side, and would be 0.9 to 2.7 GB in memory."""
    side = 30_000
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(side + 1)) for _ in range(side // 100)) + rows.flush()
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    files = {".png": png + chunk(b"IDAT", packed) + chunk(b"IEND", b"")}
    for suffix, old in ((".jpg", ">HH"), (".gif", "<HH"), (".bmp", "<ii")):
        stream = io.BytesIO()
        picture = Image.fromarray(PHOTO).convert("RGB" if suffix != ".gif" else "P")
        picture.save(stream, Image.registered_extensions()[suffix])
        width, height = (PHOTO.shape[1], PHOTO.shape[0]) if suffix != ".jpg" else PHOTO.shape[:2]
        files[suffix] = stream.getvalue().replace(
            struct.pack(old, width, height), struct.pack(old, side, side), 1
        )
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "TIFF")
    content = stream.getvalue()
    for tag, size in ((256, GREY.shape[1]), (257, GREY.shape[0])):
        entry = struct.pack("<HHI", tag, 4, 1)
        short = struct.pack("<HHIHH", tag, 3, 1, size, 0)
        content = content.replace(short, entry + struct.pack("<I", side)).replace(
            entry + struct.pack("<I", size), entry + struct.pack("<I", side)
        )
    files[".tif"] = content
    return files


@pytest.mark.parametrize(("suffix", "content"), bombs().items(), ids=bombs())
def test_small_files_of_900_megapixels_are_refused_undecoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(content)
    assert len(content) < 100_000
    decoded = []
    monkeypatch.setattr(Image.Image, "load", decoded.append)
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: decoded.append(arguments))
    with pytest.raises(
        BadImage, match=rf"bomb\{suffix}' cannot be read: its 30000 x 30000 pixels exceed .* 268435456"
    ):
        read_image(path, upright=True, first=True)
    assert not decoded


def test_the_profile_comes_with_what_it_describes(tmp_path: Path) -> None:
    with Image.open(BUNDLED / "astronaut.png") as file:
        profile = file.info["icc_profile"]
    assert images.read_profile(BUNDLED / "astronaut.png") == profile
    assert images.read_profile(BUNDLED / "coffee.png") is None
    cmyk = stored(tmp_path / "a.jpg", Image.fromarray(PHOTO).convert("CMYK"), icc_profile=profile)
    assert images.read_profile(cmyk) is None


def test_a_decoder_of_the_same_bytes_never_prints(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = io.BytesIO()
    Image.fromarray(PHOTO).save(content, "PNG")
    (tmp_path / "cut.png").write_bytes(content.getvalue()[:-200] + content.getvalue()[-12:])
    with pytest.raises(BadImage, match=r"cut\.png"):
        read_image(tmp_path / "cut.png", upright=False)
    assert capfd.readouterr() == ("", "")
