"""matlab_bicubic against published LR images, exact rational arithmetic and BasicSR's port."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from core.errors import UserError
from super_resolution.resize import crop_to_multiple, downscale, matlab_bicubic
from tests.properties import examples


@pytest.mark.parametrize(("name", "count"), [("Set5", 5), ("Set14", 14)])
def test_published_low_resolution_images_are_reproduced_bit_for_bit(
    benchmark_root: Path, name: str, count: int
) -> None:
    folder = benchmark_root / "benchmark" / name
    files = sorted((folder / "HR").glob("*.png"))
    assert len(files) == count
    for file in files:
        hr = np.asarray(Image.open(file))
        lr = np.asarray(Image.open(folder / "LR_bicubic/X4" / f"{file.stem}x4.png"))
        np.testing.assert_array_equal(matlab_bicubic(hr, 1 / 4), lr, err_msg=str(file))


def cubic(x: Fraction) -> Fraction:
    """Keys's kernel in exact arithmetic, factored otherwise than in the code under test."""
    x = abs(x)
    if x <= 1:
        return 1 - x * x * (5 - 3 * x) / 2
    return (1 - x) * (2 - x) ** 2 / 2 if x <= 2 else Fraction(0)


def resize_exactly(values: list[int], scale: Fraction, mirror: bool) -> list[Fraction]:
    """MATLAB's imresize of one column, in exact arithmetic and without rounding."""
    shrink = min(scale, Fraction(1))
    outputs = []
    for position in range(math.ceil(len(values) * scale)):
        centre = (position + Fraction(1, 2)) / scale - Fraction(1, 2)
        reach = range(math.floor(centre - 2 / shrink), math.ceil(centre + 2 / shrink) + 1)
        weights = {source: cubic(shrink * (centre - source)) for source in reach}
        total = Fraction(0)
        for source, weight in weights.items():
            if mirror:
                folded = source % (2 * len(values))
                inside = min(folded, 2 * len(values) - 1 - folded)
            else:
                inside = min(max(source, 0), len(values) - 1)
            total += weight * values[inside]
        outputs.append(total / sum(weights.values()))
    return outputs


@examples(60)
@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=20),
    scale=st.sampled_from(
        [Fraction(n, d) for n, d in ((1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (4, 1), (3, 2))]
    ),
    mirror=st.booleans(),
)
def test_one_column_equals_exact_arithmetic(values: list[int], scale: Fraction, mirror: bool) -> None:
    column = np.array(values, np.uint8)[:, None]
    found = matlab_bicubic(column, float(scale), edges="mirror" if mirror else "replicate")
    expected = resize_exactly(values, scale, mirror)
    assert found.shape == (len(expected), math.ceil(scale))
    for pixels, exact in zip(found, expected, strict=True):
        assert len(set(pixels.tolist())) == 1  # one column, so nothing varies along a row
        clipped = min(max(exact, Fraction(0)), Fraction(255))
        error = abs(int(pixels[0]) - clipped)
        assert error <= Fraction(1, 2)
        if scale.denominator in (1, 2, 4) and scale.numerator in (1, 2, 4) and error == Fraction(1, 2):
            assert pixels[0] > clipped  # binary fractions are exact, so a tie is rounded up


def test_rows_are_rounded_before_columns_are_filtered() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 24), dtype=np.uint8)

    def each_column(pixels: np.ndarray) -> np.ndarray:
        exact = [resize_exactly(column.tolist(), Fraction(1, 4), mirror=False) for column in pixels.T]
        return np.array(
            [[min(max(math.floor(v + Fraction(1, 2)), 0), 255) for v in column] for column in exact]
        ).T

    np.testing.assert_array_equal(matlab_bicubic(image, 0.25), each_column(each_column(image).T).T)


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 2, 3, 4])
def test_mirrored_edges_agree_with_basicsr(basicsr: object, photo: np.ndarray, scale: float) -> None:
    from basicsr.utils.matlab_functions import imresize

    image = photo[:96, :72]
    exact = imresize(image.astype(np.float64), scale, antialiasing=True)
    ours = matlab_bicubic(image, scale, edges="mirror")
    assert ours.shape == exact.shape
    # BasicSR does not round between the axes: at most half a grey level of the first pass, amplified by the
    # kernel's negative lobes, plus half a level of the second.
    assert np.abs(ours - exact.clip(0, 255)).max() < 1.25
    assert np.abs(ours - exact.clip(0, 255)).mean() < 0.4


@given(
    image=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)),
    scale=st.sampled_from([1 / 4, 1 / 3, 1 / 2, 2, 3, 4]),
)
@examples(50)
def test_channels_are_independent_and_constants_stay(image: np.ndarray, scale: float) -> None:
    colour = np.dstack([image, 255 - image, np.full_like(image, 77)])
    found = matlab_bicubic(colour, scale)
    np.testing.assert_array_equal(found[..., 0], matlab_bicubic(image, scale))
    assert (found[..., 2] == 77).all()


def test_sixteen_bits_are_filtered_in_sixteen_bits(photo: np.ndarray) -> None:
    deep = matlab_bicubic(photo.astype(np.uint16) * 257, 0.25)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - matlab_bicubic(photo, 0.25)).max() < 1.25
    assert (deep % 257 != 0).any()


def test_low_resolution_counterpart_crops_the_overhang(photo: np.ndarray) -> None:
    odd = photo[:301, :203]
    np.testing.assert_array_equal(crop_to_multiple(odd, 4), odd[:300, :200])
    np.testing.assert_array_equal(downscale(odd, 4), matlab_bicubic(odd[:300, :200], 0.25))
    assert downscale(odd, 3).shape == (100, 67, 3)


def test_one_pixel_enlarges_to_itself() -> None:
    assert (matlab_bicubic(np.full((1, 1), 9, np.uint8), 4) == np.full((4, 4), 9)).all()


@pytest.mark.parametrize(
    ("image", "scale", "word"),
    [
        (np.zeros((4, 4)), 0.5, "uint8"),
        (np.zeros((0, 4), np.uint8), 0.5, "non-empty"),
        (np.zeros(4, np.uint8), 0.5, "H x W"),
        (np.zeros((4, 4), np.uint8), 0.0, "positive"),
        (np.zeros((4, 4), np.uint8), float("nan"), "positive"),
    ],
)
def test_bad_input_is_refused_in_one_line(image: np.ndarray, scale: float, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        matlab_bicubic(image, scale)
    assert "\n" not in str(caught.value)


def test_an_image_smaller_than_the_scale_is_refused() -> None:
    with pytest.raises(UserError, match="too small for x4"):
        downscale(np.zeros((3, 9), np.uint8), 4)


def test_an_unknown_edge_is_refused() -> None:
    with pytest.raises(UserError, match="replicate, mirror"):
        matlab_bicubic(np.zeros((3, 9), np.uint8), 2, edges="wrap")  # type: ignore[arg-type]
