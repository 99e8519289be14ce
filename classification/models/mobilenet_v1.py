"""MobileNetV1 (Howard et al., 2017) with ReLU6, in the form of DHP (ECCV 2020)."""

from __future__ import annotations

from torch import nn

from classification.models.datasets import Dataset, dataset_form
from classification.models.layers import ConvNormActivation, FeatureClassifier

STEM_WIDTH = 32
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
# The stem's stride, and the widths whose first block has stride 2; the last map has 7, 2, 2 and 2 pixels a side.
STRIDES: dict[str, tuple[int, tuple[int, ...]]] = {
    "imagenet": (2, (128, 256, 512, 1024)),
    "tiny-imagenet": (2, (128, 256, 512, 1024)),
    "cifar": (1, (128, 256, 512, 1024)),
    "digits": (1, (256, 512)),
}


class SeparableConv(nn.Sequential):
    """A depthwise 3x3 (`depthwise`) and a 1x1 convolution (`pointwise`), each with batch norm and ReLU6."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvNormActivation(inputs, inputs, 3, stride, groups=inputs, activation=nn.ReLU6)
        self.pointwise = ConvNormActivation(inputs, outputs, 1, activation=nn.ReLU6)


class MobileNetV1(FeatureClassifier):
    """A 3x3 stem, thirteen separable convolutions, the mean over the map, dropout and a linear classifier.

    Args:
        dataset: fixes the input channels and the strides (`STRIDES`).
        num_classes: outputs of the classifier.
        dropout: probability of dropping a feature before the classifier.
    """

    def __init__(self, dataset: Dataset, num_classes: int, dropout: float) -> None:
        stem_stride, halved_at = STRIDES[dataset.form]
        layers: list[nn.Module] = [
            ConvNormActivation(dataset.channels, STEM_WIDTH, 3, stem_stride, activation=nn.ReLU6)
        ]
        inputs = STEM_WIDTH
        for width in WIDTHS:
            layers.append(SeparableConv(inputs, width, 2 if width != inputs and width in halved_at else 1))
            inputs = width
        super().__init__(layers, nn.Dropout(dropout), nn.Linear(inputs, num_classes))


def mobilenetv1(
    num_classes: int | None = None, dataset: str = "imagenet", dropout: float = 0.2
) -> MobileNetV1:
    """MobileNetV1: 0.0478 G FLOPs (paper's convention), 3.412 M parameters on Tiny-ImageNet."""
    return MobileNetV1(*dataset_form(dataset, num_classes), dropout=dropout)
