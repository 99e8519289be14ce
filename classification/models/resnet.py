"""Residual networks for ImageNet-like images (He et al., CVPR 2016; ResNeXt: Xie et al., CVPR 2017).

torchvision's "v1.5": the stride of a bottleneck sits in its 3x3 convolution. The names and their order are
torchvision's, so its weights load strictly.
"""

from __future__ import annotations

from torch import Tensor, nn

from classification.models.datasets import Dataset, dataset_form
from classification.models.layers import initialise

# (stem kernel, stem stride, max-pool?, strides of the four stages) by form; the last map has 7, 4, 4 and 2
# pixels a side. Small images get the 3x3 stem that is customary for CIFAR.
STEMS: dict[str, tuple[int, int, bool, tuple[int, int, int, int]]] = {
    "imagenet": (7, 2, True, (1, 2, 2, 2)),
    "tiny-imagenet": (3, 2, False, (1, 2, 2, 2)),
    "cifar": (3, 1, False, (1, 2, 2, 2)),
    "digits": (3, 1, False, (1, 2, 2, 1)),
}


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """None where the identity fits, else a 1x1 convolution and batch norm (He et al., option B)."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. One ReLU module serves twice, as in torchvision."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, groups: int, base_width: int) -> None:
        super().__init__()
        if (groups, base_width) != (1, 64):
            raise ValueError("a basic block has neither groups nor a base width")
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, planes, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu(out + identity)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in a ResNeXt) and 1x1 convolutions beside a shortcut. One ReLU serves three times."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, groups: int, base_width: int) -> None:
        super().__init__()
        width = planes * base_width // 64 * groups
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 4 planes, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu(out + identity)


class ResNet(nn.Module):
    """A stem, four stages of blocks, the mean over the map and a linear classifier.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks in each of the four stages.
        dataset: fixes the input channels and the stem (`STEMS`).
        num_classes: outputs of the classifier.
        groups: groups of the 3x3 convolutions (ResNeXt's cardinality).
        base_width: width of a group in the first stage.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        dataset: Dataset,
        num_classes: int,
        *,
        groups: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        kernel, stride, pool, strides = STEMS[dataset.form]
        self.conv1 = nn.Conv2d(dataset.channels, 64, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        inputs = 64
        stages: list[nn.Sequential] = []
        for planes, depth, first_stride in zip((64, 128, 256, 512), depths, strides):
            blocks: list[nn.Module] = []
            for i in range(depth):
                blocks.append(block(inputs, planes, first_stride if i == 0 else 1, groups, base_width))
                inputs = planes * block.expansion
            stages.append(nn.Sequential(*blocks))
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


def resnet18(num_classes: int | None = None, dataset: str = "imagenet") -> ResNet:
    """ResNet-18."""
    return ResNet(BasicBlock, (2, 2, 2, 2), *dataset_form(dataset, num_classes))


def resnet34(num_classes: int | None = None, dataset: str = "imagenet") -> ResNet:
    """ResNet-34."""
    return ResNet(BasicBlock, (3, 4, 6, 3), *dataset_form(dataset, num_classes))


def resnet50(num_classes: int | None = None, dataset: str = "imagenet") -> ResNet:
    """ResNet-50: 4.1177 G FLOPs (paper's convention), 25.557 M parameters on ImageNet."""
    return ResNet(Bottleneck, (3, 4, 6, 3), *dataset_form(dataset, num_classes))


def resnet101(num_classes: int | None = None, dataset: str = "imagenet") -> ResNet:
    """ResNet-101."""
    return ResNet(Bottleneck, (3, 4, 23, 3), *dataset_form(dataset, num_classes))


def resnext50_32x4d(num_classes: int | None = None, dataset: str = "imagenet") -> ResNet:
    """ResNeXt-50 with 32 groups, each 4 channels wide in the first stage."""
    return ResNet(Bottleneck, (3, 4, 6, 3), *dataset_form(dataset, num_classes), groups=32, base_width=4)
