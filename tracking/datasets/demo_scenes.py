"""The scenes of the data set `demo`. No photograph of a test split is in one for training."""

from __future__ import annotations

from tracking.datasets.demo_random import UNSEEN, random_scenes
from tracking.datasets.scenes import Actor, Cutout, Pose, Scene, View

ASTRONAUT, CAT, COFFEE, ROCKET = "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"
MOTORCYCLE, GARAGE, TISSUE, EYE = "motorcycle_left.png", "motorcycle_right.png", "ihc.png", "retina.jpg"
CAMERAMAN, COINS, GALAXIES, MOON = "camera.png", "coins.png", "hubble_deep_field.jpg", "moon.png"
BRICK, GRASS, GRAVEL = "brick.png", "grass.png", "gravel.png"

_FACE = Cutout(ASTRONAUT, 229, 100, 72, 88)
_HELMET = Cutout(ASTRONAUT, 408, 432, 98, 84)
_BADGE = Cutout(ASTRONAUT, 172, 386, 40, 40)
_SHUTTLE = Cutout(ASTRONAUT, 418, 150, 48, 145)
_CUP = Cutout(COFFEE, 291, 100, 122, 98)
_SPOON = Cutout(COFFEE, 362, 278, 48, 48)
_CAT = Cutout(CAT, 235, 150, 125, 135)
_LEFT_EYE = Cutout(CAT, 171, 118, 42, 42)
_RIGHT_EYE = Cutout(CAT, 318, 133, 36, 36)

TEST = (
    Scene(
        "face",
        80,
        COFFEE,
        (View(300, 200, 380), View(280, 220, 330), View(330, 190, 360)),
        Actor(
            _FACE, (Pose(80, 90, 44), Pose(150, 130, 54, 12), Pose(235, 110, 66, -8), Pose(190, 100, 50, 6))
        ),
        flicker=0.2,
        attributes=("SV", "IV", "IPR"),
    ),
    Scene(
        "helmet",
        80,
        CAT,
        (View(210, 150, 340), View(230, 160, 300), View(225, 150, 360)),
        Actor(
            _HELMET,
            (
                Pose(230, 150, 60),
                Pose(160, 110, 64, 40),
                Pose(90, 140, 56, 95, 1.1),
                Pose(150, 170, 60, 150),
            ),
        ),
        attributes=("IPR", "DEF"),
    ),
    Scene(
        "badge",
        90,
        ROCKET,
        (View(300, 230, 480), View(340, 240, 420), View(310, 220, 460)),
        Actor(
            _BADGE,
            (
                Pose(60, 60, 30),
                Pose(150, 170, 36, 30),
                Pose(250, 70, 28, 60),
                Pose(180, 60, 22, 40),
                Pose(90, 180, 32, 0),
            ),
        ),
        behind=(
            Actor(
                Cutout(COFFEE, 215, 260, 30, 34),
                (Pose(250, 180, 34), Pose(170, 60, 34, -40), Pose(60, 120, 30)),
            ),
        ),
        attributes=("SV", "IPR", "BC", "FM"),
    ),
    Scene(
        "cup",
        80,
        ASTRONAUT,
        (View(250, 250, 400), View(270, 260, 360), View(260, 230, 420)),
        Actor(
            _CUP,
            (
                Pose(200, 120, 70),
                Pose(260, 140, 80, -15),
                Pose(314, 120, 84, 10, 0.9),
                Pose(230, 100, 64, 25, 0.85),
            ),
        ),
        attributes=("OV", "SV", "IPR", "DEF"),
    ),
    Scene(
        "cat",
        90,
        ROCKET,
        (View(320, 210, 420), View(300, 230, 380)),
        Actor(_CAT, (Pose(90, 130, 60), Pose(160, 120, 66, -20), Pose(240, 130, 56, 15), Pose(200, 90, 50))),
        before=(Actor(_SHUTTLE, (Pose(170, -60, 30, 30), Pose(165, 120, 34, 30), Pose(120, 300, 36, 30))),),
        flicker=0.15,
        attributes=("OCC", "IPR", "SV", "IV"),
    ),
    Scene(
        "eye",
        90,
        COFFEE,
        (View(330, 210, 420), View(300, 190, 360), View(280, 210, 400)),
        Actor(
            _LEFT_EYE,
            (
                Pose(100, 170, 40),
                Pose(170, 120, 46, 25, 0.8),
                Pose(230, 160, 42, -20),
                Pose(150, 190, 34, 10, 1.2),
            ),
        ),
        behind=(
            Actor(_RIGHT_EYE, (Pose(230, 80, 40), Pose(200, 60, 44), Pose(120, 90, 40, 20))),
            Actor(_SPOON, (Pose(60, 60, 44), Pose(100, 60, 44), Pose(260, 200, 44, 90))),
        ),
        attributes=("BC", "IPR", "DEF"),
    ),
)

_FRONT_WHEEL = Cutout(MOTORCYCLE, 600, 350, 86, 86)
_SEAT = Cutout(MOTORCYCLE, 300, 203, 78, 50)
_ENGINE = Cutout(MOTORCYCLE, 318, 300, 66, 56)
_LIGHT = Cutout(MOTORCYCLE, 530, 190, 42, 42)
_GLAND = Cutout(TISSUE, 318, 402, 68, 100)
_BIG_GLAND = Cutout(TISSUE, 390, 150, 70, 140)
_RETINA = Cutout(EYE, 705, 705, 650, 650)
_DISC = Cutout(EYE, 230, 650, 170, 170)
_HEAD = Cutout(CAMERAMAN, 236, 104, 48, 58)
_CAMERA = Cutout(CAMERAMAN, 306, 175, 58, 46)
_COIN = Cutout(COINS, 335, 44, 30, 30)
_LARGE_COIN = Cutout(COINS, 346, 184, 34, 34)
_OLD_COIN = Cutout(COINS, 45, 262, 30, 30)
_SMALL_COIN = Cutout(COINS, 212, 191, 25, 25)
_GALAXY = Cutout(GALAXIES, 730, 470, 40, 40)
_CRATER = Cutout(MOON, 100, 86, 40, 34)

TRAIN = (
    Scene(
        "wheel",
        90,
        BRICK,
        (View(250, 250, 400), View(280, 240, 340), View(230, 270, 380)),
        Actor(_FRONT_WHEEL, (Pose(60, 150, 56), Pose(140, 110, 66, 60), Pose(240, 140, 54, 120, 0.85))),
        attributes=("IPR", "SV", "DEF"),
    ),
    Scene(
        "engine",
        90,
        GRAVEL,
        (View(250, 260, 360), View(270, 240, 420)),
        Actor(
            _ENGINE,
            (Pose(240, 160, 60), Pose(180, 90, 74, 15), Pose(100, 130, 66, -10), Pose(130, 170, 50)),
        ),
        before=(Actor(_GLAND, (Pose(60, -60, 40), Pose(150, 120, 40, 30), Pose(260, 290, 40, 60))),),
        flicker=0.2,
        attributes=("SV", "OCC", "IV"),
    ),
    Scene(
        "head",
        100,
        GARAGE,
        (View(370, 250, 560), View(330, 270, 480), View(400, 230, 520)),
        Actor(
            _HEAD,
            (
                Pose(100, 90, 46),
                Pose(160, 120, 54, 10),
                Pose(250, 150, 44, -15),
                Pose(200, 100, 40, 5, 0.9),
            ),
        ),
        attributes=("SV", "IPR"),
    ),
    Scene(
        "coin",
        100,
        GRASS,
        (View(250, 250, 420), View(230, 270, 360)),
        Actor(
            _COIN,
            (Pose(70, 60, 38), Pose(150, 150, 44, 70), Pose(250, 120, 36, 140), Pose(190, 60, 40, 100)),
        ),
        behind=(
            Actor(_LARGE_COIN, (Pose(200, 200, 44), Pose(120, 80, 40, -60), Pose(60, 170, 42))),
            Actor(_SMALL_COIN, (Pose(260, 60, 34), Pose(230, 180, 34, 40), Pose(90, 200, 34))),
        ),
        attributes=("IPR", "BC"),
    ),
    Scene(
        "retina",
        90,
        GARAGE,
        (View(300, 200, 440), View(420, 280, 500)),
        Actor(
            _RETINA, (Pose(150, 130, 70), Pose(80, 100, 90, 30), Pose(8, 120, 96), Pose(120, 140, 64, -30))
        ),
        attributes=("OV", "SV"),
    ),
    Scene(
        "gland",
        90,
        MOON,
        (View(250, 240, 380), View(280, 270, 420)),
        Actor(
            _GLAND,
            (
                Pose(220, 70, 36),
                Pose(150, 120, 44, 30, 0.85),
                Pose(90, 160, 40, 70),
                Pose(170, 150, 34, 20, 1.1),
            ),
        ),
        flicker=0.25,
        attributes=("IPR", "DEF", "IV"),
    ),
    Scene(
        "camera",
        90,
        TISSUE,
        (View(250, 250, 380), View(270, 230, 440), View(240, 280, 400)),
        Actor(
            _CAMERA, (Pose(60, 190, 60), Pose(140, 140, 50, -20), Pose(230, 70, 64, 10), Pose(260, 150, 70))
        ),
        behind=(Actor(_OLD_COIN, (Pose(150, 60, 40), Pose(90, 80, 40, 90), Pose(200, 180, 40))),),
        attributes=("SV", "BC"),
    ),
    Scene(
        "lamp",
        100,
        CAMERAMAN,
        (View(250, 260, 420), View(280, 250, 360)),
        Actor(
            _LIGHT,
            (
                Pose(70, 170, 34),
                Pose(160, 70, 40, 20),
                Pose(260, 170, 32, -20),
                Pose(170, 190, 28),
                Pose(70, 80, 36, 10),
            ),
        ),
        attributes=("FM", "SV"),
    ),
    Scene(
        "seat",
        90,
        BRICK,
        (View(270, 240, 420), View(230, 260, 360)),
        Actor(
            _SEAT,
            (Pose(90, 70, 70), Pose(170, 110, 78, 20, 1.1), Pose(220, 180, 64, -25), Pose(120, 190, 70)),
        ),
        before=(Actor(_DISC, (Pose(330, 80, 40), Pose(180, 110, 40, 30), Pose(-40, 180, 40, 60))),),
        attributes=("OCC", "IPR", "DEF"),
    ),
    Scene(
        "large-coin",
        90,
        GRAVEL,
        (View(240, 240, 360), View(270, 270, 420)),
        Actor(
            _LARGE_COIN,
            (Pose(240, 170, 44), Pose(290, 80, 50, -40), Pose(312, 150, 54, -80), Pose(200, 180, 46, -120)),
        ),
        behind=(Actor(_OLD_COIN, (Pose(80, 80, 42), Pose(160, 140, 42, 50), Pose(240, 60, 42, 90))),),
        attributes=("IPR", "OV", "BC"),
    ),
    Scene(
        "galaxy",
        90,
        GALAXIES,
        (View(500, 430, 560), View(420, 400, 480), View(540, 470, 600)),
        Actor(
            _GALAXY, (Pose(70, 120, 30), Pose(160, 80, 36, 30), Pose(240, 150, 28, -30), Pose(150, 170, 32))
        ),
        flicker=0.1,
        attributes=("BC", "LR"),
    ),
    Scene(
        "crater",
        90,
        GRASS,
        (View(260, 250, 380), View(230, 270, 340)),
        Actor(_CRATER, (Pose(250, 60, 44), Pose(160, 110, 56, 25), Pose(80, 90, 50, 50), Pose(130, 180, 40))),
        before=(Actor(_BIG_GLAND, (Pose(20, 300, 40), Pose(150, 120, 38, -20), Pose(280, -80, 40))),),
        attributes=("OCC", "SV", "IPR"),
    ),
)
SCENES = {
    "test": TEST,
    "train": TRAIN,
    "random": random_scenes(300),
    "random_test": random_scenes(60, "random-test", UNSEEN, frames=30, seed=2),
}
