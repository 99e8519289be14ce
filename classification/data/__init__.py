"""Classification data sets: `open_dataset` finds one under the data root, or says where to get it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from classification.data.cifar import open_cifar
from classification.data.config import DataConfig
from classification.data.dataset import ClassificationData
from classification.data.digits import open_digits
from classification.data.imagenet import open_imagenet
from classification.data.listed import open_flowers, open_food, open_pets
from classification.data.own_folder import folder_title, open_own_folder
from classification.data.reduction import reduce_data
from classification.data.tiny_imagenet import open_tiny_imagenet
from core.errors import UserError, did_you_mean
from core.storage.data import missing_of

PHOTOGRAPHS = ("flowers102", "food101", "oxford-pets")
"""Published sets of photographs of any size; the network's input size is `DataConfig.size`."""

DATASETS = ("digits", "cifar10", "cifar100", "tiny-imagenet", "imagenet", *PHOTOGRAPHS)

__all__ = [
    "DATASETS",
    "PHOTOGRAPHS",
    "ClassificationData",
    "DataConfig",
    "check_dataset",
    "dataset_title",
    "is_folder",
    "missing_sets",
    "open_dataset",
]


# Any of a data set's folders shows that the data set is there; whether it is complete shows when it is opened.
_FOLDERS = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-batches-bin"),
    "cifar100": ("cifar-100-python", "cifar-100-binary"),
    "tiny-imagenet": ("tiny-imagenet-200",),
    "imagenet": ("imagenet",),
    "flowers102": ("flowers-102",),
    "food101": ("food-101",),
    "oxford-pets": ("oxford-iiit-pet",),
}


def missing_sets(root: Path) -> dict[str, str]:
    """Every data set of `DATASETS` -> what is missing and where to get it; "" if its folder is there."""
    openers = {
        name: partial(open_dataset, name, root)
        for name, folders in _FOLDERS.items()
        if not any((root / folder).exists() for folder in folders)
    }
    return dict.fromkeys(DATASETS, "") | missing_of(openers)


def is_folder(dataset: str) -> bool:
    """Whether a name means a folder of images: a path, or an existing folder; names of `DATASETS` go first."""
    return dataset not in ("", *DATASETS) and (
        os.sep in dataset or dataset.startswith(("~", ".")) or Path(dataset).is_dir()
    )


def dataset_title(dataset: str) -> str:
    """The name of a data set in reports, checkpoints and work directories; a folder's is never one of `DATASETS`."""
    if not is_folder(dataset):
        return dataset
    title = folder_title(dataset)
    return f"{title}-folder" if title in DATASETS else title


def check_dataset(dataset: str) -> None:
    """Refuse a name that is neither in `DATASETS` nor a folder.

    Raises:
        UserError: see above.
    """
    if dataset not in DATASETS and not is_folder(dataset):
        close = did_you_mean(dataset, DATASETS)
        raise UserError(f"unknown data set '{dataset}': {close}, or the path of a folder of images")


def open_dataset(name: str, root: str | Path, config: DataConfig | None = None) -> ClassificationData:
    """Open a data set.

    Args:
        name: one of `DATASETS`, or the path of a folder of the user's own images.
        root: the data root (`core.storage.data.data_root`), under which each data set lies in its official layout:
            `cifar-10-batches-py` or `cifar-10-batches-bin`, `cifar-100-python` or `cifar-100-binary`,
            `tiny-imagenet-200`, `imagenet/train` and `imagenet/val`, `flowers-102`, `food-101`, `oxford-iiit-pet`.
            Digits need none.
        config: options; None for the defaults.

    Raises:
        MissingData: the data set is not there; the message says where it belongs and where to get it.
        UserError: there is no such data set, its files are damaged, a class has no image, or
            `config` asks for more than it has.
    """
    config = config or DataConfig()
    check_dataset(name)
    if config.size is not None and name not in PHOTOGRAPHS and not is_folder(name):
        raise UserError(
            f"data.size is {config.size}, but images of '{name}' have a size of their own; leave it out"
        )
    if config.val_share is not None and not is_folder(name):
        raise UserError(
            f"data.val_share is {config.val_share}, but '{name}' has a part to report on; leave it out"
        )
    data = _open_whole(name, Path(root), config)
    data.require_images_of_every_class()
    return reduce_data(data, config)


def _open_whole(name: str, root: Path, config: DataConfig) -> ClassificationData:
    match name:
        case "digits":
            return open_digits(config)
        case "cifar10" | "cifar100":
            return open_cifar(name, root, config)
        case "tiny-imagenet":
            return open_tiny_imagenet(root, config)
        case "imagenet":
            return open_imagenet(root, config)
        case "flowers102":
            return open_flowers(root, config)
        case "food101":
            return open_food(root, config)
        case "oxford-pets":
            return open_pets(root, config)
    return open_own_folder(name, dataset_title(name), config)
