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
        problems.append(
            Problem(table.source, (table.line(frames),), what, "the rows from this line on are ignored")
        )
        return table.boxes[:frames]
    if protocol.length == "shorter":
        problems.append(Problem(table.source, (), what, f"the last {frames - rows} frames are left out"))
        return table.boxes
    filling = 0.0 if protocol.length == "zero_pad" else np.nan
    problems.append(Problem(table.source, (), what, f"the last {frames - rows} frames count as failures"))
    return np.concatenate([table.boxes, np.full((frames - rows, 4), filling)])


@dataclass(frozen=True)
class _Stack:
    """All frames of all results, one below the other.

    Attributes:
        tables: the results.
        owners: index of each result's sequence.
        starts: index of each result's first frame.
        boxes: predictions, `(frames, 4)`.
        truth: ground truth, `(frames, 4)`.
    """

    tables: SequenceOf[BoxTable]
    owners: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    truth: np.ndarray


def _repair(stack: _Stack, protocol: Protocol, problems: list[Problem]) -> None:
    """Mend, in place, rows that are no boxes.

    First rows are never mended, there is nothing before them; nor is padding, the toolkits pad after they mend.
    """
    boxes = stack.boxes
    lengths = np.diff(np.append(stack.starts, len(boxes)))
    rows = np.minimum(lengths, [len(table.boxes) for table in stack.tables])
    padded = np.zeros(len(boxes), bool)
    for index in np.flatnonzero(rows < lengths).tolist():
        padded[stack.starts[index] + rows[index] : stack.starts[index] + lengths[index]] = True
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
        mend = bad & ~padded & np.isfinite(stack.truth).all(axis=1)
        mend[stack.starts] = False
        if rule == "previous":
            repaired |= mend
        problems += _row_problems(bad, stack, what, rule, protocol)
    if repaired.any():
        last_good = np.maximum.accumulate(np.where(repaired, 0, np.arange(len(boxes))))
        boxes[repaired] = boxes[last_good[repaired]]


def _row_problems(bad: np.ndarray, stack: _Stack, what: str, rule: str, protocol: Protocol) -> list[Problem]:
    """One problem per file for the rows marked in `bad`."""
    problems = []
    rows = np.flatnonzero(bad)
    owner = np.searchsorted(stack.starts, rows, side="right") - 1
    for index in np.unique(owner).tolist():
        table = stack.tables[index]
        inside = (rows[owner == index] - stack.starts[index]).tolist()
        # The first row is replaced or dropped anyway; rows past the table are padding, reported when it was added.
        first = 0 if protocol.first_frame == "keep" else 1
        lines = tuple(table.line(row) for row in inside if first <= row < len(table.boxes))
        if not lines or not table.source:
            continue
        if rule == "raise":
            raise UserError(
                f"{table.source}, line {lines[0]}: {what}; the protocol '{protocol.name}' refuses it: "
                "run the tracker on this sequence again, or score with --protocol lasot"
            )
        treatment = (
            "the previous row's box is used" if rule == "previous" else "scored as it stands, a failure"
        )
        problems.append(Problem(table.source, lines, what, treatment))
    return problems


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


def _concatenate(tables: SequenceOf[np.ndarray]) -> np.ndarray:
    """One array of all frames whose columns are contiguous, which makes everything after it several times faster."""
    joined = np.empty((sum(map(len, tables)), 4), order="F")
    return np.concatenate(tables, out=joined)


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
    stack = _stack(sequences, results, protocol, problems)
    _repair(stack, protocol, problems)
    if protocol.first_frame == "replace":
        stack.boxes[stack.starts] = stack.truth[stack.starts]
    absent = np.zeros(len(stack.boxes), bool)
    if protocol.absent != "ignore":
        lengths = np.diff(np.append(stack.starts, len(absent)))
        flags = [_absent_of(sequences[owner], protocol) for owner in stack.owners.tolist()]
        absent = np.concatenate([flag[:length] for flag, length in zip(flags, lengths, strict=True)])
    values = _frame_values(stack, absent, protocol)
    names = tuple(sequence.name for sequence in sequences)
    return _curves(names, stack, values, protocol), problems


def _stack(
    sequences: SequenceOf[Sequence],
    results: SequenceOf[SequenceOf[BoxTable]],
    protocol: Protocol,
    problems: list[Problem],
) -> _Stack:
    tables = [table for repetitions in results for table in repetitions]
    owners = np.repeat(np.arange(len(sequences)), [len(repetitions) for repetitions in results])
    owned = [sequences[owner] for owner in owners.tolist()]
    aligned = [
        _align(table, sequence, protocol, problems) for table, sequence in zip(tables, owned, strict=True)
    ]
    lengths = [len(boxes) for boxes in aligned]
    starts = np.cumsum([0, *lengths[:-1]])
    boxes = _concatenate(aligned)
    truth = _concatenate([sequence.boxes[:length] for sequence, length in zip(owned, lengths, strict=True)])
    if protocol.clip:
        sizes = np.repeat([_size_of(sequence, protocol) for sequence in owned], lengths, axis=0).astype(float)
        boxes, truth = _clip(boxes, sizes), _clip(truth, sizes)
    if protocol.rounding:
        boxes, truth = np.rint(boxes), np.rint(truth)
    return _Stack(tables, owners, starts, boxes, truth)


@dataclass(frozen=True)
class _Values:
    """What is compared with the thresholds, `(frames,)` each, and which frames count at all."""

    overlaps: np.ndarray
    errors: np.ndarray
    norm_errors: np.ndarray
    kept: np.ndarray


def _frame_values(stack: _Stack, absent: np.ndarray, protocol: Protocol) -> _Values:
    truth = stack.truth
    overlaps = metrics.overlap(stack.boxes, truth)
    errors, norm_errors = metrics.centre_errors(
        stack.boxes, truth, protocol.normalisation, protocol.norm_floor
    )
    kept = np.ones(len(truth), bool)
    if protocol.first_frame == "drop":
        kept[stack.starts] = False
    no_overlap = ~_valid(truth, protocol.valid_overlap)
    no_error = (
        ~_valid(truth, protocol.valid_error) if protocol.valid_error != protocol.valid_overlap else no_overlap
    )
    for values, bad, invalid in (
        (overlaps, no_overlap, protocol.invalid_overlap),
        (errors, no_error, protocol.invalid_error),
        (norm_errors, no_error, protocol.invalid_norm),
    ):
        if invalid == "drop":
            kept &= ~bad
        else:
            # Below every overlap threshold, and likewise below every error threshold: hence "correct".
            values[bad] = np.inf if invalid == "fail" and values is not overlaps else -1
    if protocol.absent == "drop":
        kept &= ~absent
    else:
        overlaps[absent], errors[absent], norm_errors[absent] = -1, np.inf, np.inf
    return _Values(overlaps, errors, norm_errors, kept)


def _curves(names: tuple[str, ...], stack: _Stack, values: _Values, protocol: Protocol) -> Curves:
    """Count per result, add up the repetitions of a sequence, divide by its frames."""
    owners, starts, kept = stack.owners, stack.starts, values.kept
    overlaps, errors, norm_errors = values.overlaps, values.errors, values.norm_errors
    frames = np.add.reduceat(kept, starts, dtype=np.int64)
    if not kept.all():
        overlaps, errors, norm_errors = overlaps[kept], errors[kept], norm_errors[kept]
        starts = np.cumsum(np.concatenate(([0], frames[:-1])))
    counts = [
        metrics.success_counts(
            overlaps, np.array(protocol.overlap_thresholds), starts, protocol.inclusive_success
        ),
        metrics.precision_counts(errors, np.array(protocol.error_thresholds), starts),
        metrics.precision_counts(norm_errors, np.array(protocol.norm_thresholds), starts),
    ]
    owner_of_frame = np.repeat(owners, frames)
    positive = np.where(overlaps > 0, overlaps, 0.0)
    total_overlap = np.bincount(owner_of_frame, weights=positive, minlength=len(names))
    total_frames = np.bincount(owner_of_frame, minlength=len(names))
    divisor = np.maximum(total_frames, 1)
    success, precision, norm_precision = (
        np.stack([np.bincount(owners, column, len(names)) for column in count.T], axis=1) / divisor[:, None]
        for count in counts
    )
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
