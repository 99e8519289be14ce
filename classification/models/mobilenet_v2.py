"""MobileNetV2 (Sandler et al., CVPR 2018) with torchvision's names: its weights load (ImageNet form)."""

from __future__ import annotations

from torch import Tensor, nn

from classification.models.datasets import Dataset, dataset_form
from classification.models.layers import ConvNormActivation, FeatureClassifier

STEM_WIDTH, LAST_WIDTH = 32, 1280
Stages = tuple[tuple[int, int, int], ...]  # expansion, width and depth of each
# The seven stages of Table 2.
STAGES: Stages = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
# Strides of the stem and the stages by form; the last map has 7, 4, 4 and 2 pixels a side.
STRIDES: dict[str, tuple[int, tuple[int, ...]]] = {
    "imagenet": (2, (1, 2, 2, 2, 1, 2, 1)),
    "tiny-imagenet": (2, (1, 1, 2, 2, 1, 2, 1)),
    "cifar": (1, (1, 1, 2, 2, 1, 2, 1)),
    "digits": (1, (1, 1, 2, 2, 1, 1, 1)),
}
# A network of the same kind for images of 16 to 32 pixels, on which a CPU can train dozens.
SMALL_STAGES: Stages = ((1, 16, 1), (4, 24, 2), (4, 40, 3), (4, 64, 2))
SMALL_STEM_WIDTH, SMALL_LAST_WIDTH = 16, 320
SMALL_STRIDES = (1, (1, 2, 2, 1))


class InvertedResidual(nn.Module):
    """1x1 expansion (none if it is 1), depthwise 3x3, linear 1x1 projection; residual if shapes agree."""

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
        dataset: fixes the input channels.
        num_classes: outputs of the classifier.
        dropout: probability of dropping a feature before the classifier.
        strides: of the stem, and of the first block of every stage.
        stages: expansion, width and depth of each.
        stem: its width.
        last: width of the last convolution.
    """

    def __init__(
        self,
        dataset: Dataset,
        num_classes: int,
        dropout: float,
        *,
        strides: tuple[int, tuple[int, ...]],
        stages: Stages = STAGES,
        stem: int = STEM_WIDTH,
        last: int = LAST_WIDTH,
    ) -> None:
        layers: list[nn.Module] = [
            ConvNormActivation(dataset.channels, stem, 3, strides[0], activation=nn.ReLU6)
        ]
        inputs = stem
        for (expansion, width, depth), stride in zip(stages, strides[1], strict=True):
            for i in range(depth):
                layers.append(InvertedResidual(inputs, width, stride if i == 0 else 1, expansion))
                inputs = width
        layers.append(ConvNormActivation(inputs, last, 1, activation=nn.ReLU6))
        super().__init__(layers, nn.Dropout(dropout), nn.Linear(last, num_classes))


def mobilenetv2(
    num_classes: int | None = None, dataset: str = "imagenet", dropout: float = 0.2
) -> MobileNetV2:
    """MobileNetV2: 0.0930 G FLOPs (paper's convention), 2.480 M parameters on Tiny-ImageNet."""
    form, classes = dataset_form(dataset, num_classes)
    return MobileNetV2(form, classes, dropout, strides=STRIDES[form.form])


def mobilenetv2_small(
    num_classes: int | None = None, dataset: str = "tiny-imagenet", dropout: float = 0.0
) -> MobileNetV2:
    """Eight inverted residuals for small images, from no paper: 3.103 M FLOPs (paper's convention), 0.156 M parameters.

    The numbers are for 100 classes of images of 16x16 pixels.
    """
    form, classes = dataset_form(dataset, num_classes)
    return MobileNetV2(form, classes, dropout, strides=SMALL_STRIDES, stages=SMALL_STAGES, stem=SMALL_STEM_WIDTH,
                       last=SMALL_LAST_WIDTH)  # fmt: skip
