"""Scenes drawn at random: many targets to learn from, and many of other photographs to be tried on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tracking.datasets.scenes import HEIGHT, WIDTH, Actor, Cutout, Pose, Scene, View

Sizes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Photographs:
    """What random scenes are made of: file names and sizes in pixels.

    Attributes:
        cut_from: what targets and distractors are cut out of.
        backgrounds: what they move over.
    """

    cut_from: Sizes
    backgrounds: Sizes


_CUT_FROM = {
    "motorcycle_left.png": (741, 500),
    "motorcycle_right.png": (741, 500),
    "ihc.png": (512, 512),
    "retina.jpg": (1411, 1411),
    "camera.png": (512, 512),
    "coins.png": (384, 303),
    "brick.png": (512, 512),
    "grass.png": (512, 512),
    "gravel.png": (512, 512),
    "clock_motion.png": (400, 300),
    "cell.png": (550, 660),
    "color.png": (371, 370),
    "text.png": (448, 172),
}
TRAINING = Photographs(_CUT_FROM, {**_CUT_FROM, "hubble_deep_field.jpg": (1000, 872), "moon.png": (512, 512)})
_UNSEEN = {
    "astronaut.png": (512, 512),
    "chelsea.png": (451, 300),
    "coffee.png": (600, 400),
    "rocket.jpg": (640, 427),
}
UNSEEN = Photographs(_UNSEEN, _UNSEEN)  # those of the test split


def random_scenes(
    count: int, name: str = "random", photographs: Photographs = TRAINING, *, frames: int = 20, seed: int = 1
) -> tuple[Scene, ...]:
    """Short scenes: a cut-out on a panning background, most of them with distractors, a quarter with an occluder.

    Args:
        count: number of scenes.
        name: what their names begin with.
        photographs: what they are made of.
        frames: of each.
        seed: decides everything.
    """
    return tuple(
        _scene(f"{name}-{number:03d}", frames, photographs, np.random.default_rng((seed, number)))
        for number in range(count)
    )


def _scene(name: str, frames: int, photographs: Photographs, random: np.random.Generator) -> Scene:
    cut_from, backgrounds = photographs.cut_from, photographs.backgrounds
    background = str(random.choice(list(backgrounds)))
    photo = str(random.choice(list(cut_from)))  # now and then the background's own: hard to tell from it
    target = _cutout(photo, cut_from[photo], random)
    behind: tuple[Actor, ...] = ()
    before: tuple[Actor, ...] = ()

    def any_cutout() -> Cutout:
        other = str(random.choice(list(cut_from)))
        return _cutout(other, cut_from[other], random)

    if random.random() < 0.5:  # of the same photograph, and so much alike
        behind += (Actor(_cutout(photo, cut_from[photo], random), _poses(random, spread=1.0)),)
    if random.random() < 0.5:
        behind += (Actor(any_cutout(), _poses(random, spread=1.0)),)
    if random.random() < 0.25:
        before = (Actor(any_cutout(), _poses(random, spread=1.5)),)
    return Scene(
        name,
        frames,
        background,
        _views(backgrounds[background], random),
        Actor(target, _poses(random, spread=1.0)),
        behind,
        before,
        flicker=float(random.uniform(0, 0.25)),
    )


def _cutout(photo: str, size: tuple[int, int], random: np.random.Generator) -> Cutout:
    width, height = size
    half_width = min(width, height) * float(np.exp(random.uniform(np.log(0.06), np.log(0.22))))
    half_height = min(half_width * float(np.exp(random.uniform(-0.6, 0.6))), 0.45 * height)
    x, y = random.uniform(half_width, width - half_width), random.uniform(half_height, height - half_height)
    return Cutout(photo, round(x, 1), round(y, 1), round(half_width, 1), round(half_height, 1))


def _poses(random: np.random.Generator, spread: float) -> tuple[Pose, ...]:
    """Three poses; between two of them the middle moves by up to about 80 pixels times `spread`."""
    place = random.uniform((50, 50), (WIDTH - 50, HEIGHT - 50))
    width, angle = float(np.exp(random.uniform(np.log(28), np.log(84)))), random.uniform(-180, 180)
    poses = []
    for _ in range(3):
        stretch = np.exp(random.uniform(-0.15, 0.15))
        poses.append(Pose(*(round(float(value), 2) for value in (*place, width, angle, stretch))))
        place = np.clip(place + spread * random.uniform(-60, 60, 2), (20, 20), (WIDTH - 20, HEIGHT - 20))
        width, angle = width * np.exp(random.uniform(-0.3, 0.3)), angle + random.uniform(-45, 45)
    return tuple(poses)


def _views(size: tuple[int, int], random: np.random.Generator) -> tuple[View, ...]:
    extent = np.array(size)
    width = random.uniform(0.4, 0.8) * min(extent[0], extent[1] * WIDTH / HEIGHT)
    half = np.array([width / 2, width * HEIGHT / WIDTH / 2])
    middle = random.uniform(half, extent - half)
    views = []
    for _ in range(2):
        views.append(View(*(round(float(value), 1) for value in (*middle, width))))
        middle = np.clip(middle + random.uniform(-40, 40, 2), half, extent - half)
        width = width * random.uniform(0.9, 1.1)
    return tuple(views)
