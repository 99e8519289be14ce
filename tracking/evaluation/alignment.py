"""Aligns results with the ground truth: lengths, rounding, clipping, and rows that are no boxes."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from itertools import chain

import numpy as np

from core.errors import UserError
from tracking.datasets.sequence import FrameRange, Sequence
from tracking.evaluation import metrics
from tracking.evaluation.protocols import Protocol
from tracking.files.boxes import BoxTable


@dataclass(frozen=True)
class Problem:
    """Something wrong in a result, and how the protocol treated it.

    Attributes:
        source: the file.
        lines: the 1-based lines; empty if it is the whole file.
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
class Stack:
    """All frames of all results, stacked.

    Attributes:
        tables: the results.
        owners: index of each result's sequence.
        starts: index of each result's first frame.
        boxes: predictions, `(frames, 4)`, see `metrics.exact_type`.
        truth: ground truth, `(frames, 4)`, of the same type.
    """

    tables: SequenceOf[BoxTable]
    owners: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    truth: np.ndarray


def stack_results(
    sequences: SequenceOf[Sequence],
    results: SequenceOf[SequenceOf[BoxTable]],
    protocol: Protocol,
    problems: list[Problem],
) -> Stack:
    """Stack the frames of all results, as the protocol wants them.

    Args:
        sequences: the sequences, each with at least one frame.
        results: for each sequence its repetitions.
        protocol: the rules.
        problems: whatever is wrong is appended here.

    Raises:
        UserError: a result that the protocol refuses.
    """
    owners = np.repeat(np.arange(len(sequences)), [len(repetitions) for repetitions in results])
    owned = [sequences[owner] for owner in owners.tolist()]
    tables = [
        table if sequence.part is None else _cut(table, sequence.part, problems)
        for table, sequence in zip(chain.from_iterable(results), owned, strict=True)
    ]
    aligned = [
        _align(table, sequence, protocol, problems) for table, sequence in zip(tables, owned, strict=True)
    ]
    lengths = [len(boxes) for boxes in aligned]
    starts = np.cumsum([0, *lengths[:-1]])
    truths = [sequence.boxes[:length] for sequence, length in zip(owned, lengths, strict=True)]
    exact = metrics.exact_type((*aligned, *truths))
    boxes, truth = _concatenate(aligned, exact), _concatenate(truths, exact)
    if protocol.clip:
        sizes = np.repeat([_size_of(sequence, protocol) for sequence in owned], lengths, axis=0).astype(float)
        boxes, truth = _clip(boxes, sizes), _clip(truth, sizes)
    if protocol.rounding:
        boxes, truth = np.rint(boxes), np.rint(truth)
    return Stack(tables, owners, starts, boxes, truth)


def _cut(table: BoxTable, part: FrameRange, problems: list[Problem]) -> BoxTable:
    """The rows of the frames that the benchmark uses; reports it if there are others."""
    cut = part.cut(table)
    if cut is not table:
        what = f"{len(table.boxes)} rows for the {part.frames} frames that the benchmark uses"
        problems.append(Problem(table.source, (), what, f"rows {part.first} to {part.last} are scored"))
    return cut


def _align(table: BoxTable, sequence: Sequence, protocol: Protocol, problems: list[Problem]) -> np.ndarray:
    """The rows of a result, cut or padded to the length of the ground truth (or shorter, under `"shorter"`)."""
    rows, frames = len(table.boxes), len(sequence.boxes)
    if rows == frames:
        return table.boxes
    blank = 0 if table.lines is None else table.lines[-1] - rows - (table.header is not None)
    what = f"{rows} rows for {frames} frames" + (f", {blank} blank lines not counted" if blank > 0 else "")
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


def _concatenate(tables: SequenceOf[np.ndarray], dtype: type[np.floating]) -> np.ndarray:
    """One array of all frames with contiguous columns, which makes all later steps several times faster."""
    joined = np.empty((sum(map(len, tables)), 4), dtype, order="F")
    return np.concatenate(tables, out=joined)


def _clip(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Clip boxes to their images as the got10k toolkit does: a negative corner moves in, the size does not shrink."""
    clipped = boxes.copy()
    clipped[:, :2] = np.clip(boxes[:, :2], 0, sizes)
    clipped[:, 2:] = np.clip(boxes[:, 2:], 0, sizes - clipped[:, :2])
    return clipped


def _size_of(sequence: Sequence, protocol: Protocol) -> tuple[int, int]:
    if sequence.size is None:
        raise UserError(
            f"{sequence.name}: image size unknown, and the protocol '{protocol.name}' clips boxes to the image: "
            "add the sequence's meta_info.ini"
        )
    return sequence.size


def repair(stack: Stack, protocol: Protocol, problems: list[Problem]) -> None:
    """Repair, in place, rows that are no boxes.

    First rows are never repaired, as nothing is before them; nor is padding, since the toolkits pad after the repair.

    Raises:
        UserError: a row that the protocol refuses.
    """
    boxes = stack.boxes
    with np.errstate(invalid="ignore", over="ignore"):
        total = boxes.sum()
    # A finite sum shows that every term is finite (an overflow is examined like a NaN): mostly nothing needs repair.
    if np.isfinite(total) and boxes[:, 2:].min() > 0:
        return
    lengths = np.diff(stack.starts, append=len(boxes))
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


def _row_problems(bad: np.ndarray, stack: Stack, what: str, rule: str, protocol: Protocol) -> list[Problem]:
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
