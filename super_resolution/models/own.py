"""Networks of the user's own: the requirements on what a factory returns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.errors import UserError, first_line
from core.modules import evaluating
from core.surgery.initialise import seeded
from super_resolution.models import build
from super_resolution.tiling import input_channels

_SEEN = (
    32,
    48,
)  # rows and columns of the test image: unequal, and multiples of 16, which windowed networks need


def check_own_network(network: nn.Module, model: str, scale: int) -> int:
    """Try a network on one image, (1, C, 32, 48): it has to give (1, C, 32 scale, 48 scale), C being 1 or 3.

    Args:
        network: what the factory returned; its mode is left as it was.
        model: the factory, for messages.
        scale: the wanted up-sampling factor.

    Returns:
        C, the channels of the images that it takes.

    Raises:
        UserError: it fails on grey and on RGB images, or returns anything else.
    """
    channels = input_channels(network)
    if channels not in (1, 3):
        raise UserError(f"model '{model}' takes neither RGB nor grey images: give its input 3 channels or 1")

    parameter = next(network.parameters())
    images = torch.zeros(1, channels, *_SEEN, dtype=parameter.dtype, device=parameter.device)
    with seeded(0), torch.no_grad(), evaluating(network):
        try:
            output = network(images)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise UserError(
                f"model '{model}' fails on an image of shape {tuple(images.shape)}: {first_line(error)}"
            ) from error
    wanted = (1, channels, _SEEN[0] * scale, _SEEN[1] * scale)
    if not isinstance(output, Tensor) or tuple(output.shape) != wanted:
        what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise UserError(
            f"model '{model}' turns an image of shape {tuple(images.shape)} into {what}, not {wanted}: a network for "
            f"x{scale} gives as many channels and {scale} times the sides; name its scale with --scale"
        )
    return channels


def own_channels(model: str, scale: int, options: dict[str, object]) -> int:
    """Build a network of the user's own once, and find out which images it takes; see `check_own_network`."""
    with seeded(0):
        return check_own_network(build(model, scale, **options), model, scale)
