"""The one core of all protocols: overlap, centre error, normalised error, and the curves over their thresholds.

Everything works on all frames of all sequences at once: boxes are `(frames, 4)` float64 arrays `x, y, width, height`
in pixels, frames of one sequence are contiguous, and a curve is `(sequences, thresholds)`.

Definitions: Wu, Lim and Yang, "Online Object Tracking: A Benchmark" (CVPR 2013), section 4, for success and
precision; Müller et al., "TrackingNet" (ECCV 2018), section 4.2, for normalised precision.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Normalisation = Literal["quotients", "difference", "products"]


def overlap(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair of boxes, `(frames,)`; NaN where it is undefined.

    Whether boxes are thought of as half-open or as inclusive pixel ranges makes no difference for `x, y, w, h`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        intersection = _shared_extent(boxes, truth, axis=0)
        intersection *= _shared_extent(boxes, truth, axis=1)
        union = boxes[:, 2] * boxes[:, 3]
        union += truth[:, 2] * truth[:, 3]
        union -= intersection
        return np.divide(intersection, union, out=intersection)


def _shared_extent(boxes: np.ndarray, truth: np.ndarray, axis: int) -> np.ndarray:
    """Length of the part of an axis that both boxes cover, at least 0."""
    extent = boxes[:, axis] + boxes[:, axis + 2]
    np.minimum(extent, truth[:, axis] + truth[:, axis + 2], out=extent)
    extent -= np.maximum(boxes[:, axis], truth[:, axis])
    return np.maximum(extent, 0, out=extent)


def centres(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre coordinates `x + (w - 1) / 2`, `y + (h - 1) / 2` in pixels, each `(frames,)`."""
    # * 0.5 is the very number that / 2 gives, several times faster.
    return boxes[:, 0] + (boxes[:, 2] - 1) * 0.5, boxes[:, 1] + (boxes[:, 3] - 1) * 0.5


def centre_errors(
    boxes: np.ndarray, truth: np.ndarray, form: Normalisation = "quotients", floor: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the box centres in pixels, and the same with each axis divided by the true size: `(frames,)` each.

    Args:
        boxes: predicted boxes.
        truth: ground-truth boxes.
        form: the order in which the toolkits do the arithmetic of the normalised error. It decides frames that lie
            exactly on a threshold: `"quotients"` x/w - x*/w (LaSOT, pysot), `"difference"` (x - x*)/w (got10k),
            `"products"` sqrt(d/w·d/w + …) from left to right (TrackingNet).
        floor: true sizes below this count as this (1 px in got10k).
    """
    x, y = centres(boxes)
    true_x, true_y = centres(truth)
    width, height = np.maximum(truth[:, 2], floor), np.maximum(truth[:, 3], floor)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        across, down = x - true_x, y - true_y
        distance = _length(across, down)
        if form == "products":
            return distance, np.sqrt(across / width * across / width + down / height * down / height)
        if form == "difference":
            across /= width
            down /= height
        else:
            across, down = x / width - true_x / width, y / height - true_y / height
        return distance, _length(across, down)


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
    passed = _thresholds_passed(_without_nan(overlaps, -np.inf), thresholds, inclusive)
    not_above = _passing_at_most(passed, thresholds.size, starts)
    return not_above[:, -1:] - not_above[:, :-1]


def precision_counts(errors: np.ndarray, thresholds: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Frames of each sequence whose error is at most each threshold, `(sequences, thresholds)` int64.

    Args:
        errors: `(frames,)`; NaN counts as a failure at every threshold, -1 as correct at all.
        thresholds: ascending, `(thresholds,)`.
        starts: index of each sequence's first frame, `(sequences,)`.
    """
    passed = _thresholds_passed(_without_nan(errors, np.inf), thresholds, inclusive=False)
    return _passing_at_most(passed, thresholds.size, starts)[:, :-1]


def _without_nan(values: np.ndarray, substitute: float) -> np.ndarray:
    unknown = np.isnan(values)
    return np.where(unknown, substitute, values) if unknown.any() else values


def _thresholds_passed(values: np.ndarray, thresholds: np.ndarray, inclusive: bool) -> np.ndarray:
    """How many ascending thresholds are below (or, `inclusive`, not above) each value; exactly `np.searchsorted`.

    On an even grid the last threshold passed is found by one multiplication. Rounded up by a hundredth of a step, it
    is right or one too high, which a comparison with that threshold settles: many times faster than a binary search
    per frame.
    """
    scale = (thresholds.size - 1) / (thresholds[-1] - thresholds[0])
    steps = (thresholds - thresholds[0]) * scale
    if np.abs(steps - np.arange(thresholds.size)).max() > 1e-3:
        return np.searchsorted(thresholds, values, side="right" if inclusive else "left")
    with np.errstate(over="ignore"):
        steps = values * scale
    steps += 0.01 - thresholds[0] * scale
    np.clip(steps, 0, thresholds.size - 1, out=steps)
    place = steps.astype(np.intp)
    below = np.less_equal if inclusive else np.less
    place += below(thresholds.take(place), values)
    return place


def _passing_at_most(passed: np.ndarray, thresholds: int, starts: np.ndarray) -> np.ndarray:
    """Frames of each sequence (rows) that passed at most 0, 1, …, all (columns) of the thresholds."""
    stops = [*starts[1:].tolist(), passed.size]
    histograms = [
        np.bincount(passed[start:stop], minlength=thresholds + 1)
        for start, stop in zip(starts.tolist(), stops, strict=True)
    ]
    return np.cumsum(histograms, axis=1)


def area(curve: np.ndarray) -> np.ndarray:
    """Trapezoid area under a curve over equally spaced thresholds, the axis scaled to length 1."""
    return (curve[..., :-1] + curve[..., 1:]).sum(axis=-1) / 2 / (curve.shape[-1] - 1)
