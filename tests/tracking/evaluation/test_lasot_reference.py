"""The LaSOT authors' own MATLAB functions, reproduced on published and on made-up boxes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tracking.datasets.lasot import ATTRIBUTES
from tracking.evaluation.evaluation import evaluate

KEYS = {
    "success_auc": "success_auc",
    "precision": "precision20",
    "norm_precision": "norm_precision_at_0.2",
    "norm_precision_auc": "norm_precision_auc_0_0.5",
    "op50": "op50",
    "op75": "op75",
}


def assert_rows(found: dict[str, Any], reference: dict[str, Any], names: list[str]) -> None:
    for name in names:
        frames, success, precision = reference["per_sequence"]["rows"][name]
        row = found["sequences"][name]
        assert row["frames"] == frames
        assert row["success_auc"] == pytest.approx(success, abs=1e-6)
        assert row["precision"] == pytest.approx(precision, abs=1e-6)


def test_published_boxes_of_atom(atom_results: Path, lasot_annotations: Path, golden: dict[str, Any]) -> None:
    found = evaluate(atom_results, protocol="lasot", data_root=lasot_annotations.parent, attributes=True)[
        "ATOM"
    ]
    for key, name in KEYS.items():
        assert found[key] == pytest.approx(golden["ATOM"]["summary"][name], abs=1e-6)
    assert_rows(found, golden["ATOM"], list(golden["ATOM"]["per_sequence"]["rows"]))
    assert len(found["sequences"]) == 280
    assert sum(row["frames"] for row in found["sequences"].values()) == 685_360
    assert sorted(found["attributes"]) == sorted(ATTRIBUTES)


def test_ground_truth_scored_by_pytracking_and_lasot(
    lasot_annotations: Path, golden: dict[str, Any], tmp_path: Path
) -> None:
    """A perfect tracker's ceiling: 92.7414 and 97.3790 by LaSOT's rules, and 97.3785 where three frames fail."""
    results = tmp_path / "results"
    results.mkdir()
    (results / "perfect_tracking_result").symlink_to(lasot_annotations / "annos")
    found = evaluate(results, "lasot", lasot_annotations.parent, trackers=["perfect"])["perfect"]
    for key, name in KEYS.items():
        assert found[key] == pytest.approx(golden["perfect"]["summary"][name], abs=1e-6)
    assert_rows(found, golden["perfect"], list(golden["perfect"]["per_sequence"]["rows"]))
    assert round(100 * found["success_auc"], 4) == 92.7414
    negative = [item for item in found["problems"] if item["problem"].startswith("negative")]
    assert [(Path(item["file"]).name, item["lines"]) for item in negative][:1] == [("tiger-6.txt", [118])]
    strict = evaluate(
        results, "got10k-otb", lasot_annotations.parent, trackers=["perfect"], sequences=["tiger-6", "bear-*"]
    )
    assert strict["perfect"]["norm_precision_auc"] == 1


def make_results(golden_folder: Path, annotations: Path, out: Path, names: list[str]) -> Path:
    listing = out / "names.txt"
    out.mkdir(parents=True, exist_ok=True)
    listing.write_text("\n".join(names))
    script = golden_folder / "make_tracker_results.py"
    subprocess.run([sys.executable, str(script), str(annotations), str(out), str(listing)], check=True)
    return out


def test_made_up_trackers_by_sequence(
    golden_folder: Path, golden: dict[str, Any], lasot_annotations: Path, tmp_path: Path
) -> None:
    names = list(golden["invalid"]["per_sequence"]["rows"])[::14]
    out = make_results(golden_folder, lasot_annotations, tmp_path / "results", names)
    found = evaluate(out, "lasot", lasot_annotations.parent, sequences=names)
    for tracker in ("perfect", "jitter", "invalid"):
        assert_rows(found[tracker], golden[tracker], names)
    assert found["invalid"]["problems"]
    assert not found["jitter"]["problems"]


@pytest.mark.slow
def test_made_up_trackers_in_full(
    golden_folder: Path, golden: dict[str, Any], lasot_annotations: Path, tmp_path: Path
) -> None:
    names = list(golden["invalid"]["per_sequence"]["rows"])
    out = make_results(golden_folder, lasot_annotations, tmp_path / "results", names)
    found = evaluate(out, "lasot", lasot_annotations.parent, trackers=["perfect", "jitter", "invalid"])
    for tracker, scores in found.items():
        for key, name in KEYS.items():
            assert scores[key] == pytest.approx(golden[tracker]["summary"][name], abs=1e-6)
        assert_rows(scores, golden[tracker], names)
