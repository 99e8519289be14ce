"""The one loop over a video's frames: a tracker gets them in turn, its answers are read, and its time is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from tracking.online.trackers import Tracker, pixel_shift, read_answer

T = TypeVar("T")


@dataclass(frozen=True)
class Followed(Generic[T]):
    """A frame and the tracker's answer to it.

    Attributes:
        frame: as it was given.
        box: (4,), the target in it; for the first frame, the box that the tracker was started with.
        seconds: spent in `init` or `update`.
    """

    frame: T
    box: np.ndarray
    score: float | None
    seconds: float


def follow(
    tracker: Tracker,
    frames: Iterable[T],
    box: Sequence[float],
    first_pixel: int,
    image: Callable[[T], np.ndarray],
    where: Callable[[T], str],
) -> Iterator[Followed[T]]:
    """Run a fresh tracker over a video.

    Args:
        tracker: see `trackers.Tracker`.
        frames: in any form.
        box: the target in the first one.
        first_pixel: the number of the image's first pixel in `box` and in the answers; it matters to trackers that say
            which one they take.
        image: a frame's pixels, (height, width, 3) uint8 RGB; reading them is not the tracker's time.

    Raises:
        UserError: an unreadable frame, or an answer that is no box.
        RuntimeError: an answer that is not finite.
    """
    shift = pixel_shift(tracker, first_pixel)
    moved = np.array([shift, shift, 0, 0])
    answer: object = None
    for number, frame in enumerate(frames):
        pixels = image(frame)
        start = time.perf_counter()
        if number == 0:
            tracker.init(pixels, [x + by for x, by in zip(box, moved.tolist(), strict=True)])
        else:
            answer = tracker.update(pixels)
        seconds = time.perf_counter() - start
        if number == 0:
            yield Followed(frame, np.asarray(box, np.float64), None, seconds)
        else:
            found, score = read_answer(answer, where(frame))
            yield Followed(frame, found - moved, score, seconds)
