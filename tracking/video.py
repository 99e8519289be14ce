"""Frames of a folder, of a video file or from a camera, one after the other; and a video with boxes drawn into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from cv2.utils import logging

from core.errors import MissingData, UserError
from tracking.datasets.sequence import IMAGE_SUFFIXES, FrameFolder
from tracking.images import read_image

# FFmpeg would print what our errors say. It reads its setting once, before the first video that is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

FOLDER_SPEED = 30.0  # frames per second that a folder of images is played at
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
GREEN = (0, 255, 0)


@dataclass(frozen=True)
class Video:
    """A source of frames.

    Attributes:
        name: what the user called it.
        live: a camera, which has no end.
        speed: frames per second.
        count: number of frames, as far as the source says.
        frames: starts to read; the frames are (height, width, 3) uint8 RGB.
    """

    name: str
    live: bool
    speed: float
    count: int | None
    frames: Callable[[], Iterator[np.ndarray]]


def open_video(source: str | Path) -> Video:
    """Open a folder of images, a sequence's folder that holds `img/`, a video file, or a camera by its number.

    Raises:
        MissingData: there is no such file or folder.
        UserError: it holds no frames that can be read.
    """
    text = str(source)
    if text.isdecimal() and not Path(text).exists():
        return _captured(int(text), f"camera {text}", live=True)
    path = Path(source).expanduser()
    if path.is_dir():
        folder = FrameFolder(path)
        paths = folder.paths() or FrameFolder(path / "img").paths()
        if not paths:
            raise UserError(
                f"'{path}' holds no images ({', '.join(IMAGE_SUFFIXES)}), and no folder img with some"
            )
        return Video(text, False, FOLDER_SPEED, len(paths), lambda: (read_image(file) for file in paths))
    if not path.is_file():
        raise MissingData(
            f"video '{path}' not found: name a folder of images, a video file or a camera's number"
        )
    return _captured(str(path), f"'{path}'", live=False)


def _captured(source: int | str, name: str, live: bool) -> Video:
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(source)
    finally:
        logging.setLogLevel(level)
    opened = capture.isOpened()
    speed, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    if not opened:
        raise UserError(f"{name} cannot be opened: not a video that OpenCV reads, or no such camera")

    def frames() -> Iterator[np.ndarray]:
        capture = cv2.VideoCapture(source)
        try:
            while True:
                found, image = capture.read()
                if not found:
                    return
                yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    speed = speed if 0 < speed < 1000 else FOLDER_SPEED  # cameras may not know theirs
    return Video(str(source), live, speed, count if count > 0 and not live else None, frames)


def draw(frame: np.ndarray, box: Sequence[float], score: float | None = None) -> np.ndarray:
    """A copy of an RGB frame with a box, and a score above it.

    Args:
        frame: (height, width, 3) uint8.
        box: x, y, width, height; the first pixel is number 0.
        score: the tracker's confidence, if it gave one.
    """
    canvas = frame.copy()
    x, y, width, height = box
    # What lies far outside the image is not to be seen, and OpenCV's coordinates are limited.
    limit = 4.0 * max(frame.shape)
    left, top, right, bottom = (
        round(min(max(value, -limit), limit)) for value in (x, y, x + width - 1, y + height - 1)
    )
    thickness = max(1, round(min(frame.shape[:2]) / 240))
    cv2.rectangle(canvas, (left, top), (right, bottom), GREEN, thickness)
    if score is not None and np.isfinite(score):
        place = (
            min(max(left, 0), frame.shape[1] - 1),
            top - 3 if top > 14 else min(bottom, frame.shape[0]) - 3,
        )
        cv2.putText(
            canvas,
            f"{score:.2f}",
            place,
            cv2.FONT_HERSHEY_SIMPLEX,
            0.4 * thickness,
            GREEN,
            thickness,
            cv2.LINE_AA,
        )
    return canvas


class VideoFile:
    """Writes a video; it appears under its name when the block ends, with the frames that were written until then.

    Frames of another size than the first one's are fitted into it.

    Args:
        path: `*.mp4` (MPEG-4) or `*.avi` (motion JPEG).
        speed: frames per second.

    Raises:
        UserError: another ending.
    """

    def __init__(self, path: str | Path, speed: float) -> None:
        self._path, self._speed = Path(path), speed
        if self._path.suffix.lower() not in CODECS:
            raise UserError(f"'{path}': a video is written as {' or '.join(CODECS)}; change the ending")
        self._temporary = self._path.with_name(f".{os.getpid()}.{self._path.name}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> VideoFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, frame: np.ndarray) -> None:
        """Add an RGB frame, (height, width, 3) uint8.

        Raises:
            OSError: the file cannot be written.
        """
        if self._writer is None:
            self._size = (frame.shape[1], frame.shape[0])
            codec = cv2.VideoWriter.fourcc(*CODECS[self._path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._temporary), codec, self._speed, self._size)
            if not self._writer.isOpened():
                raise OSError(f"'{self._path}': OpenCV cannot write this video here")
        self._writer.write(cv2.cvtColor(_fitted(frame, self._size), cv2.COLOR_RGB2BGR))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
            if self._temporary.exists():
                os.replace(self._temporary, self._path)


def _fitted(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame at its own proportions in the middle of a black one of `size` (width, height)."""
    height, width = frame.shape[:2]
    if (width, height) == size:
        return frame
    scale = min(size[0] / width, size[1] / height)
    inner = max(round(width * scale), 1), max(round(height * scale), 1)
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(
        frame, inner, interpolation=cv2.INTER_AREA
    )
    return canvas
