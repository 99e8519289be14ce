"""Tiles put together equal the whole image, in bounded memory, whatever the network's receptive field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.errors import NonFiniteOutput, UserError
from super_resolution.models import build
from super_resolution.tiling import input_channels, lay_out, receptive_radius, super_resolve, tiles
from tests.properties import examples


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), side=st.integers(1, 45), overlap=st.integers(0, 12)
)
@examples(60)
def test_tiles_cover_every_pixel_once_and_see_their_surroundings(
    height: int, width: int, side: int, overlap: int
) -> None:
    covered = np.zeros((height, width), int)
    for tile in tiles(height, width, side, overlap):
        covered[tile.rows, tile.columns] += 1
        for part, seen, length in (
            (tile.rows, tile.seen_rows, height),
            (tile.columns, tile.seen_columns, width),
        ):
            assert 0 < part.stop - part.start <= side
            assert seen.start == max(part.start - overlap, 0)
            assert seen.stop == min(part.stop + overlap, length)
    assert (covered == 1).all()


@given(st.lists(st.sampled_from([1, 3, 5, 9]), min_size=1, max_size=5))
@examples(20)
def test_the_radius_of_a_chain_is_the_sum_of_its_kernels(sizes: list[int]) -> None:
    chain = nn.Sequential(*(nn.Conv2d(2, 2, size, padding=size // 2) for size in sizes))
    assert receptive_radius(chain, 1) == sum(size // 2 for size in sizes)


def test_the_radius_of_edsr_counts_the_upsampler_in_low_resolution_pixels() -> None:
    # 1 head + 2 * 3 in blocks + 1 after the body + 1 upsampler; the second upsampler's kernel reaches half an
    # LR pixel further, the last layer's a quarter: together one more pixel.
    assert receptive_radius(build("edsr", 4, n_blocks=3, n_feats=4), 4) == 10
    assert receptive_radius(build("edsr", 2, n_blocks=0, n_feats=4), 2) == 4


class OneDirection(nn.Module):
    """Sees seven pixels to the right and three below, and twice the size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, (7, 15), padding=(3, 7))
        with torch.no_grad():
            self.conv.weight[..., :7] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.pixel_shuffle(self.conv(x), 2)


def test_the_radius_is_the_larger_of_the_axes() -> None:
    assert receptive_radius(OneDirection(), 2) == 7


def test_measuring_leaves_the_network_alone() -> None:
    network = build("srresnet", 2, n_blocks=1, n_feats=4).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    receptive_radius(network, 2)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(value.dtype != torch.float64 for value in network.state_dict().values())


def test_a_network_that_sees_the_whole_image_is_refused() -> None:
    class Global(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) * x.mean((2, 3), keepdim=True)

    with pytest.raises(UserError, match="leave --tile out"):
        receptive_radius(Global(), 1)


def sixteen_bit_photo(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """Part of a photograph in 16 bits, so that rounding hides no difference."""
    return photo[:height, :width].astype(np.uint16) * 257


@pytest.mark.parametrize(
    ("name", "scale", "options"),
    [
        ("edsr", 4, {"n_blocks": 2, "n_feats": 8}),
        ("edsr", 3, {"n_blocks": 2, "n_feats": 8}),
        ("srresnet", 2, {"n_blocks": 2, "n_feats": 8}),
    ],
)
def test_tiled_equals_whole_to_one_in_ten_thousand(
    photo: np.ndarray, name: str, scale: int, options: dict[str, int]
) -> None:
    torch.manual_seed(0)
    network = build(name, scale, **options).eval()
    image = sixteen_bit_photo(photo, 61, 83)
    whole = super_resolve(network, image, scale).astype(int)
    assert whole.shape == (61 * scale, 83 * scale, 3)
    assert whole.std() > 500
    tiled = super_resolve(network, image, scale, tile=16).astype(int)
    assert np.abs(tiled - whole).max() <= 1e-4 * 65535
    careless = super_resolve(network, image, scale, tile=16, overlap=0).astype(int)
    assert np.abs(careless - whole).max() > 1e-2 * 65535


def test_the_network_never_sees_more_than_a_tile_with_its_surroundings(photo: np.ndarray) -> None:
    network = build("edsr", 2, n_blocks=1, n_feats=4)
    radius = receptive_radius(network, 2)
    seen: list[tuple[int, int]] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    steps: list[tuple[int, int]] = []

    def on_tile(done: int, total: int) -> None:
        steps.append((done, total))

    super_resolve(network, photo[:130, :50], 2, tile=20, overlap=radius, on_tile=on_tile)
    assert max(max(size) for size in seen) <= 20 + 2 * radius
    assert steps == [(i, 21) for i in range(1, 22)]


def test_a_small_image_is_taken_whole(photo: np.ndarray) -> None:
    network = build("edsr", 2, n_blocks=1, n_feats=4)
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    assert super_resolve(network, photo[:8, :8], 2, tile=8).shape == (16, 16, 3)
    assert len(calls) == 1


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7), (5, 1, 3)])
def test_the_smallest_images(photo: np.ndarray, shape: tuple[int, ...]) -> None:
    network = build("edsr", 3, n_blocks=1, n_feats=4)
    image = np.ascontiguousarray(
        photo[: shape[0], : shape[1]] if len(shape) == 3 else photo[: shape[0], : shape[1], 0]
    )
    found = super_resolve(network, image, 3)
    assert found.shape == (3 * shape[0], 3 * shape[1], *shape[2:])
    assert found.dtype == np.uint8


def test_the_mode_is_restored_and_batch_statistics_are_not_touched(photo: np.ndarray) -> None:
    network = build("srresnet", 2, n_blocks=1, n_feats=4).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    super_resolve(network, photo[:9, :9], 2)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.named_buffers())


def test_wrong_scale_tile_and_image_are_refused(photo: np.ndarray) -> None:
    network = build("edsr", 2, n_blocks=1, n_feats=4)
    with pytest.raises(UserError, match="not x4"):
        super_resolve(network, photo[:8, :8], 4)
    with pytest.raises(UserError, match="at least 1"):
        super_resolve(network, photo[:8, :8], 2, tile=0)
    with pytest.raises(UserError, match="alpha"):
        super_resolve(network, np.zeros((8, 8, 4), np.uint8), 2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("tile", [None, 8])
def test_pixels_that_are_not_finite_are_refused(photo: np.ndarray, value: float, tile: int | None) -> None:
    network = nn.Conv2d(3, 3, 1)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    with torch.no_grad():
        network.bias[1] = value
    first = 16 * 16 if tile is None else 8 * 8
    with pytest.raises(NonFiniteOutput, match=rf"^{first} of {3 * first} values of the network's output"):
        super_resolve(network, photo[:16, :16], 1, tile=tile, overlap=0)


def test_the_input_channels_are_those_of_the_first_convolution() -> None:
    assert input_channels(build("dncnn", 1)) == 1
    assert input_channels(build("srresnet", 2, n_blocks=1, n_feats=4)) == 3
    with pytest.raises(UserError, match="no Conv2d"):
        input_channels(nn.ReLU())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
def test_on_a_cpu_every_layer_sees_channels_last_and_the_output_is_the_same(photo: np.ndarray) -> None:
    network = build("edsr", 2, n_blocks=1, n_feats=8).eval()
    formats = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    image = np.ascontiguousarray(photo[:21, :34])
    values = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous() / 255
    with torch.inference_mode():
        plain = network(values)
    handles = [m.register_forward_pre_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    found = super_resolve(network, image, 2)
    for handle in handles:
        handle.remove()
    assert formats == [True] * len(handles)
    expected = (plain[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 1e-3
    assert all(value.is_contiguous() for value in network.parameters())  # the user's network stays as it was


def test_laying_out_keeps_values_and_shape() -> None:
    images = torch.rand(2, 3, 4, 5)
    assert torch.equal(lay_out(images), images)
    meta = torch.empty(2, 3, 4, 5, device="meta")
    assert lay_out(meta).is_contiguous()  # only CPUs
