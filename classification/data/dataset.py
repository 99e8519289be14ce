"""A classification data set, as the rest of the package sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from classification.data.arrays import ArrayLoader, ArraySplit
from classification.data.config import DataConfig
from classification.data.folders import FolderLoader, FolderSplit
from classification.data.scan import LeftOut, few
from core.errors import UserError


@dataclass(frozen=True)
class ClassificationData:
    """A data set with its training and test part.

    Attributes:
        name: as given to `open_dataset`; for the user's own images, the folder's name.
        class_names: names in the order of the labels.
        input_shape: channels, height and width of the network's input.
        train: the training images that are used.
        test: the images that error rates are reported on (ImageNet's and Tiny-ImageNet's validation images).
        config: the options.
        left_out: files and folders of the data set that are no images, as found when it was opened.
        notes: sentences that a reader of the results has to know about the files, on missing images for example.
        folder: for photographs (the user's own, say), what a run keeps of them: `content`, a digest of everything that
            determines results, `classes`, and `held_out`, the images that are not trained on; empty for others.
    """

    name: str
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    train: ArraySplit | FolderSplit
    test: ArraySplit | FolderSplit
    config: DataConfig
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    folder: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def skipped(self) -> dict[str, int]:
        """Number of images left out as unreadable, by part ("train", "test").

        Data sets that are decoded during training count the images met so far.
        """
        return {"train": len(self.train.unreadable), "test": len(self.test.unreadable)}

    def unreadable_everywhere(self, gather: Callable[[Any], list[Any]]) -> dict[str, tuple[LeftOut, ...]]:
        """The unreadable images by part, of all processes, each of which decodes its own share; every file once.

        Args:
            gather: this process' value -> the values of all processes; all of them have to call it.

        Raises:
            UserError: all images of a class are among them.
        """
        found = {}
        for part, split in (("train", self.train), ("test", self.test)):
            if isinstance(split, FolderSplit):
                damages = {row: damage for own in gather(split.unreadable) for row, damage in own.items()}
                split.require_readable_classes(damages)
                found[part] = tuple(split.left_out(damages))
            else:
                found[part] = split.unreadable  # found when it was opened, by every process alike
        return found

    def recall(self, paths: Collection[str]) -> None:
        """Count unreadable images that the run met before it was resumed (`FolderSplit.recall`)."""
        for split in (self.train, self.test):
            if isinstance(split, FolderSplit):
                split.recall(paths)

    def require_images_of_every_class(self) -> None:
        """Refuse data on which an error rate means nothing: one class, or classes without images in a part.

        Raises:
            UserError: there are fewer than two classes, or a class has no image.
        """
        if self.num_classes < 2:
            raise UserError(
                f"{self.name} holds the one class '{''.join(self.class_names)}': any network is right on all of it; "
                "give it two classes or more"
            )
        for part, split in (("training", self.train), ("test", self.test)):
            labels = split.labels if isinstance(split, FolderSplit) else split.labels[split.rows].numpy()
            counts = np.bincount(labels, minlength=self.num_classes)
            names = [self.class_names[label] for label in np.flatnonzero(counts == 0)]
            if names:
                raise UserError(
                    f"{self.name} has no {part} image of {len(names)} of its {self.num_classes} classes: "
                    f"{few(names, '; ')}; complete the data set, or take these classes out of it"
                )

    def train_loader(
        self, batch_size: int, seed: int, device: torch.device | str = "cpu"
    ) -> ArrayLoader | FolderLoader:
        """Shuffled, augmented batches without the last partial one; see `core.training.train.Loader`.

        Args:
            batch_size: images per batch, all processes together.
            seed: of order and augmentation.
            device: where the batches are put. An accelerator then holds CIFAR, digits or Tiny-ImageNet (1.2 GB) as a
                whole.
        """
        return self.train.loader(
            batch_size, torch.device(device), training=True, seed=seed, config=self.config
        )

    def test_loader(self, batch_size: int, device: torch.device | str = "cpu") -> ArrayLoader | FolderLoader:
        """All test images, in order, as they are; the last batch may be smaller."""
        return self.test.loader(batch_size, torch.device(device), training=False, config=self.config)
