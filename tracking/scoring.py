"""Predicted boxes and ground truth to curves and scores, by the rules of a `Protocol`."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np

from core.errors import UserError
from tracking import metrics
from tracking.boxes import BoxTable
from tracking.datasets.sequence import Sequence
from tracking.protocols import Protocol, Valid


@dataclass(frozen=True)
class Problem:
    """Something wrong in a result, and what the protocol made of it.

    Attributes:
        source: the file.
        lines: 1-based lines concerned; empty where the whole file is.
        what: what is wrong.
        treatment: how it was scored.
    """

    source: str
    lines: tuple[int, ...]
    what: str
    treatment: str

    def __str__(self) -> str:
        shown = ", ".join(str(line) for line in self.lines[:5])
        more = f" and {len(self.lines) - 5} more" if len(self.lines) > 5 else ""
        where = f", line{'s' if len(self.lines) > 1 else ''} {shown}{more}" if self.lines else ""
        return f"{self.source}{where}: {self.what}: {self.treatment}"


@dataclass(frozen=True)
class Curves:
    """The curves of one tracker over a set of sequences.

    Attributes:
        names: sequences.
        frames: frames in each one's denominator, `(sequences,)`.
        success: fraction of frames above each overlap threshold, `(sequences, thresholds)`.
        precision: fraction of frames within each centre error.
        norm_precision: fraction of frames within each normalised error.
        mean_overlap: average overlap of each sequence, failures counting as 0, `(sequences,)`.
    """

    names: tuple[str, ...]
    frames: np.ndarray
    success: np.ndarray
    precision: np.ndarray
    norm_precision: np.ndarray
    mean_overlap: np.ndarray

    def select(self, wanted: SequenceOf[bool] | np.ndarray) -> Curves:
        """The curves of the sequences for which `wanted` is true."""
        mask = np.asarray(wanted, bool)
        return Curves(
            tuple(name for name, keep in zip(self.names, mask, strict=True) if keep),
            self.frames[mask],
            self.success[mask],
            self.precision[mask],
            self.norm_precision[mask],
            self.mean_overlap[mask],
        )


def _align(table: BoxTable, sequence: Sequence, protocol: Protocol, problems: list[Problem]) -> np.ndarray:
    """The rows of a result brought to the length of the ground truth (or shorter, under `"shorter"`)."""
    rows, frames = len(table.boxes), len(sequence.boxes)
    if rows == frames:
        return table.boxes
    what = f"{rows} rows for {frames} frames"
    if protocol.length == "exact" or (rows < frames and protocol.length == "cut"):
        raise UserError(
            f"{table.source}: {what}; the protocol '{protocol.name}' accepts "
            f"{'exactly one row' if protocol.length == 'exact' else 'no fewer than one row'} per frame: "
            "run the tracker on this sequence again"
        )
    if rows > frames:
        problems.append(Problem(table.source, (table.line(frames),), what, "the rows from this line on are ignored"))
        return table.boxes[:frames]
    if protocol.length == "shorter":
        problems.append(Problem(table.source, (), what, f"the last {frames - rows} frames are left out"))
        return table.boxes
    filling = 0.0 if protocol.length == "zero_pad" else np.nan
    problems.append(Problem(table.source, (), what, f"the last {frames - rows} frames count as failures"))
    return np.concatenate([table.boxes, np.full((frames - rows, 4), filling)])


def _repair(
    boxes: np.ndarray,
    truth: np.ndarray,
    starts: np.ndarray,
    tables: SequenceOf[BoxTable],
    protocol: Protocol,
    problems: list[Problem],
) -> np.ndarray:
    """Deal with rows that are no boxes. First rows are never repaired: there is nothing before them."""
    finite = np.isfinite(boxes).all(axis=1)
    with np.errstate(invalid="ignore"):
        negative = finite & ((boxes[:, 2] < 0) | (boxes[:, 3] < 0))
        empty = finite & ~negative & ((boxes[:, 2] == 0) | (boxes[:, 3] == 0))
    repaired = np.zeros(len(boxes), bool)
    for bad, what, rule in (
        (~finite, "a value is not finite", protocol.repair_nan),
        (negative, "negative width or height", protocol.repair_negative),
        (empty, "zero width or height", protocol.repair_empty),
    ):
        if not bad.any():
            continue
        mend = bad & np.isfinite(truth).all(axis=1)
        mend[starts] = False
        if rule == "previous":
            repaired |= mend
        _report_rows(bad, starts, tables, what, rule, protocol, problems)
    if repaired.any():
        source = np.where(repaired, 0, np.arange(len(boxes)))
        boxes = boxes[np.maximum.accumulate(source)]
    return boxes


def _report_rows(
    bad: np.ndarray,
    starts: np.ndarray,
    tables: SequenceOf[BoxTable],
    what: str,
    rule: str,
    protocol: Protocol,
    problems: list[Problem],
) -> None:
    rows = np.flatnonzero(bad)
    owner = np.searchsorted(starts, rows, side="right") - 1
    for index in np.unique(owner):
        table = tables[index]
        inside = rows[owner == index] - starts[index]
        lines = tuple(table.line(int(row)) for row in inside if row < len(table.boxes))
        if not lines:  # padding, reported when it was added
            continue
        if rule == "raise":
            raise UserError(
                f"{table.source}, line {lines[0]}: {what}; the protocol '{protocol.name}' refuses it: "
                "run the tracker on this sequence again, or score with --protocol lasot"
            )
        if protocol.first_frame == "replace":
            lines = lines if inside[0] else lines[1:]
        if lines:
            treatment = "the previous row's box is used" if rule == "previous" else "scored as it stands, a failure"
            problems.append(Problem(table.source, lines, what, treatment))


def _valid(truth: np.ndarray, rule: Valid) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        if rule == "positive":
            return (truth > 0).all(axis=1)
        if rule == "positive_size":
            return (truth[:, 2:] > 0).all(axis=1)
        if rule == "positive_centre":
            x, y = metrics.centres(truth)
            return (x > 0) & (y > 0)
    if rule == "finite":
        return ~np.isnan(truth).any(axis=1)
    return np.ones(len(truth), bool)


def _clip(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Clip boxes to their images as the got10k toolkit does: a negative corner moves in, the size does not shrink."""
    clipped = boxes.copy()
    clipped[:, :2] = np.clip(boxes[:, :2], 0, sizes)
    clipped[:, 2:] = np.clip(boxes[:, 2:], 0, sizes - clipped[:, :2])
    return clipped


def score_curves(
    sequences: SequenceOf[Sequence], results: SequenceOf[SequenceOf[BoxTable]], protocol: Protocol
) -> tuple[Curves, list[Problem]]:
    """Score one tracker.

    Args:
        sequences: the sequences, each with at least one frame.
        results: for each sequence its repetitions (usually one).
        protocol: the rules.

    Returns:
        The curves per sequence, and what was wrong with the results.

    Raises:
        UserError: a result that the protocol refuses, or ground truth that lacks what the protocol needs.
    """
    problems: list[Problem] = []
    tables = [table for repetitions in results for table in repetitions]
    owners = np.repeat(np.arange(len(sequences)), [len(repetitions) for repetitions in results])
    aligned = [_align(table, sequences[owner], protocol, problems) for table, owner in zip(tables, owners, strict=True)]
    lengths = np.array([len(boxes) for boxes in aligned])
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)
    boxes = np.concatenate(aligned)
    truth = np.concatenate([sequences[owner].boxes[:length] for owner, length in zip(owners, lengths, strict=True)])
    if protocol.clip:
        sizes = np.repeat([_size_of(sequences[owner], protocol) for owner in owners], lengths, axis=0).astype(float)
        boxes, truth = _clip(boxes, sizes), _clip(truth, sizes)
    if protocol.rounding:
        boxes, truth = np.rint(boxes), np.rint(truth)
    boxes = _repair(boxes, truth, starts, tables, protocol, problems)
    if protocol.first_frame == "replace":
        boxes[starts] = truth[starts]  # boxes is this function's own: concatenate copied

    absent = np.zeros(len(boxes), bool)
    if protocol.absent != "ignore":
        absent = np.concatenate(
            [_absent_of(sequences[owner], protocol)[:length] for owner, length in zip(owners, lengths, strict=True)]
        )
    overlaps, errors, norm_errors, kept = _frame_values(boxes, truth, absent, starts, protocol)
    return _gather(sequences, owners, starts, overlaps, errors, norm_errors, kept, protocol), problems


def _frame_values(
    boxes: np.ndarray, truth: np.ndarray, absent: np.ndarray, starts: np.ndarray, protocol: Protocol
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Overlap, centre error and normalised error of every frame, and which frames count at all."""
    overlaps = metrics.overlap(boxes, truth)
    errors = metrics.centre_error(boxes, truth)
    norm_errors = metrics.normalised_error(boxes, truth, protocol.normalisation, protocol.norm_floor)
    kept = np.ones(len(boxes), bool)
    if protocol.first_frame == "drop":
        kept[starts] = False
    for values, rule, invalid in (
        (overlaps, protocol.valid_overlap, protocol.invalid_overlap),
        (errors, protocol.valid_error, protocol.invalid_error),
        (norm_errors, protocol.valid_error, protocol.invalid_norm),
    ):
        bad = ~_valid(truth, rule)
        if invalid == "drop":
            kept &= ~bad
        else:
            # Below every overlap threshold, and likewise below every error threshold: hence "correct".
            values[bad] = np.inf if invalid == "fail" and values is not overlaps else -1
    if protocol.absent == "drop":
        kept &= ~absent
    else:
        overlaps[absent], errors[absent], norm_errors[absent] = -1, np.inf, np.inf
    return overlaps, errors, norm_errors, kept


def _gather(
    sequences: SequenceOf[Sequence],
    owners: np.ndarray,
    starts: np.ndarray,
    overlaps: np.ndarray,
    errors: np.ndarray,
    norm_errors: np.ndarray,
    kept: np.ndarray,
    protocol: Protocol,
) -> Curves:
    """Count per result, add up the repetitions of a sequence, divide by its frames."""
    frames = np.add.reduceat(kept.astype(np.int64), starts)
    if not kept.all():
        overlaps, errors, norm_errors = overlaps[kept], errors[kept], norm_errors[kept]
        starts = np.concatenate(([0], np.cumsum(frames)[:-1]))
    counts = [
        metrics.success_counts(overlaps, np.array(protocol.overlap_thresholds), starts, protocol.inclusive_success),
        metrics.precision_counts(errors, np.array(protocol.error_thresholds), starts),
        metrics.precision_counts(norm_errors, np.array(protocol.norm_thresholds), starts),
    ]
    owner_of_frame = np.repeat(owners, frames)
    size = len(sequences)
    positive = np.nan_to_num(np.maximum(overlaps, 0.0))
    total_overlap = np.bincount(owner_of_frame, weights=positive, minlength=size)
    total_frames = np.bincount(owner_of_frame, minlength=size)
    divisor = np.maximum(total_frames, 1)
    success, precision, norm_precision = (
        np.stack([np.bincount(owners, weights=column, minlength=size) for column in count.T], axis=1) / divisor[:, None]
        for count in counts
    )
    names = tuple(sequence.name for sequence in sequences)
    return Curves(names, total_frames, success, precision, norm_precision, total_overlap / divisor)


def _absent_of(sequence: Sequence, protocol: Protocol) -> np.ndarray:
    if sequence.absent is None:
        raise UserError(
            f"{sequence.name}: no absence flags beside the ground truth, and the protocol '{protocol.name}' needs "
            "them: add the toolkit's annotation folder, or score with another --protocol"
        )
    return sequence.absent


def _size_of(sequence: Sequence, protocol: Protocol) -> tuple[int, int]:
    if sequence.size is None:
        raise UserError(
            f"{sequence.name}: image size unknown, and the protocol '{protocol.name}' clips boxes to the image: "
            "add the sequence's meta_info.ini"
        )
    return sequence.size
