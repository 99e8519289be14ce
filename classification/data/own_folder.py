"""The user's own images: `FOLDER/{train,val}/CLASS/*`, or `FOLDER/CLASS/*`, of which a part of every class is held out.

Which files are images and which folders are classes is decided as for ImageNet (`classification.data.scan`). Images are
turned upright, and shrunk until the shorter side is as long as the central view needs; both are the same whether the
files are decoded once, into a cache, or during training.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from classification.data.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from classification.data.dataset import ClassificationData
from classification.data.decoded import DecodedFiles, NoRoom, decode_files
from classification.data.folders import FolderSplit
from classification.data.images import read_rgb
from classification.data.scan import (
    SUFFIXES,
    LeftOut,
    class_entries,
    few,
    require_same_classes,
    scan_class_folders,
)
from classification.data.views import CROP, shorter_side, shrunk
from core.errors import MissingData, UserError
from core.storage.cache import FOLDER as CACHE
from core.storage.cache import cache_folders, decode_in_order, fingerprint, open_or_build
from core.storage.data import is_hidden
from core.storage.files import write_json

VAL_SHARE = 0.2
SPLIT_SEED = 0

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation")
_TEST = ("test", "testing")
_CONTENT = "LWDNACH1"
_BLOCK = 2**20


@dataclass(frozen=True, eq=False)
class _Files:
    """The images of both parts.

    Attributes:
        names: paths relative to the folder.
        labels: `(N,)`, int64.
        held_out: `(N,)`, bool: whether an image is of the part that error rates are reported on.
        classes: names in the order of the labels.
        left_out: what else lies in the folder.
        notes: what was taken for granted.
    """

    names: list[str]
    labels: np.ndarray
    held_out: np.ndarray
    classes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def folder_title(folder: str | Path) -> str:
    """What reports and work directories call a folder of images: its name, without what no file's name may hold."""
    return (
        re.sub(r"[^\w.+-]+", "-", Path(os.path.abspath(Path(folder).expanduser())).name).strip("-.")
        or "folder"
    )


def open_own_folder(path: str, title: str, config: DataConfig) -> ClassificationData:
    """The user's own images; labels count the class folders in sorted order, which are also the class names.

    The first call reads every file once for its digest, and decodes all images into a cache where it may take no more
    than half of the free disk.

    Args:
        path: the folder.
        title: what it is called.
        config: options; `size` and `val_share` are read here.

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
    if config.crop_padding:
        raise UserError(
            f"data.crop_padding is {config.crop_padding}, but a folder's images are trained on random resized crops; "
            "set it to 0"
        )
    files = _list_files(folder, config)
    size = config.size or CROP
    digests = _digests(folder, files.names, config.workers)
    notes = [*files.notes, *_seen_twice(files, digests)]
    read = partial(read_own, size=size)
    decoded: DecodedFiles | None = None
    try:
        decoded = decode_files(folder, files.names, shorter_side(size), read, config.workers)
    except NoRoom as error:
        notes.append(f"Images are decoded anew in every epoch: decoded once they would take {error}.")
    whole = FolderSplit(
        paths=np.array([os.fsencode(f"{folder}/{name}") for name in files.names]),
        labels=files.labels,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        size=size,
        read=read,
        decoded=decoded,
    )
    if decoded is not None:
        whole.unreadable.update(_damages(whole, decoded))
    train, test = (whole.chosen(np.flatnonzero(files.held_out == part)) for part in (False, True))
    for split in (train, test):
        split.require_readable_classes(split.unreadable)
    _report(whole, config)
    return ClassificationData(
        name=title,
        class_names=files.classes,
        input_shape=(3, size, size),
        train=train,
        test=test,
        config=config,
        left_out=tuple(entry for entry in files.left_out if Path(entry.path) != folder / CACHE),
        notes=tuple(notes),
        folder=_description(files, digests),
    )


def read_own(path: str | Path, size: int) -> np.ndarray:
    """Read an image upright, as `(height, width, 3)`, uint8, RGB, its shorter side at most `shorter_side(size)`.

    Raises:
        BadImage: see `core.storage.images.read_image`.
    """
    return shrunk(read_rgb(path, upright=True), size)


def held_out(files: Sequence[str], labels: np.ndarray, share: float, seed: int = SPLIT_SEED) -> np.ndarray:
    """Which images are held out: of every class this share, rounded, at least one and never all.

    An image's turn follows from its name and the seed alone, so that the others keep theirs when images are added.

    Args:
        files: the images' names, no two alike.
        labels: `(N,)` integers.
        share: in (0, 1).
        seed: another seed, another choice.

    Returns:
        `(N,)`, bool.
    """
    turns = np.array(
        [hashlib.sha256(f"{seed}\0{file}".encode(errors="surrogateescape")).hexdigest() for file in files]
    )
    chosen = np.zeros(len(files), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(int(share * len(rows) + 0.5), 1), len(rows) - 1)
        chosen[rows[np.argsort(turns[rows], kind="stable")[:count]]] = True
    return chosen


def _list_files(folder: Path, config: DataConfig) -> _Files:
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
    return _split(folder, notes, VAL_SHARE if config.val_share is None else config.val_share)


def _other(name: str) -> str:
    return "'val'" if name.lower() in _TRAIN else "'train'"


def _in_parts(
    folder: Path, train: str, measured: str, names: list[str], beside: list[LeftOut], config: DataConfig
) -> _Files:
    if config.val_share is not None:
        raise UserError(
            f"data.val_share is {config.val_share}, but '{folder}' has a part '{measured}' of its own: leave it out, "
            "or name a folder whose own folders are the classes"
        )
    scans = [scan_class_folders(folder / part) for part in (train, measured)]
    require_same_classes(*scans)
    unused = [LeftOut(str(folder / name), "a folder beside the two parts that are used")
              for name in names if name not in (train, measured)]  # fmt: skip
    unused_parts = [f"'{name}'" for name in names if name.lower() in _TEST and name != measured]
    notes = [
        f"Error rates are those of '{measured}' in '{folder}'" + (f"; {few(unused_parts)} is not used." if unused_parts
        else ": there is no 'val'.")
    ] if unused_parts or measured.lower() in _TEST else []  # fmt: skip
    return _Files(
        names=[f"{scan.folder.name}/{file}" for scan in scans for file in scan.files],
        labels=np.concatenate([scan.labels for scan in scans]),
        held_out=np.repeat([False, True], [len(scan.files) for scan in scans]),
        classes=scans[0].classes,
        left_out=(*beside, *unused, *(entry for scan in scans for entry in scan.left_out)),
        notes=(*notes, *(note for scan in scans for note in scan.notes)),
    )


def _split(folder: Path, notes: list[str], share: float) -> _Files:
    scan = scan_class_folders(folder)
    inner, _ = class_entries(folder / scan.classes[0])
    if len(scan.classes) == 1 and len(inner) > 1:
        raise UserError(
            f"'{folder}' holds one class folder, '{scan.classes[0]}', with {len(inner)} folders in it: if these are "
            f"the classes, name '{folder / scan.classes[0]}'"
        )
    counts = np.bincount(scan.labels)
    single = [scan.classes[label] for label in np.flatnonzero(counts == 1)]
    if single and len(scan.classes) > 1:
        raise UserError(
            f"{len(single)} of {len(scan.classes)} classes in '{folder}' have one image, which cannot be trained and "
            f"reported on: {few(single)}; add images, or take these classes out"
        )
    chosen = held_out(scan.files, scan.labels, share)
    notes.append(
        f"{chosen.sum():,} of {len(chosen):,} images are held out, {share:.0%} of every class, and error rates are "
        "theirs; data.json lists them."
    )
    return _Files(scan.files, scan.labels, chosen, scan.classes, scan.left_out, (*notes, *scan.notes))


def _holds_folders_alone(folder: Path) -> bool:
    names, beside = class_entries(folder)
    return bool(names) and not any(
        Path(entry.path).suffix.lower() in SUFFIXES and not is_hidden(Path(entry.path).name)
        for entry in beside
    )


def _digests(folder: Path, names: Sequence[str], threads: int) -> list[str]:
    """A digest of every file's content, kept until one changes; "" for a file that cannot be read."""

    def build(path: Path) -> None:
        digests = decode_in_order(
            partial(_digest, folder), names, threads=threads, title=f"Reading {folder.name} (once)"
        )
        write_json(path, list(digests))

    return open_or_build(
        cache_folders(folder),
        "content",
        fingerprint(((name, folder / name) for name in names), _CONTENT),
        ".json",
        open_file=partial(_read_digests, count=len(names)),
        build=build,
    )


def _digest(folder: Path, name: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(folder / name, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()[:32]


def _read_digests(path: Path, count: int) -> list[str] | None:
    try:
        digests = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return digests if isinstance(digests, list) and len(digests) == count else None


def _seen_twice(files: _Files, digests: Sequence[str]) -> Iterable[str]:
    """Files of the same content where that misleads: in both parts, or in several classes."""
    trained: dict[str, int] = {}
    labels: dict[str, set[int]] = {}
    for row, digest in enumerate(digests):
        if digest:
            labels.setdefault(digest, set()).add(int(files.labels[row]))
            if not files.held_out[row]:
                trained[digest] = row
    both = [row for row in np.flatnonzero(files.held_out).tolist() if digests[row] in trained]
    if both:
        named = [f"{files.names[row]} is {files.names[trained[digests[row]]]}" for row in both]
        yield f"Images that error rates are reported on and that are also trained on: {len(both):,} ({few(named)})."
    several = {digest for digest, found in labels.items() if len(found) > 1}
    if several:
        named = [name for name, digest in zip(files.names, digests) if digest in several]
        yield f"The same image lies in several classes: {few(named)}."


def _description(files: _Files, digests: Sequence[str]) -> dict[str, Any]:
    """What a run keeps of its images: classes, which are held out, and a digest of all that decides results."""
    digest = hashlib.sha256(repr(files.classes).encode(errors="surrogateescape"))
    for name, label, out, content in zip(files.names, files.labels, files.held_out, digests):
        digest.update(f"{name}\0{label}\0{out}\0{content}\0".encode(errors="surrogateescape"))
    shown = [
        name if name.isprintable() else repr(name) for name, out in zip(files.names, files.held_out) if out
    ]
    return {"content": digest.hexdigest(), "classes": list(files.classes), "held_out": shown}


def _damages(split: FolderSplit, decoded: DecodedFiles) -> dict[int, str]:
    found = {}
    for row in decoded.damaged():
        try:
            split.read(os.fsdecode(split.paths[row]))
        except UserError as error:
            found[row] = str(error)
        else:
            raise UserError(
                f"image '{os.fsdecode(split.paths[row])}' was unreadable earlier; delete '{decoded.path}'"
            )
    return found


def _report(split: FolderSplit, config: DataConfig) -> None:
    """Stop at images that are known to be unreadable, or say which are left out."""
    damages = [split.unreadable[row] for row in sorted(split.unreadable)]
    if not damages:
        return
    if config.bad_images == "error":
        others = f" ({len(damages)} such images)" if len(damages) > 1 else ""
        raise UserError(
            f"{damages[0]}{others}; repair it, or leave such images out with data.bad_images='skip'"
        )
    warnings.warn(f"{len(damages)} of {len(split)} images left out: {few(damages, '; ')}", stacklevel=3)
