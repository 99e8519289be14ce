"""Layers and initialisation rules that several families share; those that every task shares are in `core.networks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from core.networks.layers import initialise


def round_width(width: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `width`, at least `divisor` and never below 90 % of `width`.

    Source: the reference code of MobileNetV2 (Sandler et al., CVPR 2018), also that of V3 and EfficientNet.
    """
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


class ConvNormActivation(nn.Sequential):
    """Convolution without bias (`0`), batch norm (`1`) and, unless it is None, an activation (`2`).

    The padding keeps the size at stride 1. The numbers are torchvision's names for the same layers.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        padding = (kernel_size - 1) // 2
        layers = [
            nn.Conv2d(inputs, outputs, kernel_size, stride, padding, groups=groups, bias=False),
            norm(outputs),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


class SqueezeExcitation(nn.Module):
    """Scales every channel by a gate computed from the means of all channels (Hu et al., CVPR 2018).

    The two fully connected layers are 1x1 convolutions with bias, `fc1` and `fc2`, as in torchvision.
    """

    def __init__(
        self,
        channels: int,
        squeeze: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)
        self.activation = activation()
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        """Gated `x`, (N, C, H, W)."""
        return x * self.gate(self.fc2(self.activation(self.fc1(self.avgpool(x)))))


class InvertedResidual(nn.Module):
    """1x1 expansion (none where it changes nothing), depthwise, `squeeze`, linear 1x1 projection.

    Args:
        inputs: channels of the input; a block that keeps channels and size is residual.
        outputs: channels of the output.
        hidden: channels in between.
        kernel_size: of the depthwise convolution.
        stride: likewise.
        activation: behind the first two convolutions.
        norm: makes a batch norm.
        squeeze: makes the module behind the depthwise convolution, for `hidden` channels; None for no module.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int,
        kernel_size: int,
        stride: int,
        activation: Callable[[], nn.Module],
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        squeeze: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        layer = partial(ConvNormActivation, norm=norm)
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(layer(inputs, hidden, 1, activation=activation))
        layers.append(layer(hidden, hidden, kernel_size, stride, groups=hidden, activation=activation))
        if squeeze is not None:
            layers.append(squeeze(hidden))
        self.block = nn.Sequential(*layers, layer(hidden, outputs, 1, activation=None))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, outputs, H / stride, W / stride)."""
        return x + self.block(x) if self.residual else self.block(x)


def linear_normal(linear: nn.Linear) -> None:
    """Normal with standard deviation 0.01, zero bias: torchvision's MobileNetV2, MobileNetV3 and RegNet."""
    nn.init.normal_(linear.weight, 0.0, 0.01)
    nn.init.zeros_(linear.bias)


class FeatureClassifier(nn.Module):
    """`features`, the mean over the map and a `classifier`: the form of torchvision's MobileNets and EfficientNets.

    Args:
        features: layers up to the last map.
        classifier: layers from its means to the logits.
    """

    def __init__(self, features: Sequence[nn.Module], *classifier: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(*classifier)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters and statistics by torchvision's rules for MobileNets, for the layers' present widths."""
        initialise(self, linear_normal)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, num_classes)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
