"""CIFAR readers on small archives in the official layouts; hostile and damaged files."""

import contextlib
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classification.data import DataConfig, open_dataset
from classification.data.cifar import _LAYOUTS, _load
from core.errors import MissingData, UserError
from tests.properties import examples

PER_FILE = 100  # as many as CIFAR-100 has classes
NAMES = {"cifar10": [f"ten{n}" for n in range(10)], "cifar100": [f"hundred{n}" for n in range(100)]}
FOLDERS = {
    ("cifar10", "py"): "cifar-10-batches-py",
    ("cifar100", "py"): "cifar-100-python",
    ("cifar10", "bin"): "cifar-10-batches-bin",
    ("cifar100", "bin"): "cifar-100-binary",
}
TRAIN = {"cifar10": [f"data_batch_{n}" for n in range(1, 6)], "cifar100": ["train"]}
TEST = {"cifar10": "test_batch", "cifar100": "test"}


def contents(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels (N, 3072) and labels of every file."""
    generator = np.random.default_rng(7)
    return {
        file: (
            generator.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8),
            np.arange(PER_FILE) * 3 % len(NAMES[name]),
        )
        for file in [*TRAIN[name], TEST[name]]
    }


def write_archive(root: Path, name: str, layout: str) -> Path:
    folder = root / FOLDERS[name, layout]
    folder.mkdir(parents=True)
    for file, (pixels, labels) in contents(name).items():
        if layout == "py":
            key = b"labels" if name == "cifar10" else b"fine_labels"
            entries = {b"data": pixels, key: labels.tolist(), b"coarse_labels": [0] * PER_FILE}
            # Protocol 2 from Python 2 is what the official files hold; bytes keys need 3 from Python 3.
            (folder / file).write_bytes(pickle.dumps(entries, protocol=3))
        else:
            coarse = [np.zeros((PER_FILE, 1), np.uint8)] if name == "cifar100" else []
            records = np.concatenate([*coarse, labels[:, None].astype(np.uint8), pixels], axis=1)
            records.tofile(folder / f"{file}.bin")
    if layout == "py":
        meta, key = ("batches.meta", "label_names") if name == "cifar10" else ("meta", "fine_label_names")
        (folder / meta).write_bytes(pickle.dumps({key: NAMES[name]}, protocol=2))
    else:
        text = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
        (folder / text).write_text("\n".join(NAMES[name]) + "\n\n")
    return folder


@pytest.mark.parametrize("layout", ["py", "bin"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_images_labels_and_names_are_those_of_the_files(name, layout, tmp_path):
    write_archive(tmp_path, name, layout)
    data = open_dataset(name, tmp_path)
    expected = contents(name)
    assert list(data.class_names) == NAMES[name]
    assert data.input_shape == (3, 32, 32)
    pixels = np.concatenate([expected[file][0] for file in TRAIN[name]]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(data.train.images, pixels)
    np.testing.assert_array_equal(data.train.labels, np.concatenate([expected[f][1] for f in TRAIN[name]]))
    inputs, targets = next(iter(data.test_loader(PER_FILE).epoch(0)))
    mean, std = np.reshape((125.3, 123.0, 113.9), (3, 1, 1)), np.reshape((63.0, 62.1, 66.7), (3, 1, 1))
    raw, labels = expected[TEST[name]]
    np.testing.assert_allclose(inputs, (raw.reshape(-1, 3, 32, 32) - mean) / std, atol=1e-5)
    assert targets.tolist() == labels.tolist()


def test_training_crops_and_flips_as_asked_and_testing_does_not(tmp_path):
    write_archive(tmp_path, "cifar10", "py")
    plain = open_dataset("cifar10", tmp_path)
    augmented = open_dataset("cifar10", tmp_path, DataConfig(crop_padding=4, flip=True))
    first, second = (next(iter(data.train_loader(100, seed=0).epoch(0))) for data in (plain, augmented))
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], second[0])
    first, second = (next(iter(data.test_loader(20).epoch(0))) for data in (plain, augmented))
    assert torch.equal(first[0], second[0])


class Hostile:
    """A pickle of it runs a command when an ordinary unpickler reads it."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Eval:
    def __reduce__(self):
        return eval, ("1 + 1",)


class Inner:
    """Asks for a dotted name, which pickle protocol 4 resolves through attributes."""

    def __reduce__(self):
        return getattr, (np.ndarray, "tofile")


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path):
    folder = write_archive(tmp_path, "cifar10", "py")
    marker = tmp_path / "marker"
    for content in (Hostile(marker), {b"data": Hostile(marker)}, Eval(), {b"labels": [Inner()]}):
        (folder / "data_batch_3").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=r"data_batch_3.*it asks for (posix\.system|builtins\.\w+)"):
            open_dataset("cifar10", tmp_path)
        assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b"garbage",
        b"cos\nsystem\n(S'true'\ntR.",
        b"I1\n.",
        b"Nr\xff\xff\xff\x7f.",  # a memo of 2^31 entries
        b"\x96\xff\xff\xff\xff\xff\0\0\0.",  # a byte array longer than any memory
    ],
)
def test_a_damaged_pickle_is_named(content, tmp_path):
    folder = write_archive(tmp_path, "cifar10", "py")
    (folder / "data_batch_2").write_bytes(content)
    with pytest.raises(UserError, match="data_batch_2") as caught:
        open_dataset("cifar10", tmp_path)
    assert "\n" not in str(caught.value)


@examples(300)
@given(st.data())
def test_altered_pickles_are_read_or_refused(data):
    content = bytearray(pickle.dumps({b"data": np.zeros((1, 4), np.uint8), b"labels": [1]}, protocol=3))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "altered"
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            _load(path)


def test_every_truncation_of_a_pickle_is_refused(tmp_path):
    folder = write_archive(tmp_path, "cifar100", "py")
    content = (folder / "test").read_bytes()
    for length in range(0, len(content), len(content) // 120):
        (folder / "test").write_bytes(content[:length])
        with pytest.raises(UserError, match="test"):
            open_dataset("cifar100", tmp_path)


@pytest.mark.parametrize(
    "entries",
    [
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]},
        {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, "1"]},
        {b"data": np.zeros((2, 3072), np.uint8)},
    ],
    ids=["type", "shape", "label range", "label type", "no labels"],
)
def test_wrong_contents_are_refused(entries, tmp_path):
    folder = write_archive(tmp_path, "cifar10", "py")
    (folder / "test_batch").write_bytes(pickle.dumps(entries, protocol=3))
    with pytest.raises(UserError, match="test_batch"):
        open_dataset("cifar10", tmp_path)


def test_a_cut_binary_file_is_refused(tmp_path):
    folder = write_archive(tmp_path, "cifar10", "bin")
    whole = (folder / "data_batch_4.bin").read_bytes()
    (folder / "data_batch_4.bin").write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"data_batch_4\.bin.*multiple"):
        open_dataset("cifar10", tmp_path)


@pytest.mark.parametrize("layout", ["py", "bin"])
def test_a_missing_file_is_named(layout, tmp_path):
    folder = write_archive(tmp_path, "cifar10", layout)
    gone = next(folder.glob("data_batch_5*"))
    gone.unlink()
    with pytest.raises(MissingData, match=gone.name):
        open_dataset("cifar10", tmp_path)


def test_both_layouts_name_the_same_parts():
    for layout in _LAYOUTS.values():
        assert [f"{name}.bin" for name in layout.train_pickles] == list(layout.train_binaries)
        assert f"{layout.test_pickle}.bin" == layout.test_binary


@pytest.mark.parametrize("twin", ["data_batch_4", "test_batch"])
def test_a_file_that_stands_for_another_one_is_an_error(tmp_path, twin):
    folder = write_archive(tmp_path, "cifar10", "py")
    (folder / twin).write_bytes((folder / "data_batch_1").read_bytes())
    with pytest.raises(UserError, match=f"{twin}' holds the same images as 'data_batch_1'"):
        open_dataset("cifar10", tmp_path)


def test_files_with_fewer_images_than_the_official_ones_are_said(tmp_path):
    write_archive(tmp_path, "cifar100", "bin")
    notes = open_dataset("cifar100", tmp_path).notes
    assert [note.partition("' ")[2] for note in notes] == [
        "holds 100 images instead of CIFAR-100's 50,000.",
        "holds 100 images instead of CIFAR-100's 10,000.",
    ]


def test_a_class_without_images_is_named(tmp_path):
    folder = write_archive(tmp_path, "cifar10", "bin")
    records = np.fromfile(folder / "test_batch.bin", np.uint8).reshape(PER_FILE, -1)
    records[records[:, 0] == 4, 0] = 5
    records.tofile(folder / "test_batch.bin")
    with pytest.raises(UserError, match="no test image of 1 of its 10 classes: ten4;"):
        open_dataset("cifar10", tmp_path)
