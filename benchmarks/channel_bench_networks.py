"""The two spaces of Channel-Bench-Macro as ordinary networks for CIFAR's 3x32x32 images.

Su et al., "Searching for Network Width with Bilaterally Coupled Network", 2022 (github.com/xiusu/Channel-Bench-Macro).
A name of seven digits is a network: digit i is the width of layer i in quarters of the space's full width. Batch norm
and ReLU follow every convolution. The exceptions are the linear projections of inverted bottlenecks and the second
convolutions of basic blocks, whose ReLU comes after the addition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.networks.layers import initialise

QUARTERS = 4  # shares of the full width that a layer may have
BASELINE = "2222222"  # regular, with room to grow twofold
IMAGE = (3, 32, 32)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs)]  # fmt: skip


class Block(nn.Module):
    """A body, and the identity beside it if shapes allow, else no shortcut.

    This follows from the table's own FLOPs and parameters: they leave no room for a 1x1 convolution on a shortcut.

    Args:
        body: layers.
        residual: whether the identity is added.
        activation: after the sum.
    """

    def __init__(self, body: Sequence[nn.Module], residual: bool, activation: nn.Module) -> None:
        super().__init__()
        self.body, self.residual, self.activation = nn.Sequential(*body), residual, activation

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        return self.activation(x + self.body(x) if self.residual else self.body(x))


def inverted_bottleneck(inputs: int, inner: int, outputs: int, stride: int = 1) -> Block:
    """1x1 to `inner`, depthwise 3x3, linear 1x1 to `outputs`."""
    body = [*_convolution(inputs, inner, 1), nn.ReLU(), *_convolution(inner, inner, 3, stride, inner), nn.ReLU(),
            *_convolution(inner, outputs, 1)]  # fmt: skip
    return Block(body, stride == 1 and inputs == outputs, nn.Identity())


def basic_block(inputs: int, inner: int, outputs: int, stride: int = 1) -> Block:
    """Two 3x3 convolutions."""
    body = [*_convolution(inputs, inner, 3, stride), nn.ReLU(), *_convolution(inner, outputs, 3)]
    return Block(body, stride == 1 and inputs == outputs, nn.ReLU())


class MacroNetwork(nn.Module):
    """A stem of stride 2, blocks, the mean over the map and a linear classifier.

    Args:
        stem: output channels of the first convolution.
        blocks: the blocks after it.
        features: channels that the classifier sees.
        num_classes: outputs of the classifier.
    """

    def __init__(self, stem: int, blocks: Sequence[nn.Module], features: int, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(IMAGE[0], stem, 3, 2), nn.ReLU())
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(features, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters and statistics, for the widths that the layers have now."""
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) to logits (N, num_classes)."""
        return self.fc(self.pool(self.blocks(self.stem(x))).flatten(1))


def mobilenet(widths: Sequence[int]) -> MacroNetwork:
    """Four inverted bottlenecks and a 1x1 convolution, at seven widths."""
    trunk, first, second, third, late, fourth, head = widths
    blocks = [
        inverted_bottleneck(trunk, first, trunk),
        inverted_bottleneck(trunk, second, trunk),
        inverted_bottleneck(trunk, third, late, 2),
        inverted_bottleneck(late, fourth, late),
        nn.Sequential(*_convolution(late, head, 1), nn.ReLU()),
    ]
    return MacroNetwork(trunk, blocks, head)


def resnet(widths: Sequence[int]) -> MacroNetwork:
    """Five basic blocks, at seven widths."""
    trunk, first, second, third, late, fourth, fifth = widths
    blocks = [
        basic_block(trunk, first, trunk),
        basic_block(trunk, second, trunk),
        basic_block(trunk, third, late, 2),
        basic_block(late, fourth, late),
        basic_block(late, fifth, late),
    ]
    return MacroNetwork(trunk, blocks, late)


@dataclass(frozen=True)
class MacroSpace:
    """One of the two spaces.

    Attributes:
        title: for the page.
        full: widths of "4444444", in the order of the digits.
        build: a network at seven widths.
        groups: the channel group of `core.graph` that each digit sets, by its name.
    """

    title: str
    full: tuple[int, ...]
    build: Callable[[Sequence[int]], MacroNetwork]
    groups: tuple[str, ...]

    def network(self, digits: str) -> MacroNetwork:
        """The network of that name, freshly initialised from torch's global generator."""
        return self.build(
            [full * int(digit) // QUARTERS for full, digit in zip(self.full, digits, strict=True)]
        )


SPACES = {
    "MobileNet": MacroSpace(
        "inverted bottlenecks", (128, 768, 768, 768, 256, 1536, 1024), mobilenet,
        ("stem.0", "blocks.0.body.0", "blocks.1.body.0", "blocks.2.body.0", "blocks.2.body.6", "blocks.3.body.0",
         "blocks.4.0")),
    "ResNet": MacroSpace(
        "basic blocks", (256, 256, 256, 512, 512, 512, 512), resnet,
        ("stem.0", "blocks.0.body.0", "blocks.1.body.0", "blocks.2.body.0", "blocks.2.body.3", "blocks.3.body.0",
         "blocks.4.body.0")),
}  # fmt: skip


def regular_mobilenet(classes: int = 100, parts: int = 1) -> MacroNetwork:
    """The regular inverted bottleneck network, "2222222", for images other than CIFAR-10's.

    Args:
        classes: of the images; half of Tiny-ImageNet has 100.
        parts: every width is divided by this.
    """
    network = mobilenet([full // 2 // parts for full in SPACES["MobileNet"].full])
    network.fc = nn.Linear(network.fc.in_features, classes)
    network.init_weights()
    return network


def half_mobilenet() -> MacroNetwork:
    """`regular_mobilenet` at half of its widths, for shorter trainings."""
    return regular_mobilenet(parts=2)


def image() -> Tensor:
    """One blank image; only its shape matters."""
    return torch.zeros(1, *IMAGE)
