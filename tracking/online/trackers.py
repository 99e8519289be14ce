"""The interface of a tracker, two simple trackers, and how these, DiMP or a user's own tracker are named.

A tracker sees one video: `init` with the first frame and the target's box in it, then `update` once per frame.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from core.errors import MissingData, UserError

Box = Sequence[float]


class Tracker(Protocol):
    """The interface of the runner.

    Frames are `(height, width, 3)` uint8 RGB arrays; boxes are `x, y, width, height` in the pixel coordinates of the
    data set's own annotations, as the benchmarks' toolkits hand them out. A tracker for which it matters has an
    attribute `first_pixel` (0 or 1), the number of the image's first pixel in its boxes, and gets boxes in that
    numbering.
    """

    def init(self, frame: np.ndarray, box: Box) -> None:
        """Start on the first frame, in which the target is at `box`."""

    def update(self, frame: np.ndarray) -> Box | tuple[Box, float]:
        """The target's box in the next frame, or the box and a confidence score."""


TrackerFactory = Callable[[], Tracker]


class StillTracker:
    """Always answers with the first box: the floor that every tracker has to beat."""

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
        damping: fraction of a scale change that is applied.
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
DIMP = (
    "dimp50",
    "dimp50-vot18",
    "dimp50-vot19",
    "small",
)  # presets of tracking.dimp.settings; they need a checkpoint


@dataclass(frozen=True)
class TrackerSpec:
    """A tracker and its options: all that a worker needs to make it.

    Attributes:
        name: a built-in name (`"still"`, `"ncc"`), a DiMP preset (`DIMP`), or `package.module:factory` or
            `path/to/file.py:factory`, a callable without arguments.
        checkpoint: the network of a DiMP tracker.
        device: where DiMP runs: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" or "mps".
        seed: of a DiMP tracker.
        backbone: the factory of a backbone of the user's own, if the checkpoint has one.

    Raises:
        UserError: options that this tracker does not have, or a checkpoint that it lacks.
    """

    name: str
    checkpoint: str | None = None
    device: str = "auto"
    seed: int = 0
    backbone: str | None = None

    def __post_init__(self) -> None:
        if self.name in DIMP:
            if self.checkpoint is None:
                raise UserError(
                    f"tracker '{self.name}' needs a network: name one with --checkpoint (python -m tracking.train "
                    "makes them)"
                )
        elif self.checkpoint is not None:
            raise UserError(f"--checkpoint is for {', '.join(DIMP)}; tracker '{self.name}' takes none")
        elif self.backbone is not None:
            raise UserError(f"--backbone is for {', '.join(DIMP)}; tracker '{self.name}' has none")

    def record(self) -> dict[str, str | int]:
        """Everything that results depend on, for the run's record: the network by its content, wherever it lies."""
        if self.checkpoint is None:
            return {"tracker": self.name}
        try:
            with open(self.checkpoint, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise MissingData(
                f"checkpoint '{self.checkpoint}' cannot be read: {error.strerror}: check --checkpoint"
            ) from error
        return {"tracker": self.name, "checkpoint_sha256": digest, "seed": self.seed}


@functools.lru_cache(maxsize=8)
def tracker_factory(spec: str | TrackerSpec) -> TrackerFactory:
    """A function that makes a fresh tracker for each sequence. A DiMP network is loaded once.

    Args:
        spec: a tracker's specification, or the name of one without options.

    Raises:
        UserError: there is no such tracker, or the factory makes something else.
        MissingData: there is no such checkpoint.
    """
    if isinstance(spec, str):
        spec = TrackerSpec(spec)
    name = spec.name
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name in DIMP:
        from tracking.dimp.loading import dimp_factory  # torch is not needed for the others

        assert spec.checkpoint is not None  # TrackerSpec has made sure
        return dimp_factory(name, spec.checkpoint, spec.device, spec.seed, spec.backbone)
    if ":" not in name:
        choices = ", ".join([*BUILT_IN, *DIMP])
        raise UserError(
            f"no tracker '{name}': choose {choices} or name your own as package.module:factory or "
            f"path/to/file.py:factory"
        )
    from core.command_line.factories import load_factory  # likewise

    return load_factory(name, "tracker")


def make_tracker(spec: str | TrackerSpec) -> Tracker:
    """A fresh tracker.

    Raises:
        UserError: see `tracker_factory`; or the factory's product lacks `init` or `update`.
    """
    tracker = tracker_factory(spec)()
    for method in ("init", "update"):
        if not callable(getattr(tracker, method, None)):
            name = spec if isinstance(spec, str) else spec.name
            raise UserError(
                f"tracker '{name}': its {type(tracker).__name__} has no method '{method}(frame, …)'"
            )
    return tracker


def read_answer(answer: object, where: str) -> tuple[np.ndarray, float | None]:
    """The answer of a tracker's `update`: the box (4,) as float64, and the score, None if it gave none.

    Args:
        answer: a box, or a box and a score.
        where: the frame, for the message.

    Raises:
        UserError: it is neither of these; the tracker has to be repaired.
        RuntimeError: one of its numbers is not finite, as from a network that has diverged.
    """
    scored = isinstance(answer, tuple) and len(answer) == 2
    try:
        box = np.asarray(answer[0] if scored else answer, np.float64)  # type: ignore[index]
        score = float(answer[1]) if scored else None  # type: ignore[index]
    except (TypeError, ValueError):
        box, score = np.empty(0), None
    if box.shape != (4,):
        raise UserError(
            f"{where}: the tracker answered {answer!r}, not x, y, width, height: repair the tracker"
        )
    if not np.isfinite(box).all() or (score is not None and not math.isfinite(score)):
        raise RuntimeError(
            f"{where}: the tracker answered {answer!r}, which is not finite: its network may have diverged"
        )
    return box, score


def pixel_shift(tracker: Tracker, first_pixel: int) -> int:
    """The shift to add to a data set's x and y for this tracker, and to subtract from its answers.

    Args:
        tracker: its attribute `first_pixel`, if it has one, is the number of the first pixel in its boxes.
        first_pixel: the same of the data set (`datasets.sequence.Sequence.first_pixel`).
    """
    wanted = getattr(tracker, "first_pixel", None)
    return 0 if wanted is None else int(wanted) - first_pixel
