"""Opens the sources of a training configuration: benchmarks with a training part, COCO, any folder of sequences."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from core.errors import MissingData, UserError, check_known, did_you_mean
from core.storage.files import read_text
from tracking.datasets import DATASETS, TITLES, load
from tracking.datasets.sequence import FrameFolder
from tracking.datasets.sequence import Sequence as TrackingSequence
from tracking.dimp.crops import to_centres
from tracking.files.archives import StoredFile
from tracking.files.box_files import read_box_files
from tracking.files.boxes import parse_flags
from tracking.training.coco import read_coco
from tracking.training.config import SourceConfig
from tracking.training.sequences import TrainingSet, VideoFiles

# The part of a data set that is meant for training; the other data sets have only one.
TRAINING_SPLITS = {"lasot": "train", "got10k": "train", "trackingnet": "TRAIN_0", "demo": "train"}

IMAGE_FOLDERS = ("img", "images", ".")


class NothingThere(MissingData):
    """A source with `partial`, which may be incomplete, has no data at all."""


def open_source(source: SourceConfig, root: Path) -> TrainingSet:
    """Read the annotations of a source.

    A frame counts as visible if its box is finite and has a size, and if the data set's own flags allow it: LaSOT's
    full occlusion and out-of-view, GOT-10k's absence and cover.

    Args:
        source: which.
        root: the data root.

    Raises:
        NothingThere: none of its sequences is there, and the source has `partial`.
        MissingData: it, or the list of its names, is not there.
        UserError: no such source, or malformed annotations.
    """
    check_known("no source of training sequences", [source.dataset], [*DATASETS, "coco", "folder"])
    if source.dataset == "coco":
        if source.sequences or source.names is not None:
            raise UserError("COCO's objects have no names: leave out sequences and names")
        with _may_be_absent(source):
            return read_coco(root, source.split)
    if source.dataset == "folder":
        assert source.folder is not None  # SourceConfig has made sure
        folder = root / source.folder.expanduser()
        with _may_be_absent(source):
            found = read_folder(folder)
        return _training_set(folder.name, folder, _chosen(found, source))
    split = source.split or TRAINING_SPLITS.get(source.dataset)
    with _may_be_absent(source):
        dataset = load(
            source.dataset,
            root,
            split,
            patterns=source.sequences,
            partial=source.partial,
            frames=True,
            attributes=False,
        )
    sequences = _chosen(dataset.sequences, source)
    if source.dataset == "got10k":
        sequences = [_without_absence(sequence) for sequence in sequences]
    places = [str(_frame_folder(sequence).folder) for sequence in sequences]
    return _training_set(
        f"{TITLES[source.dataset]} {dataset.split}",
        Path(os.path.commonpath([os.path.dirname(place) for place in places])),
        sequences,
    )


@contextmanager
def _may_be_absent(source: SourceConfig) -> Iterator[None]:
    """Wraps the reading of sequences alone: a missing list of names stays an error."""
    try:
        yield
    except MissingData as error:
        if source.partial:
            raise NothingThere(str(error)) from error
        raise


def read_folder(folder: Path) -> list[TrackingSequence]:
    """Any folder of sequences: `<name>/groundtruth.txt` beside `img/`, `images/` or the images themselves.

    Boxes are `x, y, width, height` with 0-based pixels; a frame without a target has a box without a size.

    Raises:
        MissingData: there is none.
        UserError: a malformed ground truth.
    """
    truths = sorted(folder.glob("*/groundtruth.txt"))
    if not truths:
        raise MissingData(
            f"no sequences in '{folder}': expected <name>/groundtruth.txt and <name>/img/*.jpg; check folder=…"
        )
    tables = read_box_files([StoredFile(truth) for truth in truths])
    found = []
    for truth, table in zip(truths, tables):
        places = [FrameFolder(truth.parent / name) for name in IMAGE_FOLDERS]
        frames = next((place for place in places if place.exists()), None)
        if frames is None:
            raise MissingData(f"'{truth.parent}' holds no images: expected them in img/ or images/")
        name, boxes = truth.parent.name, table.boxes
        found.append(TrackingSequence(name, boxes, frames=frames, source=table.source, first_pixel=0))
    return found


def _chosen(sequences: Sequence[TrackingSequence], source: SourceConfig) -> list[TrackingSequence]:
    """The sequences that the source's patterns and list of names select."""
    chosen: list[TrackingSequence] = list(sequences)
    if source.sequences:
        names_of = [sequence.name for sequence in chosen]
        for pattern in source.sequences:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names_of):
                raise UserError(
                    f"{source.dataset}: none of {len(chosen)} sequences matches '{pattern}' of sequences=…, "
                    f"{did_you_mean(pattern, names_of)}"
                )
        chosen = [
            sequence
            for sequence in chosen
            if any(fnmatch.fnmatchcase(sequence.name, pattern) for pattern in source.sequences)
        ]
    if source.names is not None:
        path = source.names.expanduser()
        if not path.is_file():
            raise MissingData(f"list of sequences '{path}' not found: check names=…")
        names = set(read_text(path, "write one name a line").split())
        chosen = [sequence for sequence in chosen if sequence.name in names]
    if not chosen:
        raise UserError(
            f"{source.dataset}: none of {len(sequences)} sequences matches sequences=… and names=…"
        )
    return chosen


def _without_absence(sequence: TrackingSequence) -> TrackingSequence:
    """Add GOT-10k's absence.label to the flags (the data set's reader reads its cover.label)."""
    path = Path(sequence.source).with_name("absence.label")
    if not path.is_file():
        return sequence
    absent = parse_flags(path.read_bytes(), str(path))
    if len(absent) != len(sequence.boxes):
        raise UserError(
            f"{path}: {len(absent)} flags for {len(sequence.boxes)} boxes: get the annotations again"
        )
    return replace(sequence, absent=absent if sequence.absent is None else absent | sequence.absent)


def _frame_folder(sequence: TrackingSequence) -> FrameFolder:
    if sequence.frames is None:
        raise MissingData(f"{sequence.name}: only its annotations are at hand: training needs the images")
    return sequence.frames


def _training_set(name: str, folder: Path, sequences: Sequence[TrackingSequence]) -> TrainingSet:
    counts = [len(sequence.boxes) for sequence in sequences]
    boxes = np.concatenate([sequence.boxes for sequence in sequences]).astype(np.float32)
    visible = np.concatenate(
        [np.ones(count, bool) if sequence.absent is None else ~sequence.absent
         for sequence, count in zip(sequences, counts)]
    )  # fmt: skip
    boxes[:, :2] -= sequences[0].first_pixel
    return TrainingSet(
        name=name,
        folder=folder,
        first=np.cumsum([0, *counts]),
        boxes=to_centres(torch.from_numpy(boxes)).numpy(),
        visible=visible,
        files=VideoFiles([_frame_folder(sequence) for sequence in sequences], counts),
    )
