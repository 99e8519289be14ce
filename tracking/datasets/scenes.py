"""Scenes of real photographs in motion: a cut-out moves over a panning background along an exactly known path.

A scene is a few poses at equal distances in time with cubic splines between them. The target is an ellipse cut out of
a photograph, so that its bounding box under any pose has a closed form: the ground truth is exact.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from scipy.interpolate import CubicSpline

WIDTH, HEIGHT = 320, 240
NOISE = 2.0  # standard deviation of the sensor's noise, in grey levels
BRIGHTNESS_CYCLES = 1.5  # cycles in a sequence


class View(NamedTuple):
    """Where the camera looks: the middle of its view on the background photograph, and the view's width there."""

    x: float
    y: float
    width: float


class Pose(NamedTuple):
    """Where a cut-out is in the frame.

    Attributes:
        x, y: its middle, in 0-based coordinates of pixel centres.
        width: of the unrotated cut-out, in pixels.
        angle: degrees.
        stretch: factor of its height, besides the photograph's own aspect ratio.
    """

    x: float
    y: float
    width: float
    angle: float = 0.0
    stretch: float = 1.0


class Cutout(NamedTuple):
    """An ellipse of a photograph: file name, middle and half axes in its pixels."""

    photo: str
    x: float
    y: float
    half_width: float
    half_height: float


@dataclass(frozen=True)
class Actor:
    """A cut-out and its poses at equal distances in time, the first and the last frame included."""

    cutout: Cutout
    poses: tuple[Pose, ...]


@dataclass(frozen=True)
class Scene:
    """One sequence.

    Attributes:
        name: of the sequence.
        frames: their number.
        background: file name of the photograph.
        views: of the camera, at equal distances in time.
        target: the cut-out to be tracked.
        behind: other cut-outs that the target passes in front of.
        before: other cut-outs that pass in front of the target.
        flicker: amplitude of the brightness, as a fraction.
        attributes: the challenges in it, by OTB's abbreviations (Wu et al., TPAMI 2015).
    """

    name: str
    frames: int
    background: str
    views: tuple[View, ...]
    target: Actor
    behind: tuple[Actor, ...] = ()
    before: tuple[Actor, ...] = ()
    flicker: float = 0.0
    attributes: tuple[str, ...] = ()

    def photos(self) -> set[str]:
        """File names of all photographs in it."""
        actors = (self.target, *self.behind, *self.before)
        return {self.background, *(actor.cutout.photo for actor in actors)}


def at(keys: Sequence[tuple[float, ...]], time: float) -> np.ndarray:
    """The keys' values at `time` in [0, 1], on a natural cubic spline through them."""
    grid = np.linspace(0, 1, len(keys))
    return CubicSpline(grid, np.array(keys), bc_type="natural")(time)


def target_box(scene: Scene, frame: int) -> np.ndarray:
    """Ground truth `x, y, w, h` of a frame: the part within the image; the image's first pixel is number 1."""
    pose = Pose(*at(scene.target.poses, _time(scene, frame)))
    reach, middle = _reach(scene.target.cutout, pose), np.array([pose.x, pose.y])
    # Pixel i covers i - 0.5 to i + 0.5.
    low = np.maximum(middle - reach, -0.5)
    high = np.minimum(middle + reach, np.array([WIDTH, HEIGHT]) - 0.5)
    return np.concatenate([low + 1.5, high - low])


def render(scene: Scene, photos: Mapping[str, np.ndarray], frame: int) -> np.ndarray:
    """A frame as (HEIGHT, WIDTH, 3) uint8 RGB; the same scene and photographs give the same pixels.

    Args:
        scene: the scene.
        photos: file name to uint8 RGB, all that `scene.photos()` names.
        frame: from 0.
    """
    time = _time(scene, frame)
    canvas = _background(photos[scene.background], View(*at(scene.views, time)))
    for actor in (*scene.behind, scene.target, *scene.before):
        _paste(canvas, photos[actor.cutout.photo], actor.cutout, Pose(*at(actor.poses, time)))
    if scene.flicker:
        canvas *= 1 + scene.flicker * math.sin(2 * math.pi * BRIGHTNESS_CYCLES * time)
    noise = np.random.default_rng((zlib.crc32(scene.name.encode()), frame))
    canvas += NOISE * noise.standard_normal(canvas.shape, np.float32)
    return np.rint(canvas).clip(0, 255).astype(np.uint8)


def _time(scene: Scene, frame: int) -> float:
    return frame / max(scene.frames - 1, 1)


def _half_axes(cutout: Cutout, pose: Pose) -> tuple[float, float]:
    half_width = pose.width / 2
    return half_width, half_width * cutout.half_height / cutout.half_width * pose.stretch


def _direction(pose: Pose) -> tuple[float, float]:
    return math.cos(math.radians(pose.angle)), math.sin(math.radians(pose.angle))


def _reach(cutout: Cutout, pose: Pose) -> np.ndarray:
    """Half the width and height of the rotated ellipse's bounding box."""
    half_width, half_height = _half_axes(cutout, pose)
    cos, sin = _direction(pose)
    across = math.hypot(half_width * cos, half_height * sin)
    return np.array([across, math.hypot(half_width * sin, half_height * cos)])


def _background(photo: np.ndarray, view: View) -> np.ndarray:
    scale = view.width / WIDTH
    middle = (np.array([WIDTH, HEIGHT]) - 1) / 2
    shift = np.array([view.x, view.y]) - scale * middle
    return _warp(photo, np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]), scale, (WIDTH, HEIGHT))


def _paste(canvas: np.ndarray, photo: np.ndarray, cutout: Cutout, pose: Pose) -> None:
    """Draw a cut-out in place; its edge is a pixel wide and has its middle on the ellipse."""
    middle, reach = np.array([pose.x, pose.y]), _reach(cutout, pose) + 1
    left, top = np.maximum(np.floor(middle - reach).astype(int), 0)
    right, bottom = np.minimum(np.ceil(middle + reach).astype(int) + 1, [WIDTH, HEIGHT])
    if left >= right or top >= bottom:
        return  # outside
    half_width, half_height = _half_axes(cutout, pose)
    cos, sin = _direction(pose)
    # From the frame to the unit circle, and from there to the photograph.
    to_circle = np.array([[cos / half_width, sin / half_width], [-sin / half_height, cos / half_height]])
    to_photo = np.diag([cutout.half_width, cutout.half_height]) @ to_circle
    shift = np.array([cutout.x, cutout.y]) + to_photo @ (np.array([left, top]) - middle)
    size = (int(right - left), int(bottom - top))
    pixels = _warp(photo, np.column_stack([to_photo, shift]), cutout.half_width / half_width, size)
    across, down = np.arange(left, right) - pose.x, np.arange(top, bottom)[:, None] - pose.y
    u = to_circle[0, 0] * across + to_circle[0, 1] * down
    v = to_circle[1, 0] * across + to_circle[1, 1] * down
    radius = np.hypot(u, v)
    # Distance to the edge in pixels, to first order: (1 - radius) over the length of radius' gradient.
    slope = np.hypot(u / half_width, v / half_height) / np.maximum(radius, 1e-6)
    alpha = np.clip(0.5 + (1 - radius) / np.maximum(slope, 1e-6), 0, 1).astype(np.float32)[..., None]
    region = canvas[top:bottom, left:right]
    region += alpha * (pixels - region)


def _warp(photo: np.ndarray, matrix: np.ndarray, reduction: float, size: tuple[int, int]) -> np.ndarray:
    """The photograph under the 2 x 3 `matrix` from frame to photograph, as float32; halved first against aliasing."""
    while reduction >= 1.5 and min(photo.shape[:2]) > 2:
        photo = cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        # Pixel centres: photograph 2 i + 0.5 is i in the half.
        matrix = matrix / 2 - np.array([[0, 0, 0.25], [0, 0, 0.25]])
        reduction /= 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(photo, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101).astype(
        np.float32
    )
