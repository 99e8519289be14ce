"""Layers and initialisation that several networks share."""

from __future__ import annotations

from torch import Tensor, nn

from core.errors import UserError

SCALES = (2, 3, 4)


def upsampling_steps(scale: int) -> tuple[int, ...]:
    """Pixel-shuffle factors that make up `scale`: one step for 2 and 3, two steps of 2 for 4.

    Raises:
        UserError: a scale other than 2, 3 and 4.
    """
    if scale not in SCALES:
        raise UserError(f"scale {scale} is not supported: choose from 2, 3, 4.")
    return (2, 2) if scale == 4 else (scale,)


class ResidualBlock(nn.Module):
    """3x3 convolution, ReLU, 3x3 convolution, added to the input; no batch norm (Lim et al., CVPRW 2017).

    Args:
        n_feats: channels.
        res_scale: factor of the convolved branch.
    """

    def __init__(self, n_feats: int, res_scale: float = 1.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_feats, n_feats, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_feats, n_feats, 3, 1, 1)
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        out = self.conv2(self.relu(self.conv1(x)))
        return x + out if self.res_scale == 1.0 else x + out * self.res_scale


def reset(network: nn.Module) -> None:
    """Give every parameter and running statistic PyTorch's default, in place, whatever its shape.

    The reference networks keep these defaults: convolutions uniform within 1 / sqrt(fan-in), bias too; PReLU
    0.25; batch norm scale 1 and shift 0.

    Raises:
        TypeError: a layer with parameters has no `reset_parameters`, and would keep its old values.
    """
    for name, module in network.named_modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif any(True for _ in module.parameters(recurse=False)):
            raise TypeError(f"'{name}': no initialisation rule for {type(module).__name__}")
