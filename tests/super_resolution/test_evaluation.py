"""PSNR and SSIM against basicsr and scikit-image, and the published bicubic scores."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import skimage.color
import skimage.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.errors import NonFiniteOutput, UserError
from super_resolution.data import ImagePair, ImageSet, open_benchmarks
from super_resolution.evaluation import (
    bicubic,
    by_network,
    luminance,
    metrics,
    protocol,
    psnr,
    score_set,
    ssim,
)
from super_resolution.figures import compare_crops, save_comparison, slider_section
from super_resolution.images import read_upright, write_image
from super_resolution.resize import downscale, matlab_bicubic


@pytest.fixture(scope="module")
def enlarged(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A bicubic enlargement and its truth."""
    hr = photo[:240, :320]
    return matlab_bicubic(downscale(hr, 4), 4), hr


@pytest.mark.parametrize(("channel", "on_y"), [("y", True), ("rgb", False)])
def test_colour_equals_basicsr(
    basicsr: object, enlarged: tuple[np.ndarray, np.ndarray], channel: str, on_y: bool
) -> None:
    from basicsr.metrics import calculate_psnr, calculate_ssim

    sr, hr = enlarged
    bgr = sr[..., ::-1], hr[..., ::-1]  # BasicSR's order
    assert psnr(sr, hr, 4, channel) == pytest.approx(calculate_psnr(*bgr, 4, test_y_channel=on_y), abs=1e-6)
    assert ssim(sr, hr, 4, channel) == pytest.approx(calculate_ssim(*bgr, 4, test_y_channel=on_y), abs=1e-6)


def test_grey_equals_basicsr(basicsr: object, enlarged: tuple[np.ndarray, np.ndarray]) -> None:
    from basicsr.metrics import calculate_psnr, calculate_ssim

    sr, hr = (image[..., 1] for image in enlarged)
    assert psnr(sr, hr, 4) == pytest.approx(calculate_psnr(sr, hr, 4), abs=1e-6)
    assert ssim(sr, hr, 4) == pytest.approx(calculate_ssim(sr, hr, 4), abs=1e-6)


def test_psnr_equals_scikit_image(enlarged: tuple[np.ndarray, np.ndarray]) -> None:
    sr, hr = enlarged
    inner = np.s_[4:-4, 4:-4]
    y = [skimage.color.rgb2ycbcr(image)[..., 0][inner] for image in (hr, sr)]
    expected = skimage.metrics.peak_signal_noise_ratio(*y, data_range=255)
    assert psnr(sr, hr, 4) == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(luminance(hr)[inner], y[0], atol=1e-9)
    expected = skimage.metrics.peak_signal_noise_ratio(hr[inner], sr[inner])
    assert psnr(sr, hr, 4, "rgb") == pytest.approx(expected, abs=1e-9)


@given(difference=st.integers(1, 255), border=st.integers(0, 3))
def test_psnr_of_a_constant_difference(difference: int, border: int) -> None:
    black, level = np.zeros((9, 8), np.uint8), np.full((9, 8), difference, np.uint8)
    assert psnr(black, level, border) == pytest.approx(20 * math.log10(255 / difference), abs=1e-12)


def test_equal_images_score_infinity_and_one(photo: np.ndarray) -> None:
    assert psnr(photo, photo, 4) == math.inf
    assert ssim(photo, photo, 4) == pytest.approx(1, abs=1e-12)


def test_the_border_does_not_count(enlarged: tuple[np.ndarray, np.ndarray]) -> None:
    sr, hr = enlarged
    framed = np.zeros_like(sr)
    framed[4:-4, 4:-4] = sr[4:-4, 4:-4]
    assert psnr(framed, hr, 4) == psnr(sr, hr, 4)
    assert ssim(framed, hr, 4) == ssim(sr, hr, 4)
    assert psnr(framed, hr, 3) < psnr(sr, hr, 3) - 3


@pytest.mark.parametrize(("name", "published"), [("Set5", 28.43), ("Set14", 26.00)])
def test_bicubic_scores_on_benchmarks(benchmark_root: Path, name: str, published: float) -> None:
    (benchmark,), missing = open_benchmarks((name,), benchmark_root, 4)
    score = score_set(bicubic(4), benchmark)
    assert not missing
    assert round(score.psnr, 2) == published
    assert len(score.images) == {"Set5": 5, "Set14": 14}[name]


def test_a_grey_benchmark_image_is_scored_on_its_raw_values(benchmark_root: Path) -> None:
    hr = read_upright(benchmark_root / "benchmark/Set14/HR/img_003.png")
    assert hr.ndim == 2
    sr = matlab_bicubic(read_upright(benchmark_root / "benchmark/Set14/LR_bicubic/X4/img_003x4.png"), 4)
    error = (hr[4:-4, 4:-4].astype(float) - sr[4:-4, 4:-4]).ravel()
    (benchmark,), _ = open_benchmarks(("Set14",), benchmark_root, 4)
    found = score_set(bicubic(4), benchmark).images["img_003"].psnr
    assert found == pytest.approx(10 * math.log10(255**2 / (error @ error / error.size)), abs=1e-9)


def test_div2k_is_scored_in_rgb_with_a_wider_border() -> None:
    assert protocol("DIV2K", 4) == (10, "rgb")
    assert protocol("Set5", 3) == (3, "y")


@pytest.mark.parametrize("scale", [2, 4])
def test_div2k_images_are_scored_so(photo: np.ndarray, tmp_path: Path, scale: int) -> None:
    hr = np.ascontiguousarray(photo[:96, :128])
    write_image(tmp_path / "0801.png", hr)
    pairs = (ImagePair("0801", tmp_path / "0801.png"),)
    sr = matlab_bicubic(downscale(hr, scale), scale)
    found = score_set(bicubic(scale), ImageSet("DIV2K", scale, pairs)).images["0801"]
    assert found.psnr == psnr(sr, hr, scale + 6, "rgb")
    assert found.ssim == ssim(sr, hr, scale + 6, "rgb")
    border = scale + 6
    inner = np.s_[border:-border, border:-border]
    error = (hr[inner].astype(float) - sr[inner]).ravel()
    assert found.psnr == pytest.approx(10 * math.log10(255**2 / (error @ error / error.size)), abs=1e-9)
    other = score_set(bicubic(scale), ImageSet("Set5", scale, pairs)).images["0801"]
    assert abs(other.psnr - found.psnr) > 0.1


class Nearest(nn.Module):
    """Repeats pixels: a network whose result is known."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.identity = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.identity.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.identity(x)
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


@pytest.fixture
def grey_and_colour(tmp_path: Path, photo: np.ndarray) -> ImageSet:
    """A set of a grey and a colour image of odd sizes."""
    write_image(tmp_path / "colour.png", photo[:61, :83])
    write_image(tmp_path / "grey.png", photo[:50, :47, 0])
    pairs = tuple(ImagePair(name, tmp_path / f"{name}.png") for name in ("colour", "grey"))
    return ImageSet("odd", 2, pairs)


@pytest.mark.parametrize("tile", [None, 16])
def test_a_network_is_scored_on_what_it_gives(
    grey_and_colour: ImageSet, tile: int | None, photo: np.ndarray
) -> None:
    network = Nearest(2).train()
    found = score_set(by_network(network, 2, tile), grey_and_colour).images
    for name, hr in (("colour", photo[:60, :82]), ("grey", photo[:50, :46, 0])):
        sr = downscale(hr, 2).repeat(2, 0).repeat(2, 1)
        assert found[name].psnr == pytest.approx(psnr(sr, hr, 2), abs=1e-9)
        assert found[name].ssim == pytest.approx(ssim(sr, hr, 2), abs=1e-9)
    flat = metrics(network, [grey_and_colour], tile)
    assert flat["odd_psnr"] == pytest.approx((found["colour"].psnr + found["grey"].psnr) / 2)
    assert set(flat) == {"odd_psnr", "odd_ssim"}
    assert network.training


def test_an_output_that_is_not_finite_is_never_a_score(grey_and_colour: ImageSet) -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2))
    nn.init.constant_(network[0].weight, torch.nan)
    with pytest.raises(
        NonFiniteOutput,
        match=rf"'{grey_and_colour.pairs[0].hr}' can't be scored: 14760 of 14760 values .* not finite",
    ):
        metrics(network, [grey_and_colour])


def test_an_image_too_small_to_score_is_named(tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "dot.png", photo[:4, :4])
    with pytest.raises(UserError, match=r"dot\.png.*border of 4"):
        score_set(bicubic(4), ImageSet("small", 4, (ImagePair("dot", tmp_path / "dot.png"),)))


def test_the_comparison_figure_shows_every_image_and_upscaler(
    grey_and_colour: ImageSet, tmp_path: Path
) -> None:
    upscalers = {"bicubic": bicubic(2), "nearest": by_network(Nearest(2), 2)}
    compared = compare_crops(grey_and_colour.pairs, 2, upscalers, side=32)
    save_comparison(compared, tmp_path / "crops.png")
    assert (tmp_path / "crops.svg").exists()
    for one in compared:
        assert set(one.psnr) == set(upscalers)
        assert {crop.shape[:2] for crop in one.crops.values()} == {(32, 32)}
    assert len(slider_section(compared).blocks[1:]) == len(grey_and_colour.pairs)
    picture = read_upright(tmp_path / "crops.png")
    assert picture.shape[:2] == pytest.approx((2 * 2.6 * 160, 3 * 2.4 * 160), abs=2)
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 100
    with pytest.raises(UserError, match="at least one image"):
        compare_crops((), 2, upscalers)


@pytest.mark.parametrize(
    ("sr", "hr", "border", "channel", "word"),
    [
        (np.zeros((8, 8), np.uint8), np.zeros((8, 9), np.uint8), 0, "y", "differ in shape"),
        (np.zeros((8, 8)), np.zeros((8, 8)), 0, "y", "uint8"),
        (np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 4), np.uint8), 0, "y", "H x W x 3"),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), 4, "y", "leaves nothing"),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), -1, "y", "border"),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), 0, "cb", "unknown channel 'cb'.*rgb"),
    ],
)
def test_bad_input_is_refused(sr: np.ndarray, hr: np.ndarray, border: int, channel: str, word: str) -> None:
    for score in (psnr, ssim):
        with pytest.raises(UserError, match=word):
            score(sr, hr, border, channel)


def test_ssim_needs_room_for_its_window() -> None:
    small = np.zeros((18, 30), np.uint8)
    assert ssim(small, small, 3) == 1
    with pytest.raises(UserError, match="11 x 11"):
        ssim(small, small, 4)
