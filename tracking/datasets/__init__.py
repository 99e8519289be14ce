"""Readers of the five tracking benchmarks in their official layouts, and of a demonstration that needs no data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from core.errors import MissingData, UserError, check_known
from core.storage.data import data_root, missing_of
from tracking.datasets import demo, got10k, lasot, otb, trackingnet, uav123
from tracking.datasets.entries import DatasetRequest, Entry, select
from tracking.datasets.sequence import Sequence as TrackingSequence
from tracking.files.archives import StoredFile
from tracking.files.box_files import read_box_files
from tracking.files.boxes import SEPARATORS, parse_flags

# name -> (lists the files of a split, the splits, the first of which is the default)
DATASETS: dict[str, tuple[Callable[[DatasetRequest], list[Entry]], tuple[str, ...]]] = {
    "lasot": (lasot.entries, lasot.SPLITS),
    "trackingnet": (trackingnet.entries, trackingnet.SPLITS),
    "got10k": (got10k.entries, got10k.SPLITS),
    "otb": (otb.entries, otb.SPLITS),
    "uav123": (uav123.entries, uav123.SPLITS),
    "demo": (demo.entries, demo.SPLITS),
}
TITLES = {
    "lasot": "LaSOT",
    "trackingnet": "TrackingNet",
    "got10k": "GOT-10k",
    "otb": "OTB",
    "uav123": "UAV123",
    "demo": "Demo",
}
# Prefixes of sequence names in toolkits that keep the results of several data sets in one folder.
PREFIXES = {
    "lasot": ("lasot",),
    "trackingnet": ("trackingnet",),
    "got10k": (),  # its names themselves begin so
    "otb": ("otb", "otb50", "otb100", "otb2013", "otb2015", "tb50", "tb100"),
    "uav123": ("uav", "uav123", "uav20l"),
    "demo": ("demo",),
}
SPLIT_TITLES = {
    "otb100": "OTB-100",
    "otb50": "OTB-50",
    "otb2013": "OTB-2013",
    "uav123": "UAV123",
    "uav20l": "UAV20L",
}


def split_title(name: str, split: str) -> str:
    """A split as papers write it: `"LaSOT test"`, `"OTB-100"`."""
    return SPLIT_TITLES.get(split, f"{TITLES[name]} {split.lower().replace('_', ' ')}")


@dataclass(frozen=True)
class TrackingDataset:
    """The sequences of one split.

    Attributes:
        name: `"lasot"`, `"trackingnet"`, `"got10k"`, `"otb"`, `"uav123"` or `"demo"`.
        split: which part of it.
        sequences: those that are there.
        missing: names of missing sequences; empty unless a part was asked for.
        others: name and aliases, each to the name, of the split's sequences that are not among `sequences`.
    """

    name: str
    split: str
    sequences: tuple[TrackingSequence, ...]
    missing: tuple[str, ...]
    others: Mapping[str, str] = field(default_factory=dict)


def list_entries(
    name: str,
    root: str | Path | None = None,
    split: str | None = None,
    annotations: str | Path | None = None,
    beside_frames: bool = False,
) -> list[Entry]:
    """Where the files of each sequence of a split belong, whether or not they are there.

    Args:
        name: the data set.
        root: the data root; None for `$LWDNA_DATA`, else `data/`.
        split: part of the data set; None for its default.
        annotations: other ground truth than the data set's own, see each data set's module.
        beside_frames: prefer the ground truth that lies beside the frames.

    Raises:
        UserError: no such data set or split.
        MissingData: nothing of it is under the root.
    """
    check_known("no data set", [name], DATASETS)
    lister, splits = DATASETS[name]
    place = None if annotations is None else Path(annotations).expanduser()
    if place is not None and not place.exists():
        raise MissingData(f"annotations not found: '{place}' does not exist: check --annotations")
    wanted = split or splits[0]
    check_known(f"{name} has no split", [wanted], splits)
    return lister(DatasetRequest(data_root(root), wanted, place, beside_frames))


def missing_sets(root: Path) -> dict[str, str]:
    """Every data set, in its default split -> what is missing and where to get it, "" where some of it is there."""
    # Of "demo" nothing has to be there, and asking for it would render it.
    openers = {name: partial(list_entries, name, root) for name in DATASETS if name != "demo"}
    return dict.fromkeys(DATASETS, "") | missing_of(openers)


def load(
    name: str,
    root: str | Path | None = None,
    split: str | None = None,
    annotations: str | Path | None = None,
    *,
    patterns: Sequence[str] = (),
    partial: bool = False,
    frames: bool = False,
    attributes: bool = True,
    absence: bool = True,
) -> TrackingDataset:
    """Read the ground truth of a split.

    Args:
        name: the data set.
        root: the data root; None for `$LWDNA_DATA`, else `data/`.
        split: part of the data set; None for its default.
        annotations: other ground truth than the data set's own.
        patterns: shell-style patterns of the sequences wanted; none for all.
        partial: leave out sequences that are missing instead of raising.
        frames: the images are needed too.
        attributes: read the challenge attributes.
        absence: read the absence flags.

    Raises:
        MissingData: sequences (or, with `frames`, their images) are missing and `partial` is false, or all are.
        UserError: a ground-truth file is malformed.
    """
    all_entries = list_entries(name, root, split, annotations, beside_frames=frames)
    entries = select(all_entries, patterns)
    there = {entry.name for entry in entries if entry.truth.exists() and (not frames or entry.has_frames())}
    missing = tuple(entry.name for entry in entries if entry.name not in there)
    present = [entry for entry in entries if entry.name in there]
    if missing and (not partial or not present):
        what = "frames or ground truth" if frames else "ground truth"
        where = next(entry for entry in entries if entry.name == missing[0])
        folder = where.frames.folder if frames and where.frames is not None else where.truth
        remedy = "" if not present else f", or use the {len(present)} that are there with --partial"
        raise MissingData(
            f"{TITLES[name]}: {what} of {len(missing)} of {len(entries)} sequences missing, the first is "
            f"'{missing[0]}': expected at '{folder}': complete the data set{remedy}"
        )
    if not present:
        raise MissingData(f"{TITLES[name]}: the split '{split or DATASETS[name][1][0]}' holds no sequences")
    sequences = _read(name, present, attributes, absence)
    read = {entry.name for entry in present}
    rest = [entry for entry in all_entries if entry.name not in read]
    return TrackingDataset(
        name,
        split or DATASETS[name][1][0],
        tuple(sequences),
        missing,
        {alias: entry.name for entry in rest for alias in _aliases(name, entry)},
    )


def _aliases(dataset: str, entry: Entry) -> tuple[str, ...]:
    """A sequence's names, with and without the data set's in front."""
    names = dict.fromkeys((entry.name, *entry.aliases))
    return (*names, *(f"{prefix}_{name}" for prefix in PREFIXES[dataset] for name in names))


def _read(dataset: str, entries: list[Entry], attributes: bool, absence: bool) -> list[TrackingSequence]:
    sequences = []
    for entry, table in zip(entries, read_box_files([entry.truth for entry in entries]), strict=True):
        absent = read_absent(entry) if absence else None
        if absent is not None and len(absent) != len(table.boxes):
            raise UserError(
                f"{entry.absent[0]}: {len(absent)} flags for the {len(table.boxes)} boxes of {entry.truth}: "
                "get the annotations again"
            )
        sequences.append(
            TrackingSequence(
                name=entry.name,
                boxes=table.boxes if entry.part is None else entry.part.cut(table).boxes,
                absent=absent,
                attributes=read_attributes(entry) if attributes else (),
                frames=entry.frames,
                size=read_size(entry),
                aliases=_aliases(dataset, entry),
                source=table.source,
                first_pixel=entry.first_pixel,
                part=entry.part,
            )
        )
    return sequences


def read_absent(entry: Entry) -> np.ndarray | None:
    """The absence flags of a sequence, `(frames,)` bool; None where it has none."""
    if not entry.absent or not all(path.is_file() for path in entry.absent):
        return None
    flags = [parse_flags(StoredFile(path).read(), str(path)) for path in entry.absent]
    if len({len(flag) for flag in flags}) > 1:
        raise UserError(
            f"{entry.absent[0]} and {entry.absent[1]} have different lengths: get the annotations again"
        )
    if entry.absent_when == "zero":
        return ~flags[0]
    return np.logical_or.reduce(flags)


def read_attributes(entry: Entry) -> tuple[str, ...]:
    """The challenge attributes of a sequence; empty where the data set states none."""
    if entry.attributes is None or not entry.attributes.is_file():
        return ()
    text = StoredFile(entry.attributes).read()
    if not entry.attribute_names:
        return tuple(word for word in SEPARATORS.split(text.decode("utf-8", "replace")) if word)
    flags = parse_flags(text, str(entry.attributes))
    if len(flags) != len(entry.attribute_names):
        raise UserError(
            f"{entry.attributes}: {len(flags)} attribute flags, expected {len(entry.attribute_names)}: "
            "get the annotations again"
        )
    return tuple(name for name, flag in zip(entry.attribute_names, flags, strict=True) if flag)


def read_size(entry: Entry) -> tuple[int, int] | None:
    """The image `(width, height)` that GOT-10k's `meta_info.ini` states; None if there is no such file.

    Raises:
        UserError: the file has no `resolution: (width, height)` line.
    """
    if entry.size is None or not entry.size.is_file():
        return None
    for line in entry.size.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "resolution":
            numbers = [word for word in SEPARATORS.split(value.strip(" ()")) if word.isdigit()]
            if len(numbers) == 2:
                return int(numbers[0]), int(numbers[1])
    raise UserError(f"{entry.size}: no line 'resolution: (width, height)': get the annotations again")


__all__ = [
    "DATASETS",
    "TITLES",
    "TrackingDataset",
    "TrackingSequence",
    "list_entries",
    "load",
    "missing_sets",
    "read_absent",
    "read_attributes",
    "read_size",
    "split_title",
]
