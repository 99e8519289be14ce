"""Order, subsets, augmentation and batches of data sets that live in memory; the digits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from classification.data import DATASETS, DataConfig, open_dataset
from classification.data.arrays import ArrayLoader, array_split
from classification.data.augmentation import Normalisation, batch_generator, crop_and_flip, draw_views
from classification.data.sampling import balanced_subset, batch_rows, epoch_order, occurrence
from core.errors import MissingData, UserError
from tests.properties import examples

CPU = torch.device("cpu")


def numbered_images(count: int, side: int = 4) -> np.ndarray:
    """Images whose every pixel is the image's number."""
    return np.repeat(np.arange(count, dtype=np.uint8), 3 * side * side).reshape(count, 3, side, side)


def identity_loader(count: int, batch_size: int, **options) -> ArrayLoader:
    """A loader whose inputs are the raw pixels and whose labels are the images' numbers."""
    split = array_split(numbered_images(count), np.arange(count), mean=(0.0,) * 3, std=(1.0,) * 3)
    return ArrayLoader(split, batch_size, CPU, **{"seed": 5, "training": True, **options})


def same(left, right) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(left, right)
    )


@given(st.lists(st.integers(0, 6), max_size=60))
def test_occurrence_counts_earlier_equals(labels):
    expected = [labels[:row].count(label) for row, label in enumerate(labels)]
    assert occurrence(np.array(labels, dtype=np.int64)).tolist() == expected


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_balanced_subset_is_balanced_sorted_and_nested(labels, data):
    labels = np.array(labels)
    limit = data.draw(st.integers(1, len(labels)))
    rows = balanced_subset(labels, limit)
    assert len(rows) == limit
    assert (np.diff(rows) > 0).all()
    taken = np.bincount(labels[rows], minlength=5)
    available = np.bincount(labels, minlength=5)
    for label in range(5):
        # A class has fewer images than another only where all of its images are taken already.
        assert taken[label] == available[label] or taken[label] >= taken.max() - 1
    assert set(balanced_subset(labels, max(limit - 1, 1))) <= set(rows)


def test_training_drops_the_partial_batch_and_testing_keeps_it():
    assert batch_rows(10, 4, training=True) == [slice(0, 4), slice(4, 8)]
    assert batch_rows(10, 4, training=False) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert batch_rows(3, 4, training=True) == [slice(0, 3)]


@examples(40)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(0, 4), st.booleans(), st.data())
def test_crop_and_flip_equals_slicing_the_padded_image(count, height, width, padding, flip, data):
    seed = data.draw(st.integers(0, 2**31))
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 2, height, width), dtype=np.uint8)
    views = draw_views(count, padding, flip, torch.Generator().manual_seed(seed))
    result = crop_and_flip(torch.from_numpy(images), views, padding).numpy()
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    for image, (top, left, mirrored), found in zip(padded, views.tolist(), result):
        assert 0 <= min(top, left) <= max(top, left) <= 2 * padding
        assert mirrored in ((0, 1) if flip else (0,))
        expected = image[:, top : top + height, left : left + width]
        np.testing.assert_array_equal(found, expected[:, :, ::-1] if mirrored else expected)


def test_views_are_uniform_and_the_options_do_not_touch_each_other():
    views = draw_views(81_000, 4, True, torch.Generator().manual_seed(0))
    positions = torch.bincount(views[:, 0] * 9 + views[:, 1], minlength=81)
    assert (positions - 1000).abs().max() < 150  # 1000 expected, standard deviation 31
    assert abs(views[:, 2].double().mean() - 0.5) < 0.01
    unflipped = draw_views(81_000, 4, False, torch.Generator().manual_seed(0))
    assert torch.equal(views[:, :2], unflipped[:, :2])
    uncropped = draw_views(81_000, 0, True, torch.Generator().manual_seed(0))
    assert torch.equal(views[:, 2], uncropped[:, 2])


def test_normalisation_is_the_formula():
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    mean, std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    expected = (images.double().numpy() - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    result = Normalisation.of(mean, std, CPU)(images)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)


def test_an_epoch_sees_every_image_once_in_an_order_of_its_own():
    loader = identity_loader(12, 4)
    orders = []
    for epoch in range(3):
        batches = list(loader.epoch(epoch))
        assert len(batches) == len(loader) == 3
        targets = torch.cat([targets for _, targets in batches])
        assert sorted(targets.tolist()) == list(range(12))
        assert all(torch.equal(inputs[:, 0, 0, 0], targets.float()) for inputs, targets in batches)
        orders.append(targets.tolist())
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] != list(range(12))
    assert orders[0] != torch.cat([t for _, t in identity_loader(12, 4, seed=6).epoch(0)]).tolist()


@examples(25)
@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 3), st.booleans(), st.integers(0, 10))
def test_an_epoch_can_be_entered_at_any_batch(count, batch_size, epoch, training, start):
    loader = identity_loader(count, batch_size, training=training, crop_padding=2, flip=True)
    assert same(list(loader.epoch(epoch, start)), list(loader.epoch(epoch))[start:])


def test_augmentation_changes_with_the_epoch_and_the_batch_and_not_with_other_random_numbers():
    photograph_like = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    split = array_split(np.repeat(photograph_like, 64, 0), np.zeros(64), mean=(0.0,) * 3, std=(1.0,) * 3)
    loader = ArrayLoader(split, 32, CPU, seed=0, training=True, crop_padding=4, flip=True)
    before = torch.get_rng_state()
    first, second = loader.epoch(0)
    other, _ = loader.epoch(1)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert same([first, second], list(loader.epoch(0)))


def test_generators_of_neighbouring_batches_have_nothing_in_common():
    draws = {
        tuple(torch.randint(0, 2**31, (4,), generator=batch_generator(seed, epoch, batch)).tolist())
        for seed in range(4)
        for epoch in range(4)
        for batch in range(4)
    }
    assert len(draws) == 64


@pytest.mark.parametrize("training", [True, False])
def test_shards_are_parts_of_the_same_batches(training):
    loader = identity_loader(22, 6, training=training, crop_padding=2, flip=True)
    shards = [list(loader.shard(rank, 3).epoch(2)) for rank in range(3)]
    whole = list(loader.epoch(2))
    assert [len(shard) for shard in shards] == [len(whole)] * 3
    for index, (inputs, targets) in enumerate(whole):
        for rank in range(3):
            assert torch.equal(shards[rank][index][0], inputs[rank::3])
            assert torch.equal(shards[rank][index][1], targets[rank::3])


@pytest.mark.parametrize(
    ("count", "batch_size", "training", "message"),
    [
        (20, 6, True, "batches of 6 .* multiple of 4"),
        (5, 8, True, "batches of 5 .* no more than the 5 images"),
    ],
)
def test_batches_that_cannot_be_shared_out_are_refused(count, batch_size, training, message):
    with pytest.raises(UserError, match=message):
        identity_loader(count, batch_size, training=training).shard(0, 4)


def test_a_last_test_batch_may_be_smaller_than_there_are_processes():
    """Every image is seen once; who has none of a batch gets none."""
    loader = identity_loader(11, 8, training=False)
    shards = [[len(targets) for _, targets in loader.shard(rank, 4).epoch(0)] for rank in range(4)]
    assert shards == [[2, 1], [2, 1], [2, 1], [2]]


def test_digits_are_split_by_class_without_overlap():
    data = open_dataset("digits", "nowhere")
    assert (data.num_classes, data.input_shape, data.skipped) == (10, (1, 8, 8), {"train": 0, "test": 0})
    train, test = set(data.train.rows.tolist()), set(data.test.rows.tolist())
    labels = load_digits().target
    assert train.isdisjoint(test)
    assert len(train | test) == len(labels) == 1797
    for label in range(10):
        of_class = set(np.flatnonzero(labels == label).tolist())
        assert len(of_class & test) == len(of_class) // 5


def test_digits_training_inputs_have_mean_zero_and_variance_one():
    data = open_dataset("digits", "nowhere")
    inputs = torch.cat([inputs for inputs, _ in data.train_loader(len(data.train), seed=0).epoch(0)])
    assert inputs.shape == (len(data.train), 1, 8, 8)
    assert abs(inputs.mean()) < 1e-5
    assert abs(inputs.std() - 1) < 1e-4


def test_digits_test_loader_shows_the_images_as_they_are():
    config = DataConfig(crop_padding=1, flip=True)
    data = open_dataset("digits", "nowhere", config)
    inputs, targets = map(torch.cat, zip(*data.test_loader(100).epoch(0)))
    digits = load_digits()
    expected = (digits.images[data.test.rows] - data.test.mean[0]) / data.test.std[0]
    np.testing.assert_allclose(inputs[:, 0].numpy(), expected, atol=1e-5)
    assert targets.tolist() == digits.target[data.test.rows].tolist()


def test_train_limit_is_balanced_and_leaves_the_test_part_alone():
    data = open_dataset("digits", "nowhere", DataConfig(train_limit=55))
    assert len(data.test) == len(open_dataset("digits", "nowhere").test)
    counts = np.bincount(data.train.labels[data.train.rows])
    assert counts.tolist() == [6, 6, 6, 6, 6, 5, 5, 5, 5, 5]


@pytest.mark.parametrize(
    "options",
    [
        {"train_limit": 0},
        {"classes": 0},
        {"downsample": 0},
        {"crop_padding": -1},
        {"workers": -1},
        {"bad_images": "ignore"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_out_of_range_are_refused_by_name(options):
    with pytest.raises(UserError, match=rf"data\.{next(iter(options))} .*allowed"):
        DataConfig(**options)


def test_unknown_data_set_names_the_closest():
    with pytest.raises(UserError, match=r"did you mean 'cifar10'"):
        open_dataset("cifar-10", "nowhere")


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_missing_data_says_where_it_belongs_and_where_to_get_it(name, tmp_path):
    with pytest.raises(MissingData, match=r"https?://") as caught:
        open_dataset(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_epoch_order_is_a_permutation_and_no_batch_shares_its_stream():
    assert sorted(epoch_order(50, 1, 2).tolist()) == list(range(50))
    assert not torch.equal(epoch_order(50, 1, 2), torch.randperm(50, generator=batch_generator(1, 2, 0)))


def test_a_split_is_put_on_an_accelerator_once_and_without_unused_images():
    split = array_split(
        numbered_images(6), np.arange(6), mean=(0.0,) * 3, std=(1.0,) * 3, rows=np.array([1, 4])
    )
    meta = torch.device("meta")  # stands in for an accelerator: shapes and places without one
    resident = split.on(meta)
    assert resident.images.shape == (2, 3, 4, 4)
    assert resident.images.device == meta
    assert resident.rows.tolist() == [0, 1]
    assert split.on(meta) is resident


def test_a_batch_is_made_where_the_split_is():
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), dtype=np.uint8)
    split = array_split(images, np.arange(6), mean=(0.0,) * 3, std=(1.0,) * 3)
    loader = ArrayLoader(split, 3, torch.device("meta"), seed=0, training=True, crop_padding=1, flip=True)
    # An operation that mixed devices would raise here.
    assert [inputs.shape for inputs, _ in loader.epoch(0)] == [(3, 3, 4, 4)] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_on_a_gpu_are_those_on_the_cpu():
    data = open_dataset("digits", "nowhere", DataConfig(crop_padding=1, flip=True))
    expected = list(data.train_loader(64, seed=0).epoch(3))
    found = list(data.train_loader(64, seed=0, device="cuda").epoch(3))
    assert len(found) == len(expected)
    for (inputs, targets), (cpu_inputs, cpu_targets) in zip(found, expected):
        assert inputs.is_cuda
        torch.testing.assert_close(inputs.cpu(), cpu_inputs, atol=1e-6, rtol=0)
        assert torch.equal(targets.cpu(), cpu_targets)
