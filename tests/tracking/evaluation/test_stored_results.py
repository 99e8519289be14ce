"""Stored results: layouts, archives, and everything that can be wrong with them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from core.errors import MissingData, UserError
from tests.tracking.helpers import write_boxes
from tracking.datasets import PREFIXES
from tracking.datasets.lasot import test_names as lasot_names
from tracking.datasets.otb import TWO_TARGETS, folder_names
from tracking.datasets.sequence import Sequence
from tracking.datasets.uav123 import frame_ranges
from tracking.evaluation.evaluation import evaluate
from tracking.evaluation.stored_results import (
    find_results,
    find_trackers,
    frames_per_second,
    normal_name,
    read_results,
)
from tracking.files import archives
from tracking.files.archives import StoredFile, zip_members

OTB_NAMES = [
    name
    for folder in folder_names("otb100")
    for name in ((f"{folder}-1", f"{folder}-2") if folder in TWO_TARGETS else (folder,))
]

SEQUENCES = [Sequence("car-2", np.ones((4, 4))), Sequence("rubicCube-6", np.ones((5, 4)))]
TRUTH = {
    "car-2": [[10 + 2 * frame, 20, 30, 40] for frame in range(4)],
    "rubicCube-6": [[10 + 2 * frame, 20, 30, 40] for frame in range(5)],
}


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("SiamX/{}.txt", "SiamX"),
        ("SiamX_tracking_result/{}.txt", "SiamX"),
        ("dimp/dimp50_003/{}.txt", "dimp/dimp50_003"),
        ("SiamX/{0}/{0}_001.txt", "SiamX"),
        ("{}.txt", "results"),
    ],
)
@pytest.mark.parametrize("separator", [",", "\t", " "])
def test_layouts(tmp_path: Path, pattern: str, name: str, separator: str) -> None:
    for sequence, boxes in TRUTH.items():
        write_boxes(tmp_path / "results" / pattern.format(sequence), boxes, separator)
    (tmp_path / "results/notes.txt").write_text("not a result")
    (tracker,) = find_trackers(tmp_path / "results", SEQUENCES)
    assert tracker.name == name
    found = read_results(tracker, list(TRUTH))
    assert {key: tables[0].boxes.tolist() for key, tables in found.items()} == TRUTH


def test_several_trackers_repetitions_and_times(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_boxes(tmp_path / f"got/car-2/car-2_{number:03d}.txt", np.full((4, 4), number))
    (tmp_path / "got/car-2/car-2_time.txt").write_text("0.5,0.25\n0.5,0.25\n")
    write_boxes(tmp_path / "otb/car-2.txt", TRUTH["car-2"])
    (tmp_path / "otb/times").mkdir()
    (tmp_path / "otb/times/car-2_time.txt").write_text("0.0\n0.1\n0.1\nnan\n")
    write_boxes(tmp_path / "pyt/x/car-2.txt", TRUTH["car-2"], "\t")
    (tmp_path / "pyt/x/car-2_time.txt").write_text("0.125\n" * 4)
    got, otb, pyt = find_trackers(tmp_path, SEQUENCES)
    assert [table.boxes[0, 0] for table in read_results(got, ["car-2"])["car-2"]] == [1, 2, 3]
    assert frames_per_second(got, ["car-2"]) == pytest.approx(3)
    assert frames_per_second(otb, ["car-2"]) == pytest.approx(10)
    assert (pyt.name, frames_per_second(pyt, ["car-2"])) == ("pyt/x", pytest.approx(8))


def test_other_toolkits_names_of_a_sequence(tmp_path: Path) -> None:
    jogging = [Sequence("Jogging-2", np.ones((1, 4)), aliases=("Jogging-2", "Jogging.2", "Jogging_2"))]
    for alias in ("Jogging.2", "Jogging_2"):
        write_boxes(tmp_path / alias / "t" / f"{alias}.txt", [[1, 2, 3, 4]])
        (tracker,) = find_trackers(tmp_path / alias, jogging)
        assert list(tracker.files) == ["Jogging-2"]
    write_boxes(tmp_path / "two/t/Jogging.2.txt", [[1, 2, 3, 4]])
    write_boxes(tmp_path / "two/t/Jogging-2.txt", [[1, 2, 3, 4]])
    with pytest.raises(UserError, match="two results of 'Jogging-2'"):
        find_trackers(tmp_path / "two", jogging)


def make_zip(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def test_zips_flat_and_in_folders(tmp_path: Path) -> None:
    make_zip(tmp_path / "mine.zip", {"car-2.txt": "1,2,3,4\n" * 4, "__MACOSX/._car-2.txt": "x"})
    (flat,) = find_trackers(tmp_path / "mine.zip", SEQUENCES)
    assert flat.name == "mine"
    assert len(read_results(flat, ["car-2"])["car-2"][0].boxes) == 4
    make_zip(tmp_path / "got.zip", {"car-2/car-2_001.txt": "1,2,3,4\n" * 4})
    assert {tracker.name for tracker in find_trackers(tmp_path, SEQUENCES)} == {"mine", "got"}


@pytest.mark.parametrize(
    "name", ["../car-2.txt", "a/../../car-2.txt", "/car-2.txt", "C:car-2.txt", "a\\..\\car-2.txt"]
)
def test_members_outside_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path / "bad.zip", {"placeholder-name.txt": "1,2,3,4\n"})
    old = b"placeholder-name.txt"
    path.write_bytes(path.read_bytes().replace(old, name.ljust(len(old), "_").encode()))
    with pytest.raises(UserError, match="points outside the archive"):
        zip_members(path)


def test_archives_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "big.zip", {"car-2.txt": "1,2,3,4\n" * 4, "b.txt": ""})
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 16)
    with pytest.raises(UserError, match="larger than"):
        StoredFile(path, "car-2.txt").read()
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1)
    with pytest.raises(UserError, match="more than 1 files"):
        zip_members(path)
    with zipfile.ZipFile(tmp_path / "damaged.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("car-2.txt", "".join(f"{index},{index * index},3,4\n" for index in range(999)))
    content = bytearray((tmp_path / "damaged.zip").read_bytes())
    content[60:90] = bytes(byte ^ 0x5A for byte in content[60:90])
    (tmp_path / "damaged.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.zip:car-2\.txt: cannot be read"):
        zip_members(tmp_path / "damaged.zip")[0].read()
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("car-2.txt", "0,0,0,0\n" * 2**17)
    assert len(zip_members(packed)) == 1  # a tracker that stands still
    monkeypatch.setattr(archives, "ALWAYS_BYTES", 2**19)
    with pytest.raises(UserError, match=r"packed\.zip: \d KiB that unpack to 1 MiB: no tracking results"):
        zip_members(packed)
    (tmp_path / "no.zip").write_bytes(b"PK no archive")
    with pytest.raises(UserError, match="not a readable zip"):
        zip_members(tmp_path / "no.zip")


# --- what evaluate makes of bad results ---------------------------------------------------------------------------


def results_with(tmp_path: Path, **files: str) -> Path:
    for sequence, boxes in TRUTH.items():
        write_boxes(tmp_path / "results/T" / f"{sequence}.txt", boxes)
    for name, text in files.items():
        (tmp_path / "results/T" / f"{name.replace('_', '-')}.txt").write_text(text)
    return tmp_path / "results"


def score(results: Path, root: Path, protocol: str = "lasot", **options: object) -> dict[str, object]:
    return evaluate(results, protocol, root, sequences=["car-2", "rubicCube-6"], **options)["T"]  # type: ignore[arg-type]


def test_the_promised_dictionary(tmp_path: Path, lasot_tree: Path) -> None:
    found = score(results_with(tmp_path), lasot_tree)
    assert found["success_auc"] == pytest.approx(
        (20 / 21 + 20 / 21 * 4 / 5) / 2
    )  # one of five frames is absent
    assert (
        found["op50"] == found["op75"] == found["precision"] == found["norm_precision"] == pytest.approx(0.9)
    )
    assert found["norm_precision_auc"] == pytest.approx(0.9)
    assert set(found["sequences"]) == {"car-2", "rubicCube-6"}  # type: ignore[call-overload]
    assert found["sequences"]["car-2"]["frames"] == 4  # type: ignore[index]
    assert found["problems"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"car-2\.txt: empty"),
        ("1,2,3,4\n" * 3, r"car-2\.txt: 3 rows for 4 frames"),
        ("1,2,3,4\n" * 3 + "a,b,c,d\n", r"car-2\.txt, line 4: a heading"),
        ("x,y,w,h\n1,2,3,4\nx,y,w,h\n" + "1,2,3,4\n" * 3, r"car-2\.txt, line 3: a heading"),
        ("1,2,3,4\n" * 3 + "1,2,3\n", r"car-2\.txt, line 4: not four numbers"),
    ],
)
def test_unusable_files_are_errors(tmp_path: Path, lasot_tree: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(results_with(tmp_path, car_2=text), lasot_tree)


@pytest.mark.parametrize(
    ("text", "lines", "problem", "op50"),
    [
        ("x,y,w,h\n" + "10,20,30,40\n" * 4, [1], "a heading, 'x,y,w,h'", 0.9),
        ("10,20,30,40\n" * 6, [5], "6 rows for 4 frames", 0.9),
        ("10,20,30,40\n12,20,30,40\nnan,nan,nan,nan\n16,20,30,40\n", [3], "a value is not finite", 0.9),
        ("10,20,30,40\n12,20,30,40\n\n14,20,-1,40\n16,20,30,40\n", [4], "negative width or height", 0.9),
    ],
)
def test_mended_files_are_reported(
    tmp_path: Path, lasot_tree: Path, text: str, lines: list[int], problem: str, op50: float
) -> None:
    found = score(results_with(tmp_path, car_2=text), lasot_tree)
    (item,) = found["problems"]  # type: ignore[misc]
    assert (item["lines"], item["problem"]) == (lines, problem)
    assert item["file"].endswith("T/car-2.txt")
    assert found["op50"] == pytest.approx(op50)


def test_missing_results(tmp_path: Path, lasot_tree: Path) -> None:
    results = results_with(tmp_path)
    (results / "T/car-2.txt").unlink()
    with pytest.raises(UserError, match=r"T: no result for 1 of 2 sequences \(car-2\)"):
        score(results, lasot_tree)
    found = score(results, lasot_tree, partial=True)
    assert (found["missing"], list(found["sequences"])) == (["car-2"], ["rubicCube-6"])  # type: ignore[call-overload]
    with pytest.raises(MissingData, match="does not exist"):
        evaluate(tmp_path / "nowhere", "lasot", lasot_tree, partial=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no results in"):
        evaluate(tmp_path / "empty", "lasot", lasot_tree, partial=True)
    with pytest.raises(UserError, match="no results of 'X': allowed: T"):
        evaluate(results, "lasot", lasot_tree, partial=True, trackers=["X"])


def test_missing_ground_truth(tmp_path: Path, lasot_tree: Path) -> None:
    results = results_with(tmp_path)
    with pytest.raises(MissingData, match=r"278 of 280 sequences missing.*--partial"):
        evaluate(results, "lasot", lasot_tree)
    assert len(evaluate(results, "lasot", lasot_tree, partial=True)["T"]["sequences"]) == 2
    with pytest.raises(MissingData, match=r"LaSOT not found under .* expected .* Get it from"):
        evaluate(results, "lasot", tmp_path / "elsewhere")
    (lasot_tree / "lasot/car/car-2/out_of_view.txt").unlink()
    with pytest.raises(UserError, match="car-2: no absence flags"):
        score(results, lasot_tree)
    assert score(results, lasot_tree, "otb", dataset="lasot")["op50"] == 1


def test_a_zip_of_ground_truth_is_read_sequence_by_sequence(tmp_path: Path) -> None:
    texts = {"a.txt": "1,2,3,4\n" * 3, "b.txt": "5,6,7,8\n" * 3}
    truth = make_zip(tmp_path / "truth.zip", texts)
    make_zip(tmp_path / "T.zip", texts)
    for name in ("a", "b"):
        found = evaluate(tmp_path / "T.zip", "trackingnet", tmp_path, annotations=truth, sequences=[name])
        assert found["T"]["success_auc"] == 1


def test_problems_are_in_the_order_of_the_files(
    tmp_path: Path, lasot_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "10,20,30,40\nnan,20,30,40\n14,20,-1,40\n16,20,0,40\n18,20,30,40\n"
    results = results_with(tmp_path, car_2=text.removesuffix("18,20,30,40\n"))
    (results / "T/rubicCube-6.txt").write_text(text)
    together = score(results, lasot_tree)
    files = [Path(item["file"]).name for item in together["problems"]]  # type: ignore[attr-defined]
    assert files == ["car-2.txt"] * 3 + ["rubicCube-6.txt"] * 3
    monkeypatch.setattr("tracking.evaluation.scoring.FRAMES_AT_A_TIME", 1)
    assert score(results, lasot_tree) == together


def test_changed_files_are_read_anew(tmp_path: Path, lasot_tree: Path) -> None:
    results = results_with(tmp_path)
    before = score(results, lasot_tree)
    assert score(results, lasot_tree) == before
    write_boxes(results / "T/car-2.txt", np.array(TRUTH["car-2"]) + np.array([300, 0, 0, 0]))
    assert score(results, lasot_tree)["sequences"]["car-2"]["op50"] == 0.25  # type: ignore[index]


# --- names, and files that are nobody's ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Jogging-1", "jogging_1", True),
        ("Jogging-1", "JOGGING.01", True),
        ("airplane-1", "airplane 001", True),
        ("FaceOcc1", "faceocc1", True),
        ("car1_s", "Car01-S", True),
        ("bird1_1", "bird11", False),
        ("car1_s", "car1", False),
        ("Human4", "Human4-2", False),
        ("airplane-1", "airplane-10", False),
    ],
)
def test_what_names_are_alike(one: str, other: str, same: bool) -> None:
    assert (normal_name(one) == normal_name(other)) is same
    assert normal_name("car-2 (1)") is None  # a second download is no other way of writing the name


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        ("lasot", lasot_names()),
        ("otb", [*OTB_NAMES, "Human4-2"]),
        ("uav123", list(frame_ranges("uav123"))),
        ("uav123", list(frame_ranges("uav20l"))),
    ],
)
def test_no_two_sequences_of_a_benchmark_are_alike(dataset: str, names: list[str]) -> None:
    written = [*names, *(f"{prefix}_{name}" for prefix in PREFIXES[dataset] for name in names)]
    assert len({normal_name(name) for name in written}) == len(written)


@pytest.mark.parametrize(
    ("file", "sequence"),
    [
        ("car_2", "car-2"),
        ("CAR-002", "car-2"),
        ("rubiccube.6", "rubicCube-6"),
        ("Car_2/Car_2_001", "car-2"),
        ("lasot_car-2", "car-2"),
        ("LaSOT-Car-2", "car-2"),
    ],
)
def test_names_written_otherwise(tmp_path: Path, lasot_tree: Path, file: str, sequence: str) -> None:
    write_boxes(tmp_path / f"results/T/{file}.TXT", TRUTH[sequence])
    found = evaluate(tmp_path / "results", "lasot", lasot_tree, sequences=[sequence])["T"]
    assert (list(found["sequences"]), found["unused_files"]) == ([sequence], [])
    assert found["renamed_files"] == ({} if file == "lasot_car-2" else {f"T/{file}.TXT": sequence})


def test_prefixes_of_other_data_sets_are_no_prefixes(tmp_path: Path, lasot_tree: Path) -> None:
    write_boxes(tmp_path / "results/T/otb_car-2.txt", TRUTH["car-2"])
    with pytest.raises(UserError, match=r"no results in .*1 file \(T/otb_car-2\.txt\)"):
        evaluate(tmp_path / "results", "lasot", lasot_tree, partial=True)


def test_two_files_of_one_sequence_and_one_file_of_two(tmp_path: Path) -> None:
    for name in ("car-2", "CAR_2"):
        write_boxes(tmp_path / f"one/T/{name}.txt", TRUTH["car-2"])
    with pytest.raises(
        UserError, match=r"two results of 'car-2': .*(CAR_2|car-2)\.txt and .*(CAR_2|car-2)\.txt"
    ):
        find_trackers(tmp_path / "one", SEQUENCES)
    videos = [
        Sequence("aB-1_0", np.ones((4, 4))),
        Sequence("Ab_1-0", np.ones((4, 4))),
    ]  # as YouTube names them
    for video in videos:
        write_boxes(tmp_path / f"two/T/{video.name}.txt", TRUTH["car-2"])
    (tracker,) = find_trackers(tmp_path / "two", videos)
    assert {name: files[0].name for name, files in tracker.files.items()} == {
        "aB-1_0": "aB-1_0.txt",
        "Ab_1-0": "Ab_1-0.txt",
    }
    write_boxes(tmp_path / "two/T/ab-1-0.txt", TRUTH["car-2"])
    with pytest.raises(UserError, match=r"'ab-1-0' could be a result of 'aB-1_0' or of 'Ab_1-0'"):
        find_trackers(tmp_path / "two", videos)


def test_every_file_that_is_not_used_is_named(tmp_path: Path, lasot_tree: Path) -> None:
    results = results_with(tmp_path)
    stray = [
        "car-3.txt",
        "car-2.txt.bak",
        "car-2 (1).txt",
        ".hidden.txt",
        "car-2.csv",
        "logs/log.txt",
        "a/b/c/d/e/",
    ]
    for name in stray:
        path = results / "T" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_text("x")
    for name in ("T/scores/car-2_score.txt", "T/times/car-2_time.txt", "T/run.json", "T/car-1.txt"):
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).write_text("1\n")
    (results / ".git").mkdir()
    (results / "README.md").touch()
    make_zip(
        results / "Z.zip", {"car-2.txt": "1,2,3,4\n" * 4, "rubicCube-6.txt": "1,2,3,4\n" * 5, "notes": "x"}
    )
    stored = find_results(
        results, SEQUENCES, {"car-1": "car-1", "bear-2": "bear-2", "lasot_bear-2": "bear-2"}
    )
    tracker, zipped = stored.trackers
    assert sorted(tracker.unused) == sorted(f"T/{name}" for name in stray)
    assert (tracker.others, zipped.unused) == (1, ("Z.zip:notes",))
    assert (stored.without, stored.unused) == ((), (".git/", "README.md"))
    found = score(results, lasot_tree)
    assert len(found["unused_files"]) == len(stray) + 1  # LaSOT's test set has no car-1  # type: ignore[arg-type]


def test_no_tracker_vanishes(tmp_path: Path, lasot_tree: Path) -> None:
    results = results_with(tmp_path)
    write_boxes(results / "dimp/run_001/car-22.txt", TRUTH["car-2"])
    for partial in (False, True):
        with pytest.raises(
            UserError, match=r"dimp in .*: no text file is named after .*1 file \(dimp/run_001/car-22"
        ):
            score(results, lasot_tree, partial=partial)
    assert score(results, lasot_tree, trackers=["T"])["precision"] == pytest.approx(0.9)
    (results / "dimp/run_001/car-22.txt").rename(results / "dimp/run_001/car.json")
    (results / "empty").mkdir()
    found = evaluate(results, "lasot", lasot_tree, sequences=["car-2", "rubicCube-6"])
    assert list(found) == ["T", "dimp", "empty"]
    for name in ("dimp", "empty"):
        assert (found[name]["success_auc"], found[name]["missing"]) == (None, ["car-2", "rubicCube-6"])
    assert found["dimp"]["unused_files"] == ["dimp/run_001/car.json"]
    make_zip(results / "Z.zip", {"U/car-22.txt": "1,2,3,4\n"})
    with pytest.raises(UserError, match=r"Z in .*Z\.zip:U/car-22\.txt"):
        score(results, lasot_tree)


def test_two_trackers_of_one_name(tmp_path: Path) -> None:
    write_boxes(tmp_path / "results/T/car-2.txt", TRUTH["car-2"])
    write_boxes(tmp_path / "results/T_tracking_result/rubicCube-6.txt", TRUTH["rubicCube-6"])
    with pytest.raises(UserError, match="two trackers are called 'T': 'T' and 'T_tracking_result'"):
        find_trackers(tmp_path / "results", SEQUENCES)


def test_only_what_all_trackers_have_is_ranked(tmp_path: Path, lasot_tree: Path) -> None:
    results = results_with(tmp_path)  # T: the truth
    # U would lead with the one sequence that it has: every frame is right, while T misses the other's absent one.
    write_boxes(results / "U/car-2.txt", TRUTH["car-2"])
    found = evaluate(results, "lasot", lasot_tree, sequences=["car-2", "rubicCube-6"], partial=True)
    assert found["T"]["success_auc"] == found["U"]["success_auc"] == pytest.approx(20 / 21)
    assert (found["T"]["left_out"], found["T"]["missing"]) == (["rubicCube-6"], [])
    assert (found["U"]["left_out"], found["U"]["missing"]) == ([], ["rubicCube-6"])
    alone = evaluate(
        results, "lasot", lasot_tree, sequences=["car-2", "rubicCube-6"], partial=True, trackers=["T"]
    )
    assert len(alone["T"]["sequences"]) == 2
    (results / "T/car-2.txt").unlink()
    with pytest.raises(
        UserError, match=r"no sequence of which all trackers have a result \(T has 1, U has 1 of 2\)"
    ):
        evaluate(results, "lasot", lasot_tree, sequences=["car-2", "rubicCube-6"], partial=True)


def test_results_of_sequences_that_were_not_asked_for(tmp_path: Path) -> None:
    """They are neither unused nor ambiguous, whatever their toolkit calls them."""
    for name in ("Crossing", "Human4", "Couple"):
        write_boxes(tmp_path / f"otb/{name}/groundtruth_rect.txt", [[1, 2, 3, 4]] * 3)
    for name in ("Crossing", "human4_2", "Skating2_1", "jogging.02", "otb_COUPLE"):
        write_boxes(tmp_path / f"results/T/{name}.txt", [[1, 2, 3, 4]] * 3)
    found = evaluate(tmp_path / "results", "otb", tmp_path, sequences=["Crossing"])["T"]
    assert (found["files_of_other_sequences"], found["unused_files"], found["renamed_files"]) == (4, [], {})
    found = evaluate(tmp_path / "results", "otb", tmp_path, sequences=["Crossing", "Human4"])["T"]
    assert (list(found["sequences"]), found["files_of_other_sequences"]) == (["Crossing", "Human4"], 3)


def test_a_repetition_is_no_other_sequence(tmp_path: Path) -> None:
    videos = [Sequence("David", np.ones((4, 4))), Sequence("David2", np.ones((4, 4)))]
    write_boxes(tmp_path / "T/David_002.txt", TRUTH["car-2"])
    with pytest.raises(
        UserError, match=r"'David_002' could be a repetition of 'David' or a result of 'David2'"
    ):
        find_trackers(tmp_path, videos)


def test_a_link_to_a_folder_above_makes_no_trackers(tmp_path: Path) -> None:
    write_boxes(tmp_path / "R/T/car-2.txt", TRUTH["car-2"])
    (tmp_path / "R/T/self").symlink_to(".")
    (tmp_path / "R/T/up").symlink_to("..")
    found = find_results(tmp_path / "R", SEQUENCES)
    assert [tracker.name for tracker in found.trackers] == ["T"]
    assert found.trackers[0].unused == ("T/self/", "T/up/")
