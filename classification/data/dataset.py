"""What a classification data set is to the rest of the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from classification.data.arrays import ArrayLoader, ArraySplit
from classification.data.config import DataConfig
from classification.data.folders import FolderLoader, FolderSplit


@dataclass(frozen=True)
class ClassificationData:
    """A data set with its training and test part.

    Attributes:
        name: as given to `open_dataset`.
        class_names: names in the order of the labels.
        input_shape: channels, height and width of the network's input.
        train: the training images that are used.
        test: the images that error rates are reported on (ImageNet's and Tiny-ImageNet's validation images).
        config: the options.
    """

    name: str
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    train: ArraySplit | FolderSplit
    test: ArraySplit | FolderSplit
    config: DataConfig

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def skipped(self) -> dict[str, int]:
        """Number of images left out as unreadable, by part ("train", "test").

        Data sets that are decoded during training (ImageNet) count what has been met so far.
        """
        return {"train": self.train.skipped, "test": self.test.skipped}

    def skipped_everywhere(self, gather: Callable[[Any], list[Any]]) -> dict[str, int]:
        """`skipped` over all processes, each of which has decoded its own part; a file that several met counts once.

        Args:
            gather: what the own process has -> what every process has; all of them have to call it.
        """
        parts = {"train": self.train, "test": self.test}
        counts = {}
        for part, split in parts.items():
            if isinstance(split, FolderSplit):
                counts[part] = len(set().union(*gather(split.unreadable)))
            else:
                counts[part] = split.skipped  # found when it was opened, by every process alike
        return counts

    def train_loader(
        self, batch_size: int, seed: int, device: torch.device | str = "cpu"
    ) -> ArrayLoader | FolderLoader:
        """Shuffled, augmented batches without the last partial one; see `core.train.Loader`.

        Args:
            batch_size: images per batch, all processes together.
            seed: of order and augmentation.
            device: where the batches come to lie. On an accelerator, CIFAR, digits and Tiny-ImageNet (1.2
                GB) are kept there as a whole.
        """
        return self.train.loader(
            batch_size, torch.device(device), training=True, seed=seed, config=self.config
        )

    def test_loader(self, batch_size: int, device: torch.device | str = "cpu") -> ArrayLoader | FolderLoader:
        """All test images, in order, as they are; the last batch may be smaller."""
        return self.test.loader(batch_size, torch.device(device), training=False, config=self.config)
