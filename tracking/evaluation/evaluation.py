"""Score stored results of trackers by a benchmark's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError, check_known, first_names
from tracking.datasets import TITLES, TrackingDataset, load
from tracking.datasets.sequence import Sequence as TrackingSequence
from tracking.evaluation import metrics
from tracking.evaluation.alignment import Problem
from tracking.evaluation.protocols import Protocol, Score, get_protocol, score_labels
from tracking.evaluation.scoring import Curves, score_curves
from tracking.evaluation.stored_results import (
    StoredResults,
    StoredTracker,
    find_results,
    frames_per_second,
    named_files,
    read_results,
)
from tracking.files.boxes import BoxTable


@dataclass(frozen=True)
class Evaluation:
    """One tracker, scored.

    Attributes:
        name: the tracker.
        protocol: the rules.
        curves: per sequence.
        problems: what was wrong with its files, and how it was treated.
        attributes: challenge attribute to the sequences (flags, in the order of `curves.names`) that have it.
        missing: sequences that were left out because they have no result.
        speed: frames per second, if times were stored.
        left_out: sequences for which it has a result, but some other tracker has none.
        total: number of sequences asked for, including those without ground truth; None if it is not known.
        stored: the result files.
    """

    name: str
    protocol: Protocol
    curves: Curves
    problems: tuple[Problem, ...]
    attributes: dict[str, np.ndarray]
    missing: tuple[str, ...] = ()
    speed: float | None = None
    left_out: tuple[str, ...] = ()
    total: int | None = None
    stored: StoredTracker | None = None

    @property
    def available(self) -> int:
        """Number of sequences with a result."""
        return len(self.curves.names) + len(self.left_out)

    def scores(self, wanted: np.ndarray | None = None) -> dict[str, float | None]:
        """The scores over all sequences, or over those for which `wanted` is true; see `evaluate` for the keys."""
        return summarise(self.curves if wanted is None else self.curves.select(wanted), self.protocol)


def average_curve(curve: np.ndarray, frames: np.ndarray, protocol: Protocol) -> np.ndarray:
    """The curve over a set of sequences, `(thresholds,)`.

    Args:
        curve: per sequence, `(sequences, thresholds)`.
        frames: frames in each sequence's denominator.
        protocol: says whether sequences or frames have equal weight, and whether all-zero curves are left out.
    """
    if protocol.averaging == "frame":
        return frames @ curve / max(frames.sum(), 1)
    if protocol.drop_zero_curves:
        curve = curve[curve.any(axis=1)]
    return curve.mean(axis=0) if len(curve) else np.zeros(curve.shape[1])


def summarise(curves: Curves, protocol: Protocol) -> dict[str, float | None]:
    """The scores of a set of sequences; None if the protocol does not define one, or there are no sequences."""
    success, precision, norm = (
        average_curve(curve, curves.frames, protocol)[None]
        for curve in (curves.success, curves.precision, curves.norm_precision)
    )
    weights = curves.frames if protocol.averaging == "frame" else np.ones(len(curves.names))
    mean_overlap = np.average(curves.mean_overlap, weights=weights)[None] if weights.any() else np.zeros(1)
    columns = _scores(success, precision, norm, mean_overlap, protocol)
    return {
        key: None if column is None or not curves.names else float(column[0])
        for key, column in columns.items()
    }


def comparable(evaluations: Sequence[Evaluation]) -> bool:
    """Whether all were scored on the same sequences (those without any result aside)."""
    return len({item.curves.names for item in evaluations if item.curves.names}) <= 1


def counted(evaluations: Sequence[Evaluation]) -> str:
    """On how many sequences trackers were scored, in words: `"280 sequences"`, `"3 of 280 sequences"`."""
    scored = [item for item in evaluations if item.curves.names] or list(evaluations)
    counts = sorted({len(item.curves.names) for item in scored})
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    total = scored[0].total
    if total is not None and counts[0] < total:
        number, counts = f"{number} of {total}", [total]
    common = f" that all {len(scored)} trackers have" if any(item.left_out for item in scored) else ""
    return f"{number} sequence{'' if counts[-1] == 1 else 's'}{common}"


def _scores(
    success: np.ndarray, precision: np.ndarray, norm: np.ndarray, mean_overlap: np.ndarray, protocol: Protocol
) -> dict[str, np.ndarray | None]:
    """All scores of many curves at once: curves are `(curves, thresholds)`, each score is `(curves,)`."""

    def at(curve: np.ndarray, thresholds: Sequence[float], threshold: float) -> np.ndarray:
        return curve[:, int(np.argmin(np.abs(np.array(thresholds) - threshold)))]

    def score(
        kind: Score, curve: np.ndarray, thresholds: Sequence[float], threshold: float
    ) -> np.ndarray | None:
        if kind == "none":
            return None
        if kind == "at":
            return at(curve, thresholds, threshold)
        return curve.mean(axis=1) if kind == "mean" else metrics.area(curve)

    by_overlap, by_norm = protocol.overlap_thresholds, protocol.norm_thresholds
    defined = protocol.norm_score != "none"
    return {
        "success_auc": score(protocol.success_score, success, by_overlap, 0.5),
        "op50": at(success, by_overlap, 0.5),
        "op75": at(success, by_overlap, 0.75),
        "precision": score(protocol.precision_score, precision, protocol.error_thresholds, 20),
        "norm_precision": score(protocol.norm_score, norm, by_norm, 0.2),
        "norm_precision_auc": score(protocol.norm_integral, norm, by_norm, 0.2),
        "norm_precision_at_0.2": at(norm, by_norm, 0.2) if defined else None,
        "ao": mean_overlap,
    }


def evaluate_trackers(
    dataset: TrackingDataset,
    trackers: Sequence[StoredTracker],
    protocol: Protocol,
    partial: bool = False,
) -> list[Evaluation]:
    """Score trackers on a data set, best first.

    Args:
        dataset: the ground truth.
        trackers: the result files. A tracker without any is not scored; its scores are None.
        protocol: the rules.
        partial: leave out sequences without a result instead of raising. All trackers are then scored on the
            sequences that all have: means over different sequences say nothing about who is better.

    Raises:
        UserError: a result that the protocol refuses, a missing one without `partial`, or, with it, no sequence that
            all trackers have.
    """
    if all(len(sequence.boxes) == 1 for sequence in dataset.sequences):
        raise UserError(
            f"{TITLES[dataset.name]} {dataset.split}: only the first box of each sequence is public; write a "
            "submission with --export and score it on the benchmark's server"
        )
    sequences = dataset.sequences
    if partial:
        some = [tracker for tracker in trackers if tracker.files]
        sequences = tuple(item for item in sequences if all(item.name in tracker.files for tracker in some))
        if not sequences:
            counts = ", ".join(f"{tracker.name} has {len(tracker.files)}" for tracker in some)
            raise UserError(
                f"no sequence of which all trackers have a result ({counts} of {len(dataset.sequences)}): choose "
                "some of them with --trackers"
            )
    evaluations = [
        _evaluate(dataset, sequences if tracker.files else (), tracker, protocol, partial)
        for tracker in trackers
    ]
    ranking = "ao" if protocol.averaging == "frame" else "success_auc"
    return sorted(evaluations, key=lambda item: (not item.curves.names, -(item.scores()[ranking] or 0.0)))


def _evaluate(
    dataset: TrackingDataset,
    sequences: Sequence[TrackingSequence],
    tracker: StoredTracker,
    protocol: Protocol,
    partial: bool,
) -> Evaluation:
    """One tracker on `sequences`: all of the data set, or, with `partial`, those for which it has a result."""
    names = [sequence.name for sequence in sequences]
    results = read_results(tracker, names) if names else {}
    missing = tuple(item.name for item in dataset.sequences if item.name not in tracker.files)
    left_out = tuple(
        item.name for item in dataset.sequences if item.name in tracker.files and item.name not in results
    )
    problems = []
    if missing and names and protocol.missing == "zeros" and not partial:
        for sequence in sequences:
            if sequence.name in missing:
                problems.append(
                    Problem(f"{tracker.name}/{sequence.name}.txt", (), "missing", "scored as empty boxes")
                )
                results[sequence.name] = (BoxTable(np.zeros_like(sequence.boxes), source=""),)
        missing = ()
    elif missing and names and not partial:
        raise UserError(
            f"{tracker.name}: no result for {len(missing)} of {len(sequences)} sequences ({first_names(missing)}): run "
            "the tracker on them, or score the others with --partial"
        )
    problems += [
        Problem(table.source, (1,), f"a heading, '{table.header[:40]}'", "skipped")
        for tables in results.values()
        for table in tables
        if table.header is not None
    ]
    curves, found = score_curves(sequences, [results[sequence.name] for sequence in sequences], protocol)
    stated = sorted({attribute for sequence in sequences for attribute in sequence.attributes})
    attributes = {name: np.array([name in sequence.attributes for sequence in sequences]) for name in stated}
    speed = frames_per_second(tracker, curves.names, pooled=protocol.averaging == "frame")
    return Evaluation(
        tracker.name,
        protocol,
        curves,
        (*problems, *found),
        attributes,
        missing,
        speed,
        left_out,
        len(dataset.sequences) + len(dataset.missing),
        tracker,
    )


def as_dict(evaluation: Evaluation, attributes: bool = False) -> dict[str, Any]:
    """An evaluation as the plain values that `evaluate` returns for one tracker."""
    curves, protocol = evaluation.curves, evaluation.protocol
    columns = _scores(curves.success, curves.precision, curves.norm_precision, curves.mean_overlap, protocol)
    sequences = {
        name: {"frames": int(curves.frames[index])}
        | {key: None if column is None else float(column[index]) for key, column in columns.items()}
        for index, name in enumerate(curves.names)
    }
    averages = {
        "success": (protocol.overlap_thresholds, curves.success),
        "precision": (protocol.error_thresholds, curves.precision),
        "norm_precision": (protocol.norm_thresholds, curves.norm_precision),
    }
    if protocol.averaging == "frame":
        del averages["precision"], averages["norm_precision"]
    result: dict[str, Any] = {
        **evaluation.scores(),
        "sequences": sequences,
        "protocol": protocol.name,
        "dataset": protocol.dataset,
        "labels": score_labels(protocol),
        "frames": int(curves.frames.sum()),
        "frames_per_second": evaluation.speed,
        "curves": {
            name: {"thresholds": list(grid), "values": average_curve(curve, curves.frames, protocol).tolist()}
            for name, (grid, curve) in averages.items()
        },
        "missing": list(evaluation.missing),
        "left_out": list(evaluation.left_out),
        "problems": [
            {
                "file": item.source,
                "lines": list(item.lines),
                "problem": item.what,
                "treatment": item.treatment,
            }
            for item in evaluation.problems
        ],
    }
    if evaluation.stored is not None:
        result["renamed_files"] = dict(evaluation.stored.renamed)
        result["unused_files"] = list(evaluation.stored.unused)
        result["files_of_other_sequences"] = evaluation.stored.others
    if attributes:
        result["attributes"] = {
            name: {**evaluation.scores(flags), "sequences": int(flags.sum())}
            for name, flags in evaluation.attributes.items()
        }
    return result


def evaluate(
    results_dir: str | Path,
    protocol: str = "lasot",
    data_root: str | Path | None = None,
    *,
    dataset: str | None = None,
    split: str | None = None,
    annotations: str | Path | None = None,
    trackers: Sequence[str] = (),
    sequences: Sequence[str] = (),
    attributes: bool = False,
    partial: bool = False,
) -> dict[str, dict[str, Any]]:
    """Score every tracker whose results lie in a folder (or zip), best first.

    Args:
        results_dir: stored boxes, in any layout that `results_io` names.
        protocol: the preset, see `protocols.PROTOCOLS`.
        data_root: where the data sets are; None for `$LWDNA_DATA`, else `data/`.
        dataset: the data set; None for the protocol's own.
        split: part of the data set; None for its default.
        annotations: other ground truth than the data set's own.
        trackers: names of the trackers wanted; none for all.
        sequences: shell-style patterns of the sequences wanted; none for all.
        attributes: score each challenge attribute's sequences too.
        partial: leave out sequences without ground truth or result instead of raising.

    Returns:
        Tracker to scores. Scores are fractions, None where the protocol does not define them: `success_auc` (mean of
        the success curve, or area under it), `op50` and `op75` (success at overlap 0.5 and 0.75), `precision` (at
        20 px, or area), `norm_precision` (the protocol's own: at 0.20, mean or area), `norm_precision_auc` (mean or
        area over 0..0.5), `norm_precision_at_0.2`, `ao` (average overlap), and `sequences`: the same for each
        sequence, with its number of `frames`. Beside them `curves`, `labels` (what each score is called in tables),
        `missing` (sequences without a result), `left_out` (those that another tracker lacks, with `partial`),
        `renamed_files`, `unused_files`, `files_of_other_sequences`, `problems`, `frames`, `frames_per_second` and,
        on request, `attributes`. A folder without anything like a result has None for every score.

    Raises:
        UserError: unknown names, malformed or missing results.
        MissingData: ground truth or results are not there.
    """
    record = get_protocol(protocol, dataset)
    truth = load(
        record.dataset,
        data_root,
        split,
        annotations,
        patterns=sequences,
        partial=partial,
        attributes=attributes,
        absence=record.absent != "ignore",
    )
    found = pick_trackers(find_results(results_dir, truth.sequences, truth.others), trackers)
    return {item.name: as_dict(item, attributes) for item in evaluate_trackers(truth, found, record, partial)}


def pick_trackers(found: StoredResults, names: Sequence[str]) -> list[StoredTracker]:
    """The trackers called `names`, or all if no name is given, including folders without any result.

    Raises:
        UserError: a name that is not among them; without names, a folder with text files of which none is a result.
    """
    there = {tracker.name: tracker for tracker in found.trackers}
    check_known("no results of", names, there)
    if names:
        return [there[name] for name in names]
    for item in found.without:
        texts = [file for file in item.unused if file.lower().endswith(".txt")]
        if texts:
            raise UserError(
                f"{item.name} in '{found.place}': no text file is named after a sequence, of {named_files(texts)}: "
                f"rename them, or choose others with --trackers {' '.join(there)}"
            )
    return [*found.trackers, *found.without]
