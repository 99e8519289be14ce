"""ImageNet's folders: workers, crops that are the same whoever makes them, bad images."""

import io
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from classification.data import DataConfig, open_dataset
from classification.data.sampling import epoch_order
from classification.data.views import central_view
from core.errors import UserError

CLASSES = ("n01", "n02")


def jpeg(left: int, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    piece = load_sample_image("china.jpg")[:, left : left + 300]
    Image.fromarray(piece).convert(mode).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture
def root(tmp_path) -> Path:
    for part, count in (("train", 5), ("val", 2)):
        for index, name in enumerate(CLASSES):
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                mode = {0: "CMYK", 1: "L"}.get(number, "RGB")
                (folder / f"{name}_{number}.JPEG").write_bytes(jpeg(60 * number + 20 * index, mode))
    return tmp_path


def epoch(root: Path, training: bool = True, number: int = 0, **options) -> list:
    data = open_dataset("imagenet", root, DataConfig(**{"workers": 0, **options}))
    loader = data.train_loader(4, seed=3) if training else data.test_loader(3)
    return list(loader.epoch(number))


def same(left: list, right: list) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(left, right)
    )


def test_test_inputs_are_normalised_central_views_in_order(root):
    (first, labels), (_, last_labels) = epoch(root, training=False)
    assert first.shape == (3, 3, 224, 224)
    assert first.dtype == torch.float32
    assert [*labels.tolist(), *last_labels.tolist()] == [0, 0, 1, 1]
    grey = root / "imagenet/val/n01/n01_1.JPEG"
    view = central_view(np.asarray(Image.open(grey).convert("RGB"))) / 255
    expected = (view - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(first[1].permute(1, 2, 0), expected, atol=0.02)


def test_training_batches_are_shuffled_random_crops(root):
    batches = epoch(root)
    assert len(batches) == 2  # ten images, batches of four
    assert not same(batches, epoch(root, number=1))
    assert same(batches, epoch(root))
    assert not same(batches, epoch(root, flip=True))


def test_batches_do_not_depend_on_the_number_of_workers(root):
    assert same(epoch(root), epoch(root, workers=2))


def test_an_epoch_can_be_entered_at_any_batch_and_shared_out(root):
    loader = open_dataset("imagenet", root, DataConfig(workers=0)).train_loader(4, seed=3)
    whole = list(loader.epoch(1))
    assert len(whole) == len(loader)
    assert same(list(loader.epoch(1, start=1)), whole[1:])
    parts = [list(loader.shard(rank, 2).epoch(1)) for rank in range(2)]
    for index, (inputs, targets) in enumerate(whole):
        for rank in range(2):
            assert torch.equal(parts[rank][index][0], inputs[rank::2])
            assert torch.equal(parts[rank][index][1], targets[rank::2])
    with pytest.raises(UserError, match="multiple of 3"):
        loader.shard(0, 3)


def test_loading_leaves_the_global_random_numbers_alone(root):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    epoch(root, flip=True)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_stops_and_is_named(root, workers):
    path = root / "imagenet/val/n02/n02_0.JPEG"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated") as caught:
        epoch(root, training=False, workers=workers)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_skipped_images_are_counted_once_and_named(root):
    path = root / "imagenet/val/n01/n01_1.JPEG"
    path.write_bytes(b"")
    data = open_dataset("imagenet", root, DataConfig(workers=0, bad_images="skip"))
    loader = data.test_loader(3)
    with pytest.warns(UserWarning, match=r"n01_1\.JPEG.*empty"):
        batches = list(loader.epoch(0))
    assert [targets.tolist() for _, targets in batches] == [[0, 1], [1]]
    assert data.skipped == {"train": 0, "test": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(loader.epoch(0))
    assert data.skipped == {"train": 0, "test": 1}


def test_what_several_processes_skipped_is_counted_once(root):
    """Which process decodes a training image changes from epoch to epoch, so that several meet the same damage."""
    data = open_dataset("imagenet", root, DataConfig(workers=0, bad_images="skip"))
    data.train.unreadable.update({0: "a", 1: "b"})
    others = {"train": {1: "b", 6: "c"}, "test": {3: "d"}}
    asked = iter(others.values())
    found = data.unreadable_everywhere(lambda own: [own, next(asked)])
    assert [entry.reason for entry in found["train"]] == ["a", "b", "c"]
    assert [Path(entry.path).name for entry in found["train"]] == ["n01_0.JPEG", "n01_1.JPEG", "n02_1.JPEG"]
    assert [entry.reason for entry in found["test"]] == ["d"]
    alone = data.unreadable_everywhere(lambda own: [own])
    assert {part: len(entries) for part, entries in alone.items()} == {"train": 2, "test": 0}


def test_a_class_that_several_processes_together_found_unreadable_is_an_error(root):
    data = open_dataset("imagenet", root, DataConfig(workers=0, bad_images="skip"))
    data.test.unreadable[2] = "a"
    assert len(data.unreadable_everywhere(lambda own: [own])["test"]) == 1
    with pytest.raises(
        UserError, match=r"none of the 2 images of the class with '.*val/n02/n02_0\.JPEG' can be read;"
    ):
        data.unreadable_everywhere(lambda own: [own, {3: "b"} if own else {}])


@pytest.mark.parametrize("training", [True, False])
def test_a_class_without_any_readable_image_stops(root, training):
    for path in (root / "imagenet" / ("train" if training else "val") / "n02").iterdir():
        path.write_bytes(b"")
    data = open_dataset("imagenet", root, DataConfig(workers=0, bad_images="skip"))
    loader = data.train_loader(5, seed=3) if training else data.test_loader(3)
    with (
        pytest.warns(UserWarning, match="empty"),
        pytest.raises(UserError, match=r"of the \d images of the class with"),
    ):
        list(loader.epoch(0))


def test_what_an_earlier_session_left_out_is_counted_again_unless_it_was_repaired(root):
    path = root / "imagenet/val/n01/n01_1.JPEG"
    path.write_bytes(b"")
    fine = root / "imagenet/train/n01/n01_1.JPEG"
    data = open_dataset("imagenet", root, DataConfig(workers=0, bad_images="skip"))
    data.recall([str(path), str(fine), "elsewhere.png"])
    assert data.skipped == {"train": 0, "test": 1}


def test_a_batch_without_any_readable_image_stops(root):
    for number in range(3, 6):
        (root / f"imagenet/val/n01/n01_{number}.JPEG").write_bytes(b"")
        (root / f"imagenet/val/n02/n02_{number}.JPEG").write_bytes(jpeg(0))
    with pytest.warns(UserWarning, match="empty"), pytest.raises(UserError, match="no image of a batch"):
        list(open_dataset("imagenet", root, DataConfig(workers=0, bad_images="skip")).test_loader(1).epoch(0))


def test_processes_go_on_together_where_one_has_no_readable_image_of_a_batch(root):
    """Else the others would wait for its gradients: the next readable image stands in for it."""
    data = open_dataset("imagenet", root, DataConfig(workers=0, bad_images="skip"))
    whole = data.train_loader(2, seed=3)
    order = epoch_order(len(data.train), 3, 1)
    for row in order[[1, 3, 4]].tolist():  # the second process' first two, and the first one's third
        Path(os.fsdecode(data.train.paths[row])).write_bytes(b"")
    parts = []
    for rank, times in ((0, 1), (1, 2)):
        with pytest.warns(UserWarning, match="in their place") as told:
            parts.append(list(whole.shard(rank, 2).epoch(1)))
        lines = [str(line.message) for line in told]
        assert (
            sum(line.startswith(f"no image of process {rank}'s part of a batch") for line in lines) == times
        )
    assert [len(targets) for part in parts for _, targets in part] == [1] * (2 * len(whole))
    with pytest.warns(UserWarning, match="in their place"):
        again = list(whole.shard(1, 2).epoch(1, start=1))
    assert all(one[0].equal(other[0]) for one, other in zip(again, parts[1][1:], strict=True))


def test_train_limit_is_balanced(root):
    data = open_dataset("imagenet", root, DataConfig(train_limit=3))
    assert data.train.labels.tolist() == [0, 0, 1]
    assert len(data.test) == 4


def test_a_padded_crop_is_refused(root):
    with pytest.raises(UserError, match="crop_padding"):
        open_dataset("imagenet", root, DataConfig(crop_padding=4))


def test_validation_images_outside_of_class_folders_are_an_error(root):
    (root / "imagenet/val/n02").rename(root / "imagenet/val/n09")
    with pytest.raises(
        UserError, match=r"val' lacks 1 class of '.*train': n02; '.*train' lacks 1 class of '.*val': n09;"
    ):
        open_dataset("imagenet", root)
    (root / "imagenet/val/n09").rename(root / "imagenet/val/N02")
    with pytest.raises(UserError, match=r"named alike to the letter"):
        open_dataset("imagenet", root)


def test_a_png_beside_jpegs_and_an_image_without_a_suffix_are_trained_on(root):
    """A class of PNGs vanished, and networks were right on all of the class that was left."""
    for part in ("train", "val"):
        for path in (root / "imagenet" / part / "n02").iterdir():
            Image.open(path).convert("RGB").save(path.with_suffix(".PNG"))
            path.unlink()
    path = root / "imagenet/val/n01/n01_0.JPEG"
    path.rename(path.with_suffix(""))
    data = open_dataset("imagenet", root, DataConfig(workers=0))
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    assert torch.cat([targets for _, targets in data.test_loader(3).epoch(0)]).tolist() == [0, 0, 1, 1]
    assert data.left_out == ()
    assert [note.partition(" in ")[0] for note in data.notes] == [
        "2 classes instead of ImageNet's 1,000.",
        "10 training images instead of ImageNet's 1,281,167.",
        "4 validation images instead of ImageNet's 50,000.",
        "Without an image's suffix, taken for images by their content",
    ]


def test_one_class_is_an_error(root):
    for part in ("train", "val"):
        shutil.rmtree(root / "imagenet" / part / "n02")
    with pytest.raises(UserError, match="holds the one class 'n01'"):
        open_dataset("imagenet", root)
    with pytest.raises(UserError, match="integers from 2"):
        DataConfig(classes=1)


def test_folders_without_images_are_an_error(root):
    for path in (root / "imagenet/train").rglob("*.JPEG"):
        path.unlink()
    with pytest.raises(UserError, match=r"2 of 2 class folders in '.*train' hold no image: n01; n02;"):
        open_dataset("imagenet", root)
