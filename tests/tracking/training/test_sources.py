from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.errors import MissingData, UserError
from tests.tracking.helpers import write_boxes
from tracking.datasets import load
from tracking.datasets.lasot import test_names as lasot_names
from tracking.training.config import SamplingConfig, SourceConfig
from tracking.training.sources import open_source


def images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        assert cv2.imwrite(str(folder / name), np.full((24, 32, 3), 90, np.uint8))


def numbered(count: int, pattern: str = "{:08d}.jpg", first: int = 1) -> list[str]:
    return [pattern.format(first + index) for index in range(count)]


def test_lasot_trains_on_what_is_not_its_test_set(tmp_path: Path) -> None:
    for name in ("car-1", "car-2", "bear-9"):  # car-2 is a test sequence
        folder = tmp_path / "lasot" / name.split("-")[0] / name
        write_boxes(folder / "groundtruth.txt", [[1, 2, 30, 40], [11, 2, 30, 40], [1, 1, 9, 9], [0, 0, 0, 0]])
        (folder / "full_occlusion.txt").write_text("0,1,0,0\n")
        (folder / "out_of_view.txt").write_text("0,0,1,0\n")
        images(folder / "img", numbered(4))
    assert {"car-2"} == set(lasot_names()) & {"car-1", "car-2", "bear-9"}
    found = open_source(SourceConfig("lasot"), tmp_path)
    assert found.name == "LaSOT train"
    assert len(found) == 2  # in alphabetical order: bear-9, car-1
    # 1-based corners of pixels become 0-based coordinates of their centres.
    assert found.boxes[0].tolist() == [-0.5, 0.5, 30, 40]
    assert found.visible.tolist() == [True, False, False, True] * 2
    assert found.usable(SamplingConfig()).tolist() == [True, False, False, False] * 2
    assert found.files.path(1, 2) == tmp_path / "lasot/car/car-1/img/00000003.jpg"
    assert [sequence.name for sequence in load("lasot", tmp_path, "train").sequences] == ["bear-9", "car-1"]


def test_got10k_looks_at_absence_and_cover(tmp_path: Path) -> None:
    folder = tmp_path / "GOT-10k/train"
    for name in ("GOT-10k_Train_000001", "GOT-10k_Train_000002"):
        write_boxes(folder / name / "groundtruth.txt", [[10, 20, 30, 40]] * 4)
        (folder / name / "absence.label").write_text("0\n1\n0\n0\n")
        (folder / name / "cover.label").write_text("8\n8\n0\n1\n")
        images(folder / name, numbered(4))
    (folder / "list.txt").write_text("GOT-10k_Train_000001\nGOT-10k_Train_000002\n")
    (tmp_path / "vot.txt").write_text("GOT-10k_Train_000002\n")
    found = open_source(SourceConfig("got10k"), tmp_path)
    assert found.visible.tolist() == [True, False, False, True] * 2
    assert found.boxes[0].tolist() == [9.5, 19.5, 30, 40]  # 0-based already
    confined = open_source(SourceConfig("got10k", names=tmp_path / "vot.txt"), tmp_path)
    assert confined.files.path(0, 3) == folder / "GOT-10k_Train_000002/00000004.jpg"
    (folder / "GOT-10k_Train_000001/absence.label").write_text("0\n")
    with pytest.raises(UserError, match=r"absence.label: 1 flags for 4 boxes"):
        open_source(SourceConfig("got10k"), tmp_path)


def test_trackingnet_counts_from_zero(tmp_path: Path) -> None:
    write_boxes(tmp_path / "TrackingNet/TRAIN_3/anno/abc_0.txt", [[1, 2, 30, 40]] * 12)
    images(tmp_path / "TrackingNet/TRAIN_3/frames/abc_0", numbered(12, "{}.jpg", first=0))
    found = open_source(SourceConfig("trackingnet", split="TRAIN_3"), tmp_path)
    assert [found.files.path(0, frame).stem for frame in (0, 2, 10)] == ["0", "2", "10"]


def test_fewer_images_than_boxes_name_the_folder(tmp_path: Path) -> None:
    write_boxes(tmp_path / "TrackingNet/TRAIN_0/anno/abc_0.txt", [[1, 2, 30, 40]] * 12)
    images(tmp_path / "TrackingNet/TRAIN_0/frames/abc_0", numbered(7, "{}.jpg", first=0))
    found = open_source(SourceConfig("trackingnet"), tmp_path)
    with pytest.raises(UserError, match=r"frames/abc_0' holds 7 images for 12 boxes"):
        found.files.path(0, 0)


def coco_tree(root: Path, **changes: object) -> None:
    contents = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}],
        "annotations": [
            {"image_id": 3, "bbox": [1.5, 2, 10, 12], "iscrowd": 0},
            {"image_id": 7, "bbox": [0, 0, 20, 20], "iscrowd": 1},
            {"image_id": 7, "bbox": [4, 5, 2, 2], "iscrowd": 0},
            {"image_id": 7, "bbox": [4, 5, 16, 8]},
        ],
        **changes,
    }
    (root / "coco/annotations").mkdir(parents=True, exist_ok=True)
    (root / "coco/annotations/instances_train2014.json").write_text(json.dumps(contents))
    images(root / "coco/images/train2014", ["a.jpg", "b.jpg"])


def test_every_object_of_coco_that_is_no_crowd_is_a_sequence(tmp_path: Path) -> None:
    coco_tree(tmp_path)
    stored = tmp_path / "coco/.lwdna_cache"
    for state in ("text", "stored", "damaged"):
        if state == "damaged":
            (file,) = stored.glob("instances_train2014-*.npy")
            file.write_bytes(b"damaged")
        found = open_source(SourceConfig("coco"), tmp_path)
        assert found.still
        assert len(found) == 3
        assert found.boxes.tolist() == [[1, 1.5, 10, 12], [3.5, 4.5, 2, 2], [3.5, 4.5, 16, 8]]
        assert [found.files.path(index, 0).name for index in range(3)] == ["b.jpg", "a.jpg", "a.jpg"]
    assert found.confined_to(SamplingConfig()).sequences.tolist() == [0, 2]  # 2 x 2 pixels are too small


def test_what_is_not_coco_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"COCO not found .*instances_train2014.json"):
        open_source(SourceConfig("coco"), tmp_path)
    coco_tree(tmp_path, annotations=[{"bbox": [1, 2, 3, 4]}])
    with pytest.raises(UserError, match=r"instances_train2014.json: not COCO's instances \(KeyError"):
        open_source(SourceConfig("coco"), tmp_path)
    with pytest.raises(UserError, match="have no names"):
        open_source(SourceConfig("coco", sequences=("a*",)), tmp_path)


@pytest.mark.parametrize("place", ["img", "images", "."])
def test_any_folder_of_sequences(tmp_path: Path, place: str) -> None:
    for name in ("one", "two", "three"):
        write_boxes(tmp_path / "mine" / name / "groundtruth.txt", [[3, 4, 20, 10], [0, 0, 0, 0]])
        images(tmp_path / "mine" / name / place, numbered(2))
    source = SourceConfig("folder", folder=Path("mine"), sequences=("t*",))
    found = open_source(source, tmp_path)
    assert len(found) == 2  # three, two
    assert found.boxes[0].tolist() == [2.5, 3.5, 20, 10]
    assert found.usable(SamplingConfig()).tolist() == [True, False] * 2
    assert found.files.path(1, 1) == tmp_path / "mine/two" / place / "00000002.jpg"


def test_a_folder_without_sequences_or_images(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"no sequences in .*mine"):
        open_source(SourceConfig("folder", folder=Path("mine")), tmp_path)
    write_boxes(tmp_path / "mine/one/groundtruth.txt", [[3, 4, 20, 10]])
    with pytest.raises(MissingData, match=r"mine/one' holds no images"):
        open_source(SourceConfig("folder", folder=Path("mine")), tmp_path)


def test_sources_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no source of training sequences 'lassot': did you mean 'lasot'"):
        open_source(SourceConfig("lassot"), tmp_path)
    with pytest.raises(UserError, match=r"folder=PATH belongs to dataset='folder'"):
        SourceConfig("folder")
    images(tmp_path / "mine/one/img", numbered(1))
    write_boxes(tmp_path / "mine/one/groundtruth.txt", [[3, 4, 20, 10]])
    with pytest.raises(UserError, match="none of 1 sequences matches"):
        open_source(SourceConfig("folder", folder=Path("mine"), sequences=("x*",)), tmp_path)
    with pytest.raises(UserError, match=r"none of 1 sequences matches 'x\*' of sequences=…, allowed: "):
        open_source(SourceConfig("folder", folder=Path("mine"), sequences=("*", "x*")), tmp_path)
    with pytest.raises(MissingData, match=r"list of sequences .* not found"):
        open_source(SourceConfig("folder", folder=Path("mine"), names=tmp_path / "no.txt"), tmp_path)


def test_otb_with_what_is_there(otb_frames: Path) -> None:
    found = open_source(SourceConfig("otb", partial=True), otb_frames)
    usable = found.confined_to(SamplingConfig())
    assert len(usable.sequences) == 2
    assert len(usable.rows) == 140 + 120
    crossing = found.boxes[found.first[1]]
    assert crossing.tolist() == [205 - 1.5, 151 - 1.5, 17, 50]
