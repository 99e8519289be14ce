"""The user's own images: `FOLDER/{train,val}/CLASS/*`, or `FOLDER/CLASS/*`, of which a part of every class is held out.

Which files are images and which folders are classes is decided as for ImageNet (`classification.data.scan`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classification.data.config import DataConfig
from classification.data.dataset import ClassificationData
from classification.data.photographs import PhotoFiles, open_photographs
from classification.data.scan import (
    SUFFIXES,
    ClassFolders,
    LeftOut,
    class_entries,
    few,
    require_same_classes,
    scan_class_folders,
)
from core.errors import MissingData, UserError
from core.storage.data import is_hidden

VAL_SHARE = 0.2
SPLIT_SEED = 0

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation")
_TEST = ("test", "testing")
# Folders called "training_set", "test_data", "fold2" are parts of a data set as well, where they hold folders alone.
_PARTS = re.compile(
    r"(?:^|[\W_])(?:train|training|val|valid|validation|test|testing|dev|eval|fold|split)(?:$|[\W_\d])", re.I
)


def folder_title(folder: str | Path) -> str:
    """A folder's title in reports and work directories: its name without characters that file names may not hold."""
    return (
        re.sub(r"[^\w.+-]+", "-", Path(os.path.abspath(Path(folder).expanduser())).name).strip("-.")
        or "folder"
    )


def open_own_folder(path: str, title: str, config: DataConfig) -> ClassificationData:
    """The user's own images; labels count the class folders in sorted order, which are also the class names.

    Args:
        path: the folder.
        title: what it is called.
        config: options; `val_share` is read here.

    Raises:
        MissingData: there is no such folder.
        UserError: classes differ between the parts, or are empty or too small to be split; a part is missing; a folder
            cannot be read; an image cannot and `config.bad_images` is "error", or none of a class can; or `config`
            asks for what these images do not have.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is not there"
        raise MissingData(
            f"'{folder}' {what}: --dataset takes a folder with one folder of images per class, or with such folders "
            "in 'train' and 'val'"
        )
    return open_photographs(folder, title, _list_files(folder, config), config)


def held_out(files: Sequence[str], labels: np.ndarray, share: float, seed: int = SPLIT_SEED) -> np.ndarray:
    """Which images are held out: this share of every class, rounded, at least one and never all.

    An image's rank follows from its name and the seed alone, so that most images keep their part when others are added.

    Args:
        files: the images' names, no two alike.
        labels: `(N,)` integers.
        share: in (0, 1).
        seed: of the choice.

    Returns:
        `(N,)`, bool.
    """
    turns = np.array(
        [hashlib.sha256(f"{seed}\0{file}".encode(errors="surrogateescape")).hexdigest() for file in files]
    )
    chosen = np.zeros(len(files), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(_rounded(share, len(rows)), 1), len(rows) - 1)
        chosen[rows[np.argsort(turns[rows], kind="stable")[:count]]] = True
    return chosen


def _rounded(share: float, count: int) -> int:
    return int(share * count + 0.5)


def _as_asked(counts: np.ndarray, share: float) -> bool:
    """Whether no class is too small for its share."""
    return all(0 < _rounded(share, count) < count for count in counts.tolist())


def _list_files(folder: Path, config: DataConfig) -> PhotoFiles:
    names, beside = class_entries(folder)
    train, val, test = ([name for name in names if name.lower() in role] for role in (_TRAIN, _VAL, _TEST))
    measured = val or test
    if train and measured:
        if len(train) > 1 or len(measured) > 1:
            raise UserError(
                f"'{folder}' holds {few([*train, *measured])}: keep one folder to train on and one to report on"
            )
        return _in_parts(folder, train[0], measured[0], names, beside, config)
    notes = []
    for name in (*train, *val, *test):
        if _holds_folders_alone(folder / name):
            raise UserError(
                f"'{folder / name}' holds folders, like one part of a data set, but {_other(name)} does not lie "
                "beside it: add it, or name the folder whose own folders are the classes"
            )
        notes.append(f"'{name}' in '{folder}' is taken for a class: {_other(name)} does not lie beside it.")
    parts = [name for name in names if _PARTS.search(name) and _holds_folders_alone(folder / name)]
    if len(parts) > 1:
        raise UserError(
            f"{few(parts)} in '{folder}' hold folders, like the parts of a data set: call the one to train on 'train' "
            "and the one to report on 'val', or name the folder whose own folders are the classes"
        )
    return _split(folder, notes, VAL_SHARE if config.val_share is None else config.val_share)


def _other(name: str) -> str:
    return "'val'" if name.lower() in _TRAIN else "'train'"


def _in_parts(
    folder: Path, train: str, measured: str, names: list[str], beside: list[LeftOut], config: DataConfig
) -> PhotoFiles:
    if config.val_share is not None:
        raise UserError(
            f"data.val_share is {config.val_share}, but '{folder}' has a part '{measured}' of its own: leave it out, "
            "or name a folder whose own folders are the classes"
        )
    scans = [_scan(folder / part) for part in (train, measured)]
    require_same_classes(*scans)
    unused = [LeftOut(str(folder / name), "a folder beside the two parts that are used")
              for name in names if name not in (train, measured)]  # fmt: skip
    unused_parts = [f"'{name}'" for name in names if name.lower() in _TEST and name != measured]
    notes = [
        f"Error rates are those of '{measured}' in '{folder}'" + (f"; {few(unused_parts)} is not used." if unused_parts
        else ": there is no 'val'.")
    ] if unused_parts or measured.lower() in _TEST else []  # fmt: skip
    return PhotoFiles(
        names=[f"{scan.folder.name}/{file}" for scan in scans for file in scan.files],
        labels=np.concatenate([scan.labels for scan in scans]),
        held_out=np.repeat([False, True], [len(scan.files) for scan in scans]),
        classes=scans[0].classes,
        left_out=(*beside, *unused, *(entry for scan in scans for entry in scan.left_out)),
        notes=(*notes, *(note for scan in scans for note in scan.notes)),
    )


def _scan(folder: Path) -> ClassFolders:
    """The classes of a folder, unless a folder too many seems to lie between."""
    scan = scan_class_folders(folder)
    inner, _ = class_entries(folder / scan.classes[0])
    if len(scan.classes) == 1 and len(inner) > 1:
        raise UserError(
            f"'{folder}' holds one class folder, '{scan.classes[0]}', with {len(inner)} folders in it: if these are "
            f"the classes, name '{folder / scan.classes[0]}', or put them directly into '{folder}'"
        )
    return scan


def _split(folder: Path, notes: list[str], share: float) -> PhotoFiles:
    scan = _scan(folder)
    counts = np.bincount(scan.labels)
    single = [scan.classes[label] for label in np.flatnonzero(counts == 1)]
    if single and len(scan.classes) > 1:
        raise UserError(
            f"{len(single)} of {len(scan.classes)} classes in '{folder}' have one image, which cannot be trained and "
            f"reported on: {few(single)}; add images, or take these classes out"
        )
    chosen = held_out(scan.files, scan.labels, share)
    some = "" if _as_asked(counts, share) else " (of small ones at least one image and never all)"
    notes.append(
        f"{chosen.sum():,} of {len(chosen):,} images are held out, {100 * share:g}% of every class{some}, and error "
        "rates are measured on them; a run's data.json lists them."
    )
    return PhotoFiles(scan.files, scan.labels, chosen, scan.classes, scan.left_out, (*notes, *scan.notes))


def _holds_folders_alone(folder: Path) -> bool:
    names, beside = class_entries(folder)
    return bool(names) and not any(
        Path(entry.path).suffix.lower() in SUFFIXES and not is_hidden(Path(entry.path).name)
        for entry in beside
    )
