"""Smaller forms of a data set for shorter runs: fewer training images, fewer classes, smaller images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from classification.data.arrays import ArraySplit
from classification.data.config import DataConfig
from classification.data.dataset import ClassificationData
from classification.data.folders import FolderSplit
from classification.data.sampling import balanced_subset
from core.errors import UserError

Split = ArraySplit | FolderSplit


def reduce_data(data: ClassificationData, config: DataConfig) -> ClassificationData:
    """The part of a data set that `train_limit`, `classes` and `downsample` leave.

    Args:
        data: the whole.
        config: classes are left out of both parts, training images of the training part alone.

    Raises:
        UserError: there are fewer classes, the images' sides are no multiples of `downsample`, or they are decoded
            during training (ImageNet), where sizes belong to the random crops.
    """
    classes = data.num_classes if config.classes is None else config.classes
    if classes > data.num_classes:
        raise UserError(
            f"data.classes is {classes}, but {data.name} has {data.num_classes} classes: use no more than these"
        )
    channels, height, width = data.input_shape
    size = config.downsample
    if height % size or width % size:
        raise UserError(
            f"data.downsample is {size}, but images of {data.name} have {height}x{width} pixels: use a divisor of both"
        )
    if size > 1 and isinstance(data.train, FolderSplit):
        raise UserError(f"data.downsample is {size}, but {data.name} is decoded during training: set it to 1")
    train = _chosen(data.train, classes, config.train_limit)
    without = classes - min(
        len(train), classes
    )  # a balanced subset has an image of every class before a second of any
    notes = [
        f"{without} of {classes} classes have no training image: data.train_limit is {config.train_limit}."
    ]
    return replace(
        data,
        class_names=data.class_names[:classes],
        notes=(*data.notes, *(notes if without else [])),
        input_shape=(channels, height // size, width // size),
        train=_smaller(train, size),
        test=_smaller(_chosen(data.test, classes, None), size),
    )


def _chosen(split: Split, classes: int, limit: int | None) -> Split:
    """The images of the first classes, and a balanced subset of these."""
    if isinstance(split, ArraySplit):
        labels = split.labels.numpy()
        rows = split.rows.numpy()
        rows = rows[labels[rows] < classes]
        return replace(split, rows=torch.from_numpy(rows[balanced_subset(labels[rows], limit)]))
    rows = np.flatnonzero(split.labels < classes)
    rows = rows[balanced_subset(split.labels[rows], limit)]
    return replace(split, paths=split.paths[rows], labels=split.labels[rows], unreadable={})


def _smaller(split: Split, size: int) -> Split:
    """Images averaged over squares of `size` pixels a side, rounded to whole pixel values; of the used rows alone."""
    if size == 1 or not isinstance(split, ArraySplit):
        return split
    images = averaged(split.images[split.rows].numpy(), size)
    return replace(
        split,
        images=torch.from_numpy(images),
        labels=split.labels[split.rows],
        rows=torch.arange(len(images)),
    )


def averaged(images: np.ndarray, size: int) -> np.ndarray:
    """Images (N, C, H, W), uint8, averaged over squares of `size` pixels a side, which divide H and W; rounded."""
    count, channels, height, width = images.shape
    squares = images.reshape(count, channels, height // size, size, width // size, size)
    return np.rint(squares.mean(axis=(3, 5), dtype=np.float32)).astype(np.uint8)
