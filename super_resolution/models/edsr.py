"""EDSR (Lim et al., CVPRW 2017), with BasicSR's names for all layers that both have.

LW-DNA and DHP prune the network with 8 blocks of 128 channels; the paper's own sizes are 16 x 64 ("baseline")
and 32 x 256. Images go in and come out in [0, 1]; inside, they are scaled to [0, `image_range`] and the mean
of DIV2K is subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from super_resolution.models.layers import ResidualBlock, reset, upsampling_steps

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class MeanShift(nn.Module):
    """Adds a constant to each colour; not trained.

    The reference does so with a 1x1 convolution, whose 12 parameters and 9 multiplications per pixel the published
    counts include. Here that convolution has zero weights and is added to its input: the sum tells the tracer that
    these channels are the image's own, which no search may widen or cut.
    """

    def __init__(self, shift: Sequence[float]) -> None:
        super().__init__()
        self.shift = tuple(shift)
        self.conv = nn.Conv2d(len(self.shift), len(self.shift), 1).requires_grad_(False)

    def init_weights(self) -> None:
        """Zero weights; the bias is the shift."""
        assert self.conv.bias is not None
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.copy_(torch.tensor(self.shift))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W), shifted."""
        return x + self.conv(x)


class EDSR(nn.Module):
    """Head, residual blocks within a long skip, pixel-shuffle upsampling without activations, and tail.

    Args:
        scale: 2, 3 or 4.
        n_blocks: residual blocks.
        n_feats: channels.
        res_scale: factor of each block's convolved branch.
        image_range: the inner range of images; the weights of BasicSR and of the paper expect 255.
        mean: the mean colour, subtracted at the head and added at the tail; range [0, 1].

    Raises:
        UserError: a scale other than 2, 3 and 4.
    """

    def __init__(
        self,
        scale: int = 4,
        *,
        n_blocks: int = 8,
        n_feats: int = 128,
        res_scale: float = 1.0,
        image_range: float = 255.0,
        mean: Sequence[float] = DIV2K_MEAN,
    ) -> None:
        super().__init__()
        self.image_range = image_range
        colours = len(mean)
        self.sub_mean = MeanShift([-image_range * value for value in mean])
        self.conv_first = nn.Conv2d(colours, n_feats, 3, 1, 1)
        self.body = nn.Sequential(*(ResidualBlock(n_feats, res_scale) for _ in range(n_blocks)))
        self.conv_after_body = nn.Conv2d(n_feats, n_feats, 3, 1, 1)
        self.upsample = nn.Sequential(
            *(
                layer
                for factor in upsampling_steps(scale)
                for layer in (nn.Conv2d(n_feats, n_feats * factor**2, 3, 1, 1), nn.PixelShuffle(factor))
            )
        )
        self.conv_last = nn.Conv2d(n_feats, colours, 3, 1, 1)
        self.add_mean = MeanShift([image_range * value for value in mean])
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters by PyTorch's rules, for the widths that the layers have now; the mean stays."""
        reset(self)
        self.sub_mean.init_weights()
        self.add_mean.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] to (N, 3, scale H, scale W), not clipped."""
        head = self.conv_first(self.sub_mean(x * self.image_range))
        features = head + self.conv_after_body(self.body(head))
        return self.add_mean(self.conv_last(self.upsample(features))) / self.image_range


def edsr(
    scale: int = 4,
    n_blocks: int = 8,
    n_feats: int = 128,
    res_scale: float = 1.0,
    image_range: float = 255.0,
    mean: Sequence[float] = DIV2K_MEAN,
) -> EDSR:
    """EDSR of any size; by default LW-DNA's: 90.371 G FLOPs, 3.6967 M parameters at x4 and 128x128."""
    return EDSR(
        scale, n_blocks=n_blocks, n_feats=n_feats, res_scale=res_scale, image_range=image_range, mean=mean
    )


def edsr_baseline(scale: int = 4) -> EDSR:
    """The paper's "EDSR-baseline" (BasicSR's EDSR-M): 16 blocks of 64 channels."""
    return EDSR(scale, n_blocks=16, n_feats=64)


def edsr_large(scale: int = 4) -> EDSR:
    """The paper's EDSR (BasicSR's EDSR-L): 32 blocks of 256 channels, branches scaled by 0.1."""
    return EDSR(scale, n_blocks=32, n_feats=256, res_scale=0.1)
