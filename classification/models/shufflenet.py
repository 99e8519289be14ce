"""ShuffleNetV2 (Ma et al., ECCV 2018) with torchvision's names: its weights load into the ImageNet form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from classification.models.datasets import Dataset, dataset_form
from classification.models.layers import ConvNormActivation

STEM_WIDTH, LAST_WIDTH = 24, 1024
STAGES = ((116, 4), (232, 8), (464, 4))  # width and depth (Table 5, 1x)
# The stem's stride, max-pool?, strides of the stages by form; the last map has 7, 4, 4 and 2 pixels a side.
STRIDES: dict[str, tuple[int, bool, tuple[int, int, int]]] = {
    "imagenet": (2, True, (2, 2, 2)),
    "tiny-imagenet": (2, False, (2, 2, 2)),
    "cifar": (1, False, (2, 2, 2)),
    "digits": (1, False, (2, 2, 1)),
}


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` equal parts of `x` (N, C, H, W)."""
    n, channels, height, width = x.shape
    x = x.view(n, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(n, channels, height, width)


class InvertedResidual(nn.Module):
    """Half of the channels pass by, the other half is convolved; in a stage's first block all are convolved.

    Args:
        inputs: channels of the input.
        outputs: channels of the output; half of them come from each branch.
        stride: of both branches.
        first: whether this block changes the width or the size, so that nothing can pass by.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, first: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.first = first
        self.branch1 = nn.Sequential()
        if first:
            self.branch1 = nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.Conv2d(inputs, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(inplace=True),
            )
        self.branch2 = nn.Sequential(
            nn.Conv2d(inputs if first else half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, outputs, H / stride, W / stride)."""
        if self.first:
            out = torch.cat((self.branch1(x), self.branch2(x)), 1)
        else:
            kept, convolved = x.chunk(2, 1)
            out = torch.cat((kept, self.branch2(convolved)), 1)
        return channel_shuffle(out, 2)


class ShuffleNetV2(nn.Module):
    """A 3x3 stem, three stages, a 1x1 convolution, the mean over the map and a linear classifier.

    Args:
        dataset: fixes the input channels and the strides (`STRIDES`).
        num_classes: outputs of the classifier.
    """

    def __init__(self, dataset: Dataset, num_classes: int) -> None:
        super().__init__()
        stem_stride, pool, strides = STRIDES[dataset.form]
        self.conv1 = ConvNormActivation(dataset.channels, STEM_WIDTH, 3, stem_stride)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        inputs = STEM_WIDTH
        stages: list[nn.Sequential] = []
        for (width, depth), stride in zip(STAGES, strides):
            blocks: list[nn.Module] = [InvertedResidual(inputs, width, stride, first=True)]
            blocks += [InvertedResidual(width, width, 1, first=False) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = width
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = ConvNormActivation(inputs, LAST_WIDTH, 1)
        self.fc = nn.Linear(LAST_WIDTH, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters and statistics by PyTorch's rules, as in torchvision, for the present widths."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(x.mean((2, 3)))


def shufflenetv2_x1_0(num_classes: int | None = None, dataset: str = "imagenet") -> ShuffleNetV2:
    """ShuffleNetV2 1x: 2.279 M parameters on ImageNet."""
    return ShuffleNetV2(*dataset_form(dataset, num_classes))
