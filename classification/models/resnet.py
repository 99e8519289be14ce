"""ResNets by data set: `core.networks.resnet` in the form that suits a data set's images."""

from __future__ import annotations

from classification.models.datasets import dataset_form
from core.networks.resnet import BasicBlock, Bottleneck, ResNet, Stem

# The last map has 7, 4, 4 and 2 pixels a side. Small images get the 3x3 stem that is customary for CIFAR.
STEMS: dict[str, Stem] = {
    "imagenet": Stem(),
    "tiny-imagenet": Stem(kernel=3, pool=False),
    "cifar": Stem(kernel=3, stride=1, pool=False),
    "digits": Stem(kernel=3, stride=1, pool=False, strides=(1, 2, 2, 1)),
}


def _resnet(
    block: type[BasicBlock] | type[Bottleneck],
    depths: tuple[int, int, int, int],
    dataset: str,
    num_classes: int | None,
    *,
    groups: int = 1,
    base_width: int = 64,
) -> ResNet:
    form, classes = dataset_form(dataset, num_classes)
    return ResNet(
        block, depths, STEMS[form.form], form.channels, classes, groups=groups, base_width=base_width
    )


def resnet18(num_classes: int | None = None, dataset: str = "imagenet") -> ResNet:
    """ResNet-18."""
    return _resnet(BasicBlock, (2, 2, 2, 2), dataset, num_classes)


def resnet34(num_classes: int | None = None, dataset: str = "imagenet") -> ResNet:
    """ResNet-34."""
    return _resnet(BasicBlock, (3, 4, 6, 3), dataset, num_classes)


def resnet50(num_classes: int | None = None, dataset: str = "imagenet") -> ResNet:
    """ResNet-50: 4.1177 G FLOPs (paper's convention), 25.557 M parameters on ImageNet."""
    return _resnet(Bottleneck, (3, 4, 6, 3), dataset, num_classes)


def resnet101(num_classes: int | None = None, dataset: str = "imagenet") -> ResNet:
    """ResNet-101."""
    return _resnet(Bottleneck, (3, 4, 23, 3), dataset, num_classes)


def resnext50_32x4d(num_classes: int | None = None, dataset: str = "imagenet") -> ResNet:
    """ResNeXt-50 with 32 groups, each 4 channels wide in the first stage."""
    return _resnet(Bottleneck, (3, 4, 6, 3), dataset, num_classes, groups=32, base_width=4)
