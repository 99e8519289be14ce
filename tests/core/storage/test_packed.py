from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.storage.packed import read_array, read_packed, write_packed

MARK = b"LWDNATST"


def test_arrays_and_contents_come_back(tmp_path: Path) -> None:
    arrays = [np.arange(6, dtype=np.uint8).reshape(2, 3), np.array([7], np.uint8)]
    write_packed(tmp_path / "a", MARK, iter(arrays), lambda: {"count": len(arrays)})
    found = read_packed(tmp_path / "a", MARK)
    assert found is not None
    contents, flat = found
    assert contents == {"count": 2}
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert not flat.flags.writeable
    private = read_packed(tmp_path / "a", MARK, mode="c")
    assert private is not None
    private[1][0] = 99  # stays in memory
    assert flat[0] == 0


def test_what_is_not_whole_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert read_packed(path, MARK) is None
    write_packed(path, MARK, [np.zeros(100, np.uint8)], dict)
    assert read_packed(path, b"LWDNAOLD") is None
    content = path.read_bytes()
    for length in (0, 5, 99, len(content) - 1):
        path.write_bytes(content[:length])
        assert read_packed(path, MARK) is None
    path.write_bytes(b"!" * 30 + content[-16:])
    assert read_packed(path, MARK) is None


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def arrays():
        yield np.zeros(3, np.uint8)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_packed(tmp_path / "a", MARK, arrays(), dict)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="8 bytes"):
        write_packed(tmp_path / "a", b"short", [], dict)


@pytest.mark.parametrize(
    "heading",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-2,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': ('|u1'",
        "(" * 300,
    ],
)
def test_an_array_whose_heading_is_damaged_is_none(heading: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(3, dtype=np.uint8))
    found = read_array(path)
    assert found is not None
    assert found.tolist() == [0, 1, 2]
    content, text = path.read_bytes(), heading.encode() + b"\n"
    path.write_bytes(content[:8] + len(text).to_bytes(2, "little") + text + content[-3:])
    assert read_array(path) is None
    assert read_array(tmp_path) is None
