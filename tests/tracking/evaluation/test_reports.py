"""Exports, comparisons, tables and plots."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from core.errors import UserError
from tracking.datasets import TrackingDataset
from tracking.datasets.sequence import Sequence
from tracking.evaluation.comparison import compare, paired_bootstrap
from tracking.evaluation.evaluation import Evaluation, evaluate_trackers
from tracking.evaluation.export import export
from tracking.evaluation.plots import Kind, attribute_figure, curve_figure, save_plots
from tracking.evaluation.protocols import get_protocol
from tracking.evaluation.scoring import score_curves
from tracking.evaluation.stored_results import find_trackers, read_results
from tracking.evaluation.tables import comparison_table, latex_table, score_rows, scores_table
from tracking.experiment.report import _auc
from tracking.files.boxes import BoxTable


def case(name: str, seed: int, noise: float, sequences: list[Sequence], protocol: str = "otb") -> Evaluation:
    """A tracker that misses the truth by noise."""
    generator = np.random.default_rng(seed)
    tables = [
        [BoxTable(sequence.boxes + generator.normal(0, noise, sequence.boxes.shape), "f")]
        for sequence in sequences
    ]
    record = get_protocol(protocol)
    attributes = {key: np.array([key in item.attributes for item in sequences]) for key in ("Fast", "Slow")}
    return Evaluation(name, record, score_curves(sequences, tables, record)[0], (), attributes)


@pytest.fixture
def sequences() -> list[Sequence]:
    generator = np.random.default_rng(0)
    return [
        Sequence(
            f"s{index}",
            generator.uniform(40, 90, (30, 4)),
            attributes=("Fast",) if index % 2 else ("Fast", "Slow"),
            absent=np.zeros(30, bool),
            size=(400, 300),
        )
        for index in range(12)
    ]


@pytest.fixture
def pair(sequences: list[Sequence]) -> list[Evaluation]:
    return [case("good_one", 1, 3.0, sequences), case("bad&poor", 2, 12.0, sequences)]


# --- exporters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "path"), [("lasot", "out"), ("pytracking", "out"), ("got10k", "o.zip")])
def test_exports_are_read_back(tmp_path: Path, sequences: list[Sequence], kind: str, path: str) -> None:
    results = {item.name: [BoxTable(item.boxes, "f")] for item in sequences}
    times = {item.name: np.full((30, 2), 0.04) for item in sequences}
    export(kind, tmp_path / path, "T", sequences, results, times=times)
    (tracker,) = find_trackers(tmp_path / path, sequences)
    back = read_results(tracker, [item.name for item in sequences])
    for item in sequences:
        assert np.abs(back[item.name][0].boxes - item.boxes).max() <= 0.0005
    if kind != "lasot":
        assert set(tracker.times) == set(times)


def test_layouts_are_the_toolkits_own(tmp_path: Path, sequences: list[Sequence]) -> None:
    results = {item.name: [BoxTable(item.boxes, "f")] * 3 for item in sequences}
    export("lasot", tmp_path, "Mine", sequences, results)
    export("pytracking", tmp_path, "dimp/dimp50_001", sequences, results)
    export("got10k", tmp_path / "g.zip", "Mine", sequences, results)
    said = export("trackingnet", tmp_path / "t.zip", "Mine", sequences, results)
    assert (tmp_path / "Mine_tracking_result/s0.txt").read_text().count(",") == 90
    assert (tmp_path / "dimp/dimp50_001/s0.txt").read_text().count("\t") == 90
    with zipfile.ZipFile(tmp_path / "g.zip") as archive:
        assert {"s0/s0_001.txt", "s0/s0_002.txt", "s0/s0_003.txt"} <= set(archive.namelist())
    with zipfile.ZipFile(tmp_path / "t.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"{item.name}.txt" for item in sequences)
        first = archive.read("s0.txt").decode().splitlines()[0]
        assert first == ",".join(f"{value:.2f}" for value in sequences[0].boxes[0])
    assert "12 files; the server expects 511" in said


def test_incomplete_submissions_are_refused(tmp_path: Path, sequences: list[Sequence]) -> None:
    results = {item.name: [BoxTable(item.boxes, "f.txt")] for item in sequences}
    with pytest.raises(UserError, match=r"does not end in \.zip"):
        export("trackingnet", tmp_path / "t", "T", sequences, results)
    with pytest.raises(UserError, match="no export 'vot'"):
        export("vot", tmp_path / "t", "T", sequences, results)
    results["s3"] = [BoxTable(sequences[3].boxes[:-1], "f.txt")]
    with pytest.raises(UserError, match=r"f\.txt: 29 rows for 30 frames"):
        export("lasot", tmp_path, "T", sequences, results)
    del results["s3"]
    with pytest.raises(UserError, match="no result of 's3'"):
        export("lasot", tmp_path, "T", sequences, results)


def test_withheld_ground_truth_is_not_scored(sequences: list[Sequence]) -> None:
    first_boxes = tuple(Sequence(item.name, item.boxes[:1]) for item in sequences)
    dataset = TrackingDataset("trackingnet", "TEST", first_boxes, ())
    with pytest.raises(UserError, match=r"only the first box.*--export"):
        evaluate_trackers(dataset, [], get_protocol("trackingnet"))


# --- comparison ---------------------------------------------------------------------------------------------------


def test_bootstrap_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        low, high = paired_bootstrap(generator.normal(0.3, 1, 60), resamples=1000, seed=seed)
        covered += low <= 0.3 <= high
    assert 0.89 <= covered / 200 <= 0.99
    assert paired_bootstrap(np.full(9, 0.25)) == (0.25, 0.25)
    assert paired_bootstrap(np.arange(5.0)) == paired_bootstrap(np.arange(5.0))


def test_comparison_is_paired_and_sorted(pair: list[Evaluation]) -> None:
    result = compare(*pair)
    assert result.mean == pytest.approx(pair[0].scores()["success_auc"] - pair[1].scores()["success_auc"])  # type: ignore[operator]
    assert (np.diff(result.differences) <= 0).all()
    assert 0 < result.low < result.mean < result.high
    text = comparison_table(result, rows=2)
    assert "12 sequences" in text
    assert "better on 12, worse on 0" in text
    assert len(comparison_table(result).splitlines()) == 12 + 4
    assert len(text.splitlines()) == 2 + 1 + 2 + 4
    with pytest.raises(UserError, match=r"no score per sequence 'auc': .*allowed: success_auc"):
        compare(*pair, measure="auc")


# --- tables and plots ---------------------------------------------------------------------------------------------


def test_tables(pair: list[Evaluation]) -> None:
    markdown = scores_table(pair, "otb100").splitlines()
    assert markdown[0] == "OTB-100 (12 sequences), protocol of the OTB benchmark code, in percent:"
    auc = f"{100 * pair[0].scores()['success_auc']:.2f}"  # type: ignore[operator]
    assert markdown[4].startswith(f"| good_one | **{auc}** |")
    latex = latex_table(pair, "otb100")
    assert r"bad\&poor" in latex
    assert r"good\_one" in latex
    assert rf"\textbf{{{auc}}}" in latex
    assert latex.count(r"\\") == 3
    rows = score_rows(pair)
    assert [row["tracker"] for row in rows] == ["good_one", "bad&poor"]
    assert {"NP@0.20", "NP-AUC (mean 0-0.5)", "P@20px"} <= set(rows[0])
    json.dumps(rows, allow_nan=False)


def test_different_sequences_are_not_ranked(sequences: list[Sequence], tmp_path: Path) -> None:
    """Not even where a caller scored the trackers one by one; `evaluate_trackers` scores them on the same ones."""
    pair = [case("long", 1, 3.0, sequences), case("short", 2, 12.0, sequences[3:])]
    markdown = scores_table(pair, "otb100")
    assert "9 to 12 sequences" in markdown
    assert "**" not in markdown
    assert markdown.splitlines()[2].endswith("| has results of |")
    assert [line.split(" | ")[-1] for line in markdown.splitlines()[4:]] == ["12 of 12 |", "9 of 12 |"]
    assert "textbf" not in latex_table(pair, "otb100")
    with pytest.raises(UserError, match="scored on different sequences"):
        save_plots(tmp_path, pair, "otb100")
    result = compare(*pair)
    assert (len(result.names), result.left_out) == (9, 3)
    assert "over 9 sequences (3 left out that not all trackers have)" in comparison_table(result)


def test_undefined_scores_are_shown_as_such(pair: list[Evaluation]) -> None:
    curves = replace(pair[0].curves, success=np.full_like(pair[0].curves.success, np.nan))
    undefined = replace(pair[0], name="lost", curves=curves)
    rows = scores_table([undefined, *pair], "otb100").splitlines()
    assert rows[4].startswith("| lost | undefined |")
    assert rows[5].startswith("| good_one | **")  # the best of those that have a number
    assert _auc(undefined) == -np.inf


def test_legends_are_sorted_and_hold_the_scores(pair: list[Evaluation]) -> None:
    figure = curve_figure(pair[::-1], "success", "otb100")
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"[{100 * item.scores()['success_auc']:.1f}] {item.name}" for item in pair]  # type: ignore[operator]
    (line,) = [line for line in axes.lines if "good_one" in str(line.get_label())]
    np.testing.assert_allclose(line.get_ydata(), pair[0].curves.success.mean(axis=0))
    np.testing.assert_allclose(line.get_xdata(), np.arange(21) / 20)


@pytest.mark.parametrize("trackers", [2, 5, 10])
@pytest.mark.parametrize("kind", ["success", "precision"])
def test_the_legend_hides_no_curve(sequences: list[Sequence], trackers: int, kind: Kind) -> None:
    spread = np.geomspace(0.2, 60, trackers)
    many = [case(f"tracker {index}", index, float(size), sequences) for index, size in enumerate(spread)]
    figure = curve_figure(many, kind, "otb100")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    box = axes.get_legend().get_window_extent()
    for line in axes.lines:
        assert not axes.transData.transform_path(line.get_path()).intersects_bbox(box, filled=False)
    assert axes.bbox.width / figure.dpi > 3


def test_attribute_bars(pair: list[Evaluation], sequences: list[Sequence]) -> None:
    axes = attribute_figure(pair, "otb100").axes[0]
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert sorted(names) == ["Fast (12)", "Slow (6)"]
    slow = np.array(["Slow" in item.attributes for item in sequences])
    expected = 100 * pair[0].curves.success[slow].mean()
    assert any(bar.get_width() == pytest.approx(expected) for bar in axes.patches)


@pytest.mark.parametrize(("protocol", "count"), [("otb", 4), ("got10k", 2)])
def test_plots_are_pictures(tmp_path: Path, sequences: list[Sequence], protocol: str, count: int) -> None:
    many = [case(f"tracker {index}", index, 1.0 + index, sequences, protocol) for index in range(10)]
    files = save_plots(tmp_path, many, get_protocol(protocol).dataset, formats=("png",))
    assert len(files) == count
    for file in files:
        pixels = imread(file)
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.02
    if protocol == "got10k":
        with pytest.raises(UserError, match="has no precision curve"):
            curve_figure(many, "precision", "val")
