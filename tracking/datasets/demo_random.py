"""Scenes drawn at random from photographs that the test split does not show: many targets to learn from."""

from __future__ import annotations

import numpy as np

from tracking.datasets.scenes import HEIGHT, WIDTH, Actor, Cutout, Pose, Scene, View

# Photographs and their sizes in pixels: what targets are cut out of, and further backgrounds.
CUT_FROM = {
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
BACKGROUNDS = {**CUT_FROM, "hubble_deep_field.jpg": (1000, 872), "moon.png": (512, 512)}


def random_scenes(count: int = 300, frames: int = 20, seed: int = 1) -> tuple[Scene, ...]:
    """Short scenes: a cut-out on a panning background, most of them with distractors, a quarter with an occluder.

    Args:
        count: number of scenes.
        frames: of each.
        seed: decides everything.
    """
    return tuple(_scene(f"random-{number:03d}", frames, number, seed) for number in range(count))


def _scene(name: str, frames: int, number: int, seed: int) -> Scene:
    random = np.random.default_rng((seed, number))
    background = str(random.choice(list(BACKGROUNDS)))
    photo = str(random.choice(list(CUT_FROM)))  # now and then the background's own: hard to tell from it
    target = _cutout(photo, random)
    behind: tuple[Actor, ...] = ()
    before: tuple[Actor, ...] = ()
    if random.random() < 0.5:  # of the same photograph, and so much alike
        behind += (Actor(_cutout(photo, random), _poses(random, spread=1.0)),)
    if random.random() < 0.5:
        behind += (Actor(_cutout(str(random.choice(list(CUT_FROM))), random), _poses(random, spread=1.0)),)
    if random.random() < 0.25:
        before = (Actor(_cutout(str(random.choice(list(CUT_FROM))), random), _poses(random, spread=1.5)),)
    return Scene(
        name,
        frames,
        background,
        _views(BACKGROUNDS[background], random),
        Actor(target, _poses(random, spread=1.0)),
        behind,
        before,
        flicker=float(random.uniform(0, 0.25)),
    )


def _cutout(photo: str, random: np.random.Generator) -> Cutout:
    width, height = CUT_FROM[photo]
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
