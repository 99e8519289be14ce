"""The one core of all protocols: overlap, centre error, normalised error, and the curves over their thresholds.

Everything works on all frames of all sequences at once: boxes are `(frames, 4)` arrays `x, y, width, height` in pixels
of the type that `exact_type` names, frames of one sequence are contiguous, and a curve is `(sequences, thresholds)`.

Definitions: Wu, Lim and Yang, "Online Object Tracking: A Benchmark" (CVPR 2013), section 4, for success and
precision; Müller et al., "TrackingNet" (ECCV 2018), section 4.2, for normalised precision.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Literal

import numpy as np

Normalisation = Literal["quotients", "difference", "products"]


# Of whole numbers up to this (and down to its negative) all sums, areas, unions and centres are exact in float32.
LARGEST_EXACT = 2048


def exact_type(boxes: Iterable[np.ndarray]) -> type[np.floating]:
    """The type in which to score boxes: float32 if it gives float64's results to the last bit, in half the memory.

    It does if all are integers of at most 2048 pixels: operands of divisions are converted first.
    """
    for part in boxes:
        if (
            part.dtype.kind not in "iu"
            or part.min(initial=0) < -LARGEST_EXACT
            or part.max(initial=0) > LARGEST_EXACT
        ):
            return np.float64
    return np.float32


def overlap(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair of boxes, `(frames,)` float64, at most 1; NaN if it is undefined.

    For `x, y, w, h` it makes no difference whether boxes are half-open or inclusive pixel ranges.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = _shared_extent(boxes, truth, axis=0)
        shared *= _shared_extent(boxes, truth, axis=1)
        union = boxes[:, 2] * boxes[:, 3]
        union += truth[:, 2] * truth[:, 3]
        union -= shared
        overlaps = _float64(shared)
        overlaps /= union
    # With fractional coordinates, rounding can put equal boxes an ulp above 1, the last threshold.
    return np.minimum(overlaps, 1, out=overlaps)


def _shared_extent(boxes: np.ndarray, truth: np.ndarray, axis: int) -> np.ndarray:
    """The length of the part of an axis that both boxes cover, at least 0."""
    extent = boxes[:, axis] + boxes[:, axis + 2]
    np.minimum(extent, truth[:, axis] + truth[:, axis + 2], out=extent)
    extent -= np.maximum(boxes[:, axis], truth[:, axis])
    return np.maximum(extent, 0, out=extent)


def centres(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre coordinates `x + (w - 1) / 2`, `y + (h - 1) / 2` in pixels, each `(frames,)`."""
    # * 0.5 gives exactly the number of / 2, several times faster.
    return boxes[:, 0] + (boxes[:, 2] - 1) * 0.5, boxes[:, 1] + (boxes[:, 3] - 1) * 0.5


def centre_errors(
    boxes: np.ndarray, truth: np.ndarray, form: Normalisation = "quotients", floor: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the box centres in pixels, and the same with each axis divided by the true size: `(frames,)` each.

    Args:
        boxes: predicted boxes.
        truth: ground-truth boxes.
        form: the order in which the toolkits do the arithmetic of the normalised error. It matters for frames exactly
            on a threshold: `"quotients"` x/w - x*/w (LaSOT, pysot), `"difference"` (x - x*)/w (got10k), `"products"`
            sqrt(d/w·d/w + …) from left to right (TrackingNet).
        floor: true sizes below this count as this (1 px in got10k).
    """
    x, y = centres(boxes)
    true_x, true_y = centres(truth)
    width, height = (np.maximum(_float64(truth[:, side]), floor) for side in (2, 3))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        across, down = _float64(x - true_x), _float64(y - true_y)
        distance = _length(across, down)
        if form == "products":
            return distance, np.sqrt(across / width * across / width + down / height * down / height)
        if form == "difference":
            across /= width
            down /= height
        else:
            across = _float64(x) / width - _float64(true_x) / width
            down = _float64(y) / height - _float64(true_y) / height
        return distance, _length(across, down)


def _float64(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64, copy=False)


def _length(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    squares = across * across
    squares += down * down
    return np.sqrt(squares, out=squares)


def success_counts(
    overlaps: np.ndarray, thresholds: np.ndarray, starts: np.ndarray, inclusive: bool = False
) -> np.ndarray:
    """Frames of each sequence whose overlap is above each threshold, `(sequences, thresholds)` int64.

    Args:
        overlaps: `(frames,)`; NaN counts as a failure at every threshold.
        thresholds: ascending, `(thresholds,)`.
        starts: index of each sequence's first frame, `(sequences,)`.
        inclusive: compare with `>=` instead of `>`.
    """
    passed = _thresholds_passed(overlaps, thresholds, inclusive, nan_passes=False)
    not_above = _passing_at_most(passed, thresholds.size, starts)
    return not_above[:, -1:] - not_above[:, :-1]


def precision_counts(errors: np.ndarray, thresholds: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Frames of each sequence whose error is at most each threshold, `(sequences, thresholds)` int64.

    Args:
        errors: `(frames,)`; NaN counts as a failure at every threshold, -1 as correct at all.
        thresholds: ascending, `(thresholds,)`.
        starts: index of each sequence's first frame, `(sequences,)`.
    """
    passed = _thresholds_passed(errors, thresholds, inclusive=False, nan_passes=True)
    return _passing_at_most(passed, thresholds.size, starts)[:, :-1]


def _thresholds_passed(
    values: np.ndarray, thresholds: np.ndarray, inclusive: bool, nan_passes: bool
) -> np.ndarray:
    """How many ascending thresholds are below (or, `inclusive`, not above) each value; exactly `np.searchsorted`.

    NaN passes all or none. On an even grid one multiplication gives the number. Rounded down by a hundredth of a step
    it is right or one too low; a comparison with the next threshold settles which. This is many times faster than a
    binary search per frame.
    """
    spacing = _spacing(np.asarray(thresholds, np.float64).tobytes())
    if spacing is None:
        values = np.where(np.isnan(values), np.inf if nan_passes else -np.inf, values)
        return np.searchsorted(thresholds, values, side="right" if inclusive else "left")
    number, operation = spacing
    scale = number if operation is np.divide else 1 / number
    below, above = -0.5 / scale, (thresholds.size - 0.5) / scale
    # The bound that is applied first replaces NaN.
    steps = np.fmin(values, above) if nan_passes else np.fmax(values, below)
    values = np.fmax(steps, below, out=steps) if nan_passes else np.fmin(steps, above, out=steps)
    steps = values * scale
    steps -= 0.01
    place = np.ceil(steps, out=steps).astype(np.intp)
    following = operation(steps, number, out=steps)
    place[(np.less_equal if inclusive else np.less)(following, values)] += 1
    return place


@functools.lru_cache(maxsize=32)
def _spacing(thresholds: bytes) -> tuple[float, np.ufunc] | None:
    """`(number, operation)` such that `operation(k, number)` is threshold `k` to the last bit, or None."""
    grid = np.frombuffer(thresholds)
    places = np.arange(grid.size)
    step = float(grid[-1]) / (grid.size - 1)
    for number, operation in ((step, np.multiply), (float(np.rint(1 / step)), np.divide)):
        if np.array_equal(operation(places, number), grid):
            return number, operation
    return None


def _passing_at_most(passed: np.ndarray, thresholds: int, starts: np.ndarray) -> np.ndarray:
    """Frames of each sequence (rows) that passed at most 0, 1, …, all (columns) of the thresholds."""
    stops = [*starts[1:].tolist(), passed.size]
    histograms = np.empty((len(stops), thresholds + 1), np.int64)
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops, strict=True)):
        histograms[row] = np.bincount(passed[start:stop], minlength=thresholds + 1)
    return histograms.cumsum(axis=1)


def area(curve: np.ndarray) -> np.ndarray:
    """Trapezoid area under a curve over equally spaced thresholds, the axis scaled to length 1."""
    return (curve[..., :-1] + curve[..., 1:]).sum(axis=-1) / 2 / (curve.shape[-1] - 1)
