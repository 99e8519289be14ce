"""The shipped networks at sizes that a test can afford."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import classification.models
import super_resolution.models
from core.graph.channels import ChannelGraph, trace_channels


@dataclass(frozen=True)
class Subject:
    """A shipped network: how it is built for a test, and how many free groups it has."""

    package: Any
    shape: tuple[int, int, int]
    groups: int
    options: dict[str, Any]


def _classifier(shape: tuple[int, int, int], groups: int, **options: Any) -> Subject:
    return Subject(classification.models, shape, groups, {"num_classes": 10, **options})


SUBJECTS: dict[str, Subject] = {
    "resnet20": _classifier((3, 32, 32), 12),
    "resnet56": _classifier((3, 32, 32), 30),
    "resnet50": _classifier((3, 32, 32), 37),
    "resnext50_32x4d": _classifier((3, 32, 32), 21),
    "regnetx_4gf": _classifier((3, 32, 32), 28),
    "regnety_200mf": _classifier((3, 64, 64), 31),
    "mobilenetv1": _classifier((3, 32, 32), 14),
    "mobilenetv2": _classifier((3, 32, 32), 25),
    "mobilenetv3_small": _classifier((3, 32, 32), 28),
    "mobilenetv3_small_torchvision": _classifier((3, 32, 32), 27),
    "efficientnet_b0": _classifier((3, 32, 32), 40),
    "shufflenetv2_x1_0": _classifier((3, 32, 32), 19),
    "densenet40": _classifier((3, 16, 16), 39, dataset="cifar"),
    "srresnet": Subject(super_resolution.models, (3, 8, 8), 19, {"scale": 4}),
    "msrresnet": Subject(super_resolution.models, (3, 8, 8), 20, {"scale": 4}),
    "edsr": Subject(super_resolution.models, (3, 6, 6), 11, {"scale": 4}),
    "dncnn": Subject(super_resolution.models, (1, 12, 12), 16, {}),
    "unet": Subject(super_resolution.models, (1, 32, 32), 22, {}),
}


# Relatives of those above: their plans and counts are held, while properties that take seconds to try are tried on one
# network of each family.
RELATIVES: dict[str, Subject] = {
    "resnet18": _classifier((3, 32, 32), 12),
    "resnet34": _classifier((3, 32, 32), 20),
    "resnet101": _classifier((3, 32, 32), 71),
    "resnet110": _classifier((3, 32, 32), 57),
    "resnet164": _classifier((3, 32, 32), 112),
    "regnetx_200mf": _classifier((3, 32, 32), 18),
    "regnetx_400mf": _classifier((3, 32, 32), 27),
    "regnetx_600mf": _classifier((3, 32, 32), 21),
    "regnetx_800mf": _classifier((3, 32, 32), 21),
    "regnetx_8gf": _classifier((3, 32, 32), 30),
    "mobilenetv2_small": _classifier((3, 16, 16), 12),
    "regnety_400mf": _classifier((3, 64, 64), 37),
    "regnety_600mf": _classifier((3, 64, 64), 35),
    "regnety_800mf": _classifier((3, 64, 64), 33),
}


@dataclass(frozen=True)
class Traced:
    """A network, an input for it and its channel groups. Shared between tests: not to be changed."""

    model: nn.Module
    inputs: Tensor
    graph: ChannelGraph


@functools.cache
def traced_subject(name: str) -> Traced:
    """A shipped network with its groups, built once."""
    subject = SUBJECTS[name]
    torch.manual_seed(0)
    model = subject.package.build(name, **subject.options).eval()
    inputs = torch.rand(2, *subject.shape)
    return Traced(model, inputs, trace_channels(model, inputs))
