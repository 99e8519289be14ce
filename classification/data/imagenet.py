"""ImageNet (ILSVRC 2012) in class folders: `imagenet/train/<wnid>/*` and `imagenet/val/<wnid>/*`.

Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from classification.data.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from classification.data.dataset import ClassificationData
from classification.data.folders import FolderSplit
from classification.data.scan import ClassFolders, require_same_classes, scan_class_folders
from classification.data.views import CROP
from core.errors import UserError
from core.storage.data import require

_CLASSES, _TRAIN, _VALIDATION = 1_000, 1_281_167, 50_000
_ADDRESS = "https://image-net.org/download-images (ILSVRC2012, sorted into one folder per class)"


def open_imagenet(root: Path, config: DataConfig) -> ClassificationData:
    """ImageNet; labels count the class folders (WordNet ids) in sorted order, which are also the class names.

    Raises:
        MissingData: a folder is not there.
        UserError: training and validation classes differ, a class is empty, a folder cannot be read, or `config` asks
            for a padded crop.
    """
    if config.crop_padding:
        raise UserError(
            f"data.crop_padding is {config.crop_padding}, but ImageNet is trained on random resized crops; "
            "set it to 0"
        )
    train_folder = require(root / "imagenet" / "train", "ImageNet's training images", _ADDRESS)
    test_folder = require(root / "imagenet" / "val", "ImageNet's validation images", _ADDRESS)
    train, test = scan_class_folders(train_folder), scan_class_folders(test_folder)
    require_same_classes(train, test)
    return ClassificationData(
        name="imagenet",
        class_names=train.classes,
        input_shape=(3, CROP, CROP),
        train=_split(train),
        test=_split(test),
        config=config,
        left_out=train.left_out + test.left_out,
        notes=(*_incomplete(train, test), *train.notes, *test.notes),
    )


def _incomplete(train: ClassFolders, test: ClassFolders) -> Iterator[str]:
    """How the numbers of images in this copy differ from the official data set's."""
    for found, what, usual in (
        (len(train.classes), "classes", _CLASSES),
        (len(train.files), "training images", _TRAIN),
        (len(test.files), "validation images", _VALIDATION),
    ):
        if found != usual:
            yield f"{found:,} {what} instead of ImageNet's {usual:,}."


def _split(scan: ClassFolders) -> FolderSplit:
    return FolderSplit(
        paths=np.array([os.fsencode(f"{scan.folder}/{file}") for file in scan.files]),
        labels=scan.labels,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
