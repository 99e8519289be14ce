"""Predicted boxes and ground truth to curves and scores, by the rules of a `Protocol`."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from itertools import chain

import numpy as np

from core.errors import UserError
from tracking.datasets.sequence import Sequence
from tracking.evaluation import metrics
from tracking.evaluation.alignment import Problem, Stack, repair, stack_results
from tracking.evaluation.protocols import Protocol, Valid
from tracking.files.boxes import BoxTable

# Arrays of this many frames stay in a processor's cache: half the time of all frames at once.
FRAMES_AT_A_TIME = 32_000


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


def _invalid(truth: np.ndarray, rule: Valid) -> np.ndarray | None:
    """Which ground-truth boxes are not valid, `(frames,)` bool; None if all are, which one number usually shows."""
    with np.errstate(invalid="ignore", over="ignore"):
        if rule == "any" or (rule == "finite" and np.isfinite(truth.sum())):
            return None
        if rule == "finite":
            invalid = np.isnan(truth).any(axis=1)
        elif rule == "positive_centre":
            x, y = metrics.centres(truth)
            invalid = ~((x > 0) & (y > 0))
        else:
            values = truth if rule == "positive" else truth[:, 2:]
            if values.min() > 0:
                return None
            invalid = ~(values > 0).all(axis=1)
    return invalid if invalid.any() else None


def score_curves(
    sequences: SequenceOf[Sequence], results: SequenceOf[SequenceOf[BoxTable]], protocol: Protocol
) -> tuple[Curves, list[Problem]]:
    """Score one tracker.

    Args:
        sequences: the sequences, each with at least one frame; there may be none.
        results: for each sequence its repetitions (usually one).
        protocol: the rules.

    Returns:
        The curves per sequence, and what was wrong with the results.

    Raises:
        UserError: a result that the protocol refuses, or ground truth that lacks what the protocol needs.
    """
    if not sequences:
        grids = (protocol.overlap_thresholds, protocol.error_thresholds, protocol.norm_thresholds)
        success, precision, norm = (np.zeros((0, len(grid))) for grid in grids)
        return Curves((), np.zeros(0), success, precision, norm, np.zeros(0)), []
    groups: list[list[int]] = [[]]
    frames = 0
    for index, sequence in enumerate(sequences):
        if frames >= FRAMES_AT_A_TIME:
            groups.append([])
            frames = 0
        groups[-1].append(index)
        frames += len(sequence.boxes)
    problems: list[Problem] = []
    parts = [
        _score([sequences[i] for i in group], [results[i] for i in group], protocol, problems)
        for group in groups
    ]
    order = {table.source: place for place, table in enumerate(chain.from_iterable(results))}
    # A file's problems are listed together, in the files' order, whatever the groups were.
    problems.sort(key=lambda problem: order[problem.source])
    names = tuple(sequence.name for sequence in sequences)
    columns = ("frames", "success", "precision", "norm_precision", "mean_overlap")
    return Curves(
        names, *(np.concatenate([getattr(part, key) for part in parts]) for key in columns)
    ), problems


def _score(
    sequences: SequenceOf[Sequence],
    results: SequenceOf[SequenceOf[BoxTable]],
    protocol: Protocol,
    problems: list[Problem],
) -> Curves:
    stack = stack_results(sequences, results, protocol, problems)
    repair(stack, protocol, problems)
    if protocol.first_frame == "replace":
        stack.boxes[stack.starts] = stack.truth[stack.starts]
    absent = None
    if protocol.absent != "ignore":
        lengths = np.diff(stack.starts, append=len(stack.boxes))
        flags = [_absent_of(sequences[owner], protocol) for owner in stack.owners.tolist()]
        absent = np.concatenate([flag[:length] for flag, length in zip(flags, lengths, strict=True)])
    values = _frame_values(stack, absent, protocol)
    return _curves(tuple(sequence.name for sequence in sequences), stack, values, protocol)


@dataclass(frozen=True)
class _Values:
    """The values that are compared with the thresholds, `(frames,)` each, and which frames count (None: all)."""

    overlaps: np.ndarray
    errors: np.ndarray
    norm_errors: np.ndarray
    kept: np.ndarray | None


def _frame_values(stack: Stack, absent: np.ndarray | None, protocol: Protocol) -> _Values:
    truth = stack.truth
    overlaps = metrics.overlap(stack.boxes, truth)
    errors, norm_errors = metrics.centre_errors(
        stack.boxes, truth, protocol.normalisation, protocol.norm_floor
    )
    dropped = []
    if protocol.first_frame == "drop":
        first = np.zeros(len(truth), bool)
        first[stack.starts] = True
        dropped.append(first)
    no_overlap = _invalid(truth, protocol.valid_overlap)
    same_rule = protocol.valid_error == protocol.valid_overlap
    no_error = no_overlap if same_rule else _invalid(truth, protocol.valid_error)
    for values, bad, invalid in (
        (overlaps, no_overlap, protocol.invalid_overlap),
        (errors, no_error, protocol.invalid_error),
        (norm_errors, no_error, protocol.invalid_norm),
    ):
        if bad is None:
            continue
        if invalid == "drop":
            dropped.append(bad)
        else:
            # Below every overlap threshold, and likewise below every error threshold: hence "correct".
            values[bad] = np.inf if invalid == "fail" and values is not overlaps else -1
    if absent is not None and protocol.absent == "drop":
        dropped.append(absent)
    elif absent is not None:
        overlaps[absent], errors[absent], norm_errors[absent] = -1, np.inf, np.inf
    kept = ~np.logical_or.reduce(dropped) if dropped else None
    return _Values(overlaps, errors, norm_errors, kept)


def _curves(names: tuple[str, ...], stack: Stack, values: _Values, protocol: Protocol) -> Curves:
    """Count per result, add up the repetitions of a sequence, divide by its frames."""
    owners, starts, kept = stack.owners, stack.starts, values.kept
    overlaps, errors, norm_errors = values.overlaps, values.errors, values.norm_errors
    if kept is None:
        frames = np.diff(starts, append=len(overlaps))
    else:
        frames = np.add.reduceat(kept, starts, dtype=np.int64)
        overlaps, errors, norm_errors = overlaps[kept], errors[kept], norm_errors[kept]
        starts = np.cumsum(frames) - frames
    counts = [
        metrics.success_counts(
            overlaps, np.array(protocol.overlap_thresholds), starts, protocol.inclusive_success
        ),
        metrics.precision_counts(errors, np.array(protocol.error_thresholds), starts),
        metrics.precision_counts(norm_errors, np.array(protocol.norm_thresholds), starts),
    ]
    # fmax: neither failures (-1) nor undefined overlaps (NaN) add anything.
    known = np.fmax(overlaps, 0.0)
    stops = (starts + frames).tolist()
    sums = [known[start:stop].sum() for start, stop in zip(starts.tolist(), stops, strict=True)]
    total_overlap = np.bincount(owners, sums, len(names))
    total_frames = np.bincount(owners, frames, len(names)).astype(np.int64)
    divisor = np.maximum(total_frames, 1)
    first_results = np.searchsorted(owners, np.arange(len(names)))
    success, precision, norm_precision = (
        np.add.reduceat(count, first_results, axis=0) / divisor[:, None] for count in counts
    )
    return Curves(names, total_frames, success, precision, norm_precision, total_overlap / divisor)


def _absent_of(sequence: Sequence, protocol: Protocol) -> np.ndarray:
    if sequence.absent is None:
        raise UserError(
            f"{sequence.name}: no absence flags beside the ground truth, and the protocol '{protocol.name}' needs "
            "them: add the toolkit's annotation folder, or score with another --protocol"
        )
    return sequence.absent
