"""Initialisation rules of the shared networks."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def linear_default(linear: nn.Linear) -> None:
    """PyTorch's own rule: uniform within 1/sqrt(inputs), bias too. torchvision's ResNet keeps it."""
    linear.reset_parameters()


def initialise(network: nn.Module, linear: Callable[[nn.Linear], None] = linear_default) -> None:
    """Give every parameter and running statistic of `network` a fresh value, in place, whatever its shape.

    Convolutions: normal with variance 2 / fan-out (He et al., ICCV 2015, equation 14) and zero bias, the rule
    of torchvision's networks. Batch norm: scale 1, shift 0, statistics 0 and 1.

    Args:
        network: its layers are `Conv2d`, `BatchNorm2d` and `Linear` only, beside layers without parameters.
        linear: the rule for fully connected layers.

    Raises:
        TypeError: a layer of another kind has parameters, which would have kept their old values.
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
