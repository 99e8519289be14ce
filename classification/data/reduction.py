"""Parts of a data set: fewer training images, fewer classes, smaller images, training images held out for testing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from classification.data.arrays import ArraySplit
from classification.data.config import DataConfig
from classification.data.dataset import ClassificationData
from classification.data.folders import FolderSplit
from classification.data.sampling import balanced_subset, occurrence
from core.errors import UserError

Split = ArraySplit | FolderSplit


def reduce_data(data: ClassificationData, config: DataConfig) -> ClassificationData:
    """Apply `train_limit`, `classes` and `downsample` to a data set; `test_per_class` moves images to the test part.

    Args:
        data: the whole.
        config: classes are left out of both parts; training images are first moved to the end of the test part, and the
            limit then applies to the rest.

    Raises:
        UserError: there are fewer classes; all training images of a class are held out; the images' sides are no
            multiples of `downsample`, or they are decoded during training (ImageNet), where sizes belong to the random
            crops.
    """
    first = config.first_class
    classes = data.num_classes - first if config.classes is None else config.classes
    if first + classes > data.num_classes or classes < 2:
        asked = f"data.classes is {classes}" + (f" from data.first_class {first} on" if first else "")
        raise UserError(
            f"{asked}, but {data.name} has {data.num_classes} classes: use two or more, and no more than these"
        )
    channels, height, width = data.input_shape
    size = config.downsample
    if height % size or width % size:
        raise UserError(
            f"data.downsample is {size}, but images of {data.name} have {height}x{width} pixels: use a divisor of both"
        )
    if size > 1 and isinstance(data.train, FolderSplit):
        raise UserError(f"data.downsample is {size}, but {data.name} is decoded during training: set it to 1")
    own = range(first, first + classes)
    train, held = _held_out(_of_classes(data.train, own), config.test_per_class, data)
    train = _used(train, balanced_subset(_labels(train), config.train_limit))
    without = classes - min(
        len(train), classes
    )  # a balanced subset takes an image of every class before a second of any
    notes = [
        f"{without} of {classes} classes have no training image: data.train_limit is {config.train_limit}."
    ]
    return replace(
        data,
        class_names=data.class_names[first : first + classes],
        notes=(*data.notes, *(notes if without else [])),
        input_shape=(channels, height // size, width // size),
        train=_smaller(train, size),
        test=_joined(_smaller(_of_classes(data.test, own), size), _smaller(held, size)),
    )


def _labels(split: Split) -> np.ndarray:
    """The labels of the used images, in their order."""
    return split.labels[split.rows].numpy() if isinstance(split, ArraySplit) else split.labels


def _used(split: Split, rows: np.ndarray) -> Split:
    """Some of the used images."""
    if isinstance(split, ArraySplit):
        return replace(split, rows=split.rows[torch.from_numpy(rows)])
    return split.chosen(rows)


def _of_classes(split: Split, classes: range) -> Split:
    """The images of some classes; the first of these becomes number 0."""
    labels = _labels(split)
    found = _used(split, np.flatnonzero((labels >= classes.start) & (labels < classes.stop)))
    if isinstance(found, ArraySplit):
        return replace(found, labels=found.labels - classes.start)
    return replace(found, labels=found.labels - classes.start)


def _held_out(split: Split, per_class: int, data: ClassificationData) -> tuple[Split, Split]:
    """The images for training, and the last `per_class` of every class, for testing."""
    labels = _labels(split)
    from_the_end = occurrence(labels[::-1])[::-1]
    smallest = int(np.bincount(labels).min())
    if per_class >= smallest:
        raise UserError(
            f"data.test_per_class is {per_class}, but a class of {data.name} has {smallest} training images: "
            "leave some to train on"
        )
    held = from_the_end < per_class
    return _used(split, np.flatnonzero(~held)), _used(split, np.flatnonzero(held))


def _joined(split: Split, more: Split) -> Split:
    """Both parts' used images, one after the other; they are of one data set."""
    if not len(more):
        return split
    if isinstance(split, ArraySplit) and isinstance(more, ArraySplit):
        images, labels = (
            torch.cat([one[split.rows], other[more.rows]])
            for one, other in ((split.images, more.images), (split.labels, more.labels))
        )
        return replace(split, images=images, labels=labels, rows=torch.arange(len(labels)))
    if isinstance(split, FolderSplit) and isinstance(more, FolderSplit):
        return split.joined(more)
    raise TypeError(f"{type(split).__name__} and {type(more).__name__}: parts of two data sets")


def _smaller(split: Split, size: int) -> Split:
    """The used rows' images, averaged over squares of `size` pixels a side, rounded to whole pixel values."""
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
