"""The got10k toolkit's own reports, reproduced on real boxes and on random walks.

The toolkit's experiments are given their data set and folders directly: their constructors would download data.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.datasets import TrackingDataset
from tracking.datasets.lasot import test_names as lasot_names
from tracking.datasets.sequence import Sequence
from tracking.evaluation.evaluation import as_dict, evaluate, evaluate_trackers
from tracking.evaluation.protocols import get_protocol
from tracking.evaluation.scoring import score_curves
from tracking.evaluation.stored_results import find_trackers
from tracking.files.boxes import BoxTable

pytest.importorskip("six", reason="the got10k toolkit needs six")
EXPERIMENTS: ModuleType = pytest.importorskip("got10k.experiments", reason="needs the extra peers: got10k")


class Videos:
    """Sequences in the form in which the toolkit's experiments walk through a data set."""

    return_meta = False

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = {sequence.name: sequence for sequence in sequences}
        self.seq_names = list(self.sequences)

    def __len__(self) -> int:
        return len(self.seq_names)

    def __getitem__(self, name: str) -> tuple[Any, ...]:
        sequence = self.sequences[name]
        truth = np.array(sequence.boxes, float)
        if not self.return_meta:
            return None, truth
        assert sequence.absent is not None
        return None, truth, {"cover": np.where(sequence.absent, 0, 5), "resolution": str(sequence.size)}

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return (self[name] for name in self.seq_names)


def their_report(
    kind: str, sequences: list[Sequence], results: Path, tracker: str = "walk"
) -> dict[str, Any]:
    experiment_class = getattr(EXPERIMENTS, kind)
    experiment = experiment_class.__new__(experiment_class)
    experiment.dataset, experiment.subset = Videos(sequences), "val"
    experiment.nbins_iou, experiment.nbins_ce, experiment.repetitions = 21, 51, 3
    experiment.result_dir, experiment.report_dir = str(results), str(results / "reports")
    experiment.plot_curves = lambda *names: None
    with contextlib.redirect_stdout(io.StringIO()):
        return experiment.report([tracker])[tracker]


def our_report(protocol: str, dataset: str, sequences: list[Sequence], results: Path) -> dict[str, Any]:
    truth = TrackingDataset(dataset, "split", tuple(sequences), ())
    trackers = find_trackers(results, sequences)
    (found,) = evaluate_trackers(truth, trackers, get_protocol(protocol, dataset))
    return as_dict(found)


def walk(generator: np.random.Generator, frames: int) -> np.ndarray:
    """Boxes that wander and breathe, in the pixels of a 320 x 240 image."""
    steps = generator.normal(0, [3, 3, 1, 1], (frames, 4))
    boxes = np.array([120, 90, 50, 40]) + np.cumsum(steps, axis=0)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 2)
    return boxes


def write_results(folder: Path, name: str, boxes: np.ndarray, seconds: np.ndarray) -> None:
    """As the toolkit records them."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / f"{name}.txt", boxes, fmt="%.3f", delimiter=",")
    (folder / "times").mkdir(exist_ok=True)
    np.savetxt(folder / f"times/{name}_time.txt", seconds, fmt="%.8f")


@pytest.mark.parametrize(("kind", "dataset"), [("ExperimentOTB", "otb"), ("ExperimentUAV123", "uav123")])
def test_reports_on_otb_and_uav123(kind: str, dataset: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    sequences = []
    for name, frames in (("first", 90), ("second", 150), ("third", 40)):
        truth = np.rint(walk(generator, frames))
        boxes = truth + generator.normal(0, 6, truth.shape)
        boxes[frames // 2 :: 7] = [0, 0, 1, 1]
        truth[frames // 3, 2:] = 0  # an empty box
        if dataset == "uav123":
            truth[frames // 4 : frames // 3] = np.nan  # out of view
        sequences.append(Sequence(name, truth))
        write_results(tmp_path / "walk", name, boxes, generator.uniform(0, 0.1, frames).round(2))
    theirs = their_report(kind, sequences, tmp_path)
    ours = our_report("got10k-otb", dataset, sequences, tmp_path / "walk")
    for key, name in (
        ("success_auc", "success_score"),
        ("precision", "precision_score"),
        ("op50", "success_rate"),
    ):
        assert ours[key] == pytest.approx(theirs["overall"][name], abs=1e-12)
        for sequence in sequences:
            row = theirs["seq_wise"][sequence.name]
            assert ours["sequences"][sequence.name][key] == pytest.approx(row[name], abs=1e-12)
    for key in ("success", "precision"):
        assert ours["curves"][key]["values"] == pytest.approx(theirs["overall"][f"{key}_curve"], abs=1e-12)
    assert ours["frames_per_second"] == pytest.approx(theirs["overall"]["speed_fps"], rel=1e-12)


def test_report_on_got10k(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    sequences = []
    for name, frames, repetitions in (("first", 60, 3), ("second", 110, 1)):
        truth = walk(generator, frames)
        absent = generator.random(frames) < 0.2
        sequences.append(Sequence(name, truth, absent=absent, size=(180, 130)))  # some boxes leave the image
        folder = tmp_path / "walk" / name
        folder.mkdir(parents=True)
        for number in range(1, repetitions + 1):
            boxes = truth + generator.normal(0, 4 * number, truth.shape)
            np.savetxt(folder / f"{name}_{number:03d}.txt", boxes, fmt="%.3f", delimiter=",")
        seconds = generator.uniform(0.01, 0.1, (frames, repetitions))
        np.savetxt(folder / f"{name}_time.txt", seconds, fmt="%.8f", delimiter=",")
    theirs = their_report("ExperimentGOT10k", sequences, tmp_path)
    ours = our_report("got10k", "got10k", sequences, tmp_path / "walk")
    assert ours["ao"] == pytest.approx(theirs["overall"]["ao"], abs=1e-12)
    assert ours["op50"] == pytest.approx(theirs["overall"]["sr"], abs=1e-12)
    curve = ours["curves"]["success"]["values"]
    assert curve == pytest.approx(theirs["overall"]["succ_curve"], abs=1e-12)
    for sequence in sequences:
        row = ours["sequences"][sequence.name]
        assert row["ao"] == pytest.approx(theirs["seq_wise"][sequence.name]["ao"], abs=1e-12)
        assert row["op50"] == pytest.approx(theirs["seq_wise"][sequence.name]["sr"], abs=1e-12)
    assert ours["frames_per_second"] == pytest.approx(theirs["overall"]["speed_fps"], rel=1e-12)


# Quarters of pixels are exact, so that many frames lie on a threshold.
QUARTERS = st.tuples(*[st.integers(-80, 400)] * 2, *[st.integers(0, 120)] * 2).map(
    lambda box: tuple(value / 4 for value in box)
)
FLOATS = st.tuples(*[st.floats(-50, 300)] * 2, *[st.floats(0.5, 90)] * 2)


@given(st.lists(st.tuples(QUARTERS | FLOATS, QUARTERS | FLOATS), min_size=2, max_size=12))
def test_curves_of_any_boxes(pairs: list[tuple[tuple[float, ...], tuple[float, ...]]]) -> None:
    """Frame by frame what `_calc_metrics` and `_calc_curves` make of the same boxes, ties included."""
    boxes, truth = (np.array([pair[side] for pair in pairs], float) for side in (0, 1))
    protocol = get_protocol("got10k-otb", "otb")
    curves, _ = score_curves([Sequence("s", truth)], [[BoxTable(boxes, "s.txt")]], protocol)
    experiment = EXPERIMENTS.ExperimentOTB.__new__(EXPERIMENTS.ExperimentOTB)
    experiment.nbins_iou, experiment.nbins_ce = 21, 51
    first = np.vstack([truth[:1], boxes[1:]])
    success, precision = experiment._calc_curves(*experiment._calc_metrics(first, truth))
    np.testing.assert_allclose(curves.success[0], success, rtol=0, atol=1e-12)
    np.testing.assert_allclose(curves.precision[0], precision, rtol=0, atol=1e-12)


@given(st.lists(st.tuples(QUARTERS | FLOATS, QUARTERS | FLOATS), min_size=3, max_size=12), st.randoms())
def test_average_overlap_of_any_boxes(
    pairs: list[tuple[tuple[float, ...], tuple[float, ...]]], random: Any
) -> None:
    """The same for GOT-10k: clipped to the image, without the first frame and those in which nothing can be seen."""
    boxes, truth = (np.array([pair[side] for pair in pairs], float) for side in (0, 1))
    absent = np.array([random.random() < 0.3 for _ in pairs])
    absent[1] = False
    sequence = Sequence("s", truth, absent=absent, size=(60, 45))
    curves, _ = score_curves([sequence], [[BoxTable(boxes, "s.txt")]], get_protocol("got10k"))
    experiment = EXPERIMENTS.ExperimentGOT10k.__new__(EXPERIMENTS.ExperimentGOT10k)
    from got10k.utils.metrics import rect_iou

    overlaps = rect_iou(boxes[1:].copy(), truth[1:].copy(), bound=(60, 45))[~absent[1:]]
    average, rate, _, success = experiment._evaluate(overlaps, np.ones(1))
    assert curves.mean_overlap[0] == pytest.approx(average, abs=1e-12)
    assert curves.success[0, 50] == pytest.approx(rate, abs=1e-12)
    np.testing.assert_allclose(curves.success[0], success, rtol=0, atol=1e-12)


def test_report_on_lasot(atom_results: Path, lasot_annotations: Path, tmp_path: Path) -> None:
    """ATOM's published boxes on a hundred of LaSOT's sequences."""
    names = lasot_names()[::3]
    sequences = [
        Sequence(name, np.loadtxt(lasot_annotations / f"annos/{name}.txt", delimiter=",")) for name in names
    ]
    (tmp_path / "ATOM").symlink_to(atom_results / "ATOM")
    theirs = their_report("ExperimentOTB", sequences, tmp_path, "ATOM")
    ours = evaluate(atom_results, "got10k-otb", lasot_annotations.parent, sequences=names)["ATOM"]
    for key, name in (("success_auc", "success_score"), ("precision", "precision_score")):
        assert ours[key] == pytest.approx(theirs["overall"][name], abs=1e-12)
        for sequence in names:
            expected = theirs["seq_wise"][sequence][name]
            assert ours["sequences"][sequence][key] == pytest.approx(expected, abs=1e-12)
    for key in ("success", "precision"):
        assert ours["curves"][key]["values"] == pytest.approx(theirs["overall"][f"{key}_curve"], abs=1e-12)
