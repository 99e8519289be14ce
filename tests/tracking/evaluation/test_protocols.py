"""Each preset against an independent account of its toolkit: its rules by hand and written out frame by frame.

The toolkits that can be had are in `test_got10k_toolkit.py` and `test_lasot_reference.py`.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from tracking.datasets.sequence import Sequence
from tracking.evaluation.evaluation import evaluate, summarise
from tracking.evaluation.protocols import PROTOCOLS, get_protocol, score_labels
from tracking.evaluation.scoring import score_curves
from tracking.files.boxes import BoxTable


def scores(
    protocol: str, truth: Any, boxes: Any, dataset: str | None = None, **details: Any
) -> dict[str, Any]:
    sequence = Sequence("s", np.array(truth, float), **details)
    curves, _ = score_curves(
        [sequence], [[BoxTable(np.array(boxes, float), "s.txt")]], get_protocol(protocol, dataset)
    )
    return summarise(curves, get_protocol(protocol, dataset))


def random_case(seed: int, frames: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Integer ground truth with some empty boxes, and predictions of all qualities on a half-pixel grid."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(5, 60, (frames, 4)).astype(float)
    boxes = truth + generator.integers(-24, 24, (frames, 4)) / 2
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 0.5)
    truth[10, 2:] = 0
    return truth, boxes


# --- the first frame, absence and invalid ground truth, by hand ---------------------------------------------------

HIT, MISS = [10, 10, 20, 20], [200, 200, 20, 20]


@pytest.mark.parametrize(
    ("protocol", "success", "precision"),
    [
        # four frames: the first is missed, the second hit, the third absent (hit), the fourth missed
        ("lasot", 2 / 4, 2 / 4),  # first replaced, absent fails
        ("pytracking", 2 / 4, 2 / 4),
        ("pysot", 1 / 4, 1 / 4),  # first kept
        ("got10k-otb", 3 / 4, 3 / 4),  # absence ignored
        ("otb", 3 / 4, 3 / 4),
        ("uav", 3 / 4, 3 / 4),
    ],
)
def test_first_and_absent_frames(protocol: str, success: float, precision: float) -> None:
    absent = np.array([False, False, True, False])
    found = scores(protocol, [HIT] * 4, [MISS, HIT, HIT, MISS], absent=absent)
    assert found["op50"] == success
    assert found["precision"] == precision
    assert found["norm_precision_at_0.2"] == precision
    assert found["success_auc"] == pytest.approx(success * 20 / 21)


def test_got10k_drops_the_first_and_the_invisible_frames() -> None:
    absent = np.array([False, False, True, False])
    found = scores("got10k", [HIT] * 4, [HIT, HIT, HIT, MISS], absent=absent, size=(300, 300))
    assert (found["ao"], found["op50"], found["op75"]) == (0.5, 0.5, 0.5)
    assert found["precision"] is None
    assert found["norm_precision"] is None


@pytest.mark.parametrize(
    ("protocol", "dataset", "row", "success", "precision", "norm"),
    [
        # the second of two frames has this ground truth; the prediction is far away
        ("lasot", None, [0, 10, 20, 20], 1 / 2, 1, 1),  # x = 0 is invalid: IoU -1, errors -1 count as correct
        ("pytracking", None, [0, 10, 20, 20], 1 / 2, 1 / 2, 1),
        ("pytracking", "uav123", [0, 10, 20, 20], 1 / 2, 1, 1),
        ("pysot", None, [0, 10, 20, 20], 1 / 2, 1 / 2, 1 / 2),  # w, h > 0 and centre > 0: valid
        ("pysot", None, [-30, 10, 20, 20], 1 / 2, 1, 1),  # centre <= 0: errors count as correct
        ("pytracking", "otb", [0, 10, 20, 20], 1 / 2, 1 / 2, 1),
        ("otb", None, [10, 10, 0, 20], 1 / 2, 1, 1),
        ("uav", None, [math.nan] * 4, 1 / 2, 1, 1),
        ("trackingnet", None, [10, 10, 0, 0], 1 / 2, None, 1 / 2),  # normalised by nothing: a failure
        ("got10k-otb", "uav123", [math.nan] * 4, 1, 1, 1),  # dropped
        ("got10k-otb", None, [0, 10, 0, 0], 1 / 2, 1 / 2, 1 / 2),
    ],
)
def test_invalid_ground_truth(
    protocol: str, dataset: str | None, row: list[float], success: float, precision: float | None, norm: float
) -> None:
    boxes = [HIT, MISS]
    found = scores(protocol, [HIT, row], boxes, dataset, absent=np.zeros(2, bool))
    assert (found["op50"], found["norm_precision_at_0.2"]) == (success, norm)
    if precision is not None:
        assert found["precision"] == precision


def test_trackingnet_counts_an_overlap_of_zero_at_threshold_zero_and_rounds_half_to_even() -> None:
    found = scores("trackingnet", [HIT, HIT], [HIT, MISS])
    # success is 1 at threshold 0 and 1/2 at the other twenty: the trapezoid area is 1/2 + 1/2 * 1/40
    assert found["success_auc"] == pytest.approx(0.5 + 0.5 / 40)
    rounded = scores("trackingnet", [HIT, HIT], [HIT, [10.5, 9.5, 20.5, 19.5]])
    assert rounded["success_auc"] == pytest.approx(1.0)  # 10.5 -> 10, 9.5 -> 10, 20.5 -> 20, 19.5 -> 20


# --- lengths and invalid predictions ------------------------------------------------------------------------------


def test_invalid_rows_take_the_previous_row_even_through_absent_frames() -> None:
    boxes = [HIT, HIT, [10, 10, 0, 20], [math.nan] * 4, [10, 10, 20, -3], MISS]
    sequence = Sequence("s", np.array([HIT] * 6, float), absent=np.zeros(6, bool))
    curves, problems = score_curves(
        [sequence], [[BoxTable(np.array(boxes, float), "f.txt")]], get_protocol("lasot")
    )
    assert summarise(curves, get_protocol("lasot"))["op50"] == 5 / 6
    assert {(problem.what, problem.lines) for problem in problems} == {
        ("a value is not finite", (4,)),
        ("negative width or height", (5,)),
        ("zero width or height", (3,)),
    }
    assert all("previous row" in str(problem) and "f.txt" in str(problem) for problem in problems)


NAN_ROW, NEGATIVE, EMPTY = [math.nan] * 4, [200, 200, -5, 20], [200, 200, 0, 20]


@pytest.mark.parametrize(
    ("protocol", "dataset", "mended"),
    [
        ("lasot", None, (NAN_ROW, NEGATIVE, EMPTY)),
        ("otb", None, (NAN_ROW, NEGATIVE, EMPTY)),
        ("uav", None, (NAN_ROW, NEGATIVE, EMPTY)),
        ("pytracking", None, (EMPTY,)),
        ("pytracking", "uav123", (EMPTY,)),
        ("pysot", None, ()),
        ("got10k-otb", None, ()),
        ("trackingnet", None, ()),
    ],
)
def test_which_predictions_are_mended(protocol: str, dataset: str | None, mended: tuple[Any, ...]) -> None:
    refused = (NAN_ROW, NEGATIVE) if protocol == "pytracking" else ()
    for row in (NAN_ROW, NEGATIVE, EMPTY):
        if row in refused:
            continue
        found = scores(protocol, [HIT] * 3, [HIT, HIT, row], dataset, absent=np.zeros(3, bool))
        assert found["op50"] == (1 if row in mended else 2 / 3)
        assert found["norm_precision_at_0.2"] == (1 if row in mended else 2 / 3)


def test_what_is_not_mended_where_there_is_no_ground_truth_mends_nothing() -> None:
    """The MATLAB code leaves a bad row alone where the ground truth is NaN, and copies it to the bad row after it."""
    truth = [HIT, NAN_ROW, HIT, HIT]
    assert scores("uav", truth, [HIT, NAN_ROW, NAN_ROW, HIT])["op50"] == 2 / 4
    assert scores("uav", truth, [HIT, HIT, NAN_ROW, HIT])["op50"] == 3 / 4
    # So is the first row, which is replaced by the ground truth only afterwards.
    assert scores("uav", [HIT] * 3, [NAN_ROW, NAN_ROW, HIT])["op50"] == 2 / 3


@pytest.mark.parametrize("row", [[math.nan] * 4, [10, 10, -5, 20]])
def test_pytracking_refuses_rows_that_lasot_mends(row: list[float]) -> None:
    with pytest.raises(UserError, match=r"s\.txt, line 2:"):
        scores("pytracking", [HIT] * 2, [HIT, row], absent=np.zeros(2, bool))


@pytest.mark.parametrize(
    ("protocol", "dataset", "rows", "expected"),
    [
        ("lasot", None, 5, 1.0),
        ("lasot", None, 3, None),
        ("pytracking", None, 3, None),
        ("pytracking", None, 5, 1.0),
        ("pytracking", "otb", 3, 3 / 4),
        ("pytracking", "uav123", 3, 3 / 4),
        ("pysot", None, 5, 1.0),
        ("pysot", None, 3, None),
        ("got10k-otb", None, 3, 1.0),
        ("got10k-otb", None, 5, 1.0),
        ("trackingnet", None, 3, 3 / 4),
        ("trackingnet", None, 5, 1.0),
        ("got10k", None, 3, None),
        ("got10k", None, 5, None),
        ("otb", None, 3, None),
        ("otb", None, 5, 1.0),
        ("uav", None, 3, None),
    ],
)
def test_lengths(protocol: str, dataset: str | None, rows: int, expected: float | None) -> None:
    details = {"absent": np.zeros(4, bool), "size": (300, 300)}
    if expected is None:
        with pytest.raises(UserError, match=rf"s\.txt: {rows} rows for 4 frames"):
            scores(protocol, [HIT] * 4, [HIT] * rows, dataset, **details)
    else:
        assert scores(protocol, [HIT] * 4, [HIT] * rows, dataset, **details)["op50"] == expected


def test_all_zero_sequences_are_left_out_as_the_matlab_toolkit_does() -> None:
    absent = np.zeros(2, bool)
    sequences = [Sequence(name, np.array([HIT] * 2, float), absent=absent) for name in "ab"]
    lost = replace(get_protocol("lasot"), first_frame="keep")
    tables = [[BoxTable(np.array(boxes, float), "f")] for boxes in ([HIT, HIT], [MISS, MISS])]
    assert summarise(score_curves(sequences, tables, lost)[0], lost)["op50"] == 1
    kept = replace(lost, drop_zero_curves=False)
    assert summarise(score_curves(sequences, tables, kept)[0], kept)["op50"] == 0.5


# --- whole toolkits -----------------------------------------------------------------------------------------------


def trackingnet_by_the_book(truth_zip: Path, submission_zip: Path) -> tuple[float, float, float]:
    """TrackingNet's score, one frame at a time: round, replace the first box, compare, trapezoid, mean."""
    grids = np.linspace(0, 1, 21), np.linspace(0, 50, 21), np.linspace(0, 0.5, 21)
    curves = []
    with zipfile.ZipFile(truth_zip) as truth_file, zipfile.ZipFile(submission_zip) as submission:
        for name in truth_file.namelist():
            truth = np.rint(np.loadtxt(io.BytesIO(truth_file.read(name)), delimiter=","))
            boxes = np.zeros_like(truth)
            if name in submission.namelist():
                found = np.rint(np.loadtxt(io.BytesIO(submission.read(name)), delimiter=","))
                boxes[:] = np.nan
                boxes[: len(found)] = found
            boxes[0] = truth[0]
            counts = np.zeros((3, 21))
            for (x, y, w, h), (tx, ty, tw, th) in zip(boxes, truth, strict=True):
                across = max(0.0, min(x + w, tx + tw) - max(x, tx))
                down = max(0.0, min(y + h, ty + th) - max(y, ty))
                overlap = across * down / (w * h + tw * th - across * down)
                dx, dy = x + w / 2 - tx - tw / 2, y + h / 2 - ty - th / 2
                counts[0] += overlap >= grids[0]
                counts[1] += math.sqrt(dx * dx + dy * dy) <= grids[1]
                counts[2] += math.sqrt(dx / tw * dx / tw + dy / th * dy / th) <= grids[2]
            curves.append(counts / len(truth))
    mean = np.mean(curves, axis=0)
    success, precision, norm = (np.trapezoid(curve, grids[0]) for curve in mean)
    return float(success), float(precision), float(norm)


def test_trackingnet_development_kit(data: Path) -> None:
    kit = data / "trackingnet_devkit"
    if not (kit / "dummy_GT.zip").is_file():
        pytest.skip(f"needs the TrackingNet development kit's zips at {kit}")
    found = evaluate(kit, "trackingnet", data)
    expected = trackingnet_by_the_book(kit / "dummy_GT.zip", kit / "dummy_subm.zip")
    submission = found["dummy_subm"]
    assert (
        submission["success_auc"],
        submission["precision"],
        submission["norm_precision"],
    ) == pytest.approx(expected)
    assert found["dummy_GT"]["success_auc"] == pytest.approx(1)
    problems = {Path(item["file"]).name.split(":")[-1]: item["problem"] for item in submission["problems"]}
    assert problems == {"a8v0k4Bz_QA_0.txt": "432 rows for 480 frames", "a9jgDU5THOU_0.txt": "missing"}


@pytest.mark.parametrize("seed", range(3))
def test_pysot_frame_by_frame(seed: int) -> None:
    truth, boxes = random_case(seed)
    absent = np.arange(len(truth)) % 9 == 4
    found = scores("pysot", truth, boxes, absent=absent)
    hits = np.zeros(21)
    close = norm_close = 0
    for (x, y, w, h), (tx, ty, tw, th), gone in zip(boxes, truth, absent, strict=True):
        if gone:
            continue
        if tw > 0 and th > 0:
            across = max(0.0, min(x + w, tx + tw) - max(x, tx))
            down = max(0.0, min(y + h, ty + th) - max(y, ty))
            hits += across * down / (w * h + tw * th - across * down) > np.arange(21) / 20
        centre, true_centre = (x + (w - 1) / 2, y + (h - 1) / 2), (tx + (tw - 1) / 2, ty + (th - 1) / 2)
        if min(true_centre) > 0:
            dx, dy = centre[0] - true_centre[0], centre[1] - true_centre[1]
            close += math.hypot(dx, dy) <= 20
            norm_close += math.hypot(dx / (tw + 1e-16), dy / (th + 1e-16)) <= 0.2
        else:
            close, norm_close = close + 1, norm_close + 1
    assert found["success_auc"] == pytest.approx(hits.mean() / len(truth))
    assert found["precision"] == pytest.approx(close / len(truth))
    assert found["norm_precision"] == pytest.approx(norm_close / len(truth))


WHOLE = st.integers(-2, 90) | st.integers(-2500, 2500) | st.sampled_from([-2049, -2048, 2047, 2048, 2049])
WHOLE_BOXES = st.lists(st.tuples(*[st.tuples(*[WHOLE] * 4)] * 2), min_size=2, max_size=12)


@given(WHOLE_BOXES, st.sampled_from(sorted(PROTOCOLS)))
def test_whole_numbers_score_the_same_in_either_type(pairs: list[Any], name: str) -> None:
    """Integers are scored in float32 as far as that is exact: to the last bit what float64 gives."""
    boxes, truth = (np.array([pair[side] for pair in pairs], np.int32) for side in (0, 1))
    if name == "pytracking":
        boxes[:, 2:] = np.abs(boxes[:, 2:])
    absent = np.arange(len(pairs)) % 5 == 3
    protocol = get_protocol(name)
    whole, real = (
        score_curves(
            [Sequence("s", truth.astype(dtype), absent=absent, size=(1280, 720))],
            [[BoxTable(boxes.astype(dtype), "f")]],
            protocol,
        )[0]
        for dtype in (np.int32, np.float64)
    )
    for key in ("frames", "success", "precision", "norm_precision", "mean_overlap"):
        np.testing.assert_array_equal(getattr(whole, key), getattr(real, key))


def test_unknown_protocols_are_named() -> None:
    with pytest.raises(
        UserError, match=r"no protocol 'lassot': did you mean 'lasot'\? allowed: lasot, pytracking"
    ):
        get_protocol("lassot")


def test_no_label_stands_for_two_definitions() -> None:
    meanings: dict[str, set[tuple[Any, ...]]] = {}
    for protocol in PROTOCOLS.values():
        for key, label in score_labels(protocol).items():
            kind = {"success_auc": protocol.success_score, "precision": protocol.precision_score}.get(
                key, key
            )
            meanings.setdefault(label, set()).add((kind,) if "NP" not in label else (label,))
    assert all(len(kinds) == 1 for kinds in meanings.values())
    assert "NP@0.20" in score_labels(PROTOCOLS["lasot"]).values()
    assert "NP-AUC (mean 0-0.5)" in score_labels(PROTOCOLS["lasot"]).values()
