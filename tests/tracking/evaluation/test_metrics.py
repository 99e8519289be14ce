from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.evaluation import metrics

BOX = st.tuples(st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 25), st.integers(1, 25))


def pixels(box: tuple[int, ...]) -> set[tuple[int, int]]:
    x, y, width, height = box
    return {(i, j) for i in range(x, x + width) for j in range(y, y + height)}


@given(st.lists(st.tuples(BOX, BOX), min_size=1, max_size=5))
def test_overlap_counts_pixels(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    one, two = (np.array([pair[side] for pair in pairs], float) for side in (0, 1))
    expected = [len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for a, b in pairs]
    np.testing.assert_allclose(metrics.overlap(one, two), expected, rtol=1e-15)


@pytest.mark.parametrize("form", ["quotients", "difference", "products"])
def test_errors_of_a_known_shift(form: metrics.Normalisation) -> None:
    truth = np.array([[100.0, 50, 30, 20]])
    moved = truth + np.array([3, 4, 0, 0])
    error, norm = metrics.centre_errors(moved, truth, form)
    assert error[0] == 5
    assert norm[0] == pytest.approx(math.hypot(3 / 30, 4 / 20), rel=1e-14)
    grown = truth + np.array([0, 0, 6, 8])
    assert metrics.centre_errors(grown, truth, form)[0][0] == 5


def test_floor_of_the_normalised_error() -> None:
    truth = np.array([[0.0, 0, 0.5, 0]])
    moved = truth + np.array([2, 1, 0, 0])
    assert metrics.centre_errors(moved, truth, "difference", 1.0)[1][0] == math.hypot(2, 1)


TIES = st.tuples(st.integers(0, 20), st.sampled_from([-1.0, 0.0, 1.0])).map(
    lambda tie: math.nextafter(tie[0] / 20, tie[1] * math.inf) if tie[1] else tie[0] / 20
)
EXTREMES = st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308, -1.0, 5e-324])
GRIDS = [
    np.arange(21) / 20,
    np.linspace(0, 1, 21),
    np.linspace(0, 0.5, 51),
    np.arange(51.0),
    np.array([0.0, 0.1, 0.9]),
]
NEIGHBOURS = st.sampled_from(
    [math.nextafter(value, toward) for grid in GRIDS for value in grid.tolist() for toward in (-1, value, 99)]
)
VALUES = st.lists(st.one_of(st.floats(-1, 1.5), TIES, NEIGHBOURS, EXTREMES), min_size=1, max_size=30)


@given(
    VALUES,
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(GRIDS),
)
def test_counts_are_comparisons(
    values: list[float], sequences: int, inclusive: bool, grid: np.ndarray
) -> None:
    frames = np.array(values)
    starts = np.unique(np.linspace(0, len(values) - 1, sequences).astype(int))
    stops = [*starts[1:], len(values)]
    success = metrics.success_counts(frames, grid, starts, inclusive)
    precision = metrics.precision_counts(frames, grid, starts)
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        part = frames[start:stop]
        compare = np.greater_equal if inclusive else np.greater
        assert success[row].tolist() == [int(compare(part, threshold).sum()) for threshold in grid]
        assert precision[row].tolist() == [int((part <= threshold).sum()) for threshold in grid]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_mean_of_21_is_a_ceiling_and_never_reaches_one(overlaps: list[float]) -> None:
    grid = np.arange(21) / 20
    curve = metrics.success_counts(np.array(overlaps), grid, np.array([0]))[0] / len(overlaps)
    expected = np.mean([sum(value > k / 20 for k in range(21)) / 21 for value in overlaps])
    assert curve.mean() == pytest.approx(expected)
    assert curve.mean() <= 20 / 21 + 1e-12


def test_area_is_the_trapezoid_rule() -> None:
    assert metrics.area(np.array([1.0, 0.5, 0.0])) == 0.5
    assert metrics.area(np.ones((2, 21))).tolist() == [1, 1]
