"""What depends on the data set in a network: input channels, usual number of classes, form of the stem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import UserError, check_known


@dataclass(frozen=True)
class Dataset:
    """The shape of a data set's images, and which form of a network suits them.

    Attributes:
        form: `"imagenet"`, `"tiny-imagenet"`, `"cifar"` or `"digits"`, the key of their stride tables.
        input_shape: channels, height, width.
        num_classes: the data set's number of classes.
    """

    form: str
    input_shape: tuple[int, int, int]
    num_classes: int

    @property
    def channels(self) -> int:
        """Channels of an image: 3 for colour, 1 for grey."""
        return self.input_shape[0]


DATASETS: dict[str, Dataset] = {
    "imagenet": Dataset("imagenet", (3, 224, 224), 1000),
    "tiny-imagenet": Dataset("tiny-imagenet", (3, 64, 64), 200),
    "cifar": Dataset("cifar", (3, 32, 32), 10),
    "cifar10": Dataset("cifar", (3, 32, 32), 10),
    "cifar100": Dataset("cifar", (3, 32, 32), 100),
    "digits": Dataset("digits", (1, 8, 8), 10),
}


_SIDES = ((48, "cifar"), (96, "tiny-imagenet"))
"""The largest image side for each form; larger images take ImageNet's."""


def form_for(dataset: str, input_shape: Sequence[int]) -> str:
    """The key of `DATASETS` whose form of a network suits a data set: its own, or one chosen by the images' side.

    Args:
        dataset: a key of `DATASETS`, or the title of a folder of colour images.
        input_shape: channels, height, width.
    """
    if dataset in DATASETS:
        return dataset
    return next((form for side, form in _SIDES if max(input_shape[1:]) <= side), "imagenet")


def dataset_form(dataset: str, num_classes: int | None) -> tuple[Dataset, int]:
    """Look up a data set; the second value is `num_classes`, or the data set's own number if that is None.

    Raises:
        UserError: an unknown data set, or fewer than one class.
    """
    check_known("unknown data set", [dataset], DATASETS)
    classes = DATASETS[dataset].num_classes if num_classes is None else num_classes
    if classes < 1:
        raise UserError(f"num_classes={classes}: a classifier needs at least 1 class.")
    return DATASETS[dataset], classes
