"""MobileNetV3-small (Howard et al., ICCV 2019), LW-DNA's reference (3.108 M) and torchvision's (2.543 M).

The reference differs from torchvision's. It squeezes after the last convolution too, and to exactly a quarter, not to a
multiple of 8. It has 1280 features before the classifier, not 1024, no dropout, and PyTorch's batch norm constants. It
computes the hard swish with a ReLU6, which the published FLOPs count. Both forms have torchvision's
names where they have the same layer; torchvision's weights load strictly into its form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from classification.models.datasets import Dataset, dataset_form
from classification.models.layers import (
    ConvNormActivation,
    FeatureClassifier,
    InvertedResidual,
    SqueezeExcitation,
    round_width,
)

STEM_WIDTH, LAST_CONV_WIDTH = 16, 576
# Kernel, expanded width, width, squeeze-and-excitation?, hard-swish? of each block (Table 2).
BLOCKS = (
    (3, 16, 16, True, False),
    (3, 72, 24, False, False),
    (3, 88, 24, False, False),
    (5, 96, 40, True, True),
    (5, 240, 40, True, True),
    (5, 240, 40, True, True),
    (5, 120, 48, True, True),
    (5, 144, 48, True, True),
    (5, 288, 96, True, True),
    (5, 576, 96, True, True),
    (5, 576, 96, True, True),
)
# The stem's stride and the blocks of stride 2 by form; the last map has 7, 4, 2 and 2 pixels a side.
STRIDES: dict[str, tuple[int, tuple[int, ...]]] = {
    "imagenet": (2, (0, 1, 3, 8)),
    "tiny-imagenet": (1, (0, 1, 3, 8)),
    "cifar": (1, (0, 1, 3, 8)),
    "digits": (1, (1, 3)),
}


class ReLU6HardSwish(nn.Module):
    """x ReLU6(x + 3) / 6: `nn.Hardswish`, computed with a ReLU6 module as the paper writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.relu6 = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return x * self.relu6(x + 3) / 6


@dataclass(frozen=True)
class Form:
    """Where the two forms of the network differ.

    Attributes:
        hard_swish: makes a hard swish.
        head_width: features between the two linear layers of the classifier.
        final_squeeze: squeeze-and-excitation behind the last 1x1 convolution.
        squeeze_divisor: squeeze widths are a quarter of their input, rounded to a multiple of this.
        norm_eps, norm_momentum: constants of every batch norm.
    """

    hard_swish: Callable[[], nn.Module]
    head_width: int
    final_squeeze: bool
    squeeze_divisor: int
    norm_eps: float
    norm_momentum: float

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """A batch norm of this form."""
        return nn.BatchNorm2d(channels, eps=self.norm_eps, momentum=self.norm_momentum)

    def squeeze(self, channels: int) -> SqueezeExcitation:
        """A squeeze-and-excitation of this form, its gate a hard sigmoid."""
        return SqueezeExcitation(
            channels, round_width(channels // 4, self.squeeze_divisor), gate=nn.Hardsigmoid
        )


REFERENCE = Form(
    ReLU6HardSwish, 1280, final_squeeze=True, squeeze_divisor=1, norm_eps=1e-5, norm_momentum=0.1
)
TORCHVISION = Form(
    partial(nn.Hardswish, inplace=True),
    1024,
    final_squeeze=False,
    squeeze_divisor=8,
    norm_eps=1e-3,
    norm_momentum=0.01,
)


class MobileNetV3(FeatureClassifier):
    """A 3x3 stem, inverted residuals, a 1x1 convolution, the mean over the map and a two-layer classifier.

    Args:
        form: `REFERENCE` or `TORCHVISION`.
        dataset: fixes the input channels and the strides (`STRIDES`).
        num_classes: outputs of the classifier.
        dropout: probability of dropping a feature before the last layer.
    """

    def __init__(self, form: Form, dataset: Dataset, num_classes: int, dropout: float) -> None:
        stem_stride, halved_at = STRIDES[dataset.form]
        relu = partial(nn.ReLU, inplace=True)
        layers: list[nn.Module] = [
            ConvNormActivation(
                dataset.channels, STEM_WIDTH, 3, stem_stride, activation=form.hard_swish, norm=form.norm
            )
        ]
        inputs = STEM_WIDTH
        for i, (kernel_size, hidden, width, squeeze, swish) in enumerate(BLOCKS):
            stride = 2 if i in halved_at else 1
            activation = form.hard_swish if swish else relu
            layers.append(
                InvertedResidual(
                    inputs,
                    width,
                    hidden=hidden,
                    kernel_size=kernel_size,
                    stride=stride,
                    activation=activation,
                    norm=form.norm,
                    squeeze=form.squeeze if squeeze else None,
                )
            )
            inputs = width
        layers.append(
            ConvNormActivation(inputs, LAST_CONV_WIDTH, 1, activation=form.hard_swish, norm=form.norm)
        )
        if form.final_squeeze:
            layers.append(form.squeeze(LAST_CONV_WIDTH))
        super().__init__(
            layers,
            nn.Linear(LAST_CONV_WIDTH, form.head_width),
            form.hard_swish(),
            nn.Dropout(dropout),
            nn.Linear(form.head_width, num_classes),
        )


def mobilenetv3_small(
    num_classes: int | None = None, dataset: str = "imagenet", dropout: float = 0.0
) -> MobileNetV3:
    """LW-DNA's MobileNetV3-small: 0.0612 G FLOPs (paper's convention), 3.108 M parameters on ImageNet."""
    return MobileNetV3(REFERENCE, *dataset_form(dataset, num_classes), dropout=dropout)


def mobilenetv3_small_torchvision(
    num_classes: int | None = None, dataset: str = "imagenet", dropout: float = 0.2
) -> MobileNetV3:
    """MobileNetV3-small as torchvision has it: 2.543 M parameters on ImageNet."""
    return MobileNetV3(TORCHVISION, *dataset_form(dataset, num_classes), dropout=dropout)
