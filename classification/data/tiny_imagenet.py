"""Tiny-ImageNet: 200 classes, 100,000 training and 10,000 validation images of 64x64 pixels.

Le and Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from classification.data.arrays import ArraySplit, array_split
from classification.data.cache import DecodedImages, decoded_images, why_unreadable
from classification.data.config import TINY_IMAGENET_MEAN, TINY_IMAGENET_STD, DataConfig
from classification.data.dataset import ClassificationData
from classification.data.scan import LeftOut, few, list_images, read_list, report_unreadable, stray_images
from core.errors import UserError
from core.storage.data import is_hidden, require

_FOLDER = "tiny-imagenet-200"
_ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_SIZE = (64, 64)
_CLASSES, _PER_CLASS, _VALIDATION = 200, 500, 10_000


def open_tiny_imagenet(root: Path, config: DataConfig) -> ClassificationData:
    """Tiny-ImageNet; the first call decodes it into a cache of 1.35 GB.

    Labels count the WordNet ids in sorted order. Test images are the 10,000 validation images, whose labels
    are in `val/val_annotations.txt`; the labels of the official test images are not public.

    Raises:
        MissingData: a folder or list of the official layout is not there.
        UserError: lists and folders contradict each other (a class without images or in one of them alone, images with
            no annotation or two); all images of a class cannot be read; or one cannot, and `config.bad_images` is
            "error".
    """
    folder = require(root / _FOLDER, "Tiny-ImageNet", _ADDRESS)
    identifiers = _identifiers(folder)
    train_files, train_labels, left_out = _train_files(folder, identifiers)
    test_files, test_labels, more_left_out = _validation_files(folder, identifiers)
    train = _split(folder, "train", train_files, train_labels, config)
    test = _split(folder, "val", test_files, test_labels, config)
    return ClassificationData(
        name="tiny-imagenet",
        class_names=_class_names(folder, identifiers),
        input_shape=(3, *_SIZE),
        train=train,
        test=test,
        config=config,
        left_out=(*left_out, *more_left_out),
        notes=tuple(_incomplete(identifiers, train_labels, len(test_labels))),
    )


def _required(folder: Path, name: str) -> Path:
    return require(folder / name, f"Tiny-ImageNet's {name}", _ADDRESS)


def _identifiers(folder: Path) -> list[str]:
    """The WordNet ids of the list, which are those of the training folders."""
    listed = _required(folder, "wnids.txt")
    identifiers = sorted(word for line in read_list(listed, _ADDRESS) for word in line.split())
    twice = [name for name, count in Counter(identifiers).items() if count > 1]
    if twice:
        raise UserError(f"'{listed}' names classes twice: {few(twice)}; get it from {_ADDRESS}")
    train = _required(folder, "train")
    unlisted = sorted(
        path.name
        for path in train.iterdir()
        if path.is_dir() and not is_hidden(path.name) and path.name not in identifiers
    )
    if unlisted:
        raise UserError(
            f"'{listed}' does not name these class folders of '{train}': {few(unlisted)}; get both "
            f"from {_ADDRESS}"
        )
    return identifiers


def _train_files(folder: Path, identifiers: list[str]) -> tuple[list[str], np.ndarray, list[LeftOut]]:
    files: list[str] = []
    labels: list[int] = []
    left_out = stray_images(folder / "train")
    empty: list[str] = []
    for label, identifier in enumerate(identifiers):
        listing = list_images(_required(folder, f"train/{identifier}/images"))
        left_out += stray_images(folder / "train" / identifier)
        files += [f"train/{identifier}/images/{name}" for name in listing.files]
        labels += [label] * len(listing.files)
        left_out += listing.left_out
        if not listing.files:
            empty.append(identifier)
    if empty:
        raise UserError(
            f"{len(empty)} of {len(identifiers)} classes in '{folder / 'train'}' hold no image: {few(empty)}; unpack "
            f"{_ADDRESS} again"
        )
    return files, np.array(labels, dtype=np.int64), left_out


def _validation_files(folder: Path, identifiers: list[str]) -> tuple[list[str], np.ndarray, list[LeftOut]]:
    listing = list_images(_required(folder, "val/images"))
    listing.left_out += stray_images(folder / "val")
    annotations = _required(folder, "val/val_annotations.txt")
    label_of = {identifier: label for label, identifier in enumerate(identifiers)}
    lines: dict[str, int] = {}
    labels: list[int] = []
    for number, line in enumerate(read_list(annotations, _ADDRESS), start=1):
        name, identifier, *_ = [*line.split("\t"), ""]
        if identifier not in label_of:
            raise UserError(
                f"'{annotations}' line {number} names class '{identifier}', which is not in "
                f"'{folder / 'wnids.txt'}'; get both from {_ADDRESS}"
            )
        if name in lines:
            raise UserError(
                f"'{annotations}' names image '{name}' twice, in lines {lines[name]} and {number}; "
                f"get it from {_ADDRESS}"
            )
        lines[name] = number
        labels.append(label_of[identifier])
    without = [name for name in listing.files if name not in lines]
    if without:
        raise UserError(
            f"{len(without)} of {len(listing.files)} images in '{folder / 'val/images'}' have no line in "
            f"'{annotations}': {few(without)}; get both from {_ADDRESS}"
        )
    return [f"val/images/{name}" for name in lines], np.array(labels, dtype=np.int64), listing.left_out


def _incomplete(identifiers: list[str], labels: np.ndarray, validation: int) -> Iterator[str]:
    """What of the official data set this copy lacks."""
    counts = np.bincount(labels, minlength=len(identifiers))
    other = [f"{identifiers[label]} ({counts[label]})" for label in np.flatnonzero(counts != _PER_CLASS)]
    if len(identifiers) != _CLASSES:
        yield f"{len(identifiers)} classes instead of Tiny-ImageNet's {_CLASSES}."
    if other:
        yield f"Classes with other than Tiny-ImageNet's {_PER_CLASS} training images: {few(other)}."
    if validation != _VALIDATION:
        yield f"{validation:,} validation images instead of Tiny-ImageNet's {_VALIDATION:,}."


def _class_names(folder: Path, identifiers: list[str]) -> tuple[str, ...]:
    lines = read_list(_required(folder, "words.txt"), _ADDRESS)
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(words.get(identifier, identifier) for identifier in identifiers)


def _split(folder: Path, part: str, files: list[str], labels: np.ndarray, config: DataConfig) -> ArraySplit:
    if not files:
        raise UserError(f"'{folder / part}' holds no images; unpack {_ADDRESS} again")
    decoded = decoded_images(folder, part, files, _SIZE, threads=config.workers)
    damaged = np.flatnonzero(~decoded.readable)
    unreadable = _unreadable(folder, files, damaged, decoded)
    report_unreadable([entry.reason for entry in unreadable], len(files), config.bad_images)
    gone = sorted(set(labels[damaged]) - set(labels[decoded.readable]))
    if gone:
        names = [Path(files[np.flatnonzero(labels == label)[0]]).name for label in gone]
        first = next(entry.reason for row, entry in zip(damaged, unreadable) if labels[row] == gone[0])
        raise UserError(
            f"in '{folder / part}' no image of {len(gone)} of {len(set(labels))} classes can be read, such as "
            f"those with {few(names)} ({first}); unpack {_ADDRESS} again"
        )
    return array_split(
        decoded.images,
        labels,
        mean=TINY_IMAGENET_MEAN,
        std=TINY_IMAGENET_STD,
        rows=np.flatnonzero(decoded.readable),
        unreadable=unreadable,
    )


def _unreadable(folder: Path, files: list[str], damaged: np.ndarray, decoded: DecodedImages) -> list[LeftOut]:
    found = []
    for row in damaged:
        path = folder / files[row]
        reason = why_unreadable(path, _SIZE)
        if reason is None:
            raise UserError(f"image '{path}' was unreadable earlier; delete '{decoded.path}'")
        found.append(LeftOut(str(path), reason))
    return found
