"""A folder of one's own images: layouts, the held-out part, formats, the cache, what is left out, what is refused."""

import os
import pickle
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

import classification.data.decoded as decoded_module
from classification.config import RunConfig
from classification.data import ClassificationData, DataConfig, dataset_title, open_dataset
from classification.data.own_folder import held_out
from classification.data.photographs import read_upright
from classification.data.views import central_view
from classification.inputs import fitted
from classification.task import one_process, subject
from core.errors import MissingData, UserError
from core.storage.data import data_root

PHOTOGRAPHS = ("china", "flower")


@pytest.fixture(autouse=True)
def quiet():
    """What is not said on purpose is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def piece(name: str, number: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A part of a photograph."""
    left = 40 * number
    return np.ascontiguousarray(load_sample_image(f"{name}.jpg")[100 : 100 + height, left : left + width])


def fill(folder: Path, count: int = 5, classes: tuple[str, ...] = PHOTOGRAPHS, first: int = 0) -> Path:
    """Class folders with parts of the two photographs as PNGs."""
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(first, first + count):
            photograph = PHOTOGRAPHS[index % 2]
            Image.fromarray(piece(photograph, number + 7 * (index // 2))).save(
                folder / name / f"{number}.png"
            )
    return folder


def opened(folder: Path, **options) -> ClassificationData:
    return open_dataset(str(folder), "nowhere", DataConfig(**{"size": 32, "workers": 0, **options}))


def names(split) -> list[str]:
    return ["/".join(Path(path.decode()).parts[-2:]) for path in split.paths]


def batches(data: ClassificationData, epoch: int = 0) -> list:
    return [*data.train_loader(3, seed=5).epoch(epoch), *data.test_loader(3).epoch(0)]


def same(left: list, right: list) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(left, right)
    )


# The held-out part.


def test_a_fifth_of_every_class_is_held_out_and_listed(tmp_path):
    data = opened(fill(tmp_path / "photos", 10))
    assert data.name == "photos"
    assert data.class_names == PHOTOGRAPHS
    assert data.train.labels.tolist() == [0] * 8 + [1] * 8
    assert data.test.labels.tolist() == [0] * 2 + [1] * 2
    assert sorted(names(data.train) + names(data.test)) == sorted(
        f"{name}/{number}.png" for name in PHOTOGRAPHS for number in range(10)
    )
    assert data.folder["held_out"] == names(data.test)
    assert data.notes == (
        "4 of 20 images are held out, 20% of every class, and error rates are measured on them; a run's data.json "
        "lists them.",
    )


def test_the_share_can_be_chosen(tmp_path):
    data = opened(fill(tmp_path, 10), val_share=0.5)
    assert (len(data.train), len(data.test)) == (10, 10)
    assert "50% of every class, and" in data.notes[0]
    extreme = opened(tmp_path, val_share=0.999)
    assert (len(extreme.train), len(extreme.test)) == (2, 18)
    assert "99.9% of every class (of small ones at least one image and never all), and" in extreme.notes[0]
    assert set(names(opened(tmp_path).test)) < set(names(data.test))


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(2, 0.2, 1), (2, 0.9, 1), (7, 0.2, 1), (8, 0.2, 2), (1000, 0.2, 200)]
)
def test_at_least_one_image_and_never_all_are_held_out(count, share, expected):
    chosen = held_out([f"{number}.png" for number in range(count)], np.zeros(count, dtype=np.int64), share)
    assert chosen.sum() == expected


def test_the_choice_follows_from_names_and_seed_alone():
    files = [f"a/{number}.png" for number in range(100)]
    labels = np.zeros(100, dtype=np.int64)
    first = held_out(files, labels, 0.2)
    np.testing.assert_array_equal(held_out(files[::-1], labels, 0.2)[::-1], first)
    # Among other classes, too.
    more = held_out([*files, "b/1.png", "b/2.png"], np.repeat([0, 1], [100, 2]), 0.2)
    np.testing.assert_array_equal(more[:100], first)
    assert (held_out(files, labels, 0.2, seed=1) != first).any()


# Layouts.


def test_parts_of_the_folders_own_are_used_as_they_are(tmp_path):
    fill(tmp_path / "train", 4)
    fill(tmp_path / "val", 2, first=4)
    data = opened(tmp_path)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert names(data.test) == ["china/4.png", "china/5.png", "flower/4.png", "flower/5.png"]
    assert (data.notes, data.left_out) == ((), ())
    with pytest.raises(UserError, match=r"val_share is 0\.3, but '.*' has a part 'val' of its own"):
        opened(tmp_path, val_share=0.3)


def test_other_names_of_parts_are_understood_and_what_is_not_used_is_said(tmp_path):
    fill(tmp_path / "Train", 4)
    fill(tmp_path / "validation", 2, first=4)
    fill(tmp_path / "test", 2, first=6)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "README.txt").write_text("text")
    data = opened(tmp_path)
    assert (len(data.train), len(data.test)) == (8, 4)
    assert data.notes == (f"Error rates are those of 'validation' in '{tmp_path}'; 'test' is not used.",)
    assert {Path(entry.path).name for entry in data.left_out} == {"test", "annotations", "README.txt"}
    shutil.rmtree(tmp_path / "validation")
    assert opened(tmp_path).notes == (f"Error rates are those of 'test' in '{tmp_path}': there is no 'val'.",)


def test_one_part_without_the_other_is_no_class(tmp_path):
    fill(tmp_path / "test", 2)
    fill(tmp_path / "others", 2)
    with pytest.raises(
        UserError, match=r"test' holds folders, like one part of a data set, but 'train' does not"
    ):
        opened(tmp_path)


@pytest.mark.parametrize(
    "parts", [("training_set", "test_set"), ("seg_train/seg_train", "seg_test/seg_test"), ("fold1", "fold2")]
)
def test_parts_by_other_names_are_no_classes(tmp_path, parts):
    for part in parts:
        fill(tmp_path / part, 2)
    with pytest.raises(UserError, match=r"hold folders, like the parts of a data set: call the one to train"):
        opened(tmp_path)
    if "/" in parts[0]:
        for part, name in zip(parts, ("train", "val")):
            (tmp_path / part.partition("/")[0]).rename(tmp_path / name)
        with pytest.raises(UserError, match=r"train' holds one class folder, 'seg_train', with 2 folders"):
            opened(tmp_path)


def test_two_folders_for_one_part_are_refused(tmp_path):
    for part in ("train", "val", "valid"):
        fill(tmp_path / part, 2)
    with pytest.raises(UserError, match="holds train, val, valid: keep one folder"):
        opened(tmp_path)


def test_trains_can_be_a_class(tmp_path):
    data = opened(fill(tmp_path, 3, ("bus", "train")))
    assert data.class_names == ("bus", "train")
    assert data.notes[0] == f"'train' in '{tmp_path}' is taken for a class: 'val' does not lie beside it."


def test_classes_that_differ_between_the_parts_are_named(tmp_path):
    fill(tmp_path / "train", 2, ("a", "b", "c"))
    fill(tmp_path / "val", 2, ("a", "d"))
    with pytest.raises(
        UserError, match=r"val' lacks 2 classes of '.*train': b, c; '.*train' lacks 1 class .*: d;"
    ):
        opened(tmp_path)


@pytest.mark.parametrize("other", ["cafe\u0301", "Caf\u00e9", "caf\u00e9 "])
def test_names_that_look_alike_are_told_apart(tmp_path, other):
    fill(tmp_path / "train", 2, ("caf\u00e9", "b"))
    fill(tmp_path / "val", 2, (other, "b"))
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert f"accents: 'caf\\xe9' and {other!a})" in str(caught.value)


def test_empty_classes_and_classes_of_one_image_are_named(tmp_path):
    fill(tmp_path, 3)
    fill(tmp_path, 1, ("rare",))
    with pytest.raises(UserError, match=r"1 of 3 classes in '.*' have one image, .*: rare;"):
        opened(tmp_path)
    (tmp_path / "rare/0.png").rename(tmp_path / "rare/0.txt")
    (tmp_path / "rare/0.txt").write_text("no image")
    with pytest.raises(UserError, match=r"1 of 3 class folders in '.*' hold no image: rare"):
        opened(tmp_path)


def test_a_folder_around_the_classes_is_told_from_a_class(tmp_path):
    fill(tmp_path / "flowers", 3)
    with pytest.raises(UserError, match=r"holds one class folder, 'flowers', with 2 .* name '.*/flowers'"):
        opened(tmp_path)
    shutil.rmtree(tmp_path / "flowers/flower")
    with pytest.raises(UserError, match="holds the one class 'china'"):
        opened(tmp_path / "flowers")


def test_what_is_no_folder_is_said(tmp_path):
    with pytest.raises(
        MissingData, match="is not there: --dataset takes a folder with one folder of images per"
    ):
        opened(tmp_path / "missing")
    (tmp_path / "file.zip").write_bytes(b"PK")
    with pytest.raises(MissingData, match="is no folder"):
        opened(tmp_path / "file.zip")
    with pytest.raises(UserError, match="unknown data set 'photos': allowed: digits"):
        open_dataset("photos", tmp_path)
    with pytest.raises(UserError, match="holds no class folders, but 1 other"):
        opened(tmp_path)


def test_what_is_for_folders_is_refused_elsewhere():
    with pytest.raises(UserError, match="size is 64, but images of 'digits' have a size of their own"):
        open_dataset("digits", ".", DataConfig(size=64))
    for name in ("digits", "food101"):
        with pytest.raises(UserError, match=f"val_share is 0.1, but '{name}' has a part to report on"):
            open_dataset(name, ".", DataConfig(val_share=0.1))


@pytest.mark.parametrize("option", [{"size": 8}, {"val_share": 0.0}, {"val_share": 1.0}])
def test_values_out_of_range_are_refused(option):
    with pytest.raises(UserError, match=f"data.{next(iter(option))} is"):
        DataConfig(**option)


def test_other_augmentation_is_refused(tmp_path):
    with pytest.raises(UserError, match="crop_padding"):
        opened(fill(tmp_path), crop_padding=2)
    with pytest.raises(UserError, match="downsample"):
        opened(tmp_path, downsample=2)


# Files.


def test_every_format_depth_and_name_is_an_image(tmp_path):
    """One picture in all forms: every row of the class is that picture."""
    picture = piece("china", 0)
    folder = tmp_path / "many"
    (folder / "deep").mkdir(parents=True)
    for name, form, options in (
        ("a.PNG", "PNG", {}),
        ("b.webp", "WEBP", {"lossless": True}),
        ("c.BMP", "BMP", {}),
        ("d.tif", "TIFF", {}),
        ("e", "PNG", {}),
        ("f.dat", "BMP", {}),
        ("deep/g.png", "PNG", {}),
    ):
        Image.fromarray(picture).save(folder / name, form, **options)
    cv2.imwrite(str(folder / "h.png"), picture[..., ::-1].astype(np.uint16) * 257)
    opaque = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    Image.fromarray(opaque, "RGBA").save(folder / "i.png")
    turned = Image.fromarray(np.rot90(picture).copy())  # shown after a turn to the right, as tag 6 says
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "j.png", exif=exif)
    fill(tmp_path, 3, ("other",))
    data = opened(tmp_path)
    assert len(data.train) + len(data.test) == 13
    expected = central_view(picture, 32)
    for split in (data.train, data.test):
        for row in np.flatnonzero(split.labels == 0):
            np.testing.assert_array_equal(central_view(split.image(row), 32), expected)
    assert any("by their content" in note and note.endswith(": 2.") for note in data.notes)
    assert any("folders within class folders" in note and note.endswith(": many.") for note in data.notes)


def test_transparent_parts_show_white(tmp_path):
    clear = np.dstack([piece("china", 0), np.zeros((60, 80), np.uint8)])
    Image.fromarray(clear, "RGBA").save(tmp_path / "clear.png")
    assert (read_upright(tmp_path / "clear.png", 32) == 255).all()


@pytest.mark.parametrize("tag", range(1, 9))
def test_photographs_of_a_turned_camera_stand_upright(tmp_path, tag):
    """Pillow's own turning is the judge; a JPEG's pixels differ by its loss alone."""
    stored = Image.fromarray(piece("china", 0))
    exif = stored.getexif()
    exif[0x0112] = tag
    for name, tolerance in (("x.jpeg", 3), ("x.png", 0), ("x.tif", 0)):
        stored.save(tmp_path / name, exif=exif, quality=95)
        with Image.open(tmp_path / name) as file:
            expected = np.asarray(ImageOps.exif_transpose(file))
        found = read_upright(tmp_path / name, 224)
        assert found.shape == expected.shape == ((60, 80, 3) if tag < 5 else (80, 60, 3))
        assert np.abs(found.astype(int) - expected).mean() <= tolerance


def test_shrinking_leaves_the_central_view_as_it_is_and_never_enlarges(tmp_path):
    whole = load_sample_image("flower.jpg")
    Image.fromarray(whole).save(tmp_path / "large.png")
    for size in (32, 128, 224):
        image = read_upright(tmp_path / "large.png", size)
        assert min(image.shape[:2]) == round(size * 256 / 224)
        np.testing.assert_array_equal(central_view(image, size), central_view(whole, size))
    assert read_upright(tmp_path / "large.png", 600).shape == whole.shape


@pytest.mark.parametrize("shape", [(1, 2**24, 3), (2**24, 1, 3)])
def test_a_line_of_pixels_is_not_enlarged_beyond_any_memory(shape):
    line = np.zeros(shape, np.uint8)
    middle = line.reshape(-1, 3)[2**23 - 1 : 2**23 + 1]
    middle[:] = 255
    for view in (central_view(line, 32), fitted(line, 32, 32)):
        assert view.shape == (32, 32, 3)
        assert view[15:17, 15:17].all()


def test_clutter_is_no_class_and_no_image_and_the_cache_is_none_of_it(tmp_path):
    fill(tmp_path, 3)
    for name in (".ipynb_checkpoints", "@eaDir"):
        shutil.copytree(tmp_path / "china", tmp_path / name)
    (tmp_path / "china/._0.png").write_bytes(b"\0")
    (tmp_path / "china/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "china/notes.txt").write_text("text")
    for _ in range(2):
        data = opened(tmp_path)
        assert data.class_names == PHOTOGRAPHS
        assert {Path(entry.path).name for entry in data.left_out} == {
            ".ipynb_checkpoints",
            "@eaDir",
            "._0.png",
            "gone.png",
            "notes.txt",
        }
        assert len(data.train) + len(data.test) == 6


def test_unreadable_images_are_counted_and_named_or_stop(tmp_path):
    fill(tmp_path, 6)
    path = tmp_path / "china/3.png"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"china/3\.png' cannot be read: .*; repair it, or leave") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match=r"1 of 12 images left out: .*china/3\.png"):
        data = opened(tmp_path, bad_images="skip")
    assert sum(data.skipped.values()) == 1
    found = data.unreadable_everywhere(lambda own: [own])
    assert [entry.path for entries in found.values() for entry in entries] == [str(path)]
    assert sum(len(targets) for _, targets in data.test_loader(4).epoch(0)) == 2 - data.skipped["test"]
    with pytest.warns(UserWarning, match="1 of 12"):
        fewer = opened(tmp_path, bad_images="skip", train_limit=8)
    assert fewer.skipped["train"] == int(str(path) in [file.decode() for file in fewer.train.paths])


def test_a_class_without_a_readable_image_stops(tmp_path):
    fill(tmp_path, 3)
    for path in (tmp_path / "flower").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 2 images of the class with '.*flower/.*' can be read"):
        opened(tmp_path, bad_images="skip")


def test_images_of_both_parts_and_of_several_classes_are_named(tmp_path):
    fill(tmp_path / "train", 3)
    fill(tmp_path / "val", 2, first=3)
    shutil.copy(tmp_path / "train/china/0.png", tmp_path / "val/china/again.png")
    shutil.copy(tmp_path / "train/china/1.png", tmp_path / "train/flower/wrong.png")
    assert opened(tmp_path).notes == (
        "Images that error rates are reported on and that are also trained on: 1 (val/china/again.png is "
        "train/china/0.png).",
        "The same image lies in several classes: train/china/1.png, train/flower/wrong.png.",
    )


@pytest.mark.skipif(not (data_root() / "otb/Couple").is_dir(), reason="OTB is not under $LWDNA_DATA")
def test_films_are_classes_whose_texts_are_left_out(tmp_path):
    for name in ("Couple", "Crossing"):
        source = data_root() / "otb" / name
        (tmp_path / name / "img").mkdir(parents=True)
        for path in [*sorted((source / "img").iterdir())[:20], *source.glob("*.txt")]:
            place = "img" if path.parent.name == "img" else "."
            shutil.copy(path, tmp_path / name / place / path.name)
    data = opened(tmp_path)
    assert data.class_names == ("Couple", "Crossing")
    assert (len(data.train), len(data.test)) == (32, 8)
    assert {Path(entry.path).suffix for entry in data.left_out} == {".txt"}
    assert data.notes[1].endswith("count for the class: Couple, Crossing.")
    assert next(data.train_loader(16, seed=0).epoch(0))[0].std() > 0.3


@pytest.mark.skipif(
    not (data_root() / "imagenet-sample").is_dir(), reason="the sample of ImageNet is not under $LWDNA_DATA"
)
def test_a_folder_with_one_image_a_class_is_refused_before_anything_is_written():
    folder = data_root() / "imagenet-sample"
    classes = sum(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir())
    with pytest.raises(UserError, match=rf"{classes} of {classes} classes in '.*' have one image.*n01440764"):
        opened(folder)
    assert not (folder / ".lwdna_cache").exists()


# Batches.


def test_batches_are_the_same_with_and_without_a_cache(tmp_path, monkeypatch):
    fill(tmp_path / "photos", 8)
    bad = tmp_path / "photos/china/3.png"
    bad.write_bytes(bad.read_bytes()[:500])
    with pytest.warns(UserWarning, match="1 of 16 images left out"):
        cached = opened(tmp_path / "photos", bad_images="skip")
    assert cached.train.decoded is not None
    assert one_process(cached) == ""
    shutil.rmtree(tmp_path / "photos/.lwdna_cache")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(decoded_module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    plain = opened(tmp_path / "photos", bad_images="skip")
    assert plain.train.decoded is None
    assert "--jobs 1" in one_process(plain)
    assert plain.notes[1].startswith("Images are decoded anew in every epoch: a cache would take about 0.0")
    with pytest.warns(UserWarning, match=r"china/3\.png.*left out"):
        expected = batches(plain)
    assert same(batches(cached), expected)
    assert cached.skipped == plain.skipped  # also after the cache file's name has gone
    assert cached.folder == plain.folder


def test_a_split_is_sent_to_another_process_without_its_pixels(tmp_path):
    split = opened(fill(tmp_path, 10), size=64).train
    sent = pickle.dumps(split)
    assert len(sent) < len(split.image(0).tobytes())
    for row in range(len(split)):
        np.testing.assert_array_equal(pickle.loads(sent).image(row), split.image(row))
    shutil.rmtree(tmp_path / ".lwdna_cache")
    with pytest.raises(UserError, match="has gone while it was used"):
        pickle.loads(sent)


def test_batches_are_a_function_of_seed_epoch_and_index(tmp_path):
    data = opened(fill(tmp_path, 10), flip=True)
    loader = data.train_loader(4, seed=3)
    whole = list(loader.epoch(1))
    assert len(whole) == len(loader) == 4
    assert whole[0][0].shape == (4, 3, 32, 32)
    assert not same(whole, list(loader.epoch(2)))
    assert not same(whole, list(data.train_loader(4, seed=4).epoch(1)))
    assert same(list(loader.epoch(1, start=2)), whole[2:])
    assert same(list(opened(tmp_path, flip=True, workers=2).train_loader(4, seed=3).epoch(1)), whole)
    parts = [list(loader.shard(rank, 2).epoch(1)) for rank in range(2)]
    for index, (inputs, targets) in enumerate(whole):
        for rank in range(2):
            assert torch.equal(parts[rank][index][0], inputs[rank::2])
            assert torch.equal(parts[rank][index][1], targets[rank::2])


def test_a_batch_is_no_larger_than_the_set(tmp_path):
    data = opened(fill(tmp_path, 5))
    assert [len(targets) for _, targets in data.train_loader(64, seed=0).epoch(0)] == [8]


def test_inputs_are_normalised_central_views(tmp_path):
    data = opened(fill(tmp_path, 5))
    inputs, labels = next(data.test_loader(8).epoch(0))
    assert labels.tolist() == [0, 1]
    view = central_view(np.asarray(Image.open(data.test.paths[0].decode())), 32) / 255
    expected = (view - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(inputs[0].permute(1, 2, 0), expected, atol=1e-4)


# What results and caches are kept by.


def test_a_changed_file_of_the_same_size_and_time_is_noticed(tmp_path):
    fill(tmp_path, 3)
    path = tmp_path / "china/0.bmp"
    Image.fromarray(piece("china", 0)).save(path)
    before = opened(tmp_path)
    status = path.stat()
    Image.fromarray(piece("china", 9)).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = opened(tmp_path)
    assert after.folder["content"] != before.folder["content"]
    split = next(split for split in (after.train, after.test) if os.fsencode(path) in split.paths)
    row = int(np.flatnonzero(split.paths == os.fsencode(path))[0])
    np.testing.assert_array_equal(split.image(row), read_upright(path, 32))
    assert len(list((tmp_path / ".lwdna_cache").glob("*.pixels"))) == 1


def test_results_go_by_the_content_of_a_folder(tmp_path):
    """Not by its place or its files' times; any byte, name, class or held-out image makes another one."""

    def key(folder: Path, **options) -> dict:
        data = opened(folder, **options)
        return subject(RunConfig(dataset=str(folder), data=data.config), data)

    one = key(fill(tmp_path / "one/photos", 5))
    shutil.copytree(tmp_path / "one/photos", tmp_path / "two/pictures")
    assert key(tmp_path / "two/pictures") == one
    assert key(tmp_path / "one/photos", val_share=0.2, workers=1) == one
    others = [key(tmp_path / "one/photos", val_share=0.4), key(tmp_path / "one/photos", size=64)]
    (tmp_path / "two/pictures/china/0.png").rename(tmp_path / "two/pictures/china/9.png")
    others.append(key(tmp_path / "two/pictures"))
    (tmp_path / "two/pictures/flower").rename(tmp_path / "two/pictures/flour")
    others.append(key(tmp_path / "two/pictures"))
    Image.fromarray(piece("china", 8)).save(tmp_path / "one/photos/china/0.png")
    others.append(key(tmp_path / "one/photos"))
    assert len({str(other) for other in [one, *others]}) == 6


@pytest.mark.parametrize(
    ("path", "title"),
    [("/a/photos", "photos"), ("/a/imagenet/", "imagenet-folder"), ("/a/my photos (2)", "my-photos-2"),
     ("/", "folder"), ("digits", "digits")],
)  # fmt: skip
def test_a_folder_has_a_title_of_its_own(path, title):
    assert dataset_title(path) == title


def test_where_nothing_may_be_written_the_users_cache_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("LWDNA_CACHE", str(tmp_path / "home"))
    fill(tmp_path / "photos", 3)
    (tmp_path / "photos/.lwdna_cache").write_text("a file where the folder would be")
    assert opened(tmp_path / "photos").train.decoded is not None
    assert len(list((tmp_path / "home").rglob("*.pixels"))) == 1
