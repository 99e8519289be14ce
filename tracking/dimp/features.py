"""Classification features (Bhat et al., ICCV 2019, section 3.4): one convolution, then a fixed energy."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.networks.resnet import BasicBlock
from tracking.dimp.precision import full_precision


class InstanceL2Norm(nn.Module):
    """Scales every map so that the root mean square of its entries is `scale`.

    Args:
        scale: the wanted root mean square.
        eps: added to the map's squared norm, so that an empty map stays finite.
    """

    def __init__(self, scale: float, eps: float = 1e-5) -> None:
        super().__init__()
        self.scale = scale
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, in float32 at least."""
        with full_precision(x):
            x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            energy = x.square().sum(dim=(1, 2, 3), keepdim=True) + self.eps
            return x * (self.scale * torch.sqrt(x[0].numel() / energy))


def classification_features(inputs: int, channels: int, filter_size: int, blocks: int = 0) -> nn.Sequential:
    """The layers between the backbone's stage of stride 16 and the target's filter.

    Args:
        inputs: channels of the backbone's stage.
        channels: channels that the filter sees.
        filter_size: the filter's side; it sets the features' energy so that scores of a fresh filter are of order 1.
        blocks: residual blocks before the convolution (0 in DiMP-50, 1 in DiMP-18).
    """
    residual = [BasicBlock(inputs, inputs, 1, 1, 64) for _ in range(blocks)]
    conv = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
    nn.init.normal_(conv.weight, 0, math.sqrt(2 / (9 * channels)))
    norm = InstanceL2Norm(1 / math.sqrt(channels * filter_size**2))
    return nn.Sequential(*residual, conv, norm)
