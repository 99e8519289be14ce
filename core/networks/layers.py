"""Initialisation rules of the shared networks."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def chain(
    make: Callable[..., nn.Module], inputs: int, outputs: int, depth: int, stride: int
) -> list[nn.Module]:
    """`depth` blocks in sequence: the first takes `inputs` channels and has the stride.

    Args:
        make: takes `inputs` and `stride`, and returns a block of `outputs` channels.
        inputs: channels into the first block; the others take `outputs`.
        outputs: channels out of every block.
        depth: number of blocks.
        stride: of the first block; the others have 1.
    """
    first = make(inputs=inputs, stride=stride)
    return [first, *(make(inputs=outputs, stride=1) for _ in range(depth - 1))]


def initialise(network: nn.Module, linear: Callable[[nn.Linear], None] = nn.Linear.reset_parameters) -> None:
    """Give every parameter and running statistic of `network` a fresh value, in place, whatever its shape.

    Convolutions: normal with variance 2 / fan-out (He et al., ICCV 2015, equation 14) and zero bias, the rule
    of torchvision's networks. Batch norm: scale 1, shift 0, statistics 0 and 1.

    Args:
        network: its layers are `Conv2d`, `BatchNorm2d` and `Linear` only, beside layers without parameters.
        linear: the rule for fully connected layers; PyTorch's own, which torchvision's ResNet keeps, is uniform within
            1/sqrt(inputs), bias too.

    Raises:
        TypeError: a layer of another kind has parameters, which would keep their old values.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            linear(module)
        elif any(True for _ in module.parameters(recurse=False)):
            raise TypeError(f"'{name}': no initialisation rule for {type(module).__name__}")
