"""The networks of the shrinkage benchmark, with the facts that the ways of shrinking need about them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """A network of the benchmark.

    Attributes:
        title: its name in the tables.
        build: makes it with fresh weights.
        shape: channels, height and width of its input.
        fixed: modules whose output channels must stay: the output layers, and EDSR's fixed 1x1 convolutions on colours.
            Torch-Pruning has to be given them (`ignored_layers`); our trace finds them.
    """

    title: str
    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    fixed: tuple[str, ...]

    def make(self, seed: int = 0) -> nn.Module:
        """The network in eval mode, its weights a function of `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build().eval()

    def inputs(self, seed: int = 0) -> tuple[Tensor]:
        """One random image in [0, 1], (1, C, H, W), as the tuple of positional arguments."""
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(1, *self.shape, generator=generator),)


def _model(task: str, name: str, **options: int) -> Callable[[], nn.Module]:
    """Builds one of a task's networks; the task is imported when it is called."""
    return lambda: importlib.import_module(f"{task}.models").build(name, **options)


NETWORKS: dict[str, Network] = {
    "resnet50": Network("ResNet50", _model("classification", "resnet50"), (3, 224, 224), ("fc",)),
    "mobilenetv2": Network(
        "MobileNetV2", _model("classification", "mobilenetv2"), (3, 224, 224), ("classifier",)
    ),
    "regnety_200mf": Network(
        "RegNetY-200MF", _model("classification", "regnety_200mf"), (3, 224, 224), ("fc",)
    ),
    "densenet40": Network("DenseNet-40", _model("classification", "densenet40"), (3, 32, 32), ("fc",)),
    "unet": Network("U-Net", _model("super_resolution", "unet"), (1, 128, 128), ("conv_last",)),
    "srresnet": Network(
        "SRResNet x4", _model("super_resolution", "srresnet", scale=4), (3, 48, 48), ("conv_last",)
    ),
    "edsr": Network(
        "EDSR x4 (8 x 128)",
        _model("super_resolution", "edsr", scale=4, n_blocks=8, n_feats=128),
        (3, 48, 48),
        ("conv_last", "sub_mean", "add_mean"),
    ),
    "shufflenetv2": Network(
        "ShuffleNetV2 x1", _model("classification", "shufflenetv2_x1_0"), (3, 224, 224), ("fc",)
    ),
}
