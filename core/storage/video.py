"""Reading video files frame by frame, with a report of their damage, and writing them so that times hold.

The tasks' commands read and write videos here and nowhere else. Frames are (height, width, 3) uint8 RGB.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from core.errors import MissingData, UserError
from core.storage.containers import Structure, read_structure
from core.storage.files import file_alone
from core.storage.images import check_pixels
from core.storage.opencv import cv2

# FFmpeg would print what our errors say. It reads this setting once, before the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mov": "mp4v", ".mkv": "mp4v"}
"""The codec that a video's ending chooses."""

USUAL_SPEED = 30.0
"""Frames per second of sources that do not say: folders of images, some cameras."""

_JITTER = 0.25  # of a frame: largest departure of times that still count as a constant rate
_FASTEST = 120.0  # frames per second at which a variable rate is written, unless its mean is high
_MOST_REPEATS = 100  # written per frame read, on average: wild time stamps must not fill the disk
_LISTED = 20
_VP8_SHOWN = 0x10


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        number: counted from 1; frames that cannot be read are counted too.
        slot: when it is shown, in frames of the video's `speed` after the first, counted from 0.
        image: (height, width, 3) uint8 RGB.
    """

    number: int
    slot: int
    image: np.ndarray


@dataclass
class Video:
    """A source of frames.

    Attributes:
        name: what the user called it.
        live: whether it is a camera, which has no end.
        speed: frames per second of the grid that the slots count on: the video's own rate where that is constant.
        count: number of frames, as far as the source says; those that cannot be read are counted.
        frames: starts reading.
        notes: what the user should know before anything is read, one line each.
        lost: numbers of the frames that could not be read, filled as `frames` goes on.
        damage: the reason, as far as the file's structure shows it.
        open_end: whether the file is cut and does not say how many frames are missing; set when `frames` has ended.
    """

    name: str
    live: bool
    speed: float
    count: int | None
    frames: Callable[[], Iterator[Frame]]
    notes: tuple[str, ...] = ()
    lost: list[int] = field(default_factory=list)
    damage: str | None = None
    open_end: bool = False

    def complaint(self) -> str | None:
        """What could not be read so far, in one line; None where nothing is missing."""
        why = f": {self.damage}" if self.damage else ""
        if self.lost:
            total = f" of {self.count}" if self.count else ""
            return f"{self.name}: {list_frames(self.lost)}{total} could not be read{why}"
        if self.open_end:
            return f"{self.name}: an unknown number of frames after frame {self.count} is missing{why}"
        return None


def list_frames(numbers: Sequence[int]) -> str:
    """`[7, 12, 13, 14]` as "frames 7, 12–14"; a long list is cut, with its length."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    texts = [f"{first}–{last}" if last > first else f"{first}" for first, last in spans[:_LISTED]]
    more = f", … ({len(numbers)} in all)" if len(spans) > _LISTED else ""
    return f"frame{'s' if len(numbers) > 1 else ''} {', '.join(texts)}{more}"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence OpenCV's own messages about a video that it cannot open: ours say it."""
    # OpenCV 4 has these functions at the top, OpenCV 5 in a module of their own.
    logging: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(0)  # silent
    try:
        yield
    finally:
        logging.setLogLevel(level)


@contextmanager
def capturing(source: str | int, *settings: Any) -> Iterator[cv2.VideoCapture]:
    """OpenCV's reader of a file or a camera, closed when the block is left."""
    capture = cv2.VideoCapture(source, *settings)
    try:
        yield capture
    finally:
        capture.release()


def open_video_file(path: str | Path) -> Video:
    """Open a video file, and find out which frames it holds and when each is shown.

    The container's packets are counted and their times read before anything is decoded, so the numbers of frames that
    cannot be decoded are known. Frames that the decoder mends by itself are not noticed.

    Raises:
        UserError: it is no video, not a single frame can be read, or frames are larger than `max_pixels` allows.
    """
    name = f"'{path}'"
    try:
        with file_alone():
            structure = read_structure(path)
    except FileNotFoundError as error:
        raise MissingData(f"video {name} not found: check the path") from error
    except ValueError as error:
        raise UserError(f"video {name} cannot be read: {error}; name a file") from error
    why = f" ({structure.damage})" if structure.damage else ""
    with quiet():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    speed, stated = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    opened = capture.isOpened()
    size = [int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
    try:
        check_pixels(*size)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{name} cannot be read: {error}") from error
    stated = min(stated, Path(path).stat().st_size)  # a frame takes at least one byte
    first = [time for time in (_next_time(capture), _next_time(capture)) if time is not None]
    capture.release()
    if not opened or not first:
        problem = (
            "cannot be opened: not a video that OpenCV reads, or no frame" if not opened else "has no frame"
        )
        raise UserError(f"{name} {problem} that can be read{why}")
    packets = _decoded_times(path) if structure.trimmed else _packet_times(path)
    # Some decoders give frames other times than the container does (AVI with B-frames). If all of
    # them can be decoded, their order is enough.
    in_order = first != packets[:2] and len(_decoded_times(path)) >= len(packets)
    plan = _plan(packets, speed, stated, structure)
    return _assemble(path, name, plan, None if in_order else packets, structure.damage)


@dataclass(frozen=True)
class _Plan:
    """Number and slot of every packet's frame, frames in all, the grid's frames per second, and notes."""

    numbers: list[int]
    slots: list[int]
    count: int
    speed: float
    notes: tuple[str, ...] = ()
    open_end: bool = False


def _next_time(capture: cv2.VideoCapture, patience: int = 64) -> float | None:
    """Decode the next frame that can be decoded; returns its time in milliseconds, None at the end."""
    for _ in range(patience):
        if capture.grab():
            return float(capture.get(cv2.CAP_PROP_POS_MSEC))
    return None


def _decoded_times(path: str | Path) -> list[float]:
    """Times in milliseconds of the frames that can be decoded."""
    with capturing(str(path), cv2.CAP_FFMPEG) as capture:
        return list(iter(partial(_next_time, capture), None))


def _packet_times(path: str | Path) -> list[float]:
    """Times in milliseconds of the frames that are stored, in the order in which they are shown; nothing is decoded."""
    with capturing(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1]) as capture:
        hides = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True) == b"VP80"
        times = []
        while (time := _next_time(capture)) is not None:
            _, packet = capture.retrieve()
            # VP8 stores pictures that serve only as references (RFC 6386, 9.1).
            if not (hides and packet is not None and packet.size and not int(packet.flat[0]) & _VP8_SHOWN):
                times.append(time)
        return sorted(times)


def _plan(times: Sequence[float], speed: float, stated: float, structure: Structure) -> _Plan:
    """Number the frames, and lay them on a grid of constant rate.

    Args:
        times: of the stored frames in milliseconds, ascending.
        speed: frames per second according to the container; 0 or nonsense where it does not say.
        stated: frames according to the container; some only estimate it, so it counts only in damaged files.
        structure: of the file.
    """
    n = len(times)
    places = list(range(n))
    known = 0 < speed < 1000
    if structure.misplaced and structure.stored is not None and n < structure.stored:
        # Overwritten frames leave no trace in the times. A damaged chunk may have swallowed the frames after it.
        stored = range(1, structure.stored + 1)
        suspects = [*structure.misplaced, *(k for k in stored if k > structure.misplaced[0])]
        gone = set(list(dict.fromkeys(suspects))[: structure.stored - n])
        numbers = [number for number in stored if number not in gone]
        rate = speed if known else USUAL_SPEED
        return _Plan(numbers, [number - 1 for number in numbers], structure.stored, rate)
    seconds = (np.asarray(times) - times[0]) / 1000
    gaps = np.diff(seconds)
    count = max(n, int(stated)) if structure.damage and stated > 0 else n
    open_end = structure.damage is not None and stated <= 0
    if n < 2 or gaps.min() <= 0:  # no times, or not everywhere
        notes = () if known else (f"it does not say its frame rate: {USUAL_SPEED:g} frames/s taken",)
        return _Plan([k + 1 for k in places], places, count, speed if known else USUAL_SPEED, notes, open_end)
    mean = float(1 / gaps.mean())
    for rate in (speed, mean) if known else (mean,):
        if np.abs(seconds * rate - places).max() <= _JITTER:
            return _Plan([k + 1 for k in places], places, count, rate, (), open_end)
    on_grid = np.rint(seconds * speed) if known else np.zeros(n)
    fits = bool((np.diff(on_grid) > 0).all() and np.abs(seconds * speed - on_grid).max() <= _JITTER)
    most = _MOST_REPEATS * n + 1000
    too_many = float(seconds[-1]) * speed > most
    # Gaps on the grid mean missing frames only if the container itself is damaged.
    if fits and structure.damage and not too_many:
        slots = [int(slot) for slot in on_grid]
        return _Plan([slot + 1 for slot in slots], slots, max(count, slots[-1] + 1), speed, (), open_end)
    rate = speed
    if not fits or too_many:
        rate = min(float(1 / gaps.min()), max(_FASTEST, 2 * mean), most / float(seconds[-1]))
    slots = []
    for second in seconds:
        slots.append(max(round(float(second) * rate), slots[-1] + 1 if slots else 0))
    note = f"its frame rate varies, {1 / gaps.max():.4g} to {1 / gaps.min():.4g} frames/s"
    return _Plan([k + 1 for k in places], slots, count, rate, (note,), open_end)


def _assemble(
    path: str | Path, name: str, plan: _Plan, times: Sequence[float] | None, damage: str | None
) -> Video:
    """The video of a plan; without `times` the frames come in the plan's order, and none is missing."""

    def frames() -> Iterator[Frame]:
        video.lost.clear()
        video.open_end = False
        n, decoded, misses, index, number, slot = len(plan.numbers), 0, 0, -1, 0, -1
        with capturing(str(path), cv2.CAP_FFMPEG) as capture:
            # A frame that cannot be decoded looks like the end of the file; the next one may be fine.
            while misses <= max(n - decoded, 0) + 1:
                found, image = capture.read()
                if not found:
                    misses += 1
                    continue
                decoded += 1
                index = max(_place(times, capture.get(cv2.CAP_PROP_POS_MSEC), index + 1), index + 1)
                before = number
                number = max(plan.numbers[index] if index < n else 0, number + 1)
                slot = max(plan.slots[index] if index < n else 0, slot + 1)
                video.lost.extend(range(before + 1, number))
                yield Frame(number, slot, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            video.lost.extend(range(number + 1, plan.count + 1))
            video.open_end = plan.open_end

    notes = tuple(f"{name}: {note}" for note in plan.notes)
    video = Video(name, False, plan.speed, plan.count, frames, notes, damage=damage)
    return video


def _place(times: Sequence[float] | None, time: float, following: int) -> int:
    """Which of the stored frames was decoded: the one with this time, else the `following` one."""
    if times is None:
        return following
    index = bisect_left(times, time - 1e-3)
    return index if index < len(times) and abs(times[index] - time) < 1e-3 else following


class VideoFile:
    """Writes a video; it appears under its name when the block ends, with the frames that were written until then.

    Frames of another size are fitted into that of the first. `repeated` counts repetitions of frames until the next one
    is due, `fitted` the frames of another size.

    Args:
        path: `*.mp4`, `*.mov`, `*.mkv` (MPEG-4) or `*.avi` (motion JPEG).
        speed: frames per second.

    Raises:
        UserError: another ending.
    """

    def __init__(self, path: str | Path, speed: float) -> None:
        self._path, self._speed = Path(path), speed
        check_ending(self._path)
        self._temporary = self._path.with_name(f".{os.getpid()}.{self._path.name}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._last: np.ndarray | None = None
        self._next = self.repeated = self.fitted = 0

    def __enter__(self) -> VideoFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, image: np.ndarray, slot: int | None = None) -> None:
        """Add an RGB image, (height, width, 3) uint8.

        Args:
            image: the picture.
            slot: when it is shown, see `Frame`; the previous frame is repeated until then (at the start, this one).
                None puts it right after the previous frame.

        Raises:
            OSError: the file cannot be written.
        """
        if self._writer is None:
            self._size = (image.shape[1], image.shape[0])
            codec = cv2.VideoWriter.fourcc(*CODECS[self._path.suffix.lower()])
            with quiet():
                self._writer = cv2.VideoWriter(str(self._temporary), codec, self._speed, self._size)
            if not self._writer.isOpened():
                raise OSError(
                    f"'{self._path}': OpenCV cannot write a video of {self._size[0]} x {self._size[1]} pixels as "
                    f"'{self._path.suffix}' here"
                )
        if (image.shape[1], image.shape[0]) != self._size:
            self.fitted += 1
        picture = cv2.cvtColor(_fitted(image, self._size), cv2.COLOR_RGB2BGR)
        while slot is not None and self._next < slot:
            self._writer.write(picture if self._last is None else self._last)
            self._next += 1
            self.repeated += 1
        self._writer.write(picture)
        self._next += 1
        self._last = picture

    def note(self) -> str | None:
        """What was done to the frames besides writing them, in words; None if nothing."""
        parts = []
        if self.repeated:
            parts.append(
                f"written at {self._speed:g} frames/s with {self.repeated} repeats, so that times hold"
            )
        if self.fitted:
            size = f"{self._size[0]} x {self._size[1]}"
            parts.append(f"{self.fitted} of another size than the first ({size}) fitted into it")
        return "; ".join(parts) or None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
            if self._temporary.exists():
                os.replace(self._temporary, self._path)


def check_ending(path: Path) -> None:
    """Refuse a video's name with an ending that chooses no codec.

    Raises:
        UserError: the ending is none of those that can be written.
    """
    if path.suffix.lower() not in CODECS:
        first, second, *others = CODECS
        raise UserError(
            f"'{path}': a video is written as {first} or {second} (or {', '.join(others)}); change the ending"
        )


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image at its own proportions in the middle of a black image of `size` (width, height)."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    scale = min(size[0] / width, size[1] / height)
    inner = max(round(width * scale), 1), max(round(height * scale), 1)
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(
        image, inner, interpolation=cv2.INTER_AREA
    )
    return canvas


def missing_numbers(numbers: Sequence[int]) -> list[int]:
    """The numbers that a series of files leaves out: multiples of its usual step that are missing.

    Args:
        numbers: ascending.
    """
    steps = [after - before for before, after in pairwise(numbers) if after > before]
    if not steps:
        return []
    usual = max(set(steps), key=steps.count)
    return [
        number
        for before, after in pairwise(numbers)
        if after - before > usual
        for number in range(before + usual, after, usual)
    ]
