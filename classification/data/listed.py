"""Published data sets of photographs with lists of their parts: Flowers-102, Food-101, Oxford-IIIT Pets.

Nilsback and Zisserman, Automated Flower Classification over a Large Number of Classes, ICVGIP 2008. Bossard et al.,
Food-101 – Mining Discriminative Components with Random Forests, ECCV 2014. Parkhi et al., Cats and Dogs, CVPR 2012.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from classification.data.config import DataConfig
from classification.data.dataset import ClassificationData
from classification.data.photographs import PhotoFiles, open_photographs
from classification.data.scan import LeftOut, few, list_images, read_list
from core.errors import UserError
from core.storage.data import require


@dataclass(frozen=True)
class _Published:
    """Where a data set lies below the data root, where to get it, and how large it is.

    Attributes:
        title: its name in words.
        folder: the folder that its archives unpack to, as torchvision names it.
        images: the folder of the images in it.
        address: where to get it.
        classes: how many classes it has.
        parts: how many images are trained and reported on.
    """

    title: str
    folder: str
    images: str
    address: str
    classes: int
    parts: tuple[int, int]


_FLOWERS = _Published(
    "Flowers-102",
    "flowers-102",
    "jpg",
    "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    102,
    (2040, 6149),
)
_FOOD = _Published(
    "Food-101",
    "food-101",
    "images",
    "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    101,
    (75750, 25250),
)
_PETS = _Published(
    "Oxford-IIIT Pets",
    "oxford-iiit-pet",
    "images",
    "https://www.robots.ox.ac.uk/~vgg/data/pets/",
    37,
    (3680, 3669),
)

# Errors that scipy raises on damaged files, including undocumented ones.
_MATLAB_ERRORS = (MatReadError, ValueError, TypeError, LookupError, OSError, NotImplementedError, zlib.error)

Line = tuple[str, str]
"""An image's path below the folder of images, and its class."""


def open_flowers(root: Path, config: DataConfig) -> ClassificationData:
    """Flowers-102: trained on the official training and validation images, tested on the official test images.

    Classes are the numbers 1 to 102 in this order; the data set has no names for them.

    Raises:
        MissingData: a folder or list of the official layout is not there.
        UserError: lists and images contradict each other; or see `open_photographs`.
    """
    folder = _folder(root, _FLOWERS)
    labels = _matrix(folder, "imagelabels.mat", "labels")
    parts = {key: _matrix(folder, "setid.mat", key) for key in ("trnid", "valid", "tstid")}
    for key, numbers in parts.items():
        if numbers.min(initial=1) < 1 or numbers.max(initial=1) > len(labels):
            raise UserError(
                f"'{folder / 'setid.mat'}' names images in '{key}' that 'imagelabels.mat' with its {len(labels)} "
                f"labels does not; get both from {_FLOWERS.address}"
            )

    def lines(*keys: str) -> list[Line]:
        chosen = sorted(int(number) for key in keys for number in parts[key])
        return [(f"image_{number:05}.jpg", str(labels[number - 1])) for number in chosen]

    classes = [str(number) for number in np.unique(labels)]
    return _open("flowers102", folder, _FLOWERS, classes, lines("trnid", "valid"), lines("tstid"), config)


def open_food(root: Path, config: DataConfig) -> ClassificationData:
    """Food-101 in its official parts; the training images' labels are noisy on purpose.

    Raises:
        MissingData, UserError: see `open_flowers`.
    """
    lists = [f"meta/{part}.txt" for part in ("train", "test")]
    return _open_named("food101", root, _FOOD, lists, lambda file: file.partition("/")[0], config)


def open_pets(root: Path, config: DataConfig) -> ClassificationData:
    """Oxford-IIIT Pets, its 37 breeds, in the official parts `trainval` and `test`.

    Raises:
        MissingData, UserError: see `open_flowers`.
    """
    lists = [f"annotations/{part}.txt" for part in ("trainval", "test")]
    return _open_named("oxford-pets", root, _PETS, lists, lambda file: file.rpartition("_")[0], config)


def _folder(root: Path, published: _Published) -> Path:
    folder = require(root / published.folder, published.title, published.address)
    require(folder / published.images, f"{published.title}'s images", published.address)
    return folder


def _open_named(
    name: str,
    root: Path,
    published: _Published,
    lists: Sequence[str],
    class_of: Callable[[str], str],
    config: DataConfig,
) -> ClassificationData:
    """The data set whose images are named after their classes: the first word of every line of its two lists."""
    folder = _folder(root, published)
    parts: list[list[Line]] = []
    for place in lists:
        path = require(folder / place, f"{published.title}'s {place}", published.address)
        lines = [line for line in read_list(path, published.address) if not line.startswith("#")]
        files = [line.split()[0] for line in lines if line.strip()]
        parts.append([(f"{file}.jpg", class_of(file)) for file in files])
    classes = sorted({label for part in parts for _, label in part})
    return _open(name, folder, published, classes, parts[0], parts[1], config)


def _matrix(folder: Path, name: str, key: str) -> np.ndarray:
    """A vector of whole numbers in a file of MATLAB's."""
    path = require(folder / name, f"Flowers-102's {name}", _FLOWERS.address)
    try:
        return np.asarray(loadmat(path)[key]).ravel().astype(np.int64)
    except _MATLAB_ERRORS as error:
        raise UserError(
            f"'{path}' does not hold '{key}' ({type(error).__name__}: {error}); get it from {_FLOWERS.address}"
        ) from error


def _open(
    name: str,
    folder: Path,
    published: _Published,
    classes: Sequence[str],
    train: Sequence[Line],
    test: Sequence[Line],
    config: DataConfig,
) -> ClassificationData:
    """The data set of two lists, which have to agree with the images in the folder."""
    listing = list_images(folder / published.images)
    lines = [*train, *test]
    twice = [file for file, count in Counter(file for file, _ in lines).items() if count > 1]
    if twice:
        raise UserError(
            f"{len(twice)} images stand in the lists of {published.title} twice: {few(twice)}; get them from "
            f"{published.address}"
        )
    there = set(listing.files)
    missing = [file for file, _ in lines if file not in there]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(lines)} images that the lists of {published.title} name are not in "
            f"'{folder / published.images}': {few(missing)}; unpack {published.address} again"
        )
    unlisted = sorted(there - {file for file, _ in lines})
    label_of = {label: number for number, label in enumerate(classes)}
    files = PhotoFiles(
        names=[f"{published.images}/{file}" for file, _ in lines],
        labels=np.array([label_of[label] for _, label in lines], dtype=np.int64),
        held_out=np.repeat([False, True], [len(train), len(test)]),
        classes=tuple(classes),
        left_out=(
            *listing.left_out,
            *(LeftOut(str(folder / published.images / file), "image in no list") for file in unlisted),
        ),
        notes=tuple(
            f"{found:,} {what} instead of {published.title}'s {usual:,}."
            for found, what, usual in (
                (len(classes), "classes", published.classes),
                (len(train), "training images", published.parts[0]),
                (len(test), "test images", published.parts[1]),
            )
            if found != usual
        ),
    )
    return open_photographs(folder, name, files, config)
