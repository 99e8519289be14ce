"""`python -m super_resolution.upscale`: every kind of image, folders, videos, and what it refuses."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image, ImageCms
from rich.console import Console

from core import Budget, shrink
from core.errors import UserError
from core.storage.video import open_video_file
from super_resolution.checkpoint import Description, load_network, read_description, save_network
from super_resolution.images import read_upright, write_image
from super_resolution.models import build
from super_resolution.resize import matlab_bicubic
from super_resolution.tiling import super_resolve
from super_resolution.upscale import main
from tests.core.storage.video_files import cut, destroy_frames, number_of, vary_rate, write_video

OPTIONS = {"n_blocks": 1, "n_feats": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small x2 EDSR."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "edsr.safetensors"
    save_network(path, build("edsr", 2, **OPTIONS), Description("edsr", 2, OPTIONS))
    return path


def upscale(*arguments: object) -> int:
    """Run the command line in this process."""
    return main([str(argument) for argument in arguments])


def expected(checkpoint: Path, image: np.ndarray) -> np.ndarray:
    """What the checkpoint's network makes of a grey or colour image, whole."""
    network, description = load_network(checkpoint)
    return super_resolve(network, image, description.scale)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_in_eight_and_sixteen_bits(
    photo: np.ndarray, checkpoint: Path, tmp_path: Path, channels: int, dtype: type
) -> None:
    image = (photo[:31, :45, 0] if channels == 1 else photo[:31, :45]).astype(dtype)
    image = image * 257 if dtype is np.uint16 else image
    write_image(tmp_path / "in.png", image)
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--checkpoint", checkpoint) == 0
    found = read_upright(tmp_path / "out.png")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected(checkpoint, np.ascontiguousarray(image)))


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_kept(photo: np.ndarray, checkpoint: Path, tmp_path: Path, channels: int) -> None:
    alpha = photo[100:131, 50:95, 2]
    colour = photo[:31, :45, 0] if channels == 2 else photo[:31, :45]
    write_image(tmp_path / "in.png", np.dstack([colour, alpha]))
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--checkpoint", checkpoint) == 0
    found = read_upright(tmp_path / "out.png")
    assert found.shape == (62, 90, channels)
    np.testing.assert_array_equal(found[..., -1], matlab_bicubic(alpha, 2))
    np.testing.assert_array_equal(
        found[..., 0] if channels == 2 else found[..., :3], expected(checkpoint, np.ascontiguousarray(colour))
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
def test_single_pixels_and_odd_sizes(
    photo: np.ndarray, checkpoint: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    write_image(tmp_path / "in.png", np.ascontiguousarray(photo[: size[0], : size[1]]))
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--checkpoint", checkpoint) == 0
    assert read_upright(tmp_path / "out.png").shape == (2 * size[0], 2 * size[1], 3)


def test_a_cmyk_jpeg_comes_out_in_colour(photo: np.ndarray, checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(photo[:40, :40]).convert("CMYK").save(tmp_path / "in.jpg")
    assert upscale(tmp_path / "in.jpg", tmp_path / "out.png", "--checkpoint", checkpoint) == 0
    assert read_upright(tmp_path / "out.png").shape == (80, 80, 3)


@pytest.mark.parametrize("tile", [16, 0])
def test_tiles_change_nothing(photo: np.ndarray, checkpoint: Path, tmp_path: Path, tile: int) -> None:
    image = photo[:70, :50].astype(np.uint16) * 257
    write_image(tmp_path / "in.png", image)
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--checkpoint", checkpoint, "--tile", tile) == 0
    difference = read_upright(tmp_path / "out.png").astype(int) - expected(checkpoint, image)
    assert np.abs(difference).max() <= 1e-4 * 65535


def test_a_folder_of_images(
    photo: np.ndarray, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in/a.jpg", photo[:20, :30])
    write_image(tmp_path / "in/c.png", photo[:20, :30, 0])
    assert upscale(tmp_path / "in", tmp_path / "out", "--checkpoint", checkpoint) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    assert read_upright(tmp_path / "out/c.png").shape == (40, 60)
    assert capsys.readouterr() == (f"written: {tmp_path / 'out'}\n", "")

    content = (tmp_path / "in/c.png").read_bytes()
    (tmp_path / "in/b.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "out/c.png").unlink()
    assert upscale(tmp_path / "in", tmp_path / "out", "--checkpoint", checkpoint) == 2
    assert (tmp_path / "out/c.png").exists()  # the broken image before it did not stop it
    message = capsys.readouterr().err
    assert "1 of 3 images failed" in message
    assert "b.png" in message
    assert message.count("\n") == 1


def test_a_terminal_shows_progress(
    photo: np.ndarray, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(source: str, target: str, *arguments: object) -> str:
        stream = io.StringIO()

        def console(stderr: bool) -> Console:
            assert stderr  # standard output is for results
            return Console(file=stream, force_terminal=True, width=100)

        monkeypatch.setattr("core.terminal.Console", console)
        assert upscale(tmp_path / source, tmp_path / target, "--checkpoint", checkpoint, *arguments) == 0
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())

    for name in ("a", "b", "c"):
        write_image(tmp_path / f"in/{name}.png", photo[:20, :30])
    by_image = shown("in", "out")
    assert re.search(r"in x2 .*3/3", by_image)
    by_tile = shown("in/a.png", "a.png", "--tile", 16)  # 2 x 2 tiles
    assert re.search(r"a\.png x2 .*4/4", by_tile)


@pytest.fixture(scope="module")
def nearest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An x2 EDSR whose weights are set so that it repeats every pixel."""
    network = build("edsr", 2, **OPTIONS)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("conv", "body", "upsample")):
                parameter.zero_()
        for colour in range(3):
            network.conv_first.weight[colour, colour, 1, 1] = 1
            network.upsample[0].weight[4 * colour : 4 * colour + 4, colour, 1, 1] = 1
            network.conv_last.weight[colour, colour, 1, 1] = 1
    path = tmp_path_factory.mktemp("nearest") / "edsr.safetensors"
    save_network(path, network, Description("edsr", 2, OPTIONS))
    return path


@pytest.mark.parametrize("name", ["out.avi", "out.mp4"])
def test_a_video(photo: np.ndarray, nearest: Path, tmp_path: Path, name: str) -> None:
    frames = [np.ascontiguousarray(photo[40 * i : 40 * i + 48, 60 * i : 60 * i + 64]) for i in range(5)]
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 48))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    assert upscale(tmp_path / "in.avi", tmp_path / name, "--checkpoint", nearest) == 0
    capture = cv2.VideoCapture(str(tmp_path / name))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    for frame in frames:
        read, found = capture.read()
        assert read
        assert found.shape == (96, 128, 3)
        # Lossy twice over, so only near.
        assert np.abs(found[..., ::-1].astype(float) - frame.repeat(2, 0).repeat(2, 1)).mean() < 12
    assert not capture.read()[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.avi", name])


def test_a_folder_as_target_of_one_file(photo: np.ndarray, checkpoint: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "in.jpg", photo[:20, :30])
    (tmp_path / "out").mkdir()
    assert upscale(tmp_path / "in.jpg", tmp_path / "out", "--checkpoint", checkpoint) == 0
    assert read_upright(tmp_path / "out/in.png").shape == (40, 60, 3)


def test_another_scale_is_refused(
    photo: np.ndarray, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in.png", photo[:20, :30])
    arguments = (tmp_path / "in.png", tmp_path / "out.png", "--checkpoint", checkpoint, "--scale")
    assert upscale(*arguments, 4) == 2
    message = capsys.readouterr().err
    assert "enlarges by 2, not by 4" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out.png").exists()
    assert upscale(*arguments, 2) == 0


@pytest.mark.parametrize(
    ("source", "target", "extra", "word"),
    [
        ("none.png", "out.png", (), "not found"),
        ("text.png", "out.png", (), "not an image"),
        ("notes.txt", "out.png", (), "neither an image nor a video"),
        ("broken.mp4", "out.mp4", (), "no frame"),
        ("good.png", "good.png", (), "the file that is read"),
        ("good.png", "out.gif", (), "ending"),
        ("deep.png", "out.jpg", (), "16-bit"),
        ("good.png", "out.png", ("--tile", "-1"), "--tile"),
        ("good.png", "out.png", ("--device", "abacus"), "device must be auto, cpu"),
        ("good.png", "out.png", ("--checkpoint", "none.safetensors"), "none.safetensors"),
        (".", ".", (), "the folder that is read"),
        ("empty", "out", (), "no image"),
        ("twins", "out", (), "2 images called 'a'"),
    ],
)
def test_bad_usage_is_one_line_and_status_two(
    photo: np.ndarray,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    target: str,
    extra: tuple[str, ...],
    word: str,
) -> None:
    write_image(tmp_path / "good.png", photo[:8, :8])
    write_image(tmp_path / "deep.png", photo[:8, :8].astype(np.uint16))
    write_image(tmp_path / "twins/a.png", photo[:8, :8])
    write_image(tmp_path / "twins/a.jpg", photo[:8, :8])
    (tmp_path / "empty").mkdir()
    for name in ("text.png", "notes.txt", "broken.mp4"):
        (tmp_path / name).write_text("not an image")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert upscale(tmp_path / source, tmp_path / target, "--checkpoint", checkpoint, *extra) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert word in message
    assert message.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_debug_shows_the_traceback(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (tmp_path / "none.png", tmp_path / "out.png", "--checkpoint", checkpoint, "--debug")
    assert upscale(*arguments) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_command_runs_as_written(photo: np.ndarray, checkpoint: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "in.png", photo[:8, :8])
    command = [sys.executable, "-m", "super_resolution.upscale"]
    files = [str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--checkpoint", str(checkpoint)]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_upright(tmp_path / "out.png").shape == (16, 16, 3)
    (tmp_path / "broken.mp4").write_text("no video")
    files[:2] = [str(tmp_path / "broken.mp4"), str(tmp_path / "out.mp4")]
    failed = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        upscale("in.png")


def test_a_checkpoint_says_what_it_is(checkpoint: Path) -> None:
    assert read_description(checkpoint) == Description("edsr", 2, OPTIONS)
    network, _ = load_network(checkpoint)
    torch.manual_seed(0)
    for (name, found), value in zip(
        network.state_dict().items(), build("edsr", 2, **OPTIONS).state_dict().values(), strict=True
    ):
        assert torch.equal(found, value), name
    assert not network.training


def test_checkpoints_of_other_kinds_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(safetensors.torch.save(build("edsr", 2, **OPTIONS).state_dict()))
    with pytest.raises(UserError, match="does not say which network"):
        read_description(plain)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(UserError, match="truncated"):
        read_description(cut)
    other = tmp_path / "other.safetensors"
    save_network(other, build("edsr", 2, **OPTIONS), Description("edsr", 2, OPTIONS | {"n_feats": 8}))
    with pytest.raises(UserError, match="does not fit"):
        load_network(other)


def test_a_checkpoint_with_found_widths(photo: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("edsr", 2, n_blocks=2, n_feats=8)
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
    found = shrink(
        network,
        torch.rand(1, 3, 8, 8),
        [(lr, hr)],
        torch.nn.functional.l1_loss,
        widen=2.0,
        budget=Budget(flops=0.7),
        floor=0.2,
        seed=0,
    )
    path = tmp_path / "lwdna.safetensors"
    narrow = found.build(network)
    save_network(path, narrow, Description("edsr", 2, {"n_blocks": 2, "n_feats": 8}, found.to_json()))
    loaded, _ = load_network(path)
    image = np.ascontiguousarray(photo[:12, :12])
    np.testing.assert_array_equal(super_resolve(loaded, image, 2), super_resolve(narrow, image, 2))
    assert sum(p.numel() for p in loaded.parameters()) < sum(p.numel() for p in network.parameters())


def disc(side: int = 24) -> np.ndarray:
    """The alpha of a disc: 255 inside, 0 outside."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.where(np.hypot(x, y) < side / 3, 255, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An x2 EDSR that repeats pixels and then blurs: what a pixel holds reaches its neighbours; white stays white."""
    network = build("edsr", 2, **OPTIONS)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("conv", "body", "upsample")):
                parameter.zero_()
        for colour in range(3):
            network.conv_first.weight[colour, colour, 1, 1] = 1
            network.upsample[0].weight[4 * colour : 4 * colour + 4, colour, 1, 1] = 1
            network.conv_last.weight[colour, colour, 1] = torch.tensor([0.25, 0.5, 0.25])
    path = tmp_path_factory.mktemp("smooth") / "edsr.safetensors"
    save_network(path, network, Description("edsr", 2, OPTIONS))
    return path


@pytest.mark.parametrize("kind", ["rgba", "grey", "rgba16", "grey16", "palette", "key16"])
def test_a_white_disc_on_transparent_black_has_no_halo(smooth: Path, tmp_path: Path, kind: str) -> None:
    """Whatever can be seen of it is white, to the last bit."""
    alpha = disc()
    white = alpha  # black where it is transparent
    if kind == "palette":
        picture = Image.fromarray((alpha > 0).astype(np.uint8), "P")
        picture.putpalette([0, 0, 0, 255, 255, 255])
        picture.save(tmp_path / "in.png", transparency=0)
    elif kind == "key16":  # 16-bit grey in which 0 stands for transparent
        cv2.imwrite(str(tmp_path / "in.png"), white.astype(np.uint16) * 257)
        content = (tmp_path / "in.png").read_bytes()
        body = b"tRNS\0\0"
        chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
        (tmp_path / "in.png").write_bytes(content[:33] + chunk + content[33:])
    else:
        image = np.dstack([white] * (3 if kind.startswith("rgba") else 1) + [alpha])
        write_image(tmp_path / "in.png", image.astype(np.uint16) * 257 if kind.endswith("16") else image)
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--checkpoint", smooth) == 0
    found = read_upright(tmp_path / "out.png")
    assert found.dtype == (np.uint16 if kind.endswith("16") else np.uint8)
    seen = found[..., -1] > 0
    assert seen.sum() > 4 * (alpha > 0).sum() * 0.9
    assert (found[seen][:, :-1] == np.iinfo(found.dtype).max).all()
    np.testing.assert_array_equal(
        found[..., -1],
        matlab_bicubic(alpha.astype(found.dtype) * (257 if found.dtype == np.uint16 else 1), 2),
    )


@pytest.mark.parametrize("channels", [3, 4])
def test_a_deep_colour_tiff_stays_deep(
    photo: np.ndarray, nearest: Path, tmp_path: Path, channels: int
) -> None:
    image = np.dstack([photo[:21, :30], photo[50:71, 50:80]])[..., :channels].astype(np.uint16) * 251 + 3
    cv2.imwrite(str(tmp_path / "in.tif"), image[..., [2, 1, 0, 3][:channels]])
    assert upscale(tmp_path / "in.tif", tmp_path / "out.png", "--checkpoint", nearest) == 0
    found = read_upright(tmp_path / "out.png")
    assert found.dtype == np.uint16
    wanted = image[..., :3].repeat(2, 0).repeat(2, 1)
    assert np.abs(found[..., :3].astype(int) - wanted).max() <= 1  # of 65535: float32 in between


def test_a_colour_profile_goes_along(photo: np.ndarray, nearest: Path, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.fromarray(photo[:8, :8])
    picture.save(tmp_path / "in.jpg", icc_profile=profile)
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", icc_profile=profile)
    write_image(tmp_path / "deep.png", photo[:8, :8].astype(np.uint16) * 257, profile)
    for name, kept in (("in.jpg", profile), ("deep.png", profile), ("cmyk.jpg", None)):
        assert upscale(tmp_path / name, tmp_path / "out.png", "--checkpoint", nearest) == 0
        with Image.open(tmp_path / "out.png") as found:
            found.load()
            assert found.info.get("icc_profile") == kept


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An x2 EDSR whose weights have grown until its output overflows."""
    network = build("edsr", 2, **OPTIONS)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("conv", "body", "upsample")):
                parameter.zero_()
        network.conv_first.weight[0, :, 1, 1] = 1e30
        network.upsample[0].weight[:, 0, 1, 1] = 1e30
    path = tmp_path_factory.mktemp("diverged") / "edsr.safetensors"
    save_network(path, network, Description("edsr", 2, OPTIONS))
    return path


def test_an_output_that_is_not_finite_is_no_picture(
    photo: np.ndarray, diverged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("in/a.png", "in/b.png"):
        write_image(tmp_path / name, photo[:20, :30])
    (tmp_path / "old.png").write_bytes(b"earlier")
    assert upscale(tmp_path / "in/a.png", tmp_path / "old.png", "--checkpoint", diverged) == 1
    message = capsys.readouterr().err
    assert "a.png': " in message
    assert "values of the network's output are not finite" in message
    assert message.count("\n") == 1
    assert (tmp_path / "old.png").read_bytes() == b"earlier"
    tile = (tmp_path / "in/a.png", tmp_path / "new.png", "--checkpoint", diverged, "--tile", 16)
    assert upscale(*tile) == 1
    assert "in the tile of rows 0–9, columns 0–14 are not finite" in capsys.readouterr().err
    assert upscale(tmp_path / "in", tmp_path / "out", "--checkpoint", diverged) == 1
    assert "2 of 2 images failed" in capsys.readouterr().err
    write_video(tmp_path / "v.avi", 3, 25, "MJPG")
    assert upscale(tmp_path / "v.avi", tmp_path / "w.avi", "--checkpoint", diverged) == 1
    assert "v.avi', frame 1: " in capsys.readouterr().err
    assert not (tmp_path / "w.avi").exists()
    assert not (tmp_path / "new.png").exists()


def test_a_broken_video_is_upscaled_as_far_as_it_goes(
    nearest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = destroy_frames(write_video(tmp_path / "gap.mkv", 10, 25, "MJPG"), [4])
    assert upscale(path, tmp_path / "out.avi", "--checkpoint", nearest) == 1
    message = capfd.readouterr().err
    assert "gap.mkv': frame 4 of 10 could not be read" in message
    assert message.count("\n") == 1
    frames = list(open_video_file(tmp_path / "out.avi").frames())
    assert [number_of(frame.image) for frame in frames] == [1, 2, 3, 3, *range(5, 11)]
    path = cut(write_video(tmp_path / "cut.avi", 30, 25, "MJPG"), 0.6)
    assert upscale(path, tmp_path / "out.avi", "--checkpoint", nearest) == 1
    done = len(list(open_video_file(tmp_path / "out.avi").frames()))
    assert f"frames {done + 1}–30 of 30 could not be read: the file is cut short" in capfd.readouterr().err


def test_a_variable_rate_video_keeps_its_times(
    nearest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = vary_rate(write_video(tmp_path / "v.mp4", 6), [(3, 40), (3, 20)])
    assert upscale(path, tmp_path / "out.avi", "--checkpoint", nearest) == 0
    video = open_video_file(tmp_path / "out.avi")
    assert video.speed == pytest.approx(50)
    assert [number_of(frame.image) for frame in video.frames()] == [1, 1, 2, 2, 3, 3, 4, 5, 6]
    shown = capfd.readouterr().err
    assert "its frame rate varies, 25 to 50 frames/s" in shown
    assert "3 repeats, so that times hold" in shown


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("v.avi", "link.avi", "is the file that is read"),
        ("v.avi", "hard.avi", "is the file that is read"),
        ("a.png", "folder", "is the file that is read"),
        ("a.png", "net.png", "is the checkpoint that is read"),
        (".", "folder", "is the folder that is read"),
        (".", "linked", "is an image that is read"),
    ],
)
def test_no_input_is_written_over(
    photo: np.ndarray,
    nearest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    target: str,
    message: str,
) -> None:
    write_image(tmp_path / "a.png", photo[:8, :8])
    write_video(tmp_path / "v.avi", 2, 25, "MJPG")
    (tmp_path / "link.avi").symlink_to("v.avi")
    (tmp_path / "hard.avi").hardlink_to(tmp_path / "v.avi")
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/a.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "net.safetensors").write_bytes(nearest.read_bytes())
    if target == "net.png":
        (tmp_path / target).symlink_to("net.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = (tmp_path / source, tmp_path / target, "--checkpoint", tmp_path / "net.safetensors")
    assert upscale(*arguments) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_no_network(
    checkpoint: Path, tmp_path: Path, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    network, description = load_network(checkpoint)
    with torch.no_grad():
        network.conv_first.weight[0, 0, 0, 0] = value
    path = tmp_path / "diverged.safetensors"
    save_network(path, network, description)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for tile in ((), ("--tile", 8), ("--tile", 0)):
        assert upscale(tmp_path / "a.png", tmp_path / "b.png", "--checkpoint", path, *tile) == 1
        message = capsys.readouterr().err
        assert "weights are not finite in 1 tensors, such as 'conv_first.weight'" in message
        assert message.count("\n") == 1
    assert not (tmp_path / "b.png").exists()


def test_a_name_that_the_user_did_not_give_is_not_written_over(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.png").write_bytes(b"another picture")
    assert upscale(tmp_path / "a.jpg", tmp_path, "--checkpoint", checkpoint) == 2
    assert "a.png' lies beside 'a.jpg' already; name the file to write" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == b"another picture"


def test_larger_images_than_allowed_are_refused_and_the_option_is_named(
    photo: np.ndarray, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in.png", photo[:10, :12])
    files = (tmp_path / "in.png", tmp_path / "out.png", "--checkpoint", checkpoint, "--max-pixels")
    assert upscale(*files, 119) == 2
    assert "its 12 x 10 pixels exceed the limit of 119: raise it by --max-pixels" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
    assert upscale(*files, 120) == 0


def test_an_image_that_memory_cannot_hold_enlarged_is_refused(
    photo: np.ndarray,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_image(tmp_path / "in.png", photo[:100, :120])
    monkeypatch.setattr("core.storage.limits.physical_memory", lambda: 2 * 4 * 100 * 120 * 3 - 1)
    assert upscale(tmp_path / "in.png", tmp_path / "out.png", "--checkpoint", checkpoint) == 2
    assert "the enlarged image, 240 x 200 pixels, would take 0.0 GiB of memory" in capsys.readouterr().err
