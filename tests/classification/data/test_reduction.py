"""Smaller forms of a data set: fewer classes, fewer training images, smaller images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from classification.data import DataConfig, open_dataset
from classification.data.reduction import reduce_data
from core.errors import UserError
from core.storage.data import ENVIRONMENT_VARIABLE

WHOLE = open_dataset("digits", ".")


@given(classes=st.integers(2, 10), limit=st.none() | st.integers(1, 2000))
def test_classes_are_left_out_of_both_parts_and_the_limit_is_balanced_over_the_rest(classes, limit):
    whole = WHOLE
    data = reduce_data(whole, DataConfig(classes=classes, train_limit=limit))
    assert data.num_classes == classes
    used = data.train.labels[data.train.rows]
    counts = np.bincount(used, minlength=classes)
    own = np.bincount(whole.train.labels[whole.train.rows])[:classes]
    assert len(counts) == classes
    assert counts.sum() == min(own.sum(), own.sum() if limit is None else limit)
    assert counts.max() - counts.min() <= max(1, own.max() - own.min())
    tested = whole.test.labels[whole.test.rows]
    assert torch.equal(data.test.labels[data.test.rows], tested[tested < classes])


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_images_are_averaged_over_squares(size):
    images = load_digits().images
    data = open_dataset("digits", ".", DataConfig(downsample=size, train_limit=30))
    side = 8 // size
    assert data.input_shape == (1, side, side)
    inputs, _ = next(iter(data.test_loader(5).epoch(0)))
    assert inputs.shape == (5, 1, side, side)
    rows = open_dataset("digits", ".").test.rows[:5].numpy()
    pixels = inputs * data.test.std[0] + data.test.mean[0]
    for image, row in zip(pixels[:, 0].numpy(), rows, strict=True):
        for y in range(side):
            for x in range(side):
                square = images[row, y * size : (y + 1) * size, x * size : (x + 1) * size]
                assert abs(image[y, x] - square.mean()) <= 0.5 + 1e-4  # pixels stay whole numbers


def test_what_a_data_set_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"data\.classes is 11, but digits has 10 classes"):
        open_dataset("digits", ".", DataConfig(classes=11))
    with pytest.raises(UserError, match=r"data\.downsample is 3, but images of digits have 8x8 pixels"):
        open_dataset("digits", ".", DataConfig(downsample=3))


@given(
    first=st.integers(0, 8),
    classes=st.integers(2, 10),
    held=st.integers(0, 60),
    limit=st.none() | st.integers(40, 900),
)
def test_training_images_that_test_train_no_network(first, classes, held, limit):
    classes = min(classes, 10 - first)
    data = reduce_data(
        WHOLE, DataConfig(classes=classes, first_class=first, test_per_class=held, train_limit=limit)
    )
    assert data.class_names == WHOLE.class_names[first : first + classes]

    def kept(split, chosen):
        labels = split.labels[split.rows] - first
        return [
            split.images[row] for row, label in zip(split.rows, labels, strict=True) if chosen(int(label))
        ]

    official = kept(WHOLE.test, range(classes).__contains__)
    pixels = data.test.images[data.test.rows]
    assert len(pixels) == len(official) + held * classes
    assert torch.equal(pixels[: len(official)], torch.stack(official))
    labels = data.test.labels[data.test.rows][len(official) :]
    assert np.bincount(labels, minlength=classes).tolist() == [held] * classes
    # The held-out images are the last of every class; the rest, as far as the limit goes, trains.
    for label in range(classes):
        own = torch.stack(kept(WHOLE.train, label.__eq__))
        assert torch.equal(pixels[len(official) :][labels == label], own[len(own) - held :])
        trained = data.train.images[data.train.rows][data.train.labels[data.train.rows] == label]
        assert torch.equal(trained, own[: len(trained)])
        assert len(trained) <= len(own) - held
    expected = sum(len(kept(WHOLE.train, label.__eq__)) - held for label in range(classes))
    assert len(data.train) == min(expected, limit or expected)


def test_a_class_keeps_images_to_train_on():
    with pytest.raises(
        UserError, match=r"data\.test_per_class is 200, but a class of digits has \d+ training images"
    ):
        open_dataset("digits", ".", DataConfig(test_per_class=200))
    with pytest.raises(
        UserError, match=r"data\.classes is 1 from data\.first_class 9 on, but digits has 10 classes"
    ):
        open_dataset("digits", ".", DataConfig(first_class=9))
    text = DataConfig(classes=100, first_class=100, test_per_class=250, downsample=4).smaller_than_whole()
    assert text == (
        "A part of the data set: 100 classes from number 100 on (the first is 0), 250 training images of every class "
        "are test images, images averaged over 4x4 pixels."
    )


def test_folders_of_images_have_fewer_classes_but_no_smaller_images(tmp_path: Path):
    photograph = Image.fromarray(load_sample_image("china.jpg")[:100, :100])
    for part in ("train", "val"):
        for name in ("n01", "n02", "n03"):
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for number in range(2):
                photograph.save(folder / f"{number}.JPEG")
    data = open_dataset("imagenet", tmp_path, DataConfig(classes=2, train_limit=3, workers=0))
    assert data.class_names == ("n01", "n02")
    assert data.train.labels.tolist() == [0, 0, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert [Path(os.fsdecode(path)).parent.name for path in data.train.paths] == ["n01", "n01", "n02"]
    data = open_dataset("imagenet", tmp_path, DataConfig(first_class=1, test_per_class=1, workers=0))
    assert data.class_names == ("n02", "n03")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1], [0, 0, 1, 1, 0, 1])
    tested = [Path(os.fsdecode(path)).parts[-3:] for path in data.test.paths[-2:]]
    assert tested == [("train", "n02", "1.JPEG"), ("train", "n03", "1.JPEG")]
    with pytest.raises(UserError, match=r"data\.downsample is 2, but imagenet is decoded during training"):
        open_dataset("imagenet", tmp_path, DataConfig(downsample=2))


def _real_root() -> str:
    root = os.environ.get(ENVIRONMENT_VARIABLE, "")
    return root if root and (Path(root) / "tiny-imagenet-200" / "train").is_dir() else ""


@pytest.mark.skipif(not _real_root(), reason=f"no tiny-imagenet-200 under ${ENVIRONMENT_VARIABLE}")
def test_the_reduced_tiny_imagenet_is_the_first_classes_averaged():
    whole = open_dataset("tiny-imagenet", _real_root())
    data = open_dataset("tiny-imagenet", _real_root(), DataConfig(classes=20, downsample=4))
    assert (len(data.train), len(data.test), data.input_shape) == (10_000, 1_000, (3, 16, 16))
    assert data.class_names == whole.class_names[:20]
    held = open_dataset("tiny-imagenet", _real_root(), DataConfig(20, 20, 100, 250, downsample=4))
    assert (len(held.train), len(held.test)) == (20, 20 * (250 + 50))
    assert held.class_names == whole.class_names[100:120]
    assert data.train.images.shape == (10_000, 3, 16, 16)  # nothing that is not used is kept
    row = int(whole.test.rows[whole.test.labels[whole.test.rows] < 20][7])
    expected = torch.nn.functional.avg_pool2d(whole.test.images[row].double(), 4).round()
    assert (data.test.images[7].double() - expected).abs().max() <= 1  # halves may be rounded either way
    assert ((data.test.images[7].double() - expected) == 0).double().mean() > 0.9
    assert int(data.test.labels[7]) == int(whole.test.labels[row])


@pytest.mark.parametrize(
    ("limit", "notes"), [(10, ()), (7, ("3 of 10 classes have no training image: data.train_limit is 7.",))]
)
def test_a_limit_below_the_number_of_classes_is_said(limit, notes):
    assert open_dataset("digits", "", DataConfig(train_limit=limit)).notes == notes
