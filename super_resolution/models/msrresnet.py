"""MSRResNet: BasicSR's modified SRResNet, with its names (Wang et al., ESRGAN, ECCVW 2018).

It differs from SRResNet: no batch norm, leaky ReLUs outside the blocks, one more convolution before the tail, and it
predicts the difference from a bilinearly enlarged image. BasicSR's own class is not used because its package is an
optional extra that must be repaired to be imported beside a recent torchvision, and because a network here can draw new
weights at any widths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from super_resolution.models.layers import ResidualBlock, upsampling_steps


class MSRResNet(nn.Module):
    """Head, residual blocks, pixel-shuffle upsampling, two convolutions; added to a bilinear enlargement.

    Args:
        scale: 2, 3 or 4.
        n_blocks: residual blocks.
        n_feats: channels.

    Raises:
        UserError: a scale other than 2, 3 and 4.
    """

    def __init__(self, scale: int = 4, *, n_blocks: int = 16, n_feats: int = 64) -> None:
        super().__init__()
        self.scale = scale
        first, *rest = upsampling_steps(scale)
        self.conv_first = nn.Conv2d(3, n_feats, 3, 1, 1)
        self.body = nn.Sequential(*(ResidualBlock(n_feats) for _ in range(n_blocks)))
        self.upconv1 = nn.Conv2d(n_feats, n_feats * first**2, 3, 1, 1)
        self.upconv2 = nn.Conv2d(n_feats, n_feats * rest[0] ** 2, 3, 1, 1) if rest else None
        self.pixel_shuffle = nn.PixelShuffle(first)
        # One module for each step, unlike BasicSR: ties with the trunk name each step's channels.
        self.pixel_shuffle2 = nn.PixelShuffle(rest[0]) if rest else None
        self.conv_hr = nn.Conv2d(n_feats, n_feats, 3, 1, 1)
        self.conv_last = nn.Conv2d(n_feats, 3, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters by BasicSR's rule, for the present widths: He normal times 0.1, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                with torch.no_grad():
                    module.weight.mul_(0.1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] to (N, 3, scale H, scale W), not clipped."""
        out = self.body(self.lrelu(self.conv_first(x)))
        out = self.lrelu(self.pixel_shuffle(self.upconv1(out)))
        if self.upconv2 is not None and self.pixel_shuffle2 is not None:
            out = self.lrelu(self.pixel_shuffle2(self.upconv2(out)))
        out = self.conv_last(self.lrelu(self.conv_hr(out)))
        return out + F.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=False)


def msrresnet(scale: int = 4, n_blocks: int = 16, n_feats: int = 64) -> MSRResNet:
    """BasicSR's MSRResNet: 1,517,571 parameters at x4."""
    return MSRResNet(scale, n_blocks=n_blocks, n_feats=n_feats)
