"""Where the files of each data set lie: DIV2K, Flickr2K, BSDS500, benchmark sets, any folder, and the default.

Every function takes the data root and the scale and returns an `ImageSet`, or raises `MissingData` with one
line that says what is missing, where it belongs and where to get it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from skimage.data import data_dir

from core.errors import MissingData, UserError, did_you_mean
from core.storage.data import missing_of, require
from super_resolution.data.sets import ImagePair, ImageSet, pair_up
from super_resolution.images import find_images

SKIMAGE_TRAIN = (
    "rocket.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "hubble_deep_field.jpg",
    "ihc.png",
)
"""Colour photographs that scikit-image installs with itself, to train on; the stereo pair stays together."""

SKIMAGE_TEST = ("astronaut.png", "chelsea.png", "coffee.png")
"""Colour photographs that scikit-image installs with itself, to test on."""

PAPER_SETS = ("Set5", "Set14", "B100", "Urban100", "DIV2K")
"""The columns of Table 2 of the LW-DNA paper."""

_DIV2K_ADDRESS = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
_FLICKR2K_ADDRESS = "https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar"
_BENCHMARK_ADDRESS = "https://cv.snu.ac.kr/research/EDSR/benchmark.tar"
_BSDS_ADDRESS = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html"
_LAST_DIV2K_TRAIN = 800


def skimage_train(root: Path, scale: int) -> ImageSet:
    """scikit-image's bundled photographs for training (`SKIMAGE_TRAIN`); `root` is not used."""
    return _skimage_set("scikit-image-train", SKIMAGE_TRAIN, scale)


def skimage_test(root: Path, scale: int) -> ImageSet:
    """scikit-image's bundled photographs for testing (`SKIMAGE_TEST`); `root` is not used."""
    return _skimage_set("scikit-image", SKIMAGE_TEST, scale)


def div2k_train(root: Path, scale: int, sub_images: bool = False) -> ImageSet:
    """The 800 training images of DIV2K (Agustsson & Timofte, CVPRW 2017).

    Official layout: `DIV2K/DIV2K_train_HR/0001.png` and `DIV2K/DIV2K_train_LR_bicubic/X4/0001x4.png`. Sub-images:
    BasicSR's `DIV2K_train_HR_sub` and `DIV2K_train_LR_bicubic/X4_sub`, or `GT_sub` and `GT_sub_bicLRx4`.
    """
    folder = root / "DIV2K"
    hr, lr = folder / "DIV2K_train_HR", folder / f"DIV2K_train_LR_bicubic/X{scale}"
    if sub_images:
        hr, lr = hr.with_name(f"{hr.name}_sub"), lr.with_name(f"X{scale}_sub")
        if not hr.is_dir() and (folder / "GT_sub").is_dir():
            hr, lr = folder / "GT_sub", folder / f"GT_sub_bicLRx{scale}"
    files = find_images(hr, "DIV2K's training images", _DIV2K_ADDRESS)
    training = [path for path in files if _div2k_number(path) <= _LAST_DIV2K_TRAIN]
    pairs = pair_up(training, lr, scale, others=files)
    return ImageSet(_sub_name("DIV2K-train", sub_images), scale, pairs, folder)


def div2k_valid(root: Path, scale: int) -> ImageSet:
    """Images 0801 to 0900 of DIV2K.

    From `DIV2K_valid_HR` or, as EDSR's code keeps them, from `DIV2K_train_HR`.
    """
    folder = root / "DIV2K"
    in_train = (folder / "DIV2K_train_HR").is_dir() and not (folder / "DIV2K_valid_HR").is_dir()
    part = "train" if in_train else "valid"
    hr = folder / f"DIV2K_{part}_HR"
    files = find_images(hr, "DIV2K's validation images", _DIV2K_ADDRESS)
    validation = [path for path in files if _div2k_number(path) > _LAST_DIV2K_TRAIN]
    if not validation:
        raise MissingData(
            f"DIV2K's validation images (0801 to 0900) not found in '{hr}'. Get them from {_DIV2K_ADDRESS}."
        )
    lr = folder / f"DIV2K_{part}_LR_bicubic/X{scale}"
    return ImageSet("DIV2K", scale, pair_up(validation, lr, scale, others=files), folder)


def flickr2k(root: Path, scale: int, sub_images: bool = False) -> ImageSet:
    """The 2,650 images of Flickr2K (Lim et al., CVPRW 2017).

    Layout: `Flickr2K/Flickr2K_HR/000001.png` and `Flickr2K/Flickr2K_LR_bicubic/X4/000001x4.png`.
    """
    folder = root / "Flickr2K"
    ending = "_sub" if sub_images else ""
    files = find_images(folder / f"Flickr2K_HR{ending}", "Flickr2K's images", _FLICKR2K_ADDRESS)
    lr = folder / f"Flickr2K_LR_bicubic/X{scale}{ending}"
    return ImageSet(_sub_name("Flickr2K", sub_images), scale, pair_up(files, lr, scale), folder)


def df2k(root: Path, scale: int, sub_images: bool = False) -> ImageSet:
    """DIV2K's training images and Flickr2K together."""
    parts = div2k_train(root, scale, sub_images), flickr2k(root, scale, sub_images)
    pairs = tuple(ImagePair(f"{part.name}/{p.name}", p.hr, p.lr) for part in parts for p in part.pairs)
    return ImageSet(_sub_name("DF2K", sub_images), scale, pairs, parts[0].folder)


def bsds500_train(root: Path, scale: int) -> ImageSet:
    """The training photographs of BSDS500 (Arbelaez et al., PAMI 2011), disjoint from Set5, Set14 and B100.

    In the archive's layout (`BSR/BSDS500/data/images/train` or from `BSDS500` on) or as a folder
    `BSDS500_train`.
    """
    official = "BSDS500/data/images/train"
    places = (root / official, root / "BSR" / official, root / "BSDS500_train")
    folder = next((place for place in places if place.is_dir()), places[0])
    files = find_images(folder, "BSDS500's training images", _BSDS_ADDRESS)
    return ImageSet("BSDS500-train", scale, pair_up(files, None, scale), folder)


def benchmark(root: Path, scale: int, name: str) -> ImageSet:
    """A benchmark set by name, in EDSR's or BasicSR's layout; `"DIV2K"` is its validation part.

    EDSR's is `benchmark/Set5/HR/<name>.png` with `benchmark/Set5/LR_bicubic/X4/<name>x4.png`, BasicSR's
    `Set5/GTmod12/<name>.png` with `Set5/LRbicx4/<name>.png`. The folder `benchmark` may be left out. LR images are made
    if the folder for their scale is missing.
    """
    if name == "DIV2K":
        return div2k_valid(root, scale)
    places = (root / "benchmark" / name, root / name)
    folder = next((place for place in places if place.is_dir()), places[0])
    layouts = ((folder / "HR", f"LR_bicubic/X{scale}"), (folder / "GTmod12", f"LRbicx{scale}"))
    hr, lr = next((layout for layout in layouts if layout[0].is_dir()), layouts[0])
    files = find_images(hr, f"the benchmark {name}", _BENCHMARK_ADDRESS)
    return ImageSet(name, scale, pair_up(files, folder / lr, scale), folder)


def folder_of_images(folder: Path, scale: int) -> ImageSet:
    """Any folder of images, or one with `HR` and, if there are LR images, `LR_bicubic/X<scale>` in it."""
    has_parts = (folder / "HR").is_dir()
    files = find_images(folder / "HR" if has_parts else folder, "the images", "your own collection")
    lr = folder / f"LR_bicubic/X{scale}" if has_parts else None
    return ImageSet(folder.resolve().name, scale, pair_up(files, lr, scale), folder)


TRAINING_SETS: dict[str, Callable[..., ImageSet]] = {
    "skimage": skimage_train,
    "bsds500": bsds500_train,
    "div2k": div2k_train,
    "flickr2k": flickr2k,
    "df2k": df2k,
}
"""Training sets by the name that configs and command lines use."""

_WITH_SUB_IMAGES = ("div2k", "flickr2k", "df2k")


def open_training_set(name: str, root: Path, scale: int, *, sub_images: bool = False) -> ImageSet:
    """A training set by name (`TRAINING_SETS`) or any folder of images by its path.

    Args:
        name: `"skimage"`, `"bsds500"`, `"div2k"`, `"flickr2k"`, `"df2k"`, or a path.
        root: the data root (`core.storage.data.data_root`).
        scale: the up-sampling factor.
        sub_images: read the pre-cut sub-images of DIV2K or Flickr2K instead of the whole images.

    Raises:
        UserError: no such name or folder, or the set has no sub-images.
        MissingData: the set's files are not under `root`.
    """
    if sub_images and name not in _WITH_SUB_IMAGES:
        raise UserError(
            f"data set '{name}' has no sub-images; only {', '.join(_WITH_SUB_IMAGES)} have. "
            f"Set data.sub_images=False."
        )
    if name in TRAINING_SETS:
        options = {"sub_images": sub_images} if name in _WITH_SUB_IMAGES else {}
        return TRAINING_SETS[name](root, scale, **options)
    return _by_path(name, scale, TRAINING_SETS)


def open_benchmarks(
    names: Sequence[str], root: Path, scale: int
) -> tuple[tuple[ImageSet, ...], dict[str, str]]:
    """The benchmark sets that are present, and the reasons why the others are not.

    Args:
        names: of `PAPER_SETS`, `"skimage"`, any other set in the benchmark layout, or a folder by its path.
        root: the data root.
        scale: the up-sampling factor.

    Returns:
        The present sets in the order asked for, and a dict from a missing set's name to the line that says
        how to get it.

    Raises:
        UserError: a path (a name with a separator) is not a folder, or a file's name does not follow its set's rule.
    """
    present, missing = [], {}
    for name in names:
        try:
            if name == "skimage":
                present.append(skimage_test(root, scale))
            elif len(Path(name).parts) > 1:
                present.append(_by_path(name, scale, PAPER_SETS))
            else:
                present.append(benchmark(root, scale, name))
        except MissingData as error:
            missing[name] = str(error)
    return tuple(present), missing


def missing_sets(root: Path, scale: int = 4) -> dict[str, str]:
    """Every training set and set of the paper -> what is missing and where to get it; "" if it is there.

    Raises:
        UserError: a file's name does not follow its set's rule.
    """
    training = {name: partial(listing, root, scale) for name, listing in TRAINING_SETS.items()}
    return missing_of(training | {name: partial(benchmark, root, scale, name) for name in PAPER_SETS})


def _skimage_set(name: str, files: Sequence[str], scale: int) -> ImageSet:
    """The named files of scikit-image's data folder. Read as files: its functions might go to the network."""
    folder = Path(data_dir)
    for file in files:
        require(
            folder / file, f"scikit-image's photograph '{file}'", "pip install --force-reinstall scikit-image"
        )
    return ImageSet(name, scale, pair_up([folder / file for file in files], None, scale))


def _by_path(name: str, scale: int, known: Sequence[str] | dict[str, Callable[..., ImageSet]]) -> ImageSet:
    """A folder of images, or an error that names the nearest known set."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder_of_images(folder, scale)
    hint = did_you_mean(name, known)
    raise UserError(
        f"data set '{name}' is neither a known name nor a folder; {hint}, or the path of a folder"
    )


def _sub_name(name: str, sub_images: bool) -> str:
    """The set's name, marked if it is cut into sub-images, so that the two never share a cache."""
    return f"{name}-sub" if sub_images else name


def _div2k_number(path: Path) -> int:
    """The image number of `0001.png` or of its sub-image `0001_s001.png`."""
    digits = path.stem.split("_")[0]
    if not digits.isdigit():
        raise UserError(
            f"'{path}' is not named as DIV2K names its images (0001.png, or 0001_s001.png); move it away."
        )
    return int(digits)
