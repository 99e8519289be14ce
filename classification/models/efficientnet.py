"""EfficientNet-B0 (Tan & Le, ICML 2019) without drop-connect, as LW-DNA trains it, with torchvision's names."""

from __future__ import annotations

from functools import partial

from torch import nn

from classification.models.datasets import Dataset, dataset_form
from classification.models.layers import (
    ConvNormActivation,
    FeatureClassifier,
    InvertedResidual,
    SqueezeExcitation,
)
from core.networks.layers import chain, initialise

STEM_WIDTH, LAST_WIDTH = 32, 1280
SWISH = partial(nn.SiLU, inplace=True)
# Expansion, kernel, width and depth of the seven stages (Table 1).
STAGES = (
    (1, 3, 16, 1),
    (6, 3, 24, 2),
    (6, 5, 40, 2),
    (6, 3, 80, 3),
    (6, 5, 112, 3),
    (6, 5, 192, 4),
    (6, 3, 320, 1),
)
# Strides of the stem and the stages by form; the last map has 7, 4, 8 and 2 pixels a side.
STRIDES: dict[str, tuple[int, tuple[int, ...]]] = {
    "imagenet": (2, (1, 2, 2, 2, 1, 2, 1)),
    "tiny-imagenet": (1, (1, 2, 2, 2, 1, 2, 1)),
    "cifar": (1, (1, 1, 1, 2, 1, 2, 1)),
    "digits": (1, (1, 1, 1, 2, 1, 2, 1)),
}


def mb_conv(inputs: int, outputs: int, expansion: int, kernel_size: int, stride: int) -> InvertedResidual:
    """An inverted residual with squeeze-and-excitation, whose squeeze has a quarter of the *block's* input channels."""
    return InvertedResidual(inputs, outputs, hidden=inputs * expansion, kernel_size=kernel_size, stride=stride,
                            activation=SWISH,
                            squeeze=lambda hidden: SqueezeExcitation(hidden, inputs // 4, SWISH))  # fmt: skip


class EfficientNet(FeatureClassifier):
    """A 3x3 stem, seven stages, a 1x1 convolution, the mean over the map, dropout and a linear classifier.

    Args:
        dataset: fixes the input channels and the strides (`STRIDES`).
        num_classes: outputs of the classifier.
        dropout: probability of dropping a feature before the classifier.
    """

    def __init__(self, dataset: Dataset, num_classes: int, dropout: float) -> None:
        stem_stride, strides = STRIDES[dataset.form]
        layers: list[nn.Module] = [
            ConvNormActivation(dataset.channels, STEM_WIDTH, 3, stem_stride, activation=SWISH)
        ]
        inputs = STEM_WIDTH
        for (expansion, kernel_size, width, depth), stride in zip(STAGES, strides):
            make = partial(mb_conv, outputs=width, expansion=expansion, kernel_size=kernel_size)
            layers.append(nn.Sequential(*chain(make, inputs, width, depth, stride)))
            inputs = width
        layers.append(ConvNormActivation(inputs, LAST_WIDTH, 1, activation=SWISH))
        super().__init__(layers, nn.Dropout(dropout), nn.Linear(LAST_WIDTH, num_classes))

    def init_weights(self) -> None:
        """Fresh parameters and statistics by torchvision's rules, for the widths that the layers have now."""
        initialise(self, _linear_uniform)


def _linear_uniform(linear: nn.Linear) -> None:
    bound = linear.weight.shape[0] ** -0.5
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.zeros_(linear.bias)


def efficientnet_b0(
    num_classes: int | None = None, dataset: str = "imagenet", dropout: float = 0.0
) -> EfficientNet:
    """EfficientNet-B0: 0.3993 G FLOPs (paper's convention), 5.289 M parameters on ImageNet."""
    return EfficientNet(*dataset_form(dataset, num_classes), dropout=dropout)
