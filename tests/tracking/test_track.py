"""Reading images and videos, drawing, and `python -m tracking.track` as users type it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from PIL import Image

from core.errors import MissingData, UserError
from core.storage.video import Frame, VideoFile
from tests.core.storage.video_files import cut, destroy_frames, number_of, vary_rate, write_video
from tests.tracking.helpers import PROJECT
from tracking import track
from tracking.files.images import as_rgb, read_frame
from tracking.online.runner import track_sequence
from tracking.online.trackers import StillTracker
from tracking.online.video import draw, open_video

PHOTOS = Path(skimage.data_dir)


def test_all_kinds_of_files_become_rgb(tmp_path: Path) -> None:
    photo = np.asarray(Image.open(PHOTOS / "coffee.png").convert("RGB"))[:40, :50]
    grey = np.asarray(Image.fromarray(photo).convert("L"))
    Image.fromarray(photo).save(tmp_path / "rgb.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([photo, grey])).save(tmp_path / "alpha.png")
    Image.fromarray(photo).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=100)
    cv2.imwrite(str(tmp_path / "deep.png"), photo[..., ::-1].astype(np.uint16) * 257)
    turned = Image.fromarray(photo)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert np.array_equal(read_frame(tmp_path / "rgb.png"), photo)
    assert np.array_equal(read_frame(tmp_path / "alpha.png"), photo)
    assert np.array_equal(read_frame(tmp_path / "grey.png"), np.dstack([grey] * 3))
    assert np.abs(read_frame(tmp_path / "grey.jpg").astype(int) - grey[..., None]).max() <= 3
    assert np.abs(read_frame(tmp_path / "deep.png").astype(int) - photo).max() <= 1
    assert read_frame(tmp_path / "cmyk.jpg").shape == photo.shape
    assert read_frame(tmp_path / "turned.jpg").shape == photo.shape  # as it is stored


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    whole = (PHOTOS / "rocket.jpg").read_bytes()
    for name, content, message in (
        ("cut.jpg", whole[: len(whole) // 2], "truncated JPEG"),
        ("empty.jpg", b"", "the file is empty"),
        ("text.jpg", b"no image", "no decoder knows it"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}' cannot be read: {message}.*check_dataset"):
            read_frame(tmp_path / name)
    with pytest.raises(UserError, match=r"none\.png' cannot be read: No such file"):
        read_frame(tmp_path / "none.png")


def test_frames_in_any_form() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(as_rgb(grey), np.dstack([grey] * 3))
    assert as_rgb(grey.astype(np.uint16) * 257).dtype == np.float32
    assert np.array_equal(as_rgb(grey.astype(np.uint16) * 257), np.dstack([grey] * 3))
    colour = np.zeros((3, 4, 3), np.uint8)
    assert np.shares_memory(as_rgb(colour), colour)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve frames of a bright square on a photograph, going to the right by three pixels each."""
    place = tmp_path / "video"
    (place / "img").mkdir(parents=True)
    photo = np.asarray(Image.open(PHOTOS / "coffee.png").convert("RGB"))[:120, :160]
    target = np.asarray(Image.open(PHOTOS / "astronaut.png").convert("RGB"))[60:100, 200:250]
    for number in range(12):
        frame = photo.copy()
        frame[30:70, 20 + 3 * number : 70 + 3 * number] = target
        Image.fromarray(frame).save(place / f"img/{number + 1}.png")
    return place


def read(path: Path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", ndmin=2)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_tracks_a_folder_and_then_the_video_that_it_wrote(
    folder: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, save = tmp_path / f"new/out{suffix}", tmp_path / "new/boxes.txt"
    assert track.main([str(folder), "--box", "20,30,50,40", "--out", str(out), "--save", str(save)]) == 0
    assert "12 frames" in capsys.readouterr().out
    boxes = read(save)
    wanted = np.array([[20 + 3 * number, 30, 50, 40] for number in range(12)])
    assert np.abs(boxes - wanted).max() < 2
    assert boxes[0].tolist() == [20, 30, 50, 40]
    video = open_video(out)
    assert (video.count, video.speed, video.live) == (12, 30, False)
    frames = [frame.image for frame in video.frames()]
    assert len(frames) == 12
    # The drawn border is green in the middle of the box's left side, in the last frame as in the first.
    for number in (0, 11):
        red, green, blue = frames[number][50, 20 + 3 * number].astype(int)
        assert green > red + 60
        assert green > blue + 60
    assert sorted((tmp_path / "new").iterdir()) == sorted([out, save])
    assert (
        track.main([str(out), "--box", "20,30,50,40", "--save", str(tmp_path / "2.txt"), "--frames", "5"])
        == 0
    )
    assert len(read(tmp_path / "2.txt")) == 5


def test_frames_of_another_size_are_fitted_in(tmp_path: Path) -> None:
    path = tmp_path / "sizes.avi"
    with VideoFile(path, 10) as video:
        for size in ((60, 80), (30, 40), (60, 40), (240, 320)):
            video.write(np.full((*size, 3), 200, np.uint8))
    frames = [frame.image for frame in open_video(path).frames()]
    assert [frame.shape for frame in frames] == [(60, 80, 3)] * 4
    assert frames[1].mean() > 190
    assert frames[2][:, :15].mean() < 20  # upright in a frame across: black on either side
    assert frames[2][:, 25:55].mean() > 190


def test_drawing_boxes_anywhere() -> None:
    frame = np.zeros((40, 60, 3), np.uint8)
    drawn = draw(frame, (10, 12, 20, 15))
    rows, columns = np.nonzero(drawn[..., 1])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 26, 10, 29)
    assert not frame.any()
    assert draw(frame, (10, 20, 20, 15), 0.5)[..., 1].sum() > drawn[..., 1].sum()
    for box in ((-1e12, -5, 1e13, 10), (1e9, 1e9, 1, 1), (5, 5, 0.01, 0.01)):
        draw(frame, box, float("nan"))
        draw(frame, box, 0.7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--box", "1,2,3,4", "--out", "x.mp4"], "video 'nowhere' not found"),
        (["FOLDER", "--box", "1,2,3", "--out", "x.mp4"], "write x,y,width,height, such as 120,80,40,60"),
        (["FOLDER", "--box", "1,2,0,4", "--out", "x.mp4"], "width and height have to be above 0"),
        (["FOLDER", "--box", "1,2,3,4"], "name a video with --out, boxes with --save"),
        (["FOLDER", "--box", "1,2,3,4", "--out", "x.gif"], "a video is written as .mp4 or .avi"),
        (["FOLDER", "--box", "1,2,3,4", "--out", "x.mp4", "--frames", "0"], "--frames 0: expected 1 or more"),
        (["FOLDER", "--box", "1,2,3,4", "--out", "x.mp4", "--tracker", "dimp50"], "needs a network"),
        (["EMPTY", "--box", "1,2,3,4", "--out", "x.mp4"], "holds no images"),
        (["TEXT", "--box", "1,2,3,4", "--out", "x.mp4"], "cannot be opened: not a video"),
        (["97", "--box", "1,2,3,4", "--out", "x.mp4"], "camera 97 cannot be opened"),
    ],
)
def test_usage_errors_are_one_line(
    folder: Path, tmp_path: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    places = {"FOLDER": folder, "EMPTY": tmp_path / "empty", "TEXT": tmp_path / "text.mp4"}
    assert track.main([str(places.get(item, item)) for item in arguments]) == 2
    shown = capfd.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_broken_frame_ends_the_run_with_what_was_done(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "img/7.png").write_bytes(b"broken")
    out, save = tmp_path / "out.avi", tmp_path / "boxes.txt"
    arguments = [str(folder), "--box", "20,30,50,40", "--out", str(out), "--save", str(save)]
    assert track.main([*arguments, "--tracker", "still"]) == 2
    assert "7.png' cannot be read: no decoder knows it" in capsys.readouterr().err
    assert len(read(save)) == 6
    assert len(list(open_video(out).frames())) == 6


def test_an_interrupted_run_keeps_its_frames(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def update(self: StillTracker, frame: np.ndarray) -> tuple[float, ...]:
        seen.append(frame)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return self._box

    monkeypatch.setattr(StillTracker, "update", update)
    out, save = tmp_path / "out.mp4", tmp_path / "boxes.txt"
    arguments = [str(folder), "--box", "20,30,50,40", "--out", str(out), "--save", str(save)]
    assert track.main([*arguments, "--tracker", "still"]) == 130
    shown = capsys.readouterr()
    assert "4 frames" in shown.out
    assert "interrupted" in shown.err
    assert len(read(save)) == len(list(open_video(out).frames())) == 4


def test_a_killed_run_leaves_the_boxes_so_far(tmp_path: Path, folder: Path) -> None:
    """SIGKILL cannot be caught: every line that was written is whole, and a video of before is as it was."""
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "class Slow:\n"
        "    def init(self, frame, box):\n        self.box, self.frames = box, 1\n"
        "    def update(self, frame):\n"
        "        self.frames += 1\n"
        "        time.sleep(0 if self.frames < 4 else 600)\n"
        "        return self.box\n"
    )
    save, out = tmp_path / "boxes.txt", tmp_path / "videos/out.mp4"
    out.parent.mkdir()
    out.write_bytes(b"an earlier run's")
    program = [
        sys.executable,
        "-m",
        "tracking.track",
        str(folder),
        "--box",
        "20,30,50,40",
        "--save",
        str(save),
        "--out",
        str(out),
    ]
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{tmp_path}"}
    process = subprocess.Popen([*program, "--tracker", "slow:Slow"], env=environment, cwd=PROJECT)
    deadline = time.monotonic() + 120
    while not (save.exists() and save.read_text().count("\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert save.read_text().endswith("\n")
    assert len(read(save)) == 3
    assert out.read_bytes() == b"an earlier run's"
    (part,) = set(out.parent.iterdir()) - {out}  # what was written of the new one is hidden, and ends alike
    assert part.name.startswith(".")
    assert part.suffix == ".mp4"


def test_a_camera_has_no_end_and_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        def __init__(self, source: int | str) -> None:
            self.source, self.left = source, 3

        def isOpened(self) -> bool:
            return self.source == 0

        def get(self, key: int) -> float:
            return {cv2.CAP_PROP_FPS: 0.0, cv2.CAP_PROP_FRAME_COUNT: -1.0}[key]

        def read(self) -> tuple[bool, np.ndarray | None]:
            self.left -= 1
            return self.left >= 0, np.full((2, 2, 3), (1, 2, 3), np.uint8)

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    video = open_video("0")
    assert (video.live, video.count, video.speed) == (True, None, 30.0)
    frames: Iterator[Frame] = video.frames()
    assert next(frames).image[0, 0].tolist() == [3, 2, 1]
    assert len(list(frames)) == 2
    with pytest.raises(UserError, match="camera 1 cannot be opened"):
        open_video("1")
    with pytest.raises(MissingData, match="not found"):
        open_video("00.mp4")


BOX = ["--box", "20,10,20,20", "--tracker", "still"]


def test_a_cut_video_keeps_what_was_done_and_says_what_is_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = cut(write_video(tmp_path / "v.avi", 30, 25, "MJPG"), 0.7)
    out, save = tmp_path / "out.avi", tmp_path / "boxes.txt"
    assert track.main([str(path), *BOX, "--out", str(out), "--save", str(save)]) == 1
    shown = capfd.readouterr()
    done = len(read(save))
    assert 10 < done < 29
    assert f"frames {done + 1}–30 of 30 could not be read: the file is cut short" in shown.err
    assert shown.err.count("\n") == 1
    assert f"{done} frames" in shown.out
    assert len(list(open_video(out).frames())) == done
    # What lies before the damage is all there.
    assert track.main([str(path), *BOX, "--save", str(save), "--frames", "9"]) == 0
    assert len(read(save)) == 9
    assert capfd.readouterr().err == ""


def test_lines_of_boxes_are_frames_whatever_cannot_be_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = destroy_frames(write_video(tmp_path / "v.mkv", 20, 25, "MJPG"), [6, 7, 12])
    out, save = tmp_path / "out.avi", tmp_path / "boxes.txt"
    assert track.main([str(path), *BOX, "--out", str(out), "--save", str(save)]) == 1
    assert "frames 6–7, 12 of 20 could not be read" in capfd.readouterr().err
    boxes = read(save)
    assert len(boxes) == 20
    assert (np.flatnonzero(np.isnan(boxes).any(axis=1)) + 1).tolist() == [6, 7, 12]
    written = [number_of(frame.image) for frame in open_video(out).frames()]
    assert written == [1, 2, 3, 4, 5, 5, 5, 8, 9, 10, 11, 11, *range(13, 21)]


def test_a_variable_rate_is_written_so_that_times_hold(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = vary_rate(write_video(tmp_path / "v.mp4", 10), [(5, 40), (5, 20)])
    out, save = tmp_path / "out.avi", tmp_path / "boxes.txt"
    assert track.main([str(path), *BOX, "--out", str(out), "--save", str(save)]) == 0
    assert "5 repeats, so that times hold" in capfd.readouterr().err
    video = open_video(out)
    assert video.speed == pytest.approx(50)
    written = [number_of(frame.image) for frame in video.frames()]
    assert written == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10]
    assert len(read(save)) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["v.mp4", "--out", "v.mp4"], "--out 'v.mp4' is the video that is read"),
        (["v.mp4", "--out", "img/../v.mp4"], "is the video that is read"),
        (["v.mp4", "--out", "link.mp4"], "is the video that is read"),
        (["v.mp4", "--save", "v.mp4"], "--save 'v.mp4' is the video that is read"),
        (["v.mp4", "--save", "link.mp4", "--out", "new.mp4"], "is the video that is read"),
        (["v.mp4", "--save", "new.mp4", "--out", "./new.mp4"], "is the file that --out names"),
        (["v.mp4", "--save", "img"], "is a folder"),
        ([".", "--save", "img/1.png"], "lies in the folder of images that is read"),
        (["img", "--save", "img/boxes.txt"], "lies in the folder of images that is read"),
        ([".", "--save", "groundtruth_rect.txt"], "lies in the folder of images that is read"),
        (
            ["v.mp4", "--save", "net.pth", "--tracker", "dimp50", "--checkpoint", "net.pth"],
            "is the network that is read",
        ),
    ],
)
def test_no_input_is_written_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("v.mp4"), 3)
    Path("link.mp4").symlink_to("v.mp4")
    Path("net.pth").write_bytes(b"weights")
    Path("img").mkdir()
    cv2.imwrite("img/1.png", np.zeros((20, 20, 3), np.uint8))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert track.main([*arguments[:1], *BOX[:2], *arguments[1:]]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_says_which_numbers_are_missing_and_which_sizes_differ(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "img/7.png").unlink()
    Image.open(folder / "img/9.png").resize((80, 60)).save(folder / "img/9.png")
    save, out = tmp_path / "boxes.txt", tmp_path / "out.avi"
    assert track.main([str(folder), *BOX, "--save", str(save), "--out", str(out)]) == 0
    shown = capsys.readouterr().err
    assert "frame 7 is missing; the 11 images that are there are taken one after the other" in shown
    assert "1 of another size than the first (160 x 120) fitted into it" in shown
    assert len(read(save)) == 11


@pytest.mark.parametrize(
    "answer", [(1.0, np.nan, 3.0, 4.0), ((1.0, 2.0, 3.0, 4.0), np.nan), (1, 2, 3, np.inf)]
)
def test_an_answer_that_is_not_finite_fails_the_run(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: object,
) -> None:
    """In a video as in a benchmark's sequence."""
    monkeypatch.setattr(StillTracker, "update", lambda self, frame: answer)
    save = tmp_path / "boxes.txt"
    assert track.main([str(folder), *BOX, "--save", str(save)]) == 1
    shown = capsys.readouterr().err
    assert "frame 2: the tracker answered" in shown
    assert "not finite" in shown
    assert len(read(save)) == 1
    with pytest.raises(RuntimeError, match=r"2\.png: the tracker answered .* not finite"):
        track_sequence(StillTracker(), sorted((folder / "img").glob("?.png")), [20, 30, 50, 40])


def test_boxes_of_before_stay_where_no_frame_can_be_read(folder: Path, tmp_path: Path) -> None:
    (folder / "img/1.png").write_bytes(b"broken")
    save = tmp_path / "boxes.txt"
    save.write_text("of before\n")
    assert track.main([str(folder), "--box", "20,30,50,40", "--save", str(save), "--tracker", "still"]) == 2
    assert save.read_text() == "of before\n"


def test_images_that_are_no_frames_or_several_of_one_number_are_said(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "img/13.tif")
    Image.new("RGB", (8, 8)).save(folder / "img/3.jpg")
    Image.new("RGB", (8, 8)).save(folder / "img/3 (1).png")
    (folder / "img/groundtruth.txt").write_text("no image")
    twice, nameless, others = open_video(folder).notes
    assert twice.endswith("there are several images of frame 3; all are taken, by their names")
    assert nameless.endswith("'3 (1).png' has no number, unlike others; such images come first")
    assert "1 images are not used, such as '13.tif'" in others
