"""The pixel cache and the crops drawn from it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.storage.cache import FOLDER
from super_resolution.data import (
    CacheConfig,
    CropLoader,
    DataConfig,
    ImagePair,
    ImageSet,
    cache,
    open_cache,
    open_training_loader,
)
from super_resolution.images import write_image
from super_resolution.resize import crop_to_multiple, downscale


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> ImageSet:
    """Three photographs of different sizes, one of them grey, without LR files."""
    cuts = {"a": photo[:61, :90], "b": photo[100:180, :64], "grey": photo[:70, :70, 1]}
    for name, cut in cuts.items():
        write_image(tmp_path / "set" / f"{name}.png", cut)
    pairs = tuple(ImagePair(name, tmp_path / "set" / f"{name}.png") for name in cuts)
    return ImageSet("three", 4, pairs, tmp_path / "set")


def cache_files(photos: ImageSet) -> list[Path]:
    assert photos.folder is not None
    return list((photos.folder / FOLDER).glob("*.pixels"))


def test_the_cache_holds_every_pixel_of_hr_and_lr(photos: ImageSet, photo: np.ndarray) -> None:
    cached = open_cache(photos)
    assert cached.names == ("a", "b", "grey")
    grey = np.repeat(photo[:70, :70, 1:2], 3, axis=2)
    for index, image in enumerate((photo[:61, :90], photo[100:180, :64], grey)):
        np.testing.assert_array_equal(cached.hr(index), crop_to_multiple(image, 4).transpose(2, 0, 1))
        np.testing.assert_array_equal(cached.lr(index), downscale(image, 4).transpose(2, 0, 1))
        assert not cached.hr(index).flags.writeable


def test_low_resolution_files_are_used_where_they_are(photos: ImageSet, tmp_path: Path) -> None:
    write_image(tmp_path / "lr.png", np.full((15, 22, 3), 200, np.uint8))
    pair = ImagePair("a", photos.pairs[0].hr, tmp_path / "lr.png")
    cached = open_cache(ImageSet("one", 4, (pair,), tmp_path))
    assert (cached.lr(0) == 200).all()


def test_a_second_opening_decodes_nothing(photos: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_cache(photos)
    monkeypatch.setattr("super_resolution.data.cache.read_pair", None)
    np.testing.assert_array_equal(open_cache(photos).pixels, first.pixels)


def test_a_changed_image_is_read_again(photos: ImageSet) -> None:
    before = open_cache(photos).hr(0).copy()
    path = photos.pairs[0].hr
    stat = path.stat()
    write_image(path, np.zeros((61, 90, 3), np.uint8))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert before.any()
    assert not open_cache(photos).hr(0).any()
    assert len(cache_files(photos)) == 1


def test_an_added_image_is_read(photos: ImageSet) -> None:
    open_cache(ImageSet(photos.name, 4, photos.pairs[:2], photos.folder))
    assert len(open_cache(photos)) == 3


@pytest.mark.parametrize("damage", ["cut", "appended", "emptied", "foreign"])
def test_a_broken_cache_is_made_again(photos: ImageSet, damage: str) -> None:
    expected = open_cache(photos).pixels.copy()
    [path] = cache_files(photos)
    content = path.read_bytes()
    path.unlink()  # the open memory map keeps the old file
    path.write_bytes(
        {"cut": content[:-100], "appended": content + b"x", "emptied": b"", "foreign": b"f" * 5000}[damage]
    )
    np.testing.assert_array_equal(open_cache(photos).pixels, expected)


def _open_and_die(photos: ImageSet) -> None:
    """Killed without warning while reading the last image."""
    read = cache.read_pair

    def read_or_die(pair: ImagePair, scale: int) -> tuple[np.ndarray, np.ndarray]:
        if pair.name == "grey":
            os.kill(os.getpid(), signal.SIGKILL)
        return read(pair, scale)

    cache.read_pair = read_or_die
    open_cache(photos)


def test_a_build_killed_half_way_leaves_no_cache(photos: ImageSet) -> None:
    process = multiprocessing.get_context("fork").Process(target=_open_and_die, args=(photos,), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not cache_files(photos)
    folder = photos.pairs[0].hr.parent / FOLDER
    assert len(list(folder.glob(".*.tmp"))) == 1
    assert len(open_cache(photos)) == 3
    assert not list(folder.glob(".*.tmp"))


def test_the_cache_lies_beside_the_images_or_where_it_is_told(
    photos: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LWDNA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    open_cache(photos)
    assert list((tmp_path / "set/.lwdna_cache").glob("three-x4-*.pixels"))
    open_cache(photos, tmp_path / "told")
    assert list((tmp_path / "told").glob("three-x4-*.pixels"))
    open_cache(ImageSet("bundled", 4, photos.pairs))
    assert list((tmp_path / "home/lwdna").glob("bundled-x4-*.pixels"))


def test_sets_of_other_names_scales_and_places_keep_caches_of_their_own(
    photos: ImageSet, tmp_path: Path
) -> None:
    for name in "ab":
        for scale in (2, 4):
            open_cache(ImageSet(name, scale, photos.pairs), tmp_path / "all")
    (tmp_path / "moved").mkdir()
    moved = [ImagePair(p.name, p.hr.rename(tmp_path / "moved" / p.hr.name)) for p in photos.pairs]
    open_cache(ImageSet("a", 2, tuple(moved)), tmp_path / "all")
    assert len(list((tmp_path / "all").glob("*.pixels"))) == 5


def test_a_folder_that_cannot_be_written_is_left_alone(
    photos: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LWDNA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "set/.lwdna_cache").write_text("a file where the folder should be")
    assert len(open_cache(photos)) == 3
    assert list((tmp_path / "home/lwdna").glob("set-*/three-x4-*.pixels"))
    with pytest.raises(UserError, match=r"data\.cache"):
        open_cache(photos, tmp_path / "set/.lwdna_cache")


def test_a_broken_image_stops_the_build_and_is_named(photos: ImageSet) -> None:
    content = photos.pairs[1].hr.read_bytes()
    photos.pairs[1].hr.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"b\.png"):
        open_cache(photos)
    assert [path.suffix for path in (photos.pairs[0].hr.parent / FOLDER).iterdir()] == [".lock"]


@pytest.fixture
def numbered(tmp_path: Path) -> ImageSet:
    """Pairs whose LR pixels say where they are (row, column, image) and whose HR pixels repeat them."""
    pairs = []
    for index, (height, width) in enumerate([(40, 50), (30, 60), (24, 24)]):
        rows, columns = np.mgrid[:height, :width]
        lr = np.dstack([rows, columns, np.full_like(rows, index)]).astype(np.uint8)
        write_image(tmp_path / f"lr{index}.png", lr)
        write_image(tmp_path / f"hr{index}.png", lr.repeat(2, 0).repeat(2, 1))
        pairs.append(ImagePair(str(index), tmp_path / f"hr{index}.png", tmp_path / f"lr{index}.png"))
    return ImageSet("numbered", 2, tuple(pairs), tmp_path)


def as_bytes(crops: torch.Tensor) -> np.ndarray:
    """Float crops as the bytes that they came from."""
    return (crops * 255).round().to(torch.uint8).numpy()


def test_hr_and_lr_crops_show_the_same_place_in_all_eight_symmetries(numbered: ImageSet) -> None:
    loader = CropLoader(open_cache(numbered), batch_size=8, patch=16, crops_per_epoch=800)
    symmetries, images, corners = set(), [], set()
    for lr, hr in loader.epoch(0):
        assert lr.shape == (8, 3, 8, 8)
        assert hr.shape == (8, 3, 16, 16)
        assert lr.dtype == hr.dtype == torch.float32
        assert lr.is_contiguous()
        assert hr.is_contiguous()
        low, high = as_bytes(lr), as_bytes(hr)
        np.testing.assert_array_equal(high, low.repeat(2, 2).repeat(2, 3))
        for rows, columns, index in low:
            steps = (int(rows[1, 0]) - int(rows[0, 0]), int(rows[0, 1]) - int(rows[0, 0]))
            across = (int(columns[1, 0]) - int(columns[0, 0]), int(columns[0, 1]) - int(columns[0, 0]))
            symmetries.add((steps, across))
            images.append(int(index[0, 0]))
            corners.add((int(index[0, 0]), int(rows.min()), int(columns.min())))
    assert len(symmetries) == 8
    assert max(np.bincount(images)) - min(np.bincount(images)) <= 1
    # Crops reach every border: the last place of an image of n LR pixels is n - 8.
    for index, (height, width) in enumerate([(40, 50), (30, 60), (24, 24)]):
        places = [(row, column) for image, row, column in corners if image == index]
        assert min(row for row, _ in places) == 0
        assert max(row for row, _ in places) == height - 8
        assert max(column for _, column in places) >= width - 8 - 2


def test_without_augmentation_crops_stand_as_in_the_image(numbered: ImageSet) -> None:
    loader = CropLoader(open_cache(numbered), 8, 16, 80, augment=False)
    for lr, _ in loader.epoch(3):
        rows, columns = as_bytes(lr)[:, 0], as_bytes(lr)[:, 1]
        assert (np.diff(rows.astype(int), axis=1) == 1).all()
        assert (np.diff(columns.astype(int), axis=2) == 1).all()


def batches(loader: CropLoader, epoch: int, start: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """An epoch's batches."""
    return list(loader.epoch(epoch, start))


def same(
    first: list[tuple[torch.Tensor, torch.Tensor]], second: list[tuple[torch.Tensor, torch.Tensor]]
) -> bool:
    """Whether two lists of batches are equal bit for bit."""
    return len(first) == len(second) and all(
        torch.equal(a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_batches_depend_on_seed_epoch_and_step_alone(photos: ImageSet) -> None:
    loader = CropLoader(open_cache(photos), 4, 32, 24, seed=1)
    again = CropLoader(open_cache(photos), 4, 32, 24, seed=1)
    assert len(loader) == 6
    assert same(batches(loader, 2), batches(again, 2))
    for start in range(7):
        assert same(batches(loader, 2)[start:], batches(again, 2, start))
    assert not same(batches(loader, 2), batches(loader, 3))
    assert not same(batches(loader, 2), batches(CropLoader(open_cache(photos), 4, 32, 24, seed=2), 2))
    first = [lr for lr, _ in loader.epoch(0)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(first, 2))


def test_an_epoch_can_be_left_early(photos: ImageSet) -> None:
    loader = CropLoader(open_cache(photos), 4, 32, 24)
    epoch = loader.epoch(0)
    next(epoch)
    epoch.close()
    assert len(batches(loader, 0)) == 6


@pytest.mark.parametrize("world", [2, 4])
def test_shards_put_together_are_the_batch(photos: ImageSet, world: int) -> None:
    loader = CropLoader(open_cache(photos), 4, 32, 24, seed=1)
    shards = [loader.shard(rank, world) for rank in range(world)]
    assert {len(shard) for shard in shards} == {6}
    for whole, *parts in zip(loader.epoch(1), *(shard.epoch(1) for shard in shards), strict=True):
        for kind in (0, 1):
            assert torch.equal(whole[kind], torch.cat([part[kind] for part in parts]))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"patch": 33}, "multiple of the scale 4"),
        ({"patch": 0}, "multiple of the scale 4"),
        ({"patch": 64}, r"image 'a' has 88 x 60.*data\.patch=64"),
        ({"crops_per_epoch": 3}, "holds no batch of 4"),
        ({"world": 3}, "3 processes"),
    ],
)
def test_bad_settings_are_refused(photos: ImageSet, options: dict[str, int], word: str) -> None:
    settings = {"batch_size": 4, "patch": 32, "crops_per_epoch": 24} | options
    with pytest.raises(UserError, match=word):
        CropLoader(open_cache(photos), **settings)


def test_the_loader_of_a_config(photos: ImageSet, tmp_path: Path) -> None:
    data = DataConfig(patch=32, cache=CacheConfig(tmp_path / "told"))
    loader = open_training_loader(str(photos.folder), tmp_path, 4, data, batch_size=3, seed=5)
    assert len(loader) == 1
    assert sorted(path.suffix for path in (tmp_path / "told").iterdir()) == [".lock", ".pixels"]
    longer = open_training_loader(
        str(photos.folder), tmp_path, 4, DataConfig(patch=32, crops_per_epoch=30), batch_size=3, seed=5
    )
    assert len(longer) == 10


def test_bsds500_trains_from_its_cache(benchmark_root: Path, tmp_path: Path) -> None:
    if not (benchmark_root / "BSDS500_train").is_dir():
        pytest.skip(f"no BSDS500_train under '{benchmark_root}'")
    data = DataConfig(patch=192, crops_per_epoch=64, cache=CacheConfig(tmp_path))
    loader = open_training_loader("bsds500", benchmark_root, 4, data, batch_size=16, seed=0)
    assert len(loader.images) == len(list((benchmark_root / "BSDS500_train").glob("*.jpg")))
    lr, hr = next(loader.epoch(0))
    assert lr.shape == (16, 3, 48, 48)
    # A bicubic LR image is close to the HR image's average over each cell of 4 x 4.
    assert (torch.nn.functional.avg_pool2d(hr, 4) - lr).abs().mean() < 0.02
