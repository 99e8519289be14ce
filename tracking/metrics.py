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
        width = np.minimum(boxes[:, 0] + boxes[:, 2], truth[:, 0] + truth[:, 2])
        width -= np.maximum(boxes[:, 0], truth[:, 0])
        height = np.minimum(boxes[:, 1] + boxes[:, 3], truth[:, 1] + truth[:, 3])
        height -= np.maximum(boxes[:, 1], truth[:, 1])
        intersection = np.maximum(width, 0) * np.maximum(height, 0)
        union = boxes[:, 2] * boxes[:, 3] + truth[:, 2] * truth[:, 3] - intersection
        return intersection / union


def centres(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre coordinates `x + (w - 1) / 2`, `y + (h - 1) / 2` in pixels, each `(frames,)`."""
    return boxes[:, 0] + (boxes[:, 2] - 1) / 2, boxes[:, 1] + (boxes[:, 3] - 1) / 2


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
        distance = np.sqrt(across * across + down * down)
        if form == "products":
            return distance, np.sqrt(across / width * across / width + down / height * down / height)
        if form == "difference":
            across, down = across / width, down / height
        else:
            across, down = x / width - true_x / width, y / height - true_y / height
        return distance, np.sqrt(across * across + down * down)


def _cumulative(passed: np.ndarray, thresholds: int, starts: np.ndarray, frames: int) -> np.ndarray:
    """Frames per sequence (rows) for which `passed` exceeds 0, 1, … (columns), from one histogram."""
    sequence = np.repeat(np.arange(starts.size), np.diff(np.append(starts, frames)))
    bins = np.bincount(sequence * (thresholds + 1) + passed, minlength=starts.size * (thresholds + 1))
    histogram = bins.reshape(starts.size, thresholds + 1)
    return histogram[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]


def _thresholds_passed(values: np.ndarray, thresholds: np.ndarray, inclusive: bool) -> np.ndarray:
    """How many ascending thresholds are below (or, `inclusive`, not above) each value; exactly `np.searchsorted`.

    On an even grid the place is found by one multiplication, which rounding can put one too low or too high; one
    comparison on either side settles it, many times faster than a binary search per frame.
    """
    scale = (thresholds.size - 1) / (thresholds[-1] - thresholds[0])
    steps = (thresholds - thresholds[0]) * scale
    if np.abs(steps - np.arange(thresholds.size)).max() > 0.25:
        return np.searchsorted(thresholds, values, side="right" if inclusive else "left")
    below = np.less_equal if inclusive else np.less
    with np.errstate(over="ignore"):
        place = np.clip((values - thresholds[0]) * scale, 0, thresholds.size - 1).astype(np.intp)
    place += below(thresholds.take(place), values)
    return place + below(np.append(thresholds, np.nan).take(place), values)


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
    finite = np.where(np.isnan(overlaps), -np.inf, overlaps)
    passed = _thresholds_passed(finite, thresholds, inclusive)
    return _cumulative(passed, thresholds.size, starts, overlaps.size)


def precision_counts(errors: np.ndarray, thresholds: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Frames of each sequence whose error is at most each threshold, `(sequences, thresholds)` int64.

    Args:
        errors: `(frames,)`; NaN counts as a failure at every threshold, -1 as correct at all.
        thresholds: ascending, `(thresholds,)`.
        starts: index of each sequence's first frame, `(sequences,)`.
    """
    finite = np.where(np.isnan(errors), np.inf, errors)
    passed = thresholds.size - _thresholds_passed(finite, thresholds, inclusive=False)
    return _cumulative(passed, thresholds.size, starts, errors.size)[:, ::-1]


def area(curve: np.ndarray) -> np.ndarray:
    """Trapezoid area under a curve over equally spaced thresholds, the axis scaled to length 1."""
    return (curve[..., :-1] + curve[..., 1:]).sum(axis=-1) / 2 / (curve.shape[-1] - 1)
