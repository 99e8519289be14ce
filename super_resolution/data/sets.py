"""Sets of image pairs: a data set whose files have been found, and how a pair is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import MissingData, UserError
from core.storage.data import is_hidden
from core.tables import grouped
from super_resolution.images import SUFFIXES, read_photo
from super_resolution.resize import crop_to_multiple, downscale


@dataclass(frozen=True)
class ImagePair:
    """One image: its high-resolution file and, if the data set has one, its low-resolution file."""

    name: str
    hr: Path
    lr: Path | None = None


@dataclass(frozen=True)
class ImageSet:
    """A named, ordered set of images at one scale.

    Attributes:
        name: the data set's name as papers print it, or the folder's.
        scale: the up-sampling factor.
        pairs: the images; names are unique.
        folder: where the set lies, and its pixel cache with it; None if nothing may be written there.

    Raises:
        UserError: the scale is below 2, there are no images, or two share a name.
    """

    name: str
    scale: int
    pairs: tuple[ImagePair, ...]
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.scale < 2:
            raise UserError(
                f"super-resolution by {self.scale}: the scale is at least 2; give --scale 2, 3 or 4."
            )
        if not self.pairs:
            raise MissingData(f"{self.name}: its folder holds none of its images; is it complete?")
        name, count = Counter(pair.name for pair in self.pairs).most_common(1)[0]
        if count > 1:
            raise UserError(f"{self.name}: {count} images are called '{name}'; rename all but one.")


def pair_up(
    hr_files: Sequence[Path], lr_folder: Path | None, scale: int, others: Sequence[Path] = ()
) -> tuple[ImagePair, ...]:
    """Find each HR file's LR file by name: `<name>.*` or `<name>x<scale>.*` in `lr_folder`.

    Args:
        hr_files: the high-resolution images.
        lr_folder: where the low-resolution ones lie; None or a folder that does not exist leaves them to be
            made.
        scale: the up-sampling factor.
        others: high-resolution images of other parts of the data set, whose LR files may lie in `lr_folder`, too.

    Raises:
        MissingData: the folder is there but an image's LR file is not in it.
        UserError: an image has several LR files, or an LR file no image: one of the two folders is incomplete.
    """
    if lr_folder is None or not lr_folder.is_dir():
        return tuple(ImagePair(hr.stem, hr) for hr in hr_files)
    images = (
        path
        for path in sorted(lr_folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not is_hidden(path.name)
    )
    by_stem = grouped((path.stem, path) for path in images)
    pairs = []
    for hr in hr_files:
        lr = by_stem.pop(f"{hr.stem}x{scale}", []) + by_stem.pop(hr.stem, [])
        if not lr:
            raise MissingData(
                f"no LR image for '{hr}': expected '{lr_folder / f'{hr.stem}x{scale}{hr.suffix}'}'. "
                f"Complete the folder, or remove it so that LR images are made by MATLAB's bicubic."
            )
        if len(lr) > 1:
            names = ", ".join(path.name for path in lr)
            raise UserError(f"'{hr}' has several LR images in '{lr_folder}' ({names}); remove all but one.")
        pairs.append(ImagePair(hr.stem, hr, lr[0]))
    known = {stem for hr in others for stem in (hr.stem, f"{hr.stem}x{scale}")}
    alone = [path.name for stem, paths in by_stem.items() if stem not in known for path in paths]
    if alone and hr_files:
        raise UserError(
            f"no HR image for {len(alone)} of the LR images in '{lr_folder}', the first for '{alone[0]}'. Complete the "
            f"HR images beside '{hr_files[0]}', or remove these LR images."
        )
    return tuple(pairs)


def read_pair(pair: ImagePair, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the HR and the LR image of a pair; the LR image is made if there is no file.

    Returns:
        HR, cropped to `scale` times the LR image's size, and LR: both H x W or both H x W x 3, uint8.

    Raises:
        UserError: a file can't be read, is too small, or the two do not belong together at this scale.
    """
    hr = read_photo(pair.hr)
    if min(hr.shape[:2]) < scale:
        raise UserError(
            f"'{pair.hr}' has {hr.shape[1]} x {hr.shape[0]} pixels, too few for x{scale}; "
            f"leave it out of the folder."
        )
    if pair.lr is None:
        return crop_to_multiple(hr, scale), downscale(hr, scale)
    lr = read_photo(pair.lr)
    if hr.ndim != lr.ndim:
        raise UserError(
            f"'{pair.hr}' and '{pair.lr}': one is grey, the other colour; make the LR image again."
        )
    if any(not 0 <= high - low * scale < scale for high, low in zip(hr.shape[:2], lr.shape[:2])):
        raise UserError(
            f"'{pair.lr}' is {lr.shape[1]} x {lr.shape[0]} pixels and '{pair.hr}' "
            f"{hr.shape[1]} x {hr.shape[0]}, which is not x{scale} of it; put LR images of that scale there, "
            f"or remove the LR folder so that they are made."
        )
    return hr[: lr.shape[0] * scale, : lr.shape[1] * scale], lr
