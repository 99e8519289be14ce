"""Networks for image classification: plain `nn.Module`s, without a trace of the search in them.

Every name in `MODELS` is a function `(num_classes=None, dataset=..., **options)`, importable from here
(`classification.models.resnet50()`, or `classification.models:resnet50` on a command line). Each network can be traced,
scripted, exported and pickled at any widths; its `init_weights()` draws new weights in place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from classification.models.datasets import DATASETS
from classification.models.densenet import densenet40
from classification.models.efficientnet import efficientnet_b0
from classification.models.mobilenet_v1 import mobilenetv1
from classification.models.mobilenet_v2 import mobilenetv2, mobilenetv2_small
from classification.models.mobilenet_v3 import mobilenetv3_small, mobilenetv3_small_torchvision
from classification.models.regnet import (
    regnetx_4gf,
    regnetx_8gf,
    regnetx_200mf,
    regnetx_400mf,
    regnetx_600mf,
    regnetx_800mf,
    regnety_200mf,
    regnety_400mf,
    regnety_600mf,
    regnety_800mf,
)
from classification.models.resnet import resnet18, resnet34, resnet50, resnet101, resnext50_32x4d
from classification.models.resnet_cifar import resnet20, resnet56, resnet110, resnet164
from classification.models.shufflenet import shufflenetv2_x1_0
from core.command_line.factories import unknown_network
from core.errors import check_known

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnext50_32x4d": resnext50_32x4d,
    "resnet20": resnet20,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "resnet164": resnet164,
    "regnetx_200mf": regnetx_200mf,
    "regnetx_400mf": regnetx_400mf,
    "regnetx_600mf": regnetx_600mf,
    "regnetx_800mf": regnetx_800mf,
    "regnetx_4gf": regnetx_4gf,
    "regnetx_8gf": regnetx_8gf,
    "regnety_200mf": regnety_200mf,
    "regnety_400mf": regnety_400mf,
    "regnety_600mf": regnety_600mf,
    "regnety_800mf": regnety_800mf,
    "mobilenetv1": mobilenetv1,
    "mobilenetv2": mobilenetv2,
    "mobilenetv2_small": mobilenetv2_small,
    "mobilenetv3_small": mobilenetv3_small,
    "mobilenetv3_small_torchvision": mobilenetv3_small_torchvision,
    "efficientnet_b0": efficientnet_b0,
    "shufflenetv2_x1_0": shufflenetv2_x1_0,
    "densenet40": densenet40,
}

INPUT_SHAPES: dict[str, tuple[int, int, int]] = {name: data.input_shape for name, data in DATASETS.items()}
"""Channels, height and width of a data set's images, under the names that `build` takes."""


def build(
    name: str, num_classes: int | None = None, dataset: str | None = None, **options: object
) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: a key of `MODELS`.
        num_classes: outputs of the classifier; None: as many as the data set has classes.
        dataset: `"imagenet"`, `"tiny-imagenet"`, `"cifar"` (also `"cifar10"`, `"cifar100"`) or `"digits"`:
            fixes the input channels and the strides. None: `"cifar"` for the networks of CIFAR
            (ResNet-20/56/110/164, DenseNet-40), `"imagenet"` for all others.
        options: the network's own, such as `dropout` of the MobileNets.

    Raises:
        UserError: an unknown name, data set or option.
    """
    if name not in MODELS:
        raise unknown_network(f"unknown network '{name}'", name, MODELS)
    allowed = sorted(set(inspect.signature(MODELS[name]).parameters) - {"num_classes", "dataset"})
    check_known(f"network '{name}' has no option", options, allowed)
    if dataset is not None:
        options["dataset"] = dataset
    return MODELS[name](num_classes, **options)
