"""DenseNet for CIFAR-sized images (Huang et al., CVPR 2017): a layer reads all earlier ones of its block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from classification.models.datasets import Dataset, dataset_form
from core.networks.layers import initialise

# Stem stride by form; two transitions halve the map, so the last one has 28, 8, 8 and 2 pixels a side.
STEM_STRIDES: dict[str, int] = {"imagenet": 2, "tiny-imagenet": 2, "cifar": 1, "digits": 1}


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, whose `growth` channels are appended to the input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(inputs, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + growth, H, W)."""
        return torch.cat((x, self.conv(self.relu(self.norm(x)))), 1)


class Transition(nn.Module):
    """Batch norm, ReLU, a 1x1 convolution that keeps the width, and a 2x2 mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H / 2, W / 2)."""
        return self.pool(self.conv(self.relu(self.norm(x))))


class DenseNet(nn.Module):
    """A stem of twice the growth rate, three dense blocks with transitions between, and a linear classifier.

    Args:
        depth: layers with weights, 3 n + 4 for n layers per block.
        growth: channels that a layer appends.
        dataset: fixes the input channels and the stem's stride (`STEM_STRIDES`).
        num_classes: outputs of the classifier.
    """

    def __init__(self, depth: int, growth: int, dataset: Dataset, num_classes: int) -> None:
        super().__init__()
        channels = 2 * growth
        layers: list[nn.Module] = [
            nn.Conv2d(dataset.channels, channels, 3, STEM_STRIDES[dataset.form], 1, bias=False)
        ]
        for block in range(3):
            if block > 0:
                layers.append(Transition(channels))
            for _ in range((depth - 4) // 3):
                layers.append(DenseLayer(channels, growth))
                channels += growth
        self.features = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters and statistics (He et al., ICCV 2015), for the widths that the layers have now."""
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        x = self.relu(self.norm(self.features(x)))
        return self.fc(self.avgpool(x).flatten(1))


def densenet40(num_classes: int | None = None, dataset: str = "cifar") -> DenseNet:
    """DenseNet-40 of growth rate 12: 0.2901 G FLOPs (paper's convention), 1.059 M parameters on CIFAR-10."""
    return DenseNet(40, 12, *dataset_form(dataset, num_classes))
