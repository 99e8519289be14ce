"""DnCNN (Zhang et al., TIP 2017) for grey images, in the size of DHP (ECCV 2020)."""

from __future__ import annotations

from torch import Tensor, nn

from super_resolution.models.layers import reset


class DnCNN(nn.Module):
    """Head with ReLU, blocks of convolution, batch norm and ReLU, tail; predicts the change of the image.

    Args:
        n_blocks: blocks between head and tail.
        n_feats: channels.
        colours: channels of an image.
        image_range: the inner range of images, 255 as in DHP; those that go in and come out are in [0, 1].
    """

    def __init__(
        self, *, n_blocks: int = 15, n_feats: int = 64, colours: int = 1, image_range: float = 255.0
    ) -> None:
        super().__init__()
        self.image_range = image_range
        layers: list[nn.Module] = [nn.Conv2d(colours, n_feats, 3, 1, 1), nn.ReLU(inplace=True)]
        for _ in range(n_blocks):
            layers += [
                nn.Conv2d(n_feats, n_feats, 3, 1, 1),
                nn.BatchNorm2d(n_feats),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Conv2d(n_feats, colours, 3, 1, 1))
        self.layers = nn.Sequential(*layers)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh parameters and statistics by PyTorch's rules, for the widths that the layers have now."""
        reset(self)

    def forward(self, x: Tensor) -> Tensor:
        """Noisy images (N, C, H, W) in [0, 1] to clean ones of the same shape, not clipped."""
        return x + self.layers(x * self.image_range) / self.image_range


def dncnn(n_blocks: int = 15, n_feats: int = 64, colours: int = 1, image_range: float = 255.0) -> DnCNN:
    """DnCNN: 9.127 G FLOPs (paper's convention), 0.557 M parameters at 128x128."""
    return DnCNN(n_blocks=n_blocks, n_feats=n_feats, colours=colours, image_range=image_range)
