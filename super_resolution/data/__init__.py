"""Super-resolution data: sets of HR and LR images, their pixel cache, and training crops."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from core.errors import UserError
from super_resolution.data.cache import CachedImages, open_cache
from super_resolution.data.crops import CropLoader
from super_resolution.data.layouts import (
    PAPER_SETS,
    SKIMAGE_TEST,
    SKIMAGE_TRAIN,
    TRAINING_SETS,
    missing_sets,
    open_benchmarks,
    open_training_set,
)
from super_resolution.data.sets import ImagePair, ImageSet, read_pair

__all__ = [
    "HELD_OUT",
    "PAPER_SETS",
    "SKIMAGE_TEST",
    "SKIMAGE_TRAIN",
    "TRAINING_SETS",
    "CacheConfig",
    "CachedImages",
    "CropLoader",
    "DataConfig",
    "ImagePair",
    "ImageSet",
    "missing_sets",
    "open_benchmarks",
    "open_cache",
    "open_parts",
    "open_training_loader",
    "open_training_set",
    "read_pair",
]

HELD_OUT = "held-out"
"""The name of the set that `data.held_out` makes."""


@dataclass(frozen=True)
class CacheConfig:
    """Images decoded once, into memory-mapped files.

    Attributes:
        folder: where they lie; None keeps them beside the images if that folder can be written.
    """

    folder: Path | None = None


@dataclass(frozen=True)
class DataConfig:
    """The section `data` of a super-resolution config.

    Attributes:
        patch: side of an HR training crop in pixels (192 for EDSR, 96 for SRResNet); rounded down to a
            multiple of the scale, so that 64 is 63 at x3.
        crops_per_epoch: training crops of one epoch; None draws one per image.
        augment: random flips and rotations of the training crops.
        sub_images: train on the pre-cut sub-images of DIV2K or Flickr2K.
        cache: where the images are kept decoded.
        benchmarks: the sets to score on; the report names those that are missing.
        held_out: the last so many images of the training set by name are not trained on but scored, as a set
            `held-out`.
        tile: side of the tiles in which images are scored, in LR pixels; None takes each image as a whole.

    Raises:
        UserError: the tile is not positive, or the number of held-out images negative.
    """

    RENAMED: ClassVar[dict[str, str]] = {"cache": "cache.folder"}

    patch: int = 192
    crops_per_epoch: int | None = None
    augment: bool = True
    sub_images: bool = False
    cache: CacheConfig = field(default_factory=CacheConfig)
    benchmarks: tuple[str, ...] = ("skimage", *PAPER_SETS)
    held_out: int = 0
    tile: int | None = None

    def __post_init__(self) -> None:
        if self.held_out < 0:
            raise UserError(f"data.held_out is {self.held_out} images; give at least 0")
        if self.tile is not None and self.tile < 1:
            raise UserError(
                f"data.tile is {self.tile} pixels; give at least 1, or leave it out for whole images"
            )


def open_parts(dataset: str, root: Path, scale: int, data: DataConfig) -> tuple[ImageSet, ImageSet | None]:
    """The images to train on, and those that `data.held_out` keeps for scoring; None if it keeps none.

    Raises:
        UserError: no such set, or it has too few images to hold so many out; MissingData: its files are not there.
    """
    images = open_training_set(dataset, root, scale, sub_images=data.sub_images)
    if not data.held_out:
        return images, None
    kept = len(images.pairs) - data.held_out
    if kept < 1:
        raise UserError(
            f"data.held_out={data.held_out} of the {len(images.pairs)} images of '{dataset}' leaves none to train on"
        )
    by_name = sorted(images.pairs, key=lambda pair: pair.name)
    # Its own name keeps it from sharing a cache with the whole set.
    trained_on = replace(images, name=f"{images.name}-first-{kept}", pairs=tuple(by_name[:kept]))
    return trained_on, replace(images, name=HELD_OUT, pairs=tuple(by_name[kept:]))


def open_training_loader(
    dataset: str, root: Path, scale: int, data: DataConfig, *, batch_size: int, seed: int, channels: int = 3
) -> CropLoader:
    """The training batches of a config: finds the set, opens or makes its cache, and draws crops from it.

    Args:
        dataset: a name of `TRAINING_SETS` or the path of a folder of images.
        root: the data root (`core.storage.data.data_root`).
        scale: the up-sampling factor.
        data: the section `data` of the config; crops are of `data.patch`, rounded down to a multiple of `scale`.
        batch_size: crops per batch, over all processes.
        seed: the run's seed.
        channels: 3 for RGB crops, 1 for their luma.

    Raises:
        UserError: the set, its images or the config are wrong; one line each.
    """
    images, _ = open_parts(dataset, root, scale, data)
    cached = open_cache(images, None if data.cache.folder is None else data.cache.folder.expanduser())
    crops = len(cached) if data.crops_per_epoch is None else data.crops_per_epoch
    # One protocol serves every scale. A patch below the scale stays as it is: the loader refuses it.
    patch = data.patch - data.patch % scale or data.patch
    return CropLoader(cached, batch_size, patch, crops, seed, data.augment, channels)
