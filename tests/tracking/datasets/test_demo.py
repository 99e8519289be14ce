"""The data set that needs no download: exact ground truth, the same pixels every time, splits without overlap."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from tracking import eval as command
from tracking.datasets import load
from tracking.datasets.demo_random import TRAINING, UNSEEN, Photographs, random_scenes
from tracking.datasets.demo_rendering import SCENES, rendered
from tracking.datasets.scenes import HEIGHT, WIDTH, Actor, Cutout, Pose, Scene, View, render, target_box
from tracking.datasets.sequence import frame_number
from tracking.files.images import read_frame


def photos(scene: Scene) -> dict[str, np.ndarray]:
    return {name: read_frame(Path(skimage.data_dir) / name) for name in scene.photos()}


def test_test_splits_share_no_photograph_with_those_for_training() -> None:
    names = {split: set().union(*(scene.photos() for scene in scenes)) for split, scenes in SCENES.items()}
    assert not (names["test"] | names["random_test"]) & (names["train"] | names["random"])
    assert names["random_test"] == set(UNSEEN.backgrounds) == names["test"]
    assert len(SCENES["random"]) == 300
    assert len(SCENES["random_test"]) == 60
    assert len(SCENES["test"]) == 6
    assert len(SCENES["train"]) == 12
    for scenes in SCENES.values():
        assert len({scene.name for scene in scenes}) == len(scenes)


@pytest.mark.parametrize("split", ["test", "train"])
def test_ground_truth_lies_in_the_image_and_moves_smoothly(split: str) -> None:
    for scene in SCENES[split]:
        boxes = np.stack([target_box(scene, frame) for frame in range(scene.frames)])
        assert (boxes[:, :2] >= 1).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= np.array([WIDTH, HEIGHT]) + 1 + 1e-9).all()
        assert (boxes[:, 2:] > 15).all(), scene.name
        steps = np.linalg.norm(np.diff(boxes[:, :2] + boxes[:, 2:] / 2, axis=0), axis=1)
        assert steps.max() < 10, scene.name
        assert np.ptp(boxes[:, :2], axis=0).max() > 60, scene.name  # no target stands still


@pytest.mark.parametrize(("split", "photographs"), [("random", TRAINING), ("random_test", UNSEEN)])
def test_random_scenes_are_the_same_each_time_and_show_their_targets(
    split: str, photographs: Photographs
) -> None:
    assert random_scenes(3) == random_scenes(9)[:3]
    assert random_scenes(3, seed=2) != random_scenes(3)
    for scene in SCENES[split]:
        boxes = np.stack([target_box(scene, frame) for frame in range(scene.frames)])
        assert scene.frames >= 20  # else none is trained on
        assert (boxes[:, 2:] > 8).all(), scene.name
        cutout = scene.target.cutout
        width, height = photographs.cut_from[cutout.photo]
        assert cutout.half_width <= cutout.x <= width - cutout.half_width, scene.name
        assert cutout.half_height <= cutout.y <= height - cutout.half_height, scene.name


def test_sizes_of_the_photographs_are_theirs() -> None:
    for name, size in [*TRAINING.backgrounds.items(), *UNSEEN.backgrounds.items()]:
        assert read_frame(Path(skimage.data_dir) / name).shape[1::-1] == size


@pytest.mark.parametrize(
    "pose",
    [
        Pose(100, 90, 60),
        Pose(100.25, 90.5, 61.5, 30),
        Pose(160, 120, 80, -65, 0.6),
        Pose(310, 100, 70, 20),
        Pose(40, 6, 50, 45, 1.3),
    ],
)
def test_ground_truth_is_where_the_pixels_change(pose: Pose, monkeypatch: pytest.MonkeyPatch) -> None:
    """White ellipse on black: its columns and rows, with the share of the last ones that its soft edge gives."""
    monkeypatch.setattr("tracking.datasets.scenes.NOISE", 0.0)
    white, black = np.full((64, 64, 3), 255, np.uint8), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    target = Actor(Cutout("white", 32, 32, 20, 14), (pose, pose))
    scene = Scene("s", 2, "black", (View(159.5, 119.5, WIDTH), View(159.5, 119.5, WIDTH)), target)
    frame = render(scene, {"white": white, "black": black}, 0)[..., 1].astype(float)
    seen = frame > 127
    x, y, width, height = target_box(scene, 0)
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    # The extreme point of an ellipse touches less than half of its pixel: one pixel of tolerance.
    assert abs(x - 1 - columns[0]) <= 1
    assert abs(x - 1 + width - 1 - columns[-1]) <= 1
    assert abs(y - 1 - rows[0]) <= 1
    assert abs(y - 1 + height - 1 - rows[-1]) <= 1
    if 45 < pose.x < WIDTH - 45 and 45 < pose.y < HEIGHT - 45:
        area = np.pi * pose.width**2 / 4 * 14 / 20 * pose.stretch
        assert (frame / 255).sum() == pytest.approx(area, rel=0.005)


def test_the_background_shows_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """A view of the photograph's own size at its own place is the photograph."""
    monkeypatch.setattr("tracking.datasets.scenes.NOISE", 0.0)
    photo = read_frame(Path(skimage.data_dir) / "coffee.png")
    outside = Actor(Cutout("coffee.png", 50, 50, 20, 20), (Pose(-100, -100, 20),) * 2)
    view = View(100 + (WIDTH - 1) / 2, 60 + (HEIGHT - 1) / 2, WIDTH)
    frame = render(Scene("s", 2, "coffee.png", (view, view), outside), {"coffee.png": photo}, 0)
    assert np.array_equal(frame, photo[60 : 60 + HEIGHT, 100 : 100 + WIDTH])


def test_rendering_repeats_itself() -> None:
    scene = SCENES["test"][4]
    images = photos(scene)
    first = render(scene, images, 30)
    assert np.array_equal(first, render(scene, images, 30))
    assert not np.array_equal(first, render(scene, images, 31))
    without = dataclasses.replace(scene, before=())
    assert not np.array_equal(first, render(without, images, 45))


def test_read_like_any_data_set(demo: Path) -> None:
    dataset = load("demo", frames=True)
    assert [sequence.name for sequence in dataset.sequences] == [scene.name for scene in SCENES["test"]]
    for sequence, scene in zip(dataset.sequences, SCENES["test"], strict=True):
        assert sequence.frames is not None
        paths = sequence.frames.paths()
        assert [frame_number(path) for path in paths] == list(range(1, scene.frames + 1))
        assert sequence.boxes.shape == (scene.frames, 4)
        assert sequence.attributes == scene.attributes
        assert sequence.first_pixel == 1
        image = cv2.imread(str(paths[7]))
        drawn = render(scene, photos(scene), 7)[..., ::-1]
        assert np.abs(image.astype(int) - drawn).mean() < 3  # JPEG


def test_rendered_once_and_again_when_scenes_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWDNA_CACHE", str(tmp_path))
    short = tuple(dataclasses.replace(scene, frames=2) for scene in SCENES["test"][:2])
    monkeypatch.setitem(SCENES, "test", short)
    folder = rendered("test")
    stamp = (folder / "face/img/0002.jpg").stat().st_mtime_ns
    (folder.parent / f".{folder.name}.killed.tmp").mkdir()
    assert rendered("test") == folder
    assert (folder / "face/img/0002.jpg").stat().st_mtime_ns == stamp
    monkeypatch.setitem(SCENES, "test", short[:1])
    other = rendered("test")
    assert other != folder
    assert not folder.exists()
    assert sorted(path.name for path in other.parent.iterdir()) == sorted([other.name, "demo-test.lock"])


def test_evaluates_without_any_data(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "demo", "--data-root", str(tmp_path / "nothing"), "--tracker", "ncc"]
    assert command.main([*arguments, "--output", str(tmp_path / "out"), "--sequences", "cat", "eye"]) == 0
    shown = capsys.readouterr().out
    assert "Demo test (2 sequences), protocol of the OTB benchmark code" in shown
    assert command.main(["--dataset", "demo", "--split", "val", "--list"]) == 2
    assert "demo has no split 'val': allowed: test, train, random, random_test" in capsys.readouterr().err
