"""What a reader may make of a damaged file, if anything: held against other readers, or against the types."""

from __future__ import annotations

import dataclasses
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.storage.schema import lower
from core.surgery.architecture import Architecture
from tests.bits import assert_same_bits
from tests.readers import READERS
from tracking.files.boxes import BoxTable


def check(reader: str, result: Any, valid: Any, path: Path, by_bytes: bool) -> None:
    """Hold a result against what the file says.

    Args:
        reader: a name of `tests.readers.READERS`.
        result: what it read from the damaged file.
        valid: from the valid one.
        path: the damaged file, where it still has its name.
        by_bytes: bytes were damaged blindly, so that a checksum tells.

    Raises:
        AssertionError: it is another one.
    """
    if by_bytes and READERS[reader].form == "safetensors" and reader != "header":
        assert_same_bits(_plain(result), _plain(valid))
    own = _CHECKS.get(reader)
    if own is not None:
        own(result, path)
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        _typed(result)


def _plain(value: Any) -> Any:
    """Networks and descriptions as nested values."""
    if isinstance(value, nn.Module):
        return dict(value.state_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value


def _typed(value: Any) -> None:
    """Every field has its type."""
    fields = {item.name: getattr(value, item.name) for item in dataclasses.fields(value) if item.init}
    for item in fields.values():
        if dataclasses.is_dataclass(item):
            _typed(item)
    lower(fields, type(value))


def _all_typed(values: Any, path: Path) -> None:
    assert isinstance(values, tuple)
    for value in values:
        _typed(value)


def _widths(found: Any, path: Path) -> None:
    assert isinstance(found, Architecture)
    assert Architecture.from_json(found.to_json()) == found
    assert all(type(width) is int and width > 0 for width in found.widths.values())


def _weights(found: Any, path: Path) -> None:
    assert isinstance(found, dict)
    assert all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items())


def _network(found: Any, path: Path) -> None:
    network, description = found
    _typed(description)
    shape = [3 if size is None else size for size in description.input_shape[:1]]
    sides = [64 if size is None else size for size in description.input_shape[1:]]
    with torch.no_grad():
        network(torch.zeros(1, *shape, *sides)) if not hasattr(network, "feature_extractor") else None
    assert not network.training


def _boxes(found: Any, path: Path) -> None:
    assert isinstance(found, BoxTable)
    rows = []
    for line in filter(str.strip, path.read_bytes().decode("utf-8-sig").splitlines()):
        words = line.split(",") if "," in line else re.split(r"[;\s]+", line.strip())
        try:
            rows.append([float(word) for word in words])
        except ValueError:  # a heading
            assert not rows, f"a line was left out: {line[:50]!r}"
    np.testing.assert_array_equal(found.boxes, np.array(rows, float))


def _flags(found: Any, path: Path) -> None:
    words = re.split(r"[,;\s]+", path.read_text(encoding="utf-8-sig").strip())
    np.testing.assert_array_equal(found, [float(word) != 0 for word in words if word])


def _times(found: Any, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    rows = [line.partition("#")[0].replace(",", " ").split() for line in text.splitlines()]
    np.testing.assert_array_equal(
        found, np.array([[float(word) for word in row] for row in rows if row]).reshape(found.shape)
    )


def _members(found: Any, path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for name, content in found.items():
            assert archive.read(name) == content


def _picture(found: Any, path: Path) -> None:
    assert isinstance(found, np.ndarray)
    assert found.dtype in (np.uint8, np.uint16)
    assert found.ndim in (2, 3)
    assert found.size > 0


def _film(found: Any, path: Path) -> None:
    for frame in found.frames():
        assert frame.image.ndim == 3


def _start(found: Any, path: Path) -> None:
    assert all(bool(torch.isfinite(value).all()) for value in found.build().parameters())


def _names(found: Any, path: Path) -> None:
    assert all(isinstance(name, str) for name in found)


def _rows(found: Any, path: Path) -> None:
    assert found is None or (isinstance(found, np.ndarray) and found.dtype.names == ("image", "box"))


_CHECKS: dict[str, Callable[[Any, Path], None]] = {
    "log": _all_typed,
    "divergences": _all_typed,
    "widths": _widths,
    "weights": _weights,
    "torch checkpoint": _weights,
    "published tracker": _weights,
    "checkpoint of a classifier": _network,
    "checkpoint of an upscaler": _network,
    "checkpoint of a tracker": _network,
    "trained weights": _start,
    "video": _film,
    "boxes": _boxes,
    "flags": _flags,
    "times": _times,
    "archive of results": _members,
    "list of a data set": _names,
    "list of sequences": _names,
    "images that were skipped": _names,
    "COCO's objects, decoded": _rows,
    **dict.fromkeys(
        (name for name, reader in READERS.items() if reader.form == "image" and name != "colour profile"),
        _picture,
    ),
}
