"""CIFAR-10 and CIFAR-100 in the layouts of their authors: Python pickles, read safely, or binary records.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classification.data.arrays import array_split
from classification.data.config import CIFAR_MEAN, CIFAR_STD, DataConfig
from classification.data.dataset import ClassificationData
from core.errors import MissingData, UserError
from core.storage.data import require
from core.storage.files import file_alone

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True)
class _Layout:
    """Where the parts of one of the data sets lie, in the pickle and in the binary archive."""

    pickles: str
    train_pickles: tuple[str, ...]
    test_pickle: str
    names_pickle: str
    labels_key: str
    names_key: str
    binary: str
    train_binaries: tuple[str, ...]
    test_binary: str
    names_text: str
    label_bytes: int  # a binary record's labels, the wanted one last
    per_file: tuple[int, int]  # images of a training and of the test file


_LAYOUTS = {
    "cifar10": _Layout(
        pickles="cifar-10-batches-py",
        train_pickles=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test_pickle="test_batch",
        names_pickle="batches.meta",
        labels_key="labels",
        names_key="label_names",
        binary="cifar-10-batches-bin",
        train_binaries=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test_binary="test_batch.bin",
        names_text="batches.meta.txt",
        label_bytes=1,
        per_file=(10_000, 10_000),
    ),
    "cifar100": _Layout(
        pickles="cifar-100-python",
        train_pickles=("train",),
        test_pickle="test",
        names_pickle="meta",
        labels_key="fine_labels",
        names_key="fine_label_names",
        binary="cifar-100-binary",
        train_binaries=("train.bin",),
        test_binary="test.bin",
        names_text="fine_label_names.txt",
        label_bytes=2,
        per_file=(50_000, 10_000),
    ),
}


def open_cifar(name: str, root: Path, config: DataConfig) -> ClassificationData:
    """CIFAR-10 ("cifar10") or CIFAR-100 ("cifar100", fine labels), from pickles or else from binary records.

    Raises:
        MissingData: the archive's folder or one of its files is not there.
        UserError: a file differs from the official archive's, or holds the same images as another file.
    """
    layout = _LAYOUTS[name]
    what = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name]
    if not (root / layout.pickles).exists() and (root / layout.binary).exists():
        folder = root / layout.binary
        names_file = require(folder / layout.names_text, f"{what}'s class names", _ADDRESS)
        class_names = names_file.read_text(encoding="ascii").split()
        train_files, test_file = layout.train_binaries, layout.test_binary
    else:
        folder = require(root / layout.pickles, what, f"{_ADDRESS} (python version)")
        names_file = require(folder / layout.names_pickle, f"{what}'s class names", _ADDRESS)
        class_names = [_text(entry) for entry in _field(names_file, _load(names_file), layout.names_key)]
        train_files, test_file = layout.train_pickles, layout.test_pickle

    def read(file: str) -> tuple[np.ndarray, np.ndarray]:
        path = require(folder / file, f"{what}'s {file}", _ADDRESS)
        images, labels = (_read_binary if path.suffix == ".bin" else _read_pickle)(path, layout)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
            raise UserError(
                f"'{path}' holds labels from {labels.min()} to {labels.max()}, but '{names_file}' names "
                f"{len(class_names)} classes; unpack the archive from {_ADDRESS} again"
            )
        return images, labels

    parts = {file: read(file) for file in (*train_files, test_file)}
    _require_different(folder, {file: images for file, (images, _) in parts.items()})
    images = np.concatenate([parts[file][0] for file in train_files])
    labels = np.concatenate([parts[file][1] for file in train_files])
    expected = dict.fromkeys(train_files, layout.per_file[0]) | {test_file: layout.per_file[1]}
    return ClassificationData(
        name=name,
        class_names=tuple(class_names),
        input_shape=_SHAPE,
        train=array_split(images, labels, mean=CIFAR_MEAN, std=CIFAR_STD),
        test=array_split(*parts[test_file], mean=CIFAR_MEAN, std=CIFAR_STD),
        config=config,
        notes=tuple(
            f"'{folder / file}' holds {len(part_labels):,} images instead of {what}'s {expected[file]:,}."
            for file, (_, part_labels) in parts.items()
            if len(part_labels) != expected[file]
        ),
    )


def _require_different(folder: Path, images: dict[str, np.ndarray]) -> None:
    """Refuse two files with the same images: images would count twice, or be tested on after training."""
    seen: dict[bytes, str] = {}
    for file, pixels in images.items():
        earlier = seen.setdefault(hashlib.sha256(pixels.tobytes()).digest(), file)
        if earlier != file:
            raise UserError(
                f"'{folder / file}' holds the same images as '{earlier}'; unpack the archive from {_ADDRESS} again"
            )


class _PickledType:
    """Stands in for numpy's dtype, whose own state can corrupt memory when it is forged."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = _text(name)

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and flags do not matter for single bytes


class _PickledArray:
    """Stands in for numpy's ndarray; takes uint8 pixels only."""

    def __init__(self, *_: Any) -> None:
        self.pixels = np.empty((0, 0), np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _PickledType) or kind.name not in ("u1", "uint8") or fortran:
            raise pickle.UnpicklingError("it holds an array that is not uint8 in C order")
        self.pixels = np.frombuffer(content, np.uint8).reshape(shape).copy()


class _PixelUnpickler(pickle.Unpickler):
    """Reads containers, strings, numbers and arrays of pixels; calls nothing that a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "numpy", "dtype":
                return _PickledType
            case ("numpy", "ndarray") | ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return _PickledArray
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


# Errors that the unpickler raises on a damaged or hostile pickle.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


def _load(path: Path) -> Any:
    try:
        with file_alone():
            content = path.read_bytes()
        # A first pass that executes nothing: lengths beyond the file's end and absurd memo numbers would make the
        # unpickler fill all memory.
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > len(content):
                raise pickle.UnpicklingError("its memo is out of bounds")
        return _PixelUnpickler(io.BytesIO(content), encoding="bytes").load()
    except FileNotFoundError as error:
        raise MissingData(f"'{path}' is not there; unpack the archive from {_ADDRESS} again") from error
    except _PICKLE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"'{path}' is damaged or no file of the official archive ({reason}); get it from {_ADDRESS}"
        ) from error


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _field(path: Path, content: Any, key: str) -> Any:
    """One entry of a pickled dictionary, whose keys are bytes or text depending on who wrote it."""
    if isinstance(content, dict):
        for name, value in content.items():
            if _text(name) == key:
                return value
    raise UserError(f"'{path}' has no entry '{key}'; unpack the archive from {_ADDRESS} again")


def _read_pickle(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    content = _load(path)
    array = _field(path, content, "data")
    pixels = array.pixels if isinstance(array, _PickledArray) else np.empty((0, 0), np.uint8)
    labels = _field(path, content, layout.labels_key)
    whole = (
        isinstance(labels, list)
        and pixels.shape == (len(labels), _PIXELS)
        and all(isinstance(label, int) for label in labels)
    )
    if not whole:
        raise UserError(
            f"'{path}' does not hold one uint8 row of {_PIXELS} pixels per label; "
            f"unpack the archive from {_ADDRESS} again"
        )
    return pixels.reshape(-1, *_SHAPE), np.array(labels, dtype=np.int64)


def _read_binary(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    content = np.fromfile(path, dtype=np.uint8)
    size = layout.label_bytes + _PIXELS
    if content.size == 0 or content.size % size:
        raise UserError(
            f"'{path}' has {content.size} bytes, not a multiple of a record's {size}; "
            f"unpack the archive from {_ADDRESS} again"
        )
    records = content.reshape(-1, size)
    pixels = np.ascontiguousarray(records[:, layout.label_bytes :]).reshape(-1, *_SHAPE)
    return pixels, records[:, layout.label_bytes - 1].astype(np.int64)
