"""ImageNet (ILSVRC 2012) in class folders: `imagenet/train/<wnid>/*.JPEG` and `imagenet/val/<wnid>/*.JPEG`.

Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from classification.data.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from classification.data.dataset import ClassificationData
from classification.data.folders import FolderSplit
from classification.data.views import CROP
from core.data import require
from core.errors import UserError

_ADDRESS = "https://image-net.org/download-images (ILSVRC2012, sorted into one folder per class)"


def open_imagenet(root: Path, config: DataConfig) -> ClassificationData:
    """ImageNet; labels count the class folders (WordNet ids) in sorted order, which are also the class names.

    Raises:
        MissingData: a folder is not there.
        UserError: training and validation classes differ, or `config` asks for a padded crop.
    """
    if config.crop_padding:
        raise UserError(
            f"data.crop_padding is {config.crop_padding}, but ImageNet is trained on random resized crops; "
            "set it to 0"
        )
    train_folder = require(root / "imagenet" / "train", "ImageNet's training images", _ADDRESS)
    test_folder = require(root / "imagenet" / "val", "ImageNet's validation images", _ADDRESS)
    classes = _class_folders(train_folder)
    if _class_folders(test_folder) != classes:
        raise UserError(
            f"'{train_folder}' and '{test_folder}' do not hold the same class folders; both need one "
            "folder per class, named by its WordNet id"
        )
    return ClassificationData(
        name="imagenet",
        class_names=tuple(classes),
        input_shape=(3, CROP, CROP),
        train=_split(train_folder, classes),
        test=_split(test_folder, classes),
        config=config,
    )


def _class_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _split(folder: Path, classes: list[str]) -> FolderSplit:
    paths: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(file for file in os.listdir(folder / name) if file.lower().endswith((".jpeg", ".jpg")))
        paths += [os.fsencode(folder / name / file) for file in files]
        labels += [label] * len(files)
    if not paths:
        raise UserError(f"'{folder}' holds no .JPEG files in class folders; get them from {_ADDRESS}")
    return FolderSplit(
        paths=np.array(paths),
        labels=np.array(labels, dtype=np.int64),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
