"""Running trackers on real frames: results, resuming, workers, and what a broken tracker or frame gives."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.storage.claims import claimed
from tracking.datasets import load
from tracking.datasets.sequence import FrameFolder, Sequence
from tracking.files.boxes import parse_boxes
from tracking.online.runner import _frame_count, run, track_sequence
from tracking.online.trackers import CorrelationTracker, StillTracker, make_tracker

OWN_TRACKER = """
class Shifts:
    def init(self, frame, box):
        assert frame.dtype.name == "uint8" and frame.ndim == 3
        self.box = list(box)

    def update(self, frame):
        self.box[0] += 1
        return self.box

class Threads(Shifts):
    def update(self, frame):
        import os
        return [1, 2, 3, int(os.environ["OMP_NUM_THREADS"])]

class Breaks(Shifts):
    def update(self, frame):
        raise KeyError("weights")

class Answers(Shifts):
    def update(self, frame):
        return [1, 2, 3]

class Killed(Shifts):
    def init(self, frame, box):
        super().init(frame, box)
        import os, signal
        from pathlib import Path
        marker = Path(os.environ["MARKER"])
        if not marker.exists() or os.environ.get("ALWAYS") == "1":
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

class Deaf:
    def init(self, frame, box):
        pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_tracker.py").write_text(OWN_TRACKER)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_tracker"


def quiet(line: str) -> None:
    """Progress is not under test."""


def test_correlation_follows_a_pasted_patch_exactly() -> None:
    """A real patch moved by whole pixels over a real photograph is found to a fraction of a pixel."""
    skimage_data = pytest.importorskip("skimage.data")
    photograph = skimage_data.astronaut()
    target = photograph[60:100, 200:250].copy()
    background = skimage_data.chelsea()[:300, :451]
    path = [(100 + 6 * step, 90 + 4 * step) for step in range(12)]
    frames = []
    for x, y in path:
        frame = background.copy()
        frame[y : y + 40, x : x + 50] = target
        frames.append(frame)
    tracker = CorrelationTracker()
    tracker.init(frames[0], (*path[0], 50, 40))
    for frame, (x, y) in zip(frames[1:], path[1:], strict=True):
        box, score = tracker.update(frame)
        assert np.abs(np.array(box) - (x, y, 50, 40)).max() < 1
        assert score > 0.95


def test_correlation_survives_flat_frames_and_borders() -> None:
    tracker = CorrelationTracker()
    frame = np.full((40, 60, 3), 128, np.uint8)
    tracker.init(frame, (50, 30, 20, 20))
    box, score = tracker.update(frame)
    assert np.isfinite([*box, score]).all()


def test_boxes_scores_and_times_are_stored(otb_frames: Path, tmp_path: Path) -> None:
    (sequence,) = load("otb", otb_frames, patterns=["Crossing"], frames=True).sequences
    assert run("ncc", [sequence], tmp_path / "ncc", workers=1, report=quiet) == ["Crossing"]
    text = (tmp_path / "ncc/Crossing.txt").read_bytes()
    boxes = parse_boxes(text, "f").boxes
    assert boxes.shape == (120, 4)
    assert boxes[0].tolist() == sequence.boxes[0].tolist()
    assert b"." in text
    seconds = np.loadtxt(tmp_path / "ncc/times/Crossing_time.txt")
    scores = np.loadtxt(tmp_path / "ncc/scores/Crossing_score.txt")
    assert (seconds > 0).all()
    assert np.isnan(scores[0])
    assert (np.abs(scores[1:]) <= 1).all()
    assert json.loads((tmp_path / "ncc/run.json").read_text())["tracker"] == "ncc"


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "t"),
        pytest.raises(UserError, match=f"t' is in use by process {os.getpid()}"),
    ):
        run("still", [], tmp_path / "t", report=quiet)
    run("still", [], tmp_path / "t", report=quiet)
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["run.json"]


def test_a_second_run_goes_on_where_the_first_stopped(otb_frames: Path, tmp_path: Path) -> None:
    sequences = load("otb", otb_frames, patterns=["Couple", "Crossing"], frames=True).sequences
    assert run("still", sequences[:1], tmp_path / "t", workers=1, report=quiet) == ["Couple"]
    stamp = (tmp_path / "t/Couple.txt").stat().st_mtime_ns
    assert run("still", sequences, tmp_path / "t", workers=1, report=quiet) == ["Crossing"]
    assert (tmp_path / "t/Couple.txt").stat().st_mtime_ns == stamp
    assert run("still", sequences, tmp_path / "t", workers=1, report=quiet) == []
    with pytest.raises(UserError, match="holds results of 'still', not of 'ncc'"):
        run("ncc", sequences, tmp_path / "t", workers=1, report=quiet)
    (tmp_path / "t/Couple.txt").write_text("1,2,3,4\n")
    with pytest.raises(UserError, match="1 rows for 140 frames"):
        run("still", sequences, tmp_path / "t", workers=1, report=quiet)


def test_parallel_workers_give_what_one_gives(otb_frames: Path, tmp_path: Path, own: str) -> None:
    sequences = load("otb", otb_frames, patterns=["Couple", "Crossing"], frames=True).sequences
    spec = f"{own}:Shifts"
    assert sorted(run(spec, sequences, tmp_path / "two", workers=2, report=quiet)) == ["Couple", "Crossing"]
    run(f"{tmp_path}/{own}.py:Shifts", sequences, tmp_path / "one", workers=1, report=quiet)
    for name in ("Couple", "Crossing"):
        assert (tmp_path / f"two/{name}.txt").read_bytes() == (tmp_path / f"one/{name}.txt").read_bytes()
    boxes = parse_boxes((tmp_path / "one/Crossing.txt").read_bytes(), "f").boxes
    assert (np.diff(boxes[:, 0]) == 1).all()
    assert not (tmp_path / "one/scores").exists()
    with pytest.raises(RuntimeError, match=r"Breaks failed on C.*KeyError"):
        run(f"{own}:Breaks", sequences, tmp_path / "broken", workers=2, report=quiet)


def test_workers_do_not_fight_for_cores(
    otb_frames: Path, tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sequence,) = load("otb", otb_frames, patterns=["Crossing"], frames=True).sequences
    for setting, seen in ((None, 1), ("3", 3)):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if setting:
            monkeypatch.setenv("OMP_NUM_THREADS", setting)
        run(f"{own}:Threads", [sequence], tmp_path / str(setting), workers=1, report=quiet)
        boxes = parse_boxes((tmp_path / f"{setting}/Crossing.txt").read_bytes(), "f").boxes
        assert boxes[1, 3] == seen
        assert os.environ.get("OMP_NUM_THREADS") == setting


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dimp9000", "no tracker 'dimp9000': choose still, ncc"),
        ("no_such_module:X", "tracker package 'no_such_module' is not installed"),
        ("own_tracker:Missing", "'own_tracker' has no function or class called 'Missing'"),
        ("own_tracker:Deaf", "Deaf has no method 'update"),
        ("own_tracker:__name__", "'own_tracker' has no function or class called '__name__'"),
    ],
)
def test_trackers_that_are_none(own: str, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_tracker(spec)


def test_bad_answers_and_bad_frames(otb_frames: Path, tmp_path: Path, own: str) -> None:
    (sequence,) = load("otb", otb_frames, patterns=["Crossing"], frames=True).sequences
    assert sequence.frames is not None
    frames = sequence.frames.paths()[:3]
    with pytest.raises(UserError, match=r"the tracker answered \[1, 2, 3\]"):
        track_sequence(make_tracker(f"{own}:Answers"), frames, [1, 2, 3, 4])
    broken = tmp_path / "0002.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"0002\.jpg' cannot be read"):
        track_sequence(StillTracker(), [frames[0], broken], [1, 2, 3, 4])


def test_fewer_frames_than_boxes(otb_frames: Path, tmp_path: Path) -> None:
    shutil.copytree(otb_frames / "otb/Crossing", tmp_path / "otb/Crossing")
    images = tmp_path / "otb/Crossing/img"
    images.chmod(0o755)
    (images / "0120.jpg").unlink()
    (sequence,) = load("otb", tmp_path, patterns=["Crossing"], frames=True).sequences
    with pytest.raises(UserError, match="Crossing: 119 frames for 120 ground-truth boxes"):
        run("still", [sequence], tmp_path / "out", workers=1, report=quiet)


def test_frames_without_ground_truth_are_said(otb_frames: Path, tmp_path: Path) -> None:
    shutil.copytree(otb_frames / "otb/Crossing", tmp_path / "otb/Crossing")
    images = tmp_path / "otb/Crossing/img"
    images.chmod(0o755)
    for number in (121, 122):
        shutil.copy(images / "0120.jpg", images / f"{number:04d}.jpg")
    (sequence,) = load("otb", tmp_path, patterns=["Crossing"], frames=True).sequences
    said: list[str] = []
    run("still", [sequence], tmp_path / "out", workers=1, report=said.append)
    assert said[0] == "Crossing: the last 2 frames have no ground truth, they are not run"
    assert len(parse_boxes((tmp_path / "out/Crossing.txt").read_bytes(), "f").boxes) == 120


def test_boxes_of_others_are_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "Crossing.txt").write_text("1,2,3,4\n")
    with pytest.raises(UserError, match=r"Crossing\.txt' is not of a run of this command"):
        run("still", [], tmp_path)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.jpg", "2.jpg", "4.jpg", "5.jpg"], "there is no image of frame 3"),
        (["1.jpg", "2.jpg", "2.png", "3.jpg"], "there are several images of frame 2"),
        (["1.jpg", "2.jpg", "2.png", "4.jpg"], "there are several images of frame 2"),
        (["1.jpg", "1 (1).jpg", "2.jpg", "3.jpg"], r"'1 \(1\)\.jpg' has no number"),
        (["1.jpg", "2.jpg", "3.jpg", "._1.jpg"], None),
        (["1.jpg", "2.jpg", "3.jpg", "7.jpg"], None),  # beyond the last box
        (["a.jpg", "b.jpg", "c.jpg"], None),
    ],
)
def test_frames_do_not_shift_against_the_boxes(tmp_path: Path, names: list[str], message: str | None) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    sequence = Sequence("S", np.ones((3, 4)), frames=FrameFolder(tmp_path))
    if message is None:
        assert _frame_count(sequence) == 3
    else:
        with pytest.raises(UserError, match=message):
            _frame_count(sequence)


def test_a_worker_that_is_killed_is_named_and_its_sequence_begun_again(
    own: str, otb_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKER", str(tmp_path / "killed"))
    sequences = load("otb", otb_frames, patterns=["Couple", "Crossing"], frames=True).sequences
    said: list[str] = []
    names = run(f"{own}:Killed", sequences, tmp_path / "once", workers=2, report=said.append)
    assert sorted(names) == sorted(sequence.name for sequence in sequences)
    died = [line for line in said if "was ended by SIGKILL" in line]
    assert len(died) == 1
    assert died[0].endswith("it is begun again")
    assert any(f"while it was at {name}:" in died[0] for name in names)
    monkeypatch.setenv("ALWAYS", "1")
    with pytest.raises(
        RuntimeError, match=r"WorkerDied: process \d+ was ended by SIGKILL .* for the second time"
    ):
        run(f"{own}:Killed", sequences[:1], tmp_path / "always", workers=1, report=said.append)
    assert said[-1].endswith("try fewer --workers")
