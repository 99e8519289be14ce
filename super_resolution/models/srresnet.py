"""SRResNet (Ledig et al., CVPR 2017) in the form of DHP (ECCV 2020)."""

from __future__ import annotations

from torch import Tensor, nn

from super_resolution.models.layers import reset, upsampling_steps


class ResidualBlock(nn.Module):
    """3x3 convolution, batch norm, PReLU, 3x3 convolution, batch norm, added to the input."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_feats, n_feats, 3, 1, 1)
        self.bn1 = nn.BatchNorm2d(n_feats)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(n_feats, n_feats, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(n_feats)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class SRResNet(nn.Module):
    """9x9 head, residual blocks within a long skip, pixel-shuffle upsampling with PReLUs, 3x3 tail.

    Args:
        scale: 2, 3 or 4.
        n_blocks: residual blocks.
        n_feats: channels.
        image_range: the inner range of images, 255 as in DHP; those that go in and come out are in [0, 1].

    Raises:
        UserError: a scale other than 2, 3 and 4.
    """

    def __init__(
        self, scale: int = 4, *, n_blocks: int = 16, n_feats: int = 64, image_range: float = 255.0
    ) -> None:
        super().__init__()
        self.image_range = image_range
        self.conv_first = nn.Conv2d(3, n_feats, 9, 1, 4)
        self.prelu = nn.PReLU()
        self.body = nn.Sequential(*(ResidualBlock(n_feats) for _ in range(n_blocks)))
        self.conv_after_body = nn.Conv2d(n_feats, n_feats, 3, 1, 1)
        self.bn_after_body = nn.BatchNorm2d(n_feats)
        upsample: list[nn.Module] = []
        for factor in upsampling_steps(scale):
            upsample += [
                nn.Conv2d(n_feats, n_feats * factor**2, 3, 1, 1),
                nn.PixelShuffle(factor),
                nn.PReLU(),
            ]
        self.upsample = nn.Sequential(*upsample)
        self.conv_last = nn.Conv2d(n_feats, 3, 3, 1, 1)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters and statistics by PyTorch's rules, for the widths that the layers have now."""
        reset(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] to (N, 3, scale H, scale W), not clipped."""
        head = self.prelu(self.conv_first(x * self.image_range))
        features = head + self.bn_after_body(self.conv_after_body(self.body(head)))
        return self.conv_last(self.upsample(features)) / self.image_range


def srresnet(scale: int = 4, n_blocks: int = 16, n_feats: int = 64, image_range: float = 255.0) -> SRResNet:
    """SRResNet: 32.827 G FLOPs (paper's convention), 1.5356 M parameters at x4 and 128x128."""
    return SRResNet(scale, n_blocks=n_blocks, n_feats=n_feats, image_range=image_range)
