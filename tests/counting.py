"""An independent count of what a network costs: hooks while it runs, and torch's own FlopCounterMode."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Counts(NamedTuple):
    """Multiply-accumulates of convolutions and linear layers, FLOPs in the papers' convention, parameters."""

    macs: int
    flops: int
    params: int


def count(network: nn.Module, shape: tuple[int, ...]) -> Counts:
    """Costs of a network on the meta device for one image of (C, H, W).

    The papers' convention adds two operations per output of a batch normalisation and one per output of a ReLU module.
    """
    activations: dict[nn.Module, int] = {}
    norms: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6 | nn.PReLU):
            # A module that is used again overwrites its count: the convention knows only the last use.
            module.register_forward_hook(lambda m, _, out: activations.__setitem__(m, out.numel()))
        elif isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _m, _, out: norms.append(2 * out.numel()))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, *shape, device="meta"))
    macs = counter.get_total_flops() // 2
    params = sum(parameter.numel() for parameter in network.parameters())
    return Counts(macs, macs + sum(norms) + sum(activations.values()), params)
