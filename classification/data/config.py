"""Options of a classification data set, and its normalisation constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from core.errors import UserError, check_known, meant_share

BadImages = Literal["error", "skip"]

# Per channel (red, green, blue), in pixel values from 0 to 255.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
TINY_IMAGENET_MEAN = (0.4802 * 255, 0.4481 * 255, 0.3975 * 255)
TINY_IMAGENET_STD = (0.2302 * 255, 0.2265 * 255, 0.2262 * 255)
CIFAR_MEAN = (125.3, 123.0, 113.9)
CIFAR_STD = (63.0, 62.1, 66.7)

# Least values of the numbers in `DataConfig`. Less than 16 pixels have no room for the strides of any network.
_LEAST = {"train_limit": 1, "classes": 2, "first_class": 0, "test_per_class": 0, "downsample": 1, "crop_padding": 0,
          "size": 16, "workers": 0}  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """The `data` part of a configuration.

    Args:
        train_limit: use only so many training images, the same number of every class (to within one); None
            for all.
        classes: use only so many classes, in the order of the labels, at least two; None for all.
        first_class: the first of them; those before it are left out.
        test_per_class: hold out so many training images of every class, the last in the order of the files, and test on
            them as well: a thousand test images can tell networks apart by points, not by tenths.
        downsample: average the images over squares of so many pixels a side; 1 leaves them as they are. For data sets
            that are held in memory (all but ImageNet).
        crop_padding: zero padding in pixels of the random crop in training; 0 for no crop. The reference pads
            CIFAR by 4 and Tiny-ImageNet not at all. ImageNet has random resized crops instead: leave it 0.
        flip: mirror training images at random.
        size: side in pixels of a network's square input, for the user's own images and other photographs of any size
            (`classification.data.PHOTOGRAPHS`); None for 224. Other data sets have a size of their own.
        val_share: the share of every class of the user's own images that is held out, in (0, 1); None for 0.2, or for
            the folder's own part `val`.
        bad_images: "error" stops at an image that is truncated or unreadable; "skip" leaves it out and
            counts it.
        workers: processes that make the views of ImageNet and of other photographs during training (0: the training
            process itself; no more than there are cores), and threads that decode Tiny-ImageNet and photographs once.
            Digits and CIFAR are not decoded.

    Raises:
        UserError: a value is out of range.
    """

    train_limit: int | None = None
    classes: int | None = None
    first_class: int = 0
    test_per_class: int = 0
    downsample: int = 1
    crop_padding: int = 0
    flip: bool = False
    size: int | None = None
    val_share: float | None = None
    bad_images: BadImages = "error"
    workers: int = 4

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                none = "None and " * (getattr(DataConfig, name) is None)
                raise UserError(f"data.{name} is {value}; allowed are {none}integers from {least}")
        if self.val_share is not None and not 0 < self.val_share < 1:
            raise UserError(
                f"data.val_share is {self.val_share:g}; allowed are None and numbers between 0 and 1"
                f"{meant_share(self.val_share)}"
            )
        check_known("unknown data.bad_images", [self.bad_images], get_args(BadImages))

    def smaller_than_whole(self) -> str:
        """A sentence for results on a part of the data set, "" for the whole."""
        size, first, held = self.downsample, self.first_class, self.test_per_class
        classes = f"{self.classes} classes" if self.classes is not None else "classes"
        parts = [
            f"{self.train_limit:,} training images" if self.train_limit is not None else "",
            f"the first {classes}" if self.classes is not None and not first else "",
            f"{classes} from number {first} on (the first is 0)" if first else "",
            f"{held:,} training images of every class are test images" if held else "",
            f"images averaged over {size}x{size} pixels" if size > 1 else "",
        ]
        named = ", ".join(part for part in parts if part)
        return f"A part of the data set: {named}." if named else ""
