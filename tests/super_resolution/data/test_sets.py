"""Data sets in their official layouts, on small trees of real photographs, and pairs that do not belong
together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import MissingData, UserError
from super_resolution.data import (
    HELD_OUT,
    PAPER_SETS,
    SKIMAGE_TEST,
    SKIMAGE_TRAIN,
    DataConfig,
    ImagePair,
    ImageSet,
    open_benchmarks,
    open_parts,
    open_training_set,
    read_pair,
)
from super_resolution.images import write_image
from super_resolution.resize import downscale


def put(path: Path, image: np.ndarray) -> Path:
    """Write an image into a tree."""
    write_image(path, image)
    return path


@pytest.fixture
def div2k(tmp_path: Path, photo: np.ndarray) -> Path:
    """A root with DIV2K's official layout: two training images, one validation image, x4 and sub-images."""
    root = tmp_path / "DIV2K"
    for number, part in (("0001", "train"), ("0800", "train"), ("0801", "valid")):
        hr = photo[: 40 + int(number) % 7, :60]
        put(root / f"DIV2K_{part}_HR/{number}.png", hr)
        put(root / f"DIV2K_{part}_LR_bicubic/X4/{number}x4.png", downscale(hr, 4))
    for sub in ("0001_s001", "0001_s002"):
        put(root / f"DIV2K_train_HR_sub/{sub}.png", photo[:24, :24])
        put(root / f"DIV2K_train_LR_bicubic/X4_sub/{sub}.png", downscale(photo[:24, :24], 4))
    return tmp_path


def test_div2k_in_its_official_layout(div2k: Path) -> None:
    training = open_training_set("div2k", div2k, 4)
    assert [pair.name for pair in training.pairs] == ["0001", "0800"]
    assert training.pairs[1].lr == div2k / "DIV2K/DIV2K_train_LR_bicubic/X4/0800x4.png"
    (validation,), missing = open_benchmarks(("DIV2K",), div2k, 4)
    assert [pair.name for pair in validation.pairs] == ["0801"]
    assert validation.name == "DIV2K"
    assert validation.pairs[0].lr is not None
    assert missing == {}


def test_held_out_images_are_scored_on_and_not_trained_on(tmp_path: Path, photo: np.ndarray) -> None:
    for name in "cab":
        put(tmp_path / f"photos/{name}.png", photo[:40, :60])
    folder = str(tmp_path / "photos")
    trained_on, held_out = open_parts(folder, tmp_path, 4, DataConfig(held_out=1))
    assert [pair.name for pair in trained_on.pairs] == ["a", "b"]
    assert held_out is not None
    assert (held_out.name, [pair.name for pair in held_out.pairs]) == (HELD_OUT, ["c"])
    whole, nothing = open_parts(folder, tmp_path, 4, DataConfig())
    assert nothing is None
    assert whole.name != trained_on.name  # their caches lie side by side
    with pytest.raises(UserError, match=r"held_out=3 of the 3 images of .* leaves none to train on"):
        open_parts(folder, tmp_path, 4, DataConfig(held_out=3))
    with pytest.raises(UserError, match="held_out is -1"):
        DataConfig(held_out=-1)


def test_low_resolution_images_of_another_scale_are_made(div2k: Path) -> None:
    pair = open_training_set("div2k", div2k, 3).pairs[0]
    assert pair.lr is None
    hr, lr = read_pair(pair, 3)
    assert hr.shape == (39, 60, 3)
    np.testing.assert_array_equal(lr, downscale(hr, 3))


def test_div2k_as_edsr_keeps_it_with_900_images_in_one_folder(div2k: Path) -> None:
    folder = div2k / "DIV2K"
    for path in (folder / "DIV2K_valid_HR").iterdir():
        path.rename(folder / "DIV2K_train_HR" / path.name)
    (folder / "DIV2K_valid_HR").rmdir()
    (folder / "DIV2K_valid_LR_bicubic/X4/0801x4.png").rename(folder / "DIV2K_train_LR_bicubic/X4/0801x4.png")
    assert [pair.name for pair in open_training_set("div2k", div2k, 4).pairs] == ["0001", "0800"]
    (validation,), _ = open_benchmarks(("DIV2K",), div2k, 4)
    assert [pair.name for pair in validation.pairs] == ["0801"]
    assert validation.pairs[0].lr == folder / "DIV2K_train_LR_bicubic/X4/0801x4.png"


def test_sub_images(div2k: Path) -> None:
    images = open_training_set("div2k", div2k, 4, sub_images=True)
    assert [pair.name for pair in images.pairs] == ["0001_s001", "0001_s002"]
    assert all(pair.lr is not None and pair.lr.parent.name == "X4_sub" for pair in images.pairs)
    folder = div2k / "DIV2K"
    (folder / "DIV2K_train_HR_sub").rename(folder / "GT_sub")
    (folder / "DIV2K_train_LR_bicubic/X4_sub").rename(folder / "GT_sub_bicLRx4")
    renamed = open_training_set("div2k", div2k, 4, sub_images=True)
    assert [pair.lr.parent.name for pair in renamed.pairs if pair.lr] == ["GT_sub_bicLRx4"] * 2
    with pytest.raises(UserError, match="no sub-images"):
        open_training_set("skimage", div2k, 4, sub_images=True)


def test_flickr2k_alone_and_with_div2k(div2k: Path, photo: np.ndarray) -> None:
    put(div2k / "Flickr2K/Flickr2K_HR/000001.png", photo[:40, :40])
    put(div2k / "Flickr2K/Flickr2K_LR_bicubic/X4/000001x4.png", downscale(photo[:40, :40], 4))
    assert [pair.name for pair in open_training_set("flickr2k", div2k, 4).pairs] == ["000001"]
    both = open_training_set("df2k", div2k, 4)
    assert [pair.name for pair in both.pairs] == ["DIV2K-train/0001", "DIV2K-train/0800", "Flickr2K/000001"]


@pytest.mark.parametrize(
    "place", ["BSR/BSDS500/data/images/train", "BSDS500/data/images/train", "BSDS500_train"]
)
def test_bsds500_in_its_layouts(tmp_path: Path, photo: np.ndarray, place: str) -> None:
    put(tmp_path / place / "2092.jpg", photo[:40, :40])
    assert [pair.name for pair in open_training_set("bsds500", tmp_path, 4).pairs] == ["2092"]


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("benchmark/Set5/HR/baby.png", "benchmark/Set5/LR_bicubic/X4/babyx4.png"),
        ("Set5/HR/baby.png", "Set5/LR_bicubic/X4/babyx4.png"),
        ("Set5/GTmod12/baby.png", "Set5/LRbicx4/baby.png"),
    ],
)
def test_benchmark_layouts_of_edsr_and_basicsr(tmp_path: Path, photo: np.ndarray, hr: str, lr: str) -> None:
    put(tmp_path / hr, photo[:48, :48])
    put(tmp_path / lr, downscale(photo[:48, :48], 4))
    (found,), _ = open_benchmarks(("Set5",), tmp_path, 4)
    assert found.pairs == (ImagePair("baby", tmp_path / hr, tmp_path / lr),)


def test_missing_sets_are_named_with_where_to_get_them(tmp_path: Path) -> None:
    present, missing = open_benchmarks(("skimage", *PAPER_SETS), tmp_path, 4)
    assert [found.name for found in present] == ["scikit-image"]
    assert set(missing) == set(PAPER_SETS)
    for name, line in missing.items():
        assert str(tmp_path) in line
        assert "http" in line
        assert "\n" not in line
        assert name in line
    for name in ("div2k", "flickr2k", "bsds500"):
        with pytest.raises(MissingData, match="http"):
            open_training_set(name, tmp_path, 4)


def test_the_bundled_photographs_are_in_colour_and_never_on_both_sides() -> None:
    training = open_training_set("skimage", Path("unused"), 4)
    (test,), _ = open_benchmarks(("skimage",), Path("unused"), 4)
    assert [pair.hr.name for pair in training.pairs] == list(SKIMAGE_TRAIN)
    assert [pair.hr.name for pair in test.pairs] == list(SKIMAGE_TEST)
    assert not set(SKIMAGE_TRAIN) & set(SKIMAGE_TEST)
    for pair in (*training.pairs, *test.pairs):
        pixels = np.asarray(Image.open(pair.hr)).astype(int)
        assert pixels.shape[2] == 3
        assert np.abs(pixels[..., 0] - pixels[..., 2]).mean() > 3


def test_any_folder_with_or_without_low_resolution_images(tmp_path: Path, photo: np.ndarray) -> None:
    put(tmp_path / "mine/b.png", photo[:40, :41])
    put(tmp_path / "mine/a.jpg", photo[:40, :40])
    images = open_training_set(str(tmp_path / "mine"), Path("unused"), 2)
    assert (images.name, [pair.name for pair in images.pairs]) == ("mine", ["a", "b"])
    put(tmp_path / "pairs/HR/b.png", photo[:40, :40])
    put(tmp_path / "pairs/LR_bicubic/X2/bx2.png", downscale(photo[:40, :40], 2))
    (found,), _ = open_benchmarks((str(tmp_path / "pairs"),), Path("unused"), 2)
    assert found.pairs[0].lr == tmp_path / "pairs/LR_bicubic/X2/bx2.png"


def test_a_misspelt_name_is_corrected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'div2k'"):
        open_training_set("dvi2k", tmp_path, 4)
    with pytest.raises(UserError, match="path of a folder"):
        open_training_set("/nowhere/at/all", tmp_path, 4)


def test_two_images_of_one_name_and_no_scale_are_refused(tmp_path: Path, photo: np.ndarray) -> None:
    put(tmp_path / "a.png", photo[:8, :8])
    put(tmp_path / "a.jpg", photo[:8, :8])
    with pytest.raises(UserError, match="2 images are called 'a'"):
        open_training_set(str(tmp_path), tmp_path, 2)
    with pytest.raises(UserError, match="at least 2"):
        ImageSet("none", 1, (ImagePair("a", tmp_path / "a.png"),))


def test_a_folder_with_validation_images_alone_is_no_training_set(div2k: Path) -> None:
    for name in ("0001", "0800"):
        (div2k / f"DIV2K/DIV2K_train_HR/{name}.png").rename(div2k / f"DIV2K/DIV2K_train_HR/09{name[2:]}.png")
    with pytest.raises(MissingData, match="DIV2K-train"):
        open_training_set("div2k", div2k, 4)


def test_a_low_resolution_image_without_a_high_resolution_one(div2k: Path) -> None:
    """Half of the HR folder is missing: training went on with the other half."""
    (div2k / "DIV2K/DIV2K_train_HR/0800.png").unlink()
    with pytest.raises(
        UserError, match=r"no HR image for 1 of the LR images in '.*X4', the first for '0800x4.png'"
    ):
        open_training_set("div2k", div2k, 4)


def test_two_low_resolution_images_for_one(div2k: Path, photo: np.ndarray) -> None:
    put(div2k / "DIV2K/DIV2K_train_LR_bicubic/X4/0001.png", downscale(photo[:40, :60], 4))
    with pytest.raises(UserError, match=r"0001.png' has several LR images in '.*' \(0001x4.png, 0001.png\)"):
        open_training_set("div2k", div2k, 4)


def test_a_low_resolution_image_that_is_not_there(div2k: Path) -> None:
    (div2k / "DIV2K/DIV2K_train_LR_bicubic/X4/0800x4.png").unlink()
    with pytest.raises(MissingData, match=r"0800\.png.*0800x4\.png"):
        open_training_set("div2k", div2k, 4)


@pytest.mark.parametrize("made_for", [2, 3, 8])
def test_mixed_scales_are_refused(tmp_path: Path, photo: np.ndarray, made_for: int) -> None:
    hr = put(tmp_path / "hr.png", photo[:48, :48])
    lr = put(tmp_path / "lr.png", downscale(photo[:48, :48], made_for))
    with pytest.raises(UserError, match=r"lr\.png.*not x4"):
        read_pair(ImagePair("a", hr, lr), 4)


def test_the_truth_is_cropped_to_the_low_resolution_image(tmp_path: Path, photo: np.ndarray) -> None:
    hr = put(tmp_path / "hr.png", photo[:51, :49])
    lr = put(tmp_path / "lr.png", downscale(photo[:51, :49], 4))
    found, _ = read_pair(ImagePair("a", hr, lr), 4)
    np.testing.assert_array_equal(found, photo[:48, :48])


def test_grey_with_colour_and_tiny_images_are_refused(tmp_path: Path, photo: np.ndarray) -> None:
    hr = put(tmp_path / "hr.png", photo[:48, :48, 0])
    lr = put(tmp_path / "lr.png", downscale(photo[:48, :48], 4))
    with pytest.raises(UserError, match="grey"):
        read_pair(ImagePair("a", hr, lr), 4)
    dot = put(tmp_path / "dot.png", photo[:1, :1])
    with pytest.raises(UserError, match=r"dot\.png.*too few for x4"):
        read_pair(ImagePair("a", dot), 4)


def test_a_grey_pair_stays_grey_and_alpha_is_dropped(tmp_path: Path, photo: np.ndarray) -> None:
    grey = put(tmp_path / "grey.png", photo[:9, :13, 0])
    hr, lr = read_pair(ImagePair("grey", grey), 4)
    assert (hr.shape, lr.shape) == ((8, 12), (2, 3))
    clear = put(tmp_path / "clear.png", np.dstack([photo[:8, :8], photo[:8, :8, 0]]))
    hr, lr = read_pair(ImagePair("clear", clear), 4)
    np.testing.assert_array_equal(hr, photo[:8, :8])
