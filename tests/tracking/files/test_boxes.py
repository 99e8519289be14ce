from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import MissingData, UserError
from tracking.files.archives import StoredFile
from tracking.files.box_files import read_box_files
from tracking.files.boxes import format_boxes, parse_boxes, parse_flags

NUMBERS = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.decimals(-(10**5), 10**5, places=3, allow_nan=False).map(lambda value: f"{value:f}"),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["nan", "NaN", "-0", ".5", "7.", "-.25", "0000012", "1e3", "0.1234567890123456789"]),
)
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=8)


@given(
    ROWS,
    st.sampled_from([",", "\t", " ", ", ", ";", "  "]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_reads_every_number_exactly_as_python_does(
    rows: list[tuple[str, str, str, str]], separator: str, newline: str, ends: bool
) -> None:
    text = newline.join(separator.join(row) for row in rows) + (newline if ends else "")
    boxes = parse_boxes(text.encode(), "f").boxes
    expected = np.array([[float(value) for value in row] for row in rows])
    np.testing.assert_array_equal(boxes, expected)
    assert (np.signbit(boxes) == np.signbit(expected))[~np.isnan(expected)].all()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1,2,3\n", 1),
        ("1,2,3,4\n5,6,7\n", 2),
        ("1,2,3,4\n5,6,7,8,9\n", 2),
        ("1,2,3,4\n\n5,6,,8\n", 3),
        ("1,2,3,4\nlost,lost,lost,lost\n", 2),
        ("x,y,w,h\n1,2,3,4\nx,y,w,h\n5,6,7,8\n", 3),
        ("1,2,3,4\n1..5,2,3,4\n", 2),
        ("1,2,3,4\n1-5,2,3,4\n", 2),
        ("1,2,3,4\n1nan,2,3,4\n", 2),
        ("1,2,3,4\n.-5,2,3,4\n", 2),
        ("1,2,3,4\n1_000,2,3,4\n", 2),
        ("1,2,3\n4,5,6,7,8\n", 1),  # as many values as two proper lines
    ],
)
def test_malformed_lines_are_named(text: str, line: int) -> None:
    with pytest.raises(UserError, match=rf"results/car-2\.txt, line {line}:") as error:
        parse_boxes(text.encode(), "results/car-2.txt")
    assert "\n" not in str(error.value)


FILES = st.one_of(
    ROWS.map(lambda rows: "\n".join(",".join(row) for row in rows)),
    ROWS.map(lambda rows: "\r\n".join("\t".join(row) for row in rows) + "\r\n"),
    st.lists(st.tuples(*[st.integers(-9999, 99999)] * 4), min_size=1, max_size=40).map(
        lambda rows: "".join(f"{x},{y},{w},{h}\n" for x, y, w, h in rows)
    ),
    st.sampled_from(
        [
            "1,2,3,4",
            "5, 6, 7, 8\r\n",
            " 1 2 3 4\n",
            "x,y,w,h\n1,2,3,4\n",
            "1,2,3,4\n\n5,6,7,8\n",
            "\ufeff1,2,3,4\n",
            "nan nan nan nan\n",
        ]
    ),
)


@given(st.lists(FILES, min_size=1, max_size=20))
def test_files_read_together_are_what_they_are_alone(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.txt" for index in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_bytes(text.encode())
        tables = read_box_files([StoredFile(path) for path in paths])
    assert len(tables) == len(texts)
    for path, text, table in zip(paths, texts, tables, strict=True):
        alone = parse_boxes(text.encode(), str(path))
        np.testing.assert_array_equal(table.boxes, alone.boxes)
        assert table.boxes.dtype in (np.int32, np.float64)
        assert (table.source, table.lines, table.header) == (str(path), alone.lines, alone.header)


def test_a_bad_file_among_many_is_the_one_that_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.txt" for index in range(30)]
    for path in paths:
        path.write_text("1,2,3,4\n" * 5)
    paths[17].write_text("1,2,3,4\n1,2,3\n")
    paths[25].write_text("")
    with pytest.raises(UserError, match=r"17\.txt, line 2"):
        read_box_files([StoredFile(path) for path in paths])
    paths[17].unlink()
    with pytest.raises(MissingData, match=r"17\.txt"):
        read_box_files([StoredFile(path) for path in paths])


@pytest.mark.parametrize("content", [b"", b"\n\n", b"x,y,w,h\n"])
def test_files_without_boxes_are_errors(content: bytes) -> None:
    with pytest.raises(UserError, match="empty"):
        parse_boxes(content, "f")


def test_binary_files_are_errors() -> None:
    with pytest.raises(UserError, match="not a text file"):
        parse_boxes(b"\xff\xfe\x00\x01", "f")


def test_rows_know_their_lines_behind_a_heading_and_blank_lines() -> None:
    table = parse_boxes(b"x y w h\n1 2 3 4\n\n5 6 7 8\n", "f")
    assert table.header == "x y w h"
    assert [table.line(0), table.line(1)] == [2, 4]
    assert parse_boxes(b"1,2,3,4\n5,6,7,8\n", "f").line(1) == 2


def test_a_byte_order_mark_is_no_heading() -> None:
    table = parse_boxes(b"\xef\xbb\xbf1,2,3,4\n", "f")
    assert table.boxes.tolist() == [[1, 2, 3, 4]]
    assert table.header is None


@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 4), min_size=1, max_size=5))
def test_written_boxes_are_read_back(rows: list[tuple[float, ...]]) -> None:
    back = parse_boxes(format_boxes(np.array(rows)).encode(), "f").boxes
    assert np.abs(back - np.array(rows)).max() <= 0.5e-4 + 1e-12
    assert all(math.isfinite(value) for value in back.ravel())


@pytest.mark.parametrize(
    "text", ["0,1,0,0,1\n", "0,1,0,0,1", "0\n1\n0\n0\n1\n", "0,1,0,0,1,\n", "0, 1, 0, 0, 1", "0.0,1.0,0,0,8"]
)
def test_flags_in_both_orientations(text: str) -> None:
    assert parse_flags(text.encode(), "f").tolist() == [False, True, False, False, True]


def test_flags_that_are_text_are_errors() -> None:
    with pytest.raises(UserError, match="0 or 1"):
        parse_flags(b"0,yes,1", "f")


def test_a_line_of_a_million_values_is_refused_uncut() -> None:
    with pytest.raises(UserError, match=r"f, line 2: 2,000,000 characters, which are not four numbers"):
        parse_boxes(b"1,2,3,4\n" + b"1," * 10**6 + b"\n", "f")
