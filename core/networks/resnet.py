"""Residual networks for ImageNet-like images (He et al., CVPR 2016; ResNeXt: Xie et al., CVPR 2017).

torchvision's "v1.5": the stride of a bottleneck sits in its 3x3 convolution. The names and their order are
torchvision's, so its weights load strictly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from core.networks.layers import chain, initialise


@dataclass(frozen=True)
class Stem:
    """How an image enters a ResNet, and how its stages shrink it.

    Attributes:
        kernel, stride: of the first convolution.
        pool: whether a 3x3 max-pooling of stride 2 follows.
        strides: of the first block of each stage.
    """

    kernel: int = 7
    stride: int = 2
    pool: bool = True
    strides: tuple[int, int, int, int] = (1, 2, 2, 2)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """None if the identity fits, else a 1x1 convolution and batch norm (He et al., option B)."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. One ReLU module serves both, as in torchvision, or each has its own."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int,
        groups: int = 1,
        base_width: int = 64,
        *,
        own_relus: bool = False,
    ) -> None:
        super().__init__()
        if (groups, base_width) != (1, 64):
            raise ValueError("a basic block has neither groups nor a base width")
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = nn.ReLU(inplace=True) if own_relus else self.relu1
        self.downsample = shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, planes, H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu2(out + identity)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in a ResNeXt) and 1x1 convolutions beside a shortcut. One ReLU serves all three, or each has
    its own. The output is four times as wide as the middle.
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int,
        groups: int = 1,
        base_width: int = 64,
        *,
        own_relus: bool = False,
    ) -> None:
        super().__init__()
        width = planes * base_width // 64 * groups
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True) if own_relus else self.relu1
        self.conv3 = nn.Conv2d(width, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu3 = nn.ReLU(inplace=True) if own_relus else self.relu1
        self.downsample = shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 4 planes, H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu3(out + identity)


class ResNet(nn.Module):
    """A stem, four stages of blocks, the mean over the map and a linear classifier.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks in each of the four stages.
        stem: form of the stem, and the stages' strides.
        channels: of an image.
        num_classes: outputs of the classifier.
        planes: width of the stem and of the first stage's 3x3 convolutions; each later stage doubles it.
        groups: groups of the 3x3 convolutions (ResNeXt's cardinality).
        base_width: width of a group in the first stage, if that has 64 planes.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        stem: Stem,
        channels: int,
        num_classes: int,
        *,
        planes: int = 64,
        groups: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, stem.kernel, stem.stride, stem.kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem.pool else nn.Identity()
        inputs = planes
        stages: list[nn.Sequential] = []
        for stage, (depth, stride) in enumerate(zip(depths, stem.strides)):
            width = planes * 2**stage
            make = partial(block, planes=width, groups=groups, base_width=base_width)
            stages.append(nn.Sequential(*chain(make, inputs, width * block.expansion, depth, stride)))
            inputs = width * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters and statistics by torchvision's rules, for the widths that the layers have now."""
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))
