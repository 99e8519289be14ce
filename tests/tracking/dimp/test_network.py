"""The mathematics of DiMP: exact pooling, the score operator and its adjoint, Gauss-Newton steps, initial values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jvp
from torch.nn import functional

from core.errors import UserError
from tracking.dimp import DiMPConfig, DiMPNet, prroi_pool
from tracking.dimp.backbones import backbone_trunk
from tracking.dimp.features import InstanceL2Norm, classification_features
from tracking.dimp.filter_optimizer import FilterOptimizer
from tracking.dimp.filters import apply_adjoint, apply_filter
from tracking.dimp.initializer import FilterInitializer
from tracking.dimp.roi import NARROWEST, pool_boxes


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense_mean(map_: Tensor, box: list[float], size: int, nodes: int = 200) -> Tensor:
    """Means of the bilinear interpolant over bins by the midpoint rule; the map is zero from one cell outside on."""
    padded = functional.pad(map_, (2, 2, 2, 2)).numpy()
    x, y, w, h = box

    def value(points_x: np.ndarray, points_y: np.ndarray) -> np.ndarray:
        inside = (points_x > -1) & (points_x < map_.shape[1]) & (points_y > -1) & (points_y < map_.shape[0])
        px, py = (
            np.clip(points_x + 2, 0, padded.shape[1] - 1.001),
            np.clip(points_y + 2, 0, padded.shape[0] - 1.001),
        )
        left, top = np.floor(px).astype(int), np.floor(py).astype(int)
        fx, fy = px - left, py - top
        mean = (padded[top, left] * (1 - fx) + padded[top, left + 1] * fx) * (1 - fy)
        mean += (padded[top + 1, left] * (1 - fx) + padded[top + 1, left + 1] * fx) * fy
        return mean * inside

    steps = (np.arange(nodes) + 0.5) / nodes
    bins = np.empty((size, size))
    for row in range(size):
        for column in range(size):
            points_x = x + w * (column + steps) / size
            points_y = y + h * (row + steps) / size
            bins[row, column] = value(*np.meshgrid(points_x, points_y)).mean()
    return torch.from_numpy(bins)


@pytest.mark.parametrize(
    "box",
    [
        [1.3, 2.1, 4.7, 3.9],
        [-2.4, -1.2, 5.1, 4.4],  # partly outside
        [6.2, 5.5, 9.0, 8.0],  # beyond the far corner
        [3.05, 2.2, 0.3, 0.2],  # below one cell
        [-20.0, -20.0, 5.0, 5.0],  # wholly outside
    ],
)
@pytest.mark.parametrize("size", [1, 3])
def test_pooling_is_the_integral(box: list[float], size: int) -> None:
    map_ = noise(7, 9)
    found = pool_boxes(map_[None, None], torch.tensor([[box]], dtype=torch.float64), size, 1.0)[0, 0, 0]
    assert torch.allclose(found, dense_mean(map_, box, size), atol=2e-4)


def test_pooling_has_exact_gradients_twice() -> None:
    features = noise(2, 2, 5, 6).requires_grad_()
    rois = torch.tensor([[0, 3.3, 2.1, 31.7, 28.4], [1, -5.2, 7.7, 11.3, 60.9], [1, 8.6, 9.3, 9.7, 13.9]])
    boxes = rois[:, 1:].double().requires_grad_()

    def pool(features: Tensor, corners: Tensor) -> Tensor:
        return prroi_pool(features, torch.cat([rois[:, :1].double(), corners], dim=1), 2, 1 / 8)

    assert torch.autograd.gradcheck(pool, (features, boxes))
    assert torch.autograd.gradgradcheck(pool, (features, boxes))


def test_regions_without_area_are_zero_and_harmless() -> None:
    rois = torch.tensor([[0, 10, 10, 10, 30], [0, 20, 20, 10, 5], [0, 8, 8, 24, 24]], dtype=torch.float32)
    rois.requires_grad_()
    pooled = prroi_pool(noise(1, 2, 6, 6, dtype=torch.float32), rois, 3, 1 / 8)
    pooled.sum().backward()
    assert not pooled[:2].any()
    assert pooled[2].any()
    assert torch.isfinite(rois.grad).all()
    assert prroi_pool(noise(1, 2, 6, 6), torch.zeros(0, 5), 3, 1 / 8).shape == (0, 2, 3, 3)


def test_small_regions_keep_their_digits_in_single_precision() -> None:
    features = noise(1, 4, 18, 18)
    box = torch.tensor([[[131.37, 140.81, 1.0, 1.0]]], dtype=torch.float64)
    exact = pool_boxes(features, box.float().double(), 3, 1 / 16)
    assert torch.allclose(pool_boxes(features.float(), box.float(), 3, 1 / 16).double(), exact, atol=1e-6)


def test_pooling_names_wrong_shapes() -> None:
    with pytest.raises(UserError, match=r"rois \(R, 5\)"):
        prroi_pool(torch.zeros(1, 1, 4, 4), torch.zeros(2, 4), 3, 1)
    with pytest.raises(UserError, match="image indices"):
        prroi_pool(torch.zeros(1, 1, 4, 4), torch.tensor([[1.0, 0, 0, 1, 1]]), 3, 1)


@given(kernel=st.integers(1, 5), height=st.integers(2, 7), width=st.integers(2, 7), seed=st.integers(0, 99))
def test_scores_are_a_convolution_and_the_adjoint_is_one(
    kernel: int, height: int, width: int, seed: int
) -> None:
    features, weight = noise(2, 3, 4, height, width, seed=seed), noise(2, 4, kernel, kernel, seed=seed + 1)
    scores = apply_filter(weight, features)
    for sequence in range(2):
        wanted = functional.conv2d(features[sequence], weight[sequence : sequence + 1], padding=kernel // 2)
        assert torch.allclose(scores[sequence], wanted[:, 0])
    residuals = noise(*scores.shape, seed=seed + 2)
    adjoint = apply_adjoint(residuals, features, kernel)
    assert math.isclose((scores * residuals).sum(), (weight * adjoint).sum(), rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_step_is_gauss_newton_along_the_gradient(kernel: int, weighted: bool) -> None:
    optimizer = FilterOptimizer(kernel, 16, bins=30).double()
    with torch.no_grad():
        optimizer.spatial_weight_predictor.weight += 0.2 * noise(1, 30, 1, 1)
    features, weight = noise(1, 3, 5, 6, 6, seed=1), noise(1, 5, kernel, kernel, seed=2)
    boxes = torch.tensor([[[20.0, 30, 40, 30], [35, 22, 30, 50], [60, 60, 20, 20]]], dtype=torch.float64)
    sample_weight = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64) if weighted else None
    (_, found), losses = optimizer(weight, features, boxes, sample_weight, iterations=1)

    side = 6 + 2 * (kernel // 2) - kernel + 1
    maps = optimizer.residual_maps(boxes, side, side)
    share = torch.full((1, 3), 1 / 3, dtype=torch.float64) if sample_weight is None else sample_weight
    strength = share.sqrt()[..., None, None] * maps.weight
    ridge = optimizer.filter_reg.detach()

    def residual(w: Tensor) -> Tensor:
        scores = apply_filter(w, features)
        activated = torch.where(scores < 0, maps.mask * scores, scores)
        return torch.cat([(strength * (activated - maps.label)).flatten(), (ridge * w).flatten()])

    start = weight.clone().requires_grad_()
    loss = residual(start).square().sum()
    (gradient,) = torch.autograd.grad(loss / 2, start)
    _, change = jvp(residual, (weight,), (gradient,))
    length = 0.9 * gradient.square().sum() / change.square().sum()
    assert torch.allclose(found, weight - length * gradient, rtol=1e-10)
    assert torch.allclose(losses[0], loss)
    assert torch.allclose(losses[1], residual(found).square().sum())


def test_unrolled_steps_have_exact_gradients() -> None:
    optimizer = FilterOptimizer(4, 16, bins=12).double()
    boxes = torch.tensor([[[20.0, 30, 40, 30]], [[10, 12, 30, 50]]], dtype=torch.float64)
    weight, features = noise(2, 2, 4, 4).requires_grad_(), noise(2, 1, 2, 4, 4, seed=1).requires_grad_()
    parameters = tuple(optimizer.parameters())

    def descend(weight: Tensor, features: Tensor, *parameters: Tensor) -> Tensor:
        return optimizer(weight, features, boxes, iterations=2)[0][-1]

    assert torch.autograd.gradcheck(descend, (weight, features, *parameters))


def test_sequences_do_not_see_each_other() -> None:
    optimizer = FilterOptimizer(4, 16).double()
    weight, features = noise(2, 3, 4, 4), noise(2, 2, 3, 6, 6, seed=1)
    boxes = torch.tensor([20.0, 30, 40, 30], dtype=torch.float64).expand(2, 2, 4) + noise(2, 2, 4, seed=2)
    together, _ = optimizer(weight, features, boxes, iterations=3)
    alone, _ = optimizer(weight[1:], features[1:], boxes[1:], iterations=3)
    assert torch.allclose(together[-1][1:], alone[-1], rtol=1e-12)


def test_shapes_that_do_not_belong_together_are_named() -> None:
    optimizer = FilterOptimizer(4, 16)
    with pytest.raises(UserError, match="boxes of shape"):
        optimizer(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 3, 6, 6), torch.zeros(1, 1, 4))
    with pytest.raises(UserError, match="filter of shape"):
        optimizer(torch.zeros(1, 3, 3, 3), torch.zeros(1, 2, 3, 6, 6), torch.zeros(1, 2, 4))


def test_initial_values_are_the_published_ones() -> None:
    optimizer = FilterOptimizer(4, 16)
    # A target centred on score cell (9, 9); cell (9, 18) is nine cells away.
    maps = optimizer.residual_maps(torch.tensor([[[114.0, 129, 60, 30]]]), 19, 19)
    assert maps.label[0, 0, 9, 9].item() == pytest.approx(1 - math.exp(-(9.9**2) / (2 * 0.81)))
    assert maps.mask[0, 0, 9, 9].item() == pytest.approx(0.947, abs=1e-3)
    assert maps.mask[0, 0, 9, 18].item() == pytest.approx(0.047, abs=1e-3)
    assert torch.equal(maps.weight, torch.ones(1, 1, 19, 19))
    assert optimizer.log_step_length.exp().item() == pytest.approx(0.9)
    assert optimizer.filter_reg.item() == pytest.approx(0.1)


def test_classification_features_have_a_fixed_energy() -> None:
    torch.manual_seed(0)
    layers = classification_features(24, 512, 4)
    found = layers(noise(2, 24, 18, 18, dtype=torch.float32))
    assert found.square().mean(dim=(1, 2, 3)).sqrt().tolist() == pytest.approx([0.011049] * 2, rel=1e-4)
    assert torch.equal(InstanceL2Norm(0.1)(torch.zeros(1, 2, 3, 3)), torch.zeros(1, 2, 3, 3))


@given(
    boxes=st.lists(
        st.tuples(*[st.floats(-60, 160, width=32)] * 2, *[st.floats(-5, 120, width=32)] * 2),
        min_size=1,
        max_size=3,
    )
)
def test_the_initial_filter_may_convolve_around_the_target_alone(boxes: list[tuple[float, ...]]) -> None:
    torch.manual_seed(0)
    initializer = FilterInitializer(3, 4, 16).double()
    torch.nn.init.normal_(initializer.filter_conv.bias)
    features = noise(len(boxes), 3, 7, 9)
    targets = torch.tensor(boxes, dtype=torch.float64)
    found = initializer(features[None], targets[None])[0]
    everywhere = pool_boxes(initializer.filter_conv(features), targets[:, None], 4, 1 / 16)[:, 0]
    # A mean over a bin is the difference of two integrals over its width: what is left of their digits.
    narrowest = min([1.0, *(side / 4 / 16 for box in boxes for side in box[2:] if side > 0)])
    assert torch.allclose(found, everywhere.mean(0), atol=1e-12 + 1e-14 / max(narrowest, NARROWEST))


@pytest.mark.parametrize("side", [1e-6, 1.5e-13, 1e-15, 1e-300])
def test_a_sliver_of_a_box_pools_the_value_at_its_place(side: float) -> None:
    rows = torch.arange(7, dtype=torch.float64)[:, None]
    features = (10 + rows + 0.5 * torch.arange(9, dtype=torch.float64))[None, None]
    pooled = pool_boxes(features, torch.tensor([[[40.0, 24.0, side, side]]], dtype=torch.float64), 4, 1 / 16)
    assert torch.allclose(
        pooled, torch.full((1, 1, 1, 4, 4), 10 + 24 / 16 + 0.5 * 40 / 16).double(), atol=1e-5
    )


def test_one_training_sequence_more_does_not_change_the_others_in_evaluation() -> None:
    torch.manual_seed(0)
    net = DiMPNet(backbone_trunk("resnet18-small"), DiMPConfig(16, iou_channels=16)).eval()
    images, tests = (
        noise(2, 2, 3, 96, 96, dtype=torch.float32),
        noise(2, 1, 3, 96, 96, seed=1, dtype=torch.float32),
    )
    boxes = torch.tensor([30.0, 30, 40, 30]).expand(2, 2, 4)
    proposals = torch.tensor([[28.0, 33, 44, 30], [10, 10, 30, 30]]).expand(2, 1, 2, 4)
    with torch.no_grad():
        both = net(images, tests, boxes, proposals)
        one = net(images[:1], tests[:1], boxes[:1], proposals[:1])
    assert both.scores.shape == (6, 2, 1, 7, 7)
    assert both.iou.shape == (2, 1, 2)
    assert torch.allclose(both.scores[:, :1], one.scores, atol=1e-5)
    assert torch.allclose(both.iou[:1], one.iou, atol=1e-5)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    net = DiMPNet(backbone_trunk("resnet18-small"), DiMPConfig(16, feature_blocks=1, iou_channels=16))
    images = noise(2, 2, 3, 96, 96, dtype=torch.float32)
    boxes = torch.tensor([30.0, 30, 40, 30]).expand(2, 2, 4)
    output = net(images, images, boxes, boxes[:, :, None] + 2)
    (output.scores.square().sum() + output.iou.sum()).backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert without == []


def test_heads_are_checked() -> None:
    with pytest.raises(UserError, match="filter_size=0"):
        DiMPConfig(filter_size=0)
    with pytest.raises(UserError, match="has to be even"):
        DiMPConfig(iou_channels=15)
