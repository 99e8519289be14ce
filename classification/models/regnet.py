"""RegNetX and RegNetY (Radosavovic et al., CVPR 2020); Y is X with squeeze-and-excitation.

Names as in torchvision; its weights load strictly where the widths agree (X 800MF and 8GF, Y 400MF).
A grouped convolution is described by its group *width*: a wider network has more groups, not wider ones.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from classification.models.datasets import Dataset, dataset_form
from classification.models.layers import ConvNormActivation, SqueezeExcitation, linear_normal
from core.networks.layers import chain, initialise

RELU = partial(nn.ReLU, inplace=True)
STEM_WIDTH = 32
# Strides of the stem and the four stages by form; the last map has 7, 4, 8 and 2 pixels a side.
STRIDES: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    "imagenet": (2, (2, 2, 2, 2)),
    "tiny-imagenet": (1, (2, 2, 2, 2)),
    "cifar": (1, (1, 1, 2, 2)),
    "digits": (1, (1, 1, 2, 2)),
}


@dataclass(frozen=True)
class RegNetSize:
    """Blocks and channels of each of the four stages, channels of a group, and whether it is a RegNetY."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    group_width: int
    squeeze_excitation: bool = False


class Bottleneck(nn.Module):
    """1x1, grouped 3x3, optional squeeze-and-excitation and 1x1 convolution, as wide inside as outside.

    The squeeze has a quarter of the *block's* input channels (RegNetY, section 5).
    """

    def __init__(self, inputs: int, width: int, stride: int, size: RegNetSize) -> None:
        super().__init__()
        groups = max(1, width // size.group_width)  # 8GF's first stage is narrower than its groups
        self.proj = None
        if inputs != width or stride != 1:
            self.proj = ConvNormActivation(inputs, width, 1, stride, activation=None)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["a"] = ConvNormActivation(inputs, width, 1, activation=RELU)
        layers["b"] = ConvNormActivation(width, width, 3, stride, groups=groups, activation=RELU)
        if size.squeeze_excitation:
            layers["se"] = SqueezeExcitation(width, round(inputs / 4))
        layers["c"] = ConvNormActivation(width, width, 1, activation=None)
        self.f = nn.Sequential(layers)
        self.activation = RELU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, width, H / stride, W / stride)."""
        identity = x if self.proj is None else self.proj(x)
        return self.activation(identity + self.f(x))


class RegNet(nn.Module):
    """A 3x3 stem, four stages, the mean over the map and a linear classifier.

    Args:
        size: depths and widths; every width is a multiple of the group width.
        dataset: fixes the input channels and the strides (`STRIDES`).
        num_classes: outputs of the classifier.
    """

    def __init__(self, size: RegNetSize, dataset: Dataset, num_classes: int) -> None:
        super().__init__()
        stem_stride, strides = STRIDES[dataset.form]
        self.stem = ConvNormActivation(dataset.channels, STEM_WIDTH, 3, stem_stride, activation=RELU)
        inputs = STEM_WIDTH
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (depth, width, stride) in enumerate(zip(size.depths, size.widths, strides), start=1):
            blocks = chain(partial(Bottleneck, width=width, size=size), inputs, width, depth, stride)
            named = OrderedDict((f"block{number}-{i}", block) for i, block in enumerate(blocks))
            stages[f"block{number}"] = nn.Sequential(named)
            inputs = width
        self.trunk_output = nn.Sequential(stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters and statistics by torchvision's rules, for the widths that the layers have now."""
        initialise(self, linear_normal)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        x = self.trunk_output(self.stem(x))
        return self.fc(self.avgpool(x).flatten(1))


def regnetx_200mf(num_classes: int | None = None, dataset: str = "imagenet") -> RegNet:
    """RegNetX-200MF."""
    return RegNet(RegNetSize((1, 1, 4, 7), (24, 56, 152, 368), 8), *dataset_form(dataset, num_classes))


def regnetx_400mf(num_classes: int | None = None, dataset: str = "imagenet") -> RegNet:
    """RegNetX-400MF with the paper's widths; torchvision's has 400 channels in stage 4."""
    return RegNet(RegNetSize((1, 2, 7, 12), (32, 64, 160, 384), 16), *dataset_form(dataset, num_classes))


def regnetx_600mf(num_classes: int | None = None, dataset: str = "imagenet") -> RegNet:
    """RegNetX-600MF."""
    return RegNet(RegNetSize((1, 3, 5, 7), (48, 96, 240, 528), 24), *dataset_form(dataset, num_classes))


def regnetx_800mf(num_classes: int | None = None, dataset: str = "imagenet") -> RegNet:
    """RegNetX-800MF."""
    return RegNet(RegNetSize((1, 3, 7, 5), (64, 128, 288, 672), 16), *dataset_form(dataset, num_classes))


def regnetx_4gf(num_classes: int | None = None, dataset: str = "imagenet") -> RegNet:
    """RegNetX-4GF: 4.0005 G FLOPs (paper's convention), 22.118 M parameters on ImageNet."""
    return RegNet(RegNetSize((2, 5, 14, 2), (80, 240, 560, 1360), 40), *dataset_form(dataset, num_classes))


def regnetx_8gf(num_classes: int | None = None, dataset: str = "imagenet") -> RegNet:
    """RegNetX-8GF."""
    return RegNet(RegNetSize((2, 5, 15, 1), (80, 240, 720, 1920), 120), *dataset_form(dataset, num_classes))


def regnety_200mf(num_classes: int | None = None, dataset: str = "imagenet") -> RegNet:
    """RegNetY-200MF."""
    return RegNet(RegNetSize((1, 1, 4, 7), (24, 56, 152, 368), 8, True), *dataset_form(dataset, num_classes))


def regnety_400mf(num_classes: int | None = None, dataset: str = "imagenet") -> RegNet:
    """RegNetY-400MF."""
    return RegNet(RegNetSize((1, 3, 6, 6), (48, 104, 208, 440), 8, True), *dataset_form(dataset, num_classes))


def regnety_600mf(num_classes: int | None = None, dataset: str = "imagenet") -> RegNet:
    """RegNetY-600MF."""
    return RegNet(
        RegNetSize((1, 3, 7, 4), (48, 112, 256, 608), 16, True), *dataset_form(dataset, num_classes)
    )


def regnety_800mf(num_classes: int | None = None, dataset: str = "imagenet") -> RegNet:
    """RegNetY-800MF with the paper's widths; torchvision's has 144 and 784 channels in stages 2 and 4."""
    return RegNet(
        RegNetSize((1, 3, 8, 2), (64, 128, 320, 768), 16, True), *dataset_form(dataset, num_classes)
    )
