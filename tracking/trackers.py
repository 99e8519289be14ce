"""What a tracker must do to be run, two simple trackers that do it, and how a user's own is named.

A tracker sees one video: `init` with the first frame and the target's box in it, then `update` once per frame.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Protocol

import cv2
import numpy as np

from core.errors import UserError

Box = Sequence[float]


class Tracker(Protocol):
    """The interface of the runner.

    Frames are `(height, width, 3)` uint8 RGB arrays; boxes are `x, y, width, height` in the pixel coordinates of the
    data set's own annotations, as the benchmarks' toolkits hand them out.
    """

    def init(self, frame: np.ndarray, box: Box) -> None:
        """Start on the first frame, in which the target is at `box`."""

    def update(self, frame: np.ndarray) -> Box | tuple[Box, float]:
        """The target's box in the next frame, or the box and a confidence score."""


TrackerFactory = Callable[[], Tracker]


class StillTracker:
    """Answers with the first box for ever: the floor that every tracker has to beat."""

    def init(self, frame: np.ndarray, box: Box) -> None:
        """Keep the box."""
        self._box = tuple(float(value) for value in box)

    def update(self, frame: np.ndarray) -> Box:
        """The first box."""
        return self._box


class CorrelationTracker:
    """Template matching by normalised cross-correlation (Lewis, "Fast normalized cross-correlation", 1995).

    The template is the target in the first frame, in grey. It is searched at three scales around the last position;
    its score is the correlation coefficient at the best place.

    Args:
        reach: half the side of the search window, in units of the target's size beyond it.
        step: ratio between neighbouring scales.
        damping: fraction of a scale change that is taken over.
    """

    def __init__(self, reach: float = 1.0, step: float = 1.03, damping: float = 0.4) -> None:
        self._reach, self._step, self._damping = reach, step, damping

    def init(self, frame: np.ndarray, box: Box) -> None:
        """Cut the template out of the first frame."""
        x, y, width, height = (float(value) for value in box)
        self._size = np.array([width, height])
        self._centre = np.array([x + width / 2, y + height / 2])
        self._scale = 1.0
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        pixels = np.maximum(np.rint(self._size).astype(int), 2)
        self._template = cv2.getRectSubPix(grey, pixels.tolist(), (self._centre - 0.5).tolist())

    def update(self, frame: np.ndarray) -> tuple[Box, float]:
        """The best match in the search window."""
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        template_size = np.array(self._template.shape[::-1])
        window = np.rint(template_size * (1 + 2 * self._reach)).astype(int)
        best = (-np.inf, 1.0, np.zeros(2))
        for change in (1.0, 1 / self._step, self._step):
            scale = self._scale * change
            region = np.maximum(np.rint(window * scale).astype(int), 3)
            patch = cv2.getRectSubPix(grey, region.tolist(), (self._centre - 0.5).tolist())
            patch = cv2.resize(patch, window.tolist(), interpolation=cv2.INTER_AREA)
            response = cv2.matchTemplate(patch, self._template, cv2.TM_CCOEFF_NORMED)
            response[~np.isfinite(response)] = -1  # patches without any contrast have no correlation
            _, score, _, corner = cv2.minMaxLoc(response)
            offset = np.array(corner) + template_size / 2 - window / 2
            if score > best[0]:
                best = (score, change, offset * region / window)
        score, change, offset = best
        limits = np.array(grey.shape[::-1], float)
        self._centre = np.clip(self._centre + offset, 0, limits)
        self._scale = float(np.clip(self._scale * (1 + self._damping * (change - 1)), 0.2, 5))
        size = self._size * self._scale
        corner_xy = self._centre - size / 2
        return (*corner_xy.tolist(), *size.tolist()), float(score)


BUILT_IN: dict[str, TrackerFactory] = {"still": StillTracker, "ncc": CorrelationTracker}


@functools.lru_cache(maxsize=8)
def tracker_factory(spec: str) -> TrackerFactory:
    """What makes a fresh tracker for each sequence.

    Args:
        spec: a built-in name (`"still"`, `"ncc"`) or `package.module:factory`, a callable without arguments.

    Raises:
        UserError: there is no such tracker, or what was found makes something that is none.
    """
    if spec in BUILT_IN:
        return BUILT_IN[spec]
    module_name, separator, attribute = spec.partition(":")
    if not separator:
        raise UserError(
            f"no tracker '{spec}': choose {', '.join(BUILT_IN)} or name your own as package.module:factory"
        )
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise UserError(
            f"tracker '{spec}': {error}: install it, or run from the folder that holds it"
        ) from error
    except AttributeError as error:
        raise UserError(f"tracker '{spec}': {module_name} has no '{attribute}'") from error
    if not callable(factory):
        raise UserError(
            f"tracker '{spec}': '{attribute}' is not callable; expected a factory without arguments"
        )
    return factory


def make_tracker(spec: str) -> Tracker:
    """A fresh tracker.

    Raises:
        UserError: see `tracker_factory`; or the factory's product lacks `init` or `update`.
    """
    tracker = tracker_factory(spec)()
    for method in ("init", "update"):
        if not callable(getattr(tracker, method, None)):
            raise UserError(
                f"tracker '{spec}': its {type(tracker).__name__} has no method '{method}(frame, …)'"
            )
    return tracker
