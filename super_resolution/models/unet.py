"""U-Net (Ronneberger et al., MICCAI 2015) for denoising grey images, in the size of DHP (ECCV 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from super_resolution.models.layers import reset


class Encoder(nn.Module):
    """Two 3x3 convolutions, each with a ReLU; with `pool`, behind a 2x2 max pooling."""

    def __init__(self, inputs: int, outputs: int, pool: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, outputs, H / 2, W / 2), rounded down; without pooling (N, outputs, H, W)."""
        return F.relu(self.conv2(F.relu(self.conv1(self.pool(x)))))


class Decoder(nn.Module):
    """A transposed 2x2 convolution of stride 2, concatenation with the encoder's map, two convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, 2)
        self.conv1 = nn.Conv2d(2 * outputs, outputs, 3, 1, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`x` (N, inputs, h, w) and `skip` (N, outputs, H, W), with h = H // 2, to (N, outputs, H, W)."""
        # The size is passed on because pooling has rounded an odd one down.
        x = torch.cat((self.up(x, skip.shape[2:]), skip), 1)
        return F.relu(self.conv2(F.relu(self.conv1(x))))


class UNet(nn.Module):
    """Encoders that halve the map and double the width, decoders that undo both, a 1x1 tail.

    The ReLUs are functional, as in the reference: the paper's convention does not count them.

    Args:
        depth: encoders; the deepest works at 1 / 2^(depth - 1) of the size.
        n_feats: channels of the first encoder.
        colours: channels of an image.
        image_range: the inner range of images, 255 as in DHP; those that go in and come out are in [0, 1].
    """

    def __init__(
        self, *, depth: int = 5, n_feats: int = 32, colours: int = 1, image_range: float = 255.0
    ) -> None:
        super().__init__()
        self.image_range = image_range
        widths = [n_feats * 2**level for level in range(depth)]
        self.encoders = nn.ModuleList(
            Encoder(inputs, outputs, pool=level > 0)
            for level, (inputs, outputs) in enumerate(zip([colours, *widths], widths))
        )
        self.decoders = nn.ModuleList(
            Decoder(inputs, outputs) for inputs, outputs in zip(widths[:0:-1], widths[-2::-1])
        )
        self.conv_last = nn.Conv2d(n_feats, colours, 1)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters by PyTorch's rules, for the widths that the layers have now."""
        reset(self)

    def forward(self, x: Tensor) -> Tensor:
        """Noisy images (N, C, H, W) in [0, 1] to clean ones of the same shape, not clipped.

        H and W are at least 2^(depth - 1).
        """
        x = x * self.image_range
        skips: list[Tensor] = []
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
        skips.pop()
        for decoder in self.decoders:
            x = decoder(x, skips.pop())
        return self.conv_last(x) / self.image_range


def unet(depth: int = 5, n_feats: int = 32, colours: int = 1, image_range: float = 255.0) -> UNet:
    """U-Net: 3.008 G FLOPs, 7.760 M parameters at 128x128.

    DHP prints 3.41 G, since it counts the transposed convolutions (0.134 G) per output pixel, not per input pixel.
    """
    return UNet(depth=depth, n_feats=n_feats, colours=colours, image_range=image_range)
