"""The network of DiMP against outputs of the original modules for the same weights (float64 there, float32 here)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from tracking.dimp import DiMPNet, prroi_pool
from tracking.dimp.backbones import UNUSED, backbone_trunk
from tracking.dimp.filters import apply_adjoint
from tracking.dimp.roi import pool_boxes

ENERGY = 0.011048543456039806  # root mean square of classification features: sqrt(1 / 8192)


@pytest.fixture(scope="module")
def folder(golden_folder: Path) -> Path:
    found = golden_folder / "dimp"
    if not (found / "golden.npz").is_file():
        pytest.skip(f"needs the original modules' outputs at {found}")
    return found


@pytest.fixture(scope="module")
def fill(folder: Path) -> ModuleType:
    """The program that makes weights and inputs from names."""
    spec = importlib.util.spec_from_file_location("dimp_fill", folder / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "golden.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def net(fill: ModuleType) -> DiMPNet:
    torch.set_num_threads(2)
    module = DiMPNet(backbone_trunk("resnet50"))
    fill.fill(module.state_dict())
    return module.eval()


@pytest.fixture(scope="module")
def make(fill: ModuleType) -> Callable[..., Tensor]:
    return lambda *arguments, **options: torch.from_numpy(fill.make_input(*arguments, **options))


def swap(array: np.ndarray | Tensor) -> Tensor:
    """(images, sequences, ...) as the original has it to our (sequences, images, ...)."""
    return torch.as_tensor(array).transpose(0, 1)


def agrees(found: Tensor, wanted: np.ndarray | Tensor, tolerance: float = 2e-5) -> None:
    """Largest difference at most `tolerance` of the largest reference value."""
    wanted = torch.as_tensor(wanted)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


def stats(found: Tensor) -> Tensor:
    """Mean, population standard deviation and norm of a whole array."""
    found = found.double()
    return torch.stack([found.mean(), found.std(correction=0), found.norm()]).float()


def channel_mean(found: Tensor) -> Tensor:
    """Mean over images and places, (C,)."""
    return found.mean(dim=(0, 2, 3))


def agrees_stats(found: Tensor, wanted: np.ndarray) -> None:
    assert torch.allclose(stats(found)[1:], torch.from_numpy(wanted)[1:], rtol=2e-5)
    assert abs(stats(found)[0] - wanted[0]) < 2e-5 * wanted[1]


def test_names_and_shapes_are_the_published_networks(net: DiMPNet, folder: Path) -> None:
    entries = json.loads((folder / "dimp50_state_dict.json").read_text())["entries"]
    prefixes = tuple(f"feature_extractor.{name}" for name in UNUSED)
    wanted = [(name, tuple(shape)) for name, shape, _ in entries if not name.startswith(prefixes)]
    assert [(name, tuple(value.shape)) for name, value in net.state_dict().items()] == wanted
    assert len(entries) == 407


def test_the_fill_is_the_original_one(fill: ModuleType) -> None:
    assert fill.checksum(fill.value("feature_extractor.conv1.weight", (64, 3, 7, 7))) == 431553537
    assert fill.checksum(fill.make_image("a.image", (1, 3, 288, 288))) == 1924611162


@torch.no_grad()
def test_backbone(net: DiMPNet, fill: ModuleType, golden: dict[str, np.ndarray]) -> None:
    stages = net.extract(torch.from_numpy(fill.make_image("a.image", (1, 3, 288, 288))))
    agrees(stages["layer2"][:, ::8, ::3, ::3], golden["a.layer2.sub"])
    agrees(stages["layer3"][:, ::8, ::2, ::2], golden["a.layer3.sub"])
    for name, stage in stages.items():
        agrees_stats(stage, golden[f"a.{name}.stats"])
        agrees(channel_mean(stage), golden[f"a.{name}.channel_mean"])


@torch.no_grad()
def test_classification_features(
    net: DiMPNet, make: Callable[..., Tensor], golden: dict[str, np.ndarray]
) -> None:
    found = net.classifier.features({"layer3": make("b.layer3", (2, 1024, 18, 18), 1, kind="abs")})
    agrees(found[:, ::8, ::2, ::2], golden["b.clf.sub"])
    agrees_stats(found, golden["b.clf.stats"])
    agrees(channel_mean(found), golden["b.clf.channel_mean"])
    small = net.classifier.feature_extractor[-1](make("b.small", (1, 512, 18, 18), 1e-5))
    agrees(small[:, ::16, ::3, ::3], golden["b.norm_small.sub"])
    agrees_stats(small, golden["b.norm_small.stats"])
    agrees(channel_mean(small), golden["b.norm_small.channel_mean"])


@pytest.fixture(scope="module")
def features(make: Callable[..., Tensor]) -> Tensor:
    return swap(make("c.feat", (3, 2, 512, 18, 18), ENERGY)).contiguous()


@pytest.fixture(scope="module")
def initial(net: DiMPNet, features: Tensor, golden: dict[str, np.ndarray]) -> Tensor:
    with torch.no_grad():
        return net.classifier.filter_initializer(features, swap(golden["in.c.boxes"]))


@torch.no_grad()
def test_initial_filter(
    net: DiMPNet, features: Tensor, initial: Tensor, golden: dict[str, np.ndarray]
) -> None:
    agrees(initial[:, ::8], golden["c.filter.sub"])
    agrees_stats(initial, golden["c.filter.stats"])
    one = net.classifier.filter_initializer(features[:, :1], swap(golden["in.c.boxes"])[:, :1])
    agrees(one[:, ::8], golden["c.filter_one_image.sub"])
    agrees_stats(one, golden["c.filter_one_image.stats"])


@torch.no_grad()
def test_residual_maps(net: DiMPNet, features: Tensor, golden: dict[str, np.ndarray]) -> None:
    maps = net.classifier.filter_optimizer.residual_maps(swap(golden["in.c.boxes"]), 19, 19)
    agrees(maps.label, swap(golden["d.map_label"]))
    agrees(maps.mask, swap(golden["d.map_mask"]))
    agrees(maps.weight, swap(golden["d.map_weight"]))
    adjoint = apply_adjoint(maps.label - 0.3, features, 4)
    agrees(adjoint[:, ::8], golden["d.adjoint.sub"])
    agrees_stats(adjoint, golden["d.adjoint.stats"])


def test_steepest_descent_and_its_gradients(
    net: DiMPNet,
    make: Callable[..., Tensor],
    features: Tensor,
    initial: Tensor,
    golden: dict[str, np.ndarray],
) -> None:
    optimizer = net.classifier.filter_optimizer
    start, inputs = initial.clone().requires_grad_(), features.clone().requires_grad_()
    iterates, losses = optimizer(start, inputs, swap(golden["in.c.boxes"]), iterations=5)
    found = torch.stack(iterates)
    agrees(found[:, :, ::8].detach(), golden["d.iterates.sub"])
    for iterate, wanted in zip(found.detach(), golden["d.iterates.stats"], strict=True):
        agrees_stats(iterate, wanted)
    agrees(losses.detach(), golden["d.losses"])
    test = swap(make("e.feat", (3, 2, 512, 18, 18), ENERGY)).contiguous()
    scores = torch.stack([net.classifier.scores(weight, test) for weight in iterates])
    agrees(scores.detach().transpose(1, 2), golden["e.scores"])
    with torch.no_grad():
        train_scores = torch.stack([net.classifier.scores(weight, features) for weight in iterates])
    agrees(train_scores.transpose(1, 2), golden["e.train_scores"])

    loss = (scores[5] * swap(make("d.grad_probe", (3, 2, 19, 19)))).sum()
    agrees(loss.detach()[None], golden["d.grad_loss"])
    parameters = dict(optimizer.named_parameters())
    gradients = torch.autograd.grad(loss, [start, inputs, *parameters.values()])
    agrees(gradients[0][:, ::8], golden["d.grad_filter0.sub"])
    agrees(gradients[1].transpose(0, 1)[:, :, ::16, ::3, ::3], golden["d.grad_feat.sub"])
    agrees_stats(gradients[0], golden["d.grad_filter0.stats"])
    agrees_stats(gradients[1], golden["d.grad_feat.stats"])
    for name, gradient in zip(parameters, gradients[2:], strict=True):
        agrees(gradient, golden[f"d.grad.{name}"], 2e-4)


@torch.no_grad()
@pytest.mark.parametrize("weighted", [True, False])
def test_online_descent(
    net: DiMPNet, make: Callable[..., Tensor], golden: dict[str, np.ndarray], weighted: bool
) -> None:
    features = swap(make("d2.feat", (15, 1, 512, 18, 18), ENERGY)).contiguous()
    weights = swap(golden["in.d2.sample_weight"]) if weighted else None
    iterates, losses = net.classifier.filter_optimizer(
        make("d2.filter", (1, 512, 4, 4), 0.02), features, swap(golden["in.d2.boxes"]), weights, 10
    )
    found = torch.stack(iterates)
    name = "d2" if weighted else "d3"
    agrees(found[:: 1 if weighted else 5, :, ::8], golden[f"{name}.iterates.sub"])
    agrees(losses, golden[f"{name}.losses"])
    for iterate, wanted in zip(found, golden[f"{name}.iterates.stats"], strict=True):
        agrees_stats(iterate, wanted)
    if weighted:
        agrees(net.classifier.scores(found[-1], features[:, :3])[0][:, None], golden["e.scores_online"])


def test_box_regressor(net: DiMPNet, make: Callable[..., Tensor], golden: dict[str, np.ndarray]) -> None:
    regressor = net.bb_regressor
    reference, test = (
        {
            "layer2": make(f"f.{kind}2", (2, 512, 36, 36), 1, kind="abs", block=4),
            "layer3": make(f"f.{kind}3", (2, 1024, 18, 18), 1, kind="abs", block=2),
        }
        for kind in ("ref", "test")
    )
    with torch.no_grad():
        modulation = regressor.modulation(reference, torch.from_numpy(golden["in.f.ref_boxes"]))
        maps = regressor.iou_features(test)
    agrees(modulation[0], golden["f.mod3"])
    agrees(modulation[1], golden["f.mod4"])
    agrees(maps[0][:, ::8, ::3, ::3], golden["f.feat3.sub"])
    agrees(maps[1][:, ::8, ::2, ::2], golden["f.feat4.sub"])
    for name, map_ in zip(("f.feat3", "f.feat4"), maps, strict=True):
        agrees_stats(map_, golden[f"{name}.stats"])
        agrees(channel_mean(map_), golden[f"{name}.channel_mean"])

    boxes = torch.from_numpy(golden["in.f.boxes"])
    predictions = []
    for step in range(5):
        boxes = boxes.detach().requires_grad_()
        iou = regressor.predict_iou(modulation, maps, boxes)
        (gradient,) = torch.autograd.grad(iou.sum(), boxes)
        if step == 0:
            agrees(iou.detach(), golden["f.iou"])
            agrees(gradient, golden["f.iou_grad"])
        predictions.append(iou.detach())
        boxes = boxes + gradient * boxes[..., 2:].repeat(1, 1, 2)
    agrees(torch.stack(predictions), golden["f.refined_iou"])
    assert (boxes.detach() - torch.from_numpy(golden["f.refined"])).abs().max() < 1e-3  # pixels


@pytest.mark.parametrize(("size", "stride"), [(5, 8), (3, 8), (1, 8), (4, 16)])
def test_pooling(make: Callable[..., Tensor], golden: dict[str, np.ndarray], size: int, stride: int) -> None:
    name = f"g.pool{size}s{stride}"
    features = make("g.map", (2, 3, 9, 11)).requires_grad_()
    rois = torch.from_numpy(golden["in.g.rois"]).requires_grad_()
    pooled = prroi_pool(features, rois, size, 1 / stride)
    agrees(pooled.detach(), golden[name], 1e-6)
    agrees(pooled.detach(), golden[f"{name}.integral"], 1e-6)
    loss = (pooled * make(f"g.probe{size}", tuple(pooled.shape))).sum()
    of_map, of_rois = torch.autograd.grad(loss, [features, rois])
    agrees(of_rois, golden[f"{name}.grad_rois"], 1e-6)
    agrees(of_map, golden[f"{name}.grad_map"], 1e-6)


@torch.no_grad()
def test_whole_network(net: DiMPNet, fill: ModuleType, golden: dict[str, np.ndarray]) -> None:
    train = torch.from_numpy(fill.make_image("h.train", (4, 3, 288, 288))).unflatten(0, (2, 2))
    test = torch.from_numpy(fill.make_image("h.test", (2, 3, 288, 288))).unflatten(0, (1, 2))
    boxes, proposals = swap(golden["in.h.train_boxes"]), swap(golden["in.h.proposals"])
    output = net(swap(train), swap(test), boxes, proposals)
    agrees(output.scores.transpose(1, 2), golden["h.scores"])
    agrees(output.iou.transpose(0, 1), golden["h.iou"], 5e-5)


def test_both_ways_to_pool_agree(make: Callable[..., Tensor], golden: dict[str, np.ndarray]) -> None:
    features, rois = make("g.map", (2, 3, 9, 11)), torch.from_numpy(golden["in.g.rois"])
    boxes = torch.cat([rois[:, 1:3], rois[:, 3:] - rois[:, 1:3]], dim=1)
    for image in (0, 1):
        mine = rois[:, 0] == image
        alone = pool_boxes(features[image : image + 1], boxes[None, mine], 5, 1 / 8)[0]
        assert torch.allclose(alone, prroi_pool(features, rois, 5, 1 / 8)[mine], atol=1e-6)
