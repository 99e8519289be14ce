"""MobileNetV2 (Sandler et al., CVPR 2018) with torchvision's names: its weights load (ImageNet form)."""

from __future__ import annotations

from torch import Tensor, nn

from classification.models.datasets import Dataset, dataset_form
from classification.models.layers import ConvNormActivation, FeatureClassifier

STEM_WIDTH, LAST_WIDTH = 32, 1280
# Expansion, width and depth of the seven stages (Table 2).
STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
# Strides of the stem and the stages by form; the last map has 7, 4, 4 and 2 pixels a side.
STRIDES: dict[str, tuple[int, tuple[int, ...]]] = {
    "imagenet": (2, (1, 2, 2, 2, 1, 2, 1)),
    "tiny-imagenet": (2, (1, 1, 2, 2, 1, 2, 1)),
    "cifar": (1, (1, 1, 2, 2, 1, 2, 1)),
    "digits": (1, (1, 1, 2, 2, 1, 1, 1)),
}


class InvertedResidual(nn.Module):
    """1x1 expansion (none where it is 1), depthwise 3x3, linear 1x1 projection; a residual where it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvNormActivation(inputs, hidden, 1, activation=nn.ReLU6))
        layers += [
            ConvNormActivation(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, outputs, H / stride, W / stride)."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(FeatureClassifier):
    """A 3x3 stem, inverted residuals, a 1x1 convolution, the mean over the map and a linear classifier.

    Args:
        dataset: fixes the input channels and the strides (`STRIDES`).
        num_classes: outputs of the classifier.
        dropout: probability of dropping a feature before the classifier.
    """

    def __init__(self, dataset: Dataset, num_classes: int, dropout: float) -> None:
        stem_stride, strides = STRIDES[dataset.form]
        layers: list[nn.Module] = [
            ConvNormActivation(dataset.channels, STEM_WIDTH, 3, stem_stride, activation=nn.ReLU6)
        ]
        inputs = STEM_WIDTH
        for (expansion, width, depth), stride in zip(STAGES, strides):
            for i in range(depth):
                layers.append(InvertedResidual(inputs, width, stride if i == 0 else 1, expansion))
                inputs = width
        layers.append(ConvNormActivation(inputs, LAST_WIDTH, 1, activation=nn.ReLU6))
        super().__init__(layers, nn.Dropout(dropout), nn.Linear(LAST_WIDTH, num_classes))


def mobilenetv2(
    num_classes: int | None = None, dataset: str = "imagenet", dropout: float = 0.2
) -> MobileNetV2:
    """MobileNetV2: 0.0930 G FLOPs (paper's convention), 2.480 M parameters on Tiny-ImageNet."""
    return MobileNetV2(*dataset_form(dataset, num_classes), dropout=dropout)
