"""The twins of torchvision's networks: same names in the same order, same outputs, same initialisation."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import nullcontext
from types import ModuleType

import pytest
import torch
from torch import nn

from classification.models import build

TWINS = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnext50_32x4d": "resnext50_32x4d",
    "regnetx_800mf": "regnet_x_800mf",
    "regnetx_8gf": "regnet_x_8gf",
    "regnety_400mf": "regnet_y_400mf",
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3_small_torchvision": "mobilenet_v3_small",
    "efficientnet_b0": "efficientnet_b0",
    "shufflenetv2_x1_0": "shufflenet_v2_x1_0",
}
COMPARED = (
    "resnet18",
    "resnext50_32x4d",
    "regnety_400mf",
    "mobilenetv2",
    "mobilenetv3_small_torchvision",
    "efficientnet_b0",
    "shufflenetv2_x1_0",
)


# Operators stay declared for as long as the object lives.
DECLARED: list[torch.library.Library] = []


@pytest.fixture(scope="module")
def torchvision_models() -> ModuleType:
    """torchvision.models, also where a torchvision for CUDA lies beside a torch without it."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DECLARED.append(library)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        return importlib.import_module("torchvision.models")


@pytest.mark.parametrize("name", TWINS)
def test_names_order_and_shapes(name: str, torchvision_models: ModuleType) -> None:
    # torchvision computes a RegNet's widths with tensors, which need a real device.
    with nullcontext() if name.startswith("regnet") else torch.device("meta"):
        theirs = getattr(torchvision_models, TWINS[name])().state_dict()
    with torch.device("meta"):
        ours = build(name).state_dict()
    assert [(key, tensor.shape) for key, tensor in ours.items()] == [
        (key, tensor.shape) for key, tensor in theirs.items()
    ]


@pytest.mark.parametrize("name", COMPARED)
def test_outputs_and_initialisation(name: str, torchvision_models: ModuleType) -> None:
    torch.manual_seed(0)
    theirs, ours = getattr(torchvision_models, TWINS[name])(), build(name)
    for (key, own), (_, other) in zip(ours.named_parameters(), theirs.named_parameters()):
        if own.numel() >= 4000:  # the deviation of so many draws is known to a few percent
            assert own.std().item() == pytest.approx(other.std().item(), rel=0.1), key
            assert own.mean().abs() < 0.1 * own.std(), key
        elif "norm" in key or "bn" in key:
            assert torch.equal(own, other), key
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = theirs.eval()(images)
        torch.testing.assert_close(
            ours.eval()(images), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
        )
