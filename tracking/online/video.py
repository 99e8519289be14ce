"""The sources of `tracking.track` (a folder, a video file, a camera), and drawing boxes into frames."""

from __future__ import annotations

import mimetypes
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from core.errors import MissingData, UserError
from core.storage.data import is_hidden
from core.storage.video import (
    USUAL_SPEED,
    Frame,
    Video,
    capturing,
    list_frames,
    missing_numbers,
    open_video_file,
    quiet,
)
from tracking.datasets.sequence import IMAGE_SUFFIXES, FrameFolder, frame_number
from tracking.files.images import read_frame

GREEN = (0, 255, 0)


def source_path(source: str | Path) -> Path | None:
    """The file or folder of images that a source names (the folder itself or `img/` in it); None for a camera.

    Raises:
        MissingData: there is no such file or folder.
        UserError: a folder without images.
    """
    if str(source).isdecimal() and not Path(source).exists():
        return None
    path = Path(source).expanduser()
    if path.is_dir():
        for folder in (path, path / "img"):
            if FrameFolder(folder).exists():
                return folder
        raise UserError(
            f"'{path}' holds no images ({', '.join(IMAGE_SUFFIXES)}), and no folder img with some"
        )
    if not path.is_file():
        raise MissingData(
            f"video '{path}' not found: name a folder of images, a video file or a camera's number"
        )
    return path


def open_video(source: str | Path) -> Video:
    """Open a folder of images, a sequence's folder that holds `img/`, a video file, or a camera by its number.

    A folder's images are its frames, one after the other; numbers that are missing in the names are noted.

    Raises:
        MissingData: there is no such file or folder.
        UserError: it holds no frames that can be read.
    """
    path = source_path(source)
    if path is None:
        return _open_camera(int(str(source)))
    if path.is_file():
        return open_video_file(path)
    paths = FrameFolder(path).paths()
    missing = missing_numbers([number for number in map(frame_number, paths) if number >= 0])
    notes = []
    if missing:
        notes.append(
            f"'{path}': by the names of the images {list_frames(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"missing; the {len(paths)} images that are there are taken one after the other"
        )
    twice = [
        number for number, count in Counter(map(frame_number, paths)).items() if count > 1 and number >= 0
    ]
    if twice:
        notes.append(
            f"'{path}': there are several images of {list_frames(twice)}; all are taken, by their names"
        )
    nameless = [file.name for file in paths if frame_number(file) < 0]
    if nameless and len(nameless) < len(paths):
        notes.append(f"'{path}': '{nameless[0]}' has no number, unlike others; such images come first")
    others = [file.name for file in sorted(path.iterdir()) if _is_another_image(file)]
    if others:
        notes.append(
            f"'{path}': {len(others)} images are not used, such as '{others[0]}'; frames are "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )

    def frames() -> Iterator[Frame]:
        for place, file in enumerate(paths):
            yield Frame(place + 1, place, read_frame(file))

    return Video(str(source), False, USUAL_SPEED, len(paths), frames, tuple(notes))


def _is_another_image(file: Path) -> bool:
    kind = mimetypes.guess_type(file.name)[0] or ""
    return (
        kind.startswith("image/") and file.suffix.lower() not in IMAGE_SUFFIXES and not is_hidden(file.name)
    )


def _open_camera(number: int) -> Video:
    with quiet(), capturing(number) as capture:
        opened, speed = capture.isOpened(), capture.get(cv2.CAP_PROP_FPS)
    if not opened:
        raise UserError(f"camera {number} cannot be opened: there is none, or OpenCV cannot use it")

    def frames() -> Iterator[Frame]:
        place = 0
        with capturing(number) as capture:
            while True:
                found, image = capture.read()
                if not found:
                    return
                yield Frame(place + 1, place, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
                place += 1

    # Cameras may not know their frame rate.
    return Video(str(number), True, speed if 0 < speed < 1000 else USUAL_SPEED, None, frames)


def draw(frame: np.ndarray, box: Sequence[float], score: float | None = None) -> np.ndarray:
    """A copy of an RGB frame with a box, and a score above it.

    Args:
        frame: (height, width, 3) uint8.
        box: x, y, width, height; the first pixel is number 0.
        score: the tracker's confidence, if it gave one.
    """
    canvas = frame.copy()
    x, y, width, height = box
    # Parts far outside the image are invisible, and OpenCV's coordinates are limited.
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
