from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.errors import MissingData, UserError
from tests.tracking.helpers import write_boxes
from tracking import check_dataset
from tracking.datasets import list_entries, load
from tracking.datasets.lasot import test_names as lasot_names
from tracking.datasets.otb import folder_names
from tracking.datasets.uav123 import frame_ranges
from tracking.evaluation.evaluation import evaluate
from tracking.evaluation.export import export
from tracking.files.boxes import BoxTable, parse_boxes
from tracking.online.runner import run


def image(path: Path, size: tuple[int, int] = (32, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), 90, np.uint8))


def test_lasot_has_280_test_sequences(lasot_annotations: Path) -> None:
    names = lasot_names()
    assert len(set(names)) == len(names) == 280
    assert {"volleyball-19", "rubicCube-1", "rubicCube-19"} <= set(names)
    assert names == (lasot_annotations / "testing_set.txt").read_text().split()


def test_lasot_facts(lasot_annotations: Path) -> None:
    dataset = load("lasot", lasot_annotations.parent)
    frames = sum(len(sequence.boxes) for sequence in dataset.sequences)
    absent = [sequence.absent.sum() for sequence in dataset.sequences if sequence.absent is not None]
    assert (frames, len(absent), sum(absent), sum(1 for count in absent if count)) == (
        685_360,
        280,
        18_346,
        164,
    )
    # the order of the attribute columns: a target smaller than 1000 pixels in some frame is "Low Resolution", one that
    # is absent in some frame is (but for a slip of the annotators) "Full Occlusion" or "Out-of-View"
    hidden = [
        bool({"Full Occlusion", "Out-of-View"} & set(sequence.attributes)) for sequence in dataset.sequences
    ]
    assert sum(flag and count > 0 for flag, count in zip(hidden, absent, strict=True)) >= 0.97 * 164
    small = []
    for sequence in dataset.sequences:
        areas = (sequence.boxes[:, 2] * sequence.boxes[:, 3])[~sequence.absent]
        small.append((areas.min() < 1000) == ("Low Resolution" in sequence.attributes))
    assert np.mean(small) > 0.9


def test_lasot_from_the_data_set_itself(lasot_tree: Path) -> None:
    dataset = load("lasot", lasot_tree, partial=True)
    assert [sequence.name for sequence in dataset.sequences] == ["car-2", "rubicCube-6"]
    assert len(dataset.missing) == 278
    cube = next(sequence for sequence in dataset.sequences if sequence.name == "rubicCube-6")
    assert cube.absent is not None
    assert cube.absent.tolist() == [False] * 4 + [True]


def test_lasot_ground_truth_beside_the_frames_or_the_toolkits(lasot_tree: Path) -> None:
    toolkit = lasot_tree / "lasot_annotations/annos"
    write_boxes(toolkit / "car-2.txt", [[1, 1, 1, 1]] * 3)
    write_boxes(toolkit / "absent/car-2.txt", [[0]] * 3)
    (toolkit / "att").mkdir()
    (toolkit / "att/car-2.txt").write_text("1,0,0,0,0,0,0,0,0,0,0,0,0,1\n")
    image(lasot_tree / "lasot/car/car-2/img/00000001.jpg")
    (canonical,) = load("lasot", lasot_tree, patterns=["car-2"]).sequences
    assert len(canonical.boxes) == 3
    assert canonical.attributes == ("Illumination Variation", "Aspect Ratio Change")
    (own,) = load("lasot", lasot_tree, patterns=["car-2"], frames=True).sequences
    assert len(own.boxes) == 4
    (named,) = load("lasot", lasot_tree, annotations=lasot_tree / "lasot", patterns=["car-2"]).sequences
    assert len(named.boxes) == 4


def test_otb(tmp_path: Path, otb_frames: Path) -> None:
    entries = list_entries("otb", otb_frames)
    assert len(entries) == 100
    assert [len(folder_names(split)) for split in ("otb100", "otb50", "otb2013")] == [98, 49, 50]
    dataset = load("otb", otb_frames, partial=True)
    assert {sequence.name: len(sequence.boxes) for sequence in dataset.sequences} == {
        "Couple": 140,
        "Crossing": 120,
    }
    assert dataset.sequences[1].boxes[0].tolist() == [205, 151, 17, 50]
    assert dataset.sequences[1].attributes == ("SV", "DEF", "FM", "OPR", "BC")
    for target in (1, 2):
        write_boxes(tmp_path / f"otb/Jogging/groundtruth_rect.{target}.txt", [[target, 2, 3, 4]])
    for frame in range(1, 771):
        (tmp_path / "otb/David/img").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"otb/David/img/{frame:04d}.jpg").touch()
    write_boxes(tmp_path / "otb/David/groundtruth_rect.txt", [[1, 2, 3, 4]] * 471, "\t")
    found = {item.name: item for item in load("otb", tmp_path, partial=True).sequences}
    assert set(found) == {"David", "Jogging-1", "Jogging-2"}
    assert "Jogging.2" in found["Jogging-2"].aliases
    frames = found["David"].frames.paths()
    assert (len(frames), frames[0].name, frames[-1].name) == (471, "0300.jpg", "0770.jpg")


def otb_part(root: Path, name: str, images: range, rows: int) -> None:
    (root / f"otb/{name}/img").mkdir(parents=True)
    for number in images:
        (root / f"otb/{name}/img/{number:04d}.jpg").touch()
    write_boxes(root / f"otb/{name}/groundtruth_rect.txt", [[row + 1, 5, 20, 30] for row in range(rows)])


@pytest.mark.parametrize(
    ("name", "first", "last", "images"),
    [
        ("David", 300, 770, 770),
        ("Diving", 1, 215, 231),
        ("Football1", 1, 74, 81),
        ("Freeman3", 1, 460, 474),
        ("Freeman4", 1, 283, 297),
        ("Tiger1", 6, 354, 354),
    ],
)
def test_the_part_of_a_folder_that_otb_uses(
    tmp_path: Path, name: str, first: int, last: int, images: int
) -> None:
    """Ground truth, frames and results of the part or of all images are the same frames."""
    count = last - first + 1
    otb_part(tmp_path / "all", name, range(1, images + 1), images)
    (sequence,) = load("otb", tmp_path / "all", patterns=[name]).sequences
    assert sequence.boxes[:, 0].tolist() == list(range(first, last + 1))
    assert [int(path.stem) for path in sequence.frames.paths()] == list(range(first, last + 1))
    otb_part(tmp_path / "part", name, range(1, images + 1), count)
    (part,) = load("otb", tmp_path / "part", patterns=[name]).sequences
    assert part.boxes[:, 0].tolist() == list(range(1, count + 1))
    wrong = {images + 1, count - 1, images - 1} - {count}
    for tracker, rows in (("part", range(first, last + 1)), ("all", range(1, images + 1))):
        write_boxes(tmp_path / f"results/{tracker}/{name}.txt", [[row, 5, 20, 30] for row in rows])
    found = evaluate(tmp_path / "results", "otb", tmp_path / "all", sequences=[name])
    for tracker in ("part", "all"):
        assert (found[tracker]["frames"], found[tracker]["precision"]) == (count, 1)
        assert found[tracker]["success_auc"] == pytest.approx(20 / 21)
    (problem,) = found["all"]["problems"]
    assert problem["problem"] == f"{images} rows for the {count} frames that the benchmark uses"
    for rows in sorted(wrong):
        for protocol in ("otb", "got10k-otb"):  # which would cut the one or the other
            write_boxes(tmp_path / f"bad/T/{name}.txt", [[row + 1, 5, 20, 30] for row in range(rows)])
            with pytest.raises(
                UserError, match=rf"{rows} rows; .* the {count} frames {first} to {last} of {images}"
            ):
                evaluate(tmp_path / "bad", protocol, tmp_path / "all", dataset="otb", sequences=[name])
        otb_part(tmp_path / str(rows), name, range(0), rows)
        with pytest.raises(UserError, match=rf"expected {count} rows or {images}"):
            load("otb", tmp_path / str(rows), patterns=[name])


def test_runs_and_exports_of_a_part(tmp_path: Path) -> None:
    otb_part(tmp_path, "Tiger1", range(1, 355), 354)
    images = tmp_path / "otb/Tiger1/img"
    for path in images.iterdir():
        image(path)
    (sequence,) = load("otb", tmp_path, patterns=["Tiger1"], frames=True).sequences
    run("still", [sequence], tmp_path / "still", workers=1, report=lambda line: None)
    boxes = parse_boxes((tmp_path / "still/Tiger1.txt").read_bytes(), "f").boxes
    assert (len(boxes), boxes[0].tolist()) == (349, [6, 5, 20, 30])
    full = BoxTable(np.arange(354 * 4.0).reshape(354, 4), "full")
    export("lasot", tmp_path, "T", [sequence], {"Tiger1": [full]})
    written = parse_boxes((tmp_path / "T_tracking_result/Tiger1.txt").read_bytes(), "f").boxes
    assert written.tolist() == full.boxes[5:].tolist()
    assert (
        check_dataset.main(["--dataset", "otb", "--data-root", str(tmp_path), "--sequences", "Tiger1"]) == 0
    )
    # A missing image does not shift the others: it is an error.
    (images / "0100.jpg").unlink()
    with pytest.raises(UserError, match="Tiger1: 348 frames for 349 ground-truth boxes"):
        run("still", [sequence], tmp_path / "again", workers=1, report=lambda line: None)


def test_a_sequence_without_ground_truth_is_missing(tmp_path: Path, lasot_tree: Path) -> None:
    (lasot_tree / "lasot/car/car-3/img").mkdir(parents=True)
    (lasot_tree / "lasot/car/car-4.zip").touch()
    with pytest.raises(MissingData, match=r"1 of 1 sequences missing, the first is 'car-3'"):
        load("lasot", lasot_tree, "train")
    for name in ("a", "b"):
        write_boxes(tmp_path / f"got10k/val/{name}/groundtruth.txt", [[1, 2, 3, 4]])
    (tmp_path / "got10k/val/b/groundtruth.txt").unlink()
    with pytest.raises(MissingData, match=r"1 of 2 sequences missing, the first is 'b'"):
        load("got10k", tmp_path)


def test_uav123(tmp_path: Path) -> None:
    assert [len(frame_ranges(split)) for split in ("uav123", "uav20l")] == [123, 20]
    assert frame_ranges("uav123")["bird1_2"] == ("bird1", 775, 1477)
    path = tmp_path / "UAV123/anno/UAV123/bike1.txt"
    path.parent.mkdir(parents=True)
    path.write_text("1,2,3,4\nNaN,NaN,NaN,NaN\n")
    (sequence,) = load("uav123", tmp_path, partial=True).sequences
    assert np.isnan(sequence.boxes[1]).all()
    assert sequence.frames.folder == tmp_path / "UAV123/data_seq/UAV123/bike1"


def test_got10k(tmp_path: Path) -> None:
    folder = tmp_path / "GOT-10k/val/GOT-10k_Val_000001"
    write_boxes(folder / "groundtruth.txt", [[1, 2, 3, 4]] * 3)
    (folder / "cover.label").write_text("8\n0\n3\n")
    (folder / "meta_info.ini").write_text("[METAINFO]\nurl: x\nresolution: (1920, 1080)\n")
    (tmp_path / "GOT-10k/val/list.txt").write_text("GOT-10k_Val_000001")
    (sequence,) = load("got10k", tmp_path).sequences
    assert sequence.size == (1920, 1080)
    assert sequence.absent is not None
    assert sequence.absent.tolist() == [False, True, False]


def test_trackingnet_frames_are_in_numeric_order(tmp_path: Path) -> None:
    write_boxes(tmp_path / "TrackingNet/TEST/anno/abc_0.txt", [[1, 2, 3, 4]])
    for number in (0, 1, 2, 10, 11):
        image(tmp_path / f"TrackingNet/TEST/frames/abc_0/{number}.jpg")
    (sequence,) = load("trackingnet", tmp_path, frames=True).sequences
    assert [path.stem for path in sequence.frames.paths()] == ["0", "1", "2", "10", "11"]


def test_errors_name_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no data set 'losat': did you mean 'lasot'\? allowed: lasot, trackingnet"
    ):
        load("losat", tmp_path)
    with pytest.raises(UserError, match=r"otb has no split 'otb30': .*allowed: otb100"):
        load("otb", tmp_path, "otb30")
    with pytest.raises(MissingData, match="annotations not found"):
        load("otb", tmp_path, annotations=tmp_path / "none")
    for name in ("lasot", "otb", "uav123", "got10k", "trackingnet"):
        with pytest.raises(MissingData, match="--data-root"):
            load(name, tmp_path)


def test_flags_of_another_length(lasot_tree: Path) -> None:
    for name in ("full_occlusion", "out_of_view"):
        (lasot_tree / f"lasot/car/car-2/{name}.txt").write_text("0,0,0\n")
    with pytest.raises(UserError, match=r"3 flags for the 4 boxes"):
        load("lasot", lasot_tree, partial=True)


# --- check_dataset ------------------------------------------------------------------------------------------------


def test_check_finds_everything(lasot_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = lasot_tree / "lasot/car/car-2/img"
    for number in (1, 2, 5):
        image(images / f"{number:08d}.jpg")
    cube = lasot_tree / "lasot/rubicCube/rubicCube-6"
    for number in range(1, 6):
        image(cube / f"img/{number:08d}.jpg")
    (cube / "img/00000001.jpg").write_bytes(b"no image")
    (cube / "full_occlusion.txt").write_text("0,0,0,0\n")
    (cube / "out_of_view.txt").write_text("0,0,0,0\n")
    arguments = [
        "--dataset",
        "lasot",
        "--data-root",
        str(lasot_tree),
        "--sequences",
        "car-2",
        "rubicCube-6",
        "bear-2",
    ]
    assert check_dataset.main(arguments) == 2
    lines = capsys.readouterr().out.splitlines()
    expected = {
        "car-2": ["frames missing", "3 frames for 4 boxes"],
        "rubicCube-6": ["cannot be read", "4 absence flags for 5 boxes"],
        "bear-2": ["no such file", "no frames"],
    }
    for name, parts in expected.items():
        for part in parts:
            assert any(line.startswith(f"{name}: ") and part in line for line in lines), (name, part)
    assert any("3, 4" in line for line in lines)


def test_check_passes_a_complete_part(otb_frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "otb", "--data-root", str(otb_frames), "--sequences", "C[or]*[se]*g", "Couple"]
    assert check_dataset.main(arguments) == 0
    assert "2 sequences, 260 frames, complete" in capsys.readouterr().out


def test_check_of_annotations_alone(lasot_annotations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(lasot_annotations.parent)
    assert check_dataset.main(["--dataset", "lasot", "--data-root", root, "--annotations-only"]) == 0
    assert "280 sequences, complete" in capsys.readouterr().out
