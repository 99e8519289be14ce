"""Tiny-ImageNet: 200 classes, 100,000 training and 10,000 validation images of 64x64 pixels.

Le and Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from classification.data.arrays import ArraySplit, array_split
from classification.data.cache import DecodedImages, decoded_images, why_unreadable
from classification.data.config import TINY_IMAGENET_MEAN, TINY_IMAGENET_STD, DataConfig
from classification.data.dataset import ClassificationData
from core.data import require
from core.errors import UserError

_FOLDER = "tiny-imagenet-200"
_ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_SIZE = (64, 64)


def open_tiny_imagenet(root: Path, config: DataConfig) -> ClassificationData:
    """Tiny-ImageNet; the first call decodes it into a cache of 1.35 GB.

    Labels count the WordNet ids in sorted order. Test images are the 10,000 validation images, whose labels
    are in `val/val_annotations.txt`; the labels of the official test images are not public.

    Raises:
        MissingData: a folder or list of the official layout is not there.
        UserError: an annotation cannot be read; or an image cannot, and `config.bad_images` is "error".
    """
    folder = require(root / _FOLDER, "Tiny-ImageNet", _ADDRESS)
    identifiers = sorted(_required(folder, "wnids.txt").read_text(encoding="utf-8").split())
    train_files, train_labels = _train_files(folder, identifiers)
    test_files, test_labels = _validation_files(folder, identifiers)
    train = _split(folder, "train", train_files, train_labels, config)
    test = _split(folder, "val", test_files, test_labels, config)
    return ClassificationData(
        name="tiny-imagenet",
        class_names=_class_names(folder, identifiers),
        input_shape=(3, *_SIZE),
        train=train,
        test=test,
        config=config,
    )


def _required(folder: Path, name: str) -> Path:
    return require(folder / name, f"Tiny-ImageNet's {name}", _ADDRESS)


def _train_files(folder: Path, identifiers: list[str]) -> tuple[list[str], np.ndarray]:
    files: list[str] = []
    labels: list[int] = []
    for label, identifier in enumerate(identifiers):
        images = _required(folder, f"train/{identifier}/images")
        names = sorted(name for name in os.listdir(images) if name.endswith(".JPEG"))
        files += [f"train/{identifier}/images/{name}" for name in names]
        labels += [label] * len(names)
    return files, np.array(labels, dtype=np.int64)


def _validation_files(folder: Path, identifiers: list[str]) -> tuple[list[str], np.ndarray]:
    _required(folder, "val/images")
    annotations = _required(folder, "val/val_annotations.txt")
    label_of = {identifier: label for label, identifier in enumerate(identifiers)}
    files: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        name, identifier, *_ = [*line.split("\t"), ""]
        if identifier not in label_of:
            raise UserError(
                f"'{annotations}' line {number} names class '{identifier}', which is not in "
                f"'{folder / 'wnids.txt'}'; get both from {_ADDRESS}"
            )
        files.append(f"val/images/{name}")
        labels.append(label_of[identifier])
    return files, np.array(labels, dtype=np.int64)


def _class_names(folder: Path, identifiers: list[str]) -> tuple[str, ...]:
    lines = _required(folder, "words.txt").read_text(encoding="utf-8").splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(words.get(identifier, identifier) for identifier in identifiers)


def _split(folder: Path, part: str, files: list[str], labels: np.ndarray, config: DataConfig) -> ArraySplit:
    if not files:
        raise UserError(f"'{folder / part}' holds no images; unpack {_ADDRESS} again")
    decoded = decoded_images(folder, part, files, _SIZE, threads=config.workers)
    damaged = np.flatnonzero(~decoded.readable)
    if damaged.size:
        _report_damaged(folder, files, damaged, decoded, config)
    return array_split(
        decoded.images,
        labels,
        mean=TINY_IMAGENET_MEAN,
        std=TINY_IMAGENET_STD,
        rows=np.flatnonzero(decoded.readable),
        skipped=int(damaged.size),
    )


def _report_damaged(
    folder: Path, files: list[str], damaged: np.ndarray, decoded: DecodedImages, config: DataConfig
) -> None:
    reasons = [why_unreadable(folder / files[row], _SIZE) for row in damaged[:5]]
    if reasons[0] is None:
        raise UserError(
            f"image '{folder / files[damaged[0]]}' was unreadable earlier; delete '{decoded.path}'"
        )
    if config.bad_images == "error":
        others = f" ({damaged.size} such images)" if damaged.size > 1 else ""
        raise UserError(
            f"{reasons[0]}{others}; repair it, or leave such images out with data.bad_images='skip'"
        )
    listed = "; ".join(reason for reason in reasons if reason is not None)
    more = f"; and {damaged.size - len(reasons)} more" if damaged.size > len(reasons) else ""
    warnings.warn(f"{damaged.size} of {len(files)} images left out: {listed}{more}", stacklevel=2)
