"""Where in the score map is the target, and is it the target? (Bhat et al., ICCV 2019, section 3.5 and its code)"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from tracking.dimp.settings import STRIDE, TrackerSettings


class Finding(Enum):
    """The verdict on a score map."""

    NORMAL = "normal"
    HARD_NEGATIVE = "hard negative"  # found, and there is a distractor to learn
    UNCERTAIN = "uncertain"  # two peaks, and neither is the better one
    NOT_FOUND = "not found"


@dataclass(frozen=True)
class Localisation:
    """The target's place.

    Attributes:
        finding: how sure it is.
        row, column: cell of the score map.
        score: the map's maximum.
    """

    finding: Finding
    row: int
    column: int
    score: float


def localise(
    scores: np.ndarray, target: tuple[float, float], previous: tuple[float, float], settings: TrackerSettings
) -> Localisation:
    """Read a score map.

    Args:
        scores: (h, w).
        target: the target's width and height, in crop pixels.
        previous: how far right and down of the crop's centre the target was last, in crop pixels.
        settings: thresholds.
    """
    if settings.window:
        scores = scores * _hann(scores.shape[0])[:, None] * _hann(scores.shape[1])
    first, best = _peak(scores)
    if not best >= settings.target_not_found:  # NaN counts as not found
        return Localisation(Finding.NOT_FOUND, *first, best)

    rest = scores.copy()
    rows, columns = (
        _neighbourhood(peak, settings.target_neighbourhood * size / STRIDE, length)
        for peak, size, length in zip(first, target[::-1], scores.shape, strict=True)
    )
    rest[rows, columns] = 0
    second, other = _peak(rest)
    if other > settings.distractor * best:
        middle = [(length - 1) / 2 for length in scores.shape]
        limit = settings.displacement * math.sqrt(scores.size) / 2
        first_far, second_far = (
            math.hypot(peak[0] - middle[0] - previous[1] / STRIDE, peak[1] - middle[1] - previous[0] / STRIDE)
            for peak in (first, second)
        )
        if second_far > limit > first_far:
            return Localisation(Finding.HARD_NEGATIVE, *first, best)
        if first_far > limit > second_far:
            return Localisation(Finding.HARD_NEGATIVE, *second, best)
        return Localisation(Finding.UNCERTAIN, *first, best)
    if other > settings.hard_negative * best and other > settings.target_not_found:
        return Localisation(Finding.HARD_NEGATIVE, *first, best)
    return Localisation(Finding.NORMAL, *first, best)


def _peak(scores: np.ndarray) -> tuple[tuple[int, int], float]:
    row, column = divmod(int(np.argmax(scores)), scores.shape[1])
    return (row, column), float(scores[row, column])


def _neighbourhood(peak: int, extent: float, length: int) -> slice:
    """The cells within half of `extent` of a peak, the end included."""
    return slice(max(round(peak - extent / 2), 0), min(round(peak + extent / 2 + 1), length))


def _hann(length: int) -> np.ndarray:
    """A Hann window without its zeros."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, length + 1) / (length + 1))
