"""Residual networks for CIFAR-sized images (He et al., CVPR 2016, section 4.2), as in DHP (ECCV 2020).

Stages of 16, 32 and 64 channels behind a 3x3 stem with bias; where the shape changes, the shortcut is a 1x1
convolution with batch norm. Each ReLU is a module of its own: the published FLOPs count both of a block.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from classification.models.datasets import Dataset, dataset_form
from core.networks.layers import chain, initialise
from core.networks.resnet import BasicBlock, Bottleneck

# Stem stride by form; the stages' strides are 1, 2, 2, so the last map has 28, 8, 8 and 2 pixels a side.
STEM_STRIDES: dict[str, int] = {"imagenet": 2, "tiny-imagenet": 2, "cifar": 1, "digits": 1}


class CifarResNet(nn.Module):
    """A stem, three stages of `depth` blocks, the mean over the map and a linear classifier.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depth: blocks per stage.
        dataset: fixes the input channels and the stem's stride (`STEM_STRIDES`).
        num_classes: outputs of the classifier.
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depth: int, dataset: Dataset, num_classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dataset.channels, 16, 3, STEM_STRIDES[dataset.form], 1)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        inputs = 16
        stages: list[nn.Sequential] = []
        for planes, stride in ((16, 1), (32, 2), (64, 2)):
            outputs = planes * block.expansion
            stages.append(
                nn.Sequential(
                    *chain(partial(block, planes=planes, own_relus=True), inputs, outputs, depth, stride)
                )
            )
            inputs = outputs
        self.layer1, self.layer2, self.layer3 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters and statistics (He et al., ICCV 2015), for the widths that the layers have now."""
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def resnet20(num_classes: int | None = None, dataset: str = "cifar") -> CifarResNet:
    """ResNet-20: 0.0414 G FLOPs (paper's convention), 0.2725 M parameters on CIFAR-10."""
    return CifarResNet(BasicBlock, 3, *dataset_form(dataset, num_classes))


def resnet56(num_classes: int | None = None, dataset: str = "cifar") -> CifarResNet:
    """ResNet-56: 0.1274 G FLOPs (paper's convention), 0.8558 M parameters on CIFAR-10."""
    return CifarResNet(BasicBlock, 9, *dataset_form(dataset, num_classes))


def resnet110(
    num_classes: int | None = None, dataset: str = "cifar", bottleneck: bool = False
) -> CifarResNet:
    """ResNet-110 of basic blocks, as He et al. have it, or of bottlenecks, as DHP (Table 1) has it."""
    if bottleneck:
        return CifarResNet(Bottleneck, 12, *dataset_form(dataset, num_classes))
    return CifarResNet(BasicBlock, 18, *dataset_form(dataset, num_classes))


def resnet164(num_classes: int | None = None, dataset: str = "cifar", bottleneck: bool = True) -> CifarResNet:
    """ResNet-164 of bottlenecks, as DHP (Table 1) has it, or of basic blocks."""
    if bottleneck:
        return CifarResNet(Bottleneck, 18, *dataset_form(dataset, num_classes))
    return CifarResNet(BasicBlock, 27, *dataset_form(dataset, num_classes))
