"""What belongs to weights that are computed from parameters: buffers that follow them, and a fresh start.

A layer's `reset_parameters()` runs while its parameters have no values yet. Reading a weight with spectral norm then
takes a step of its power iteration, which would leave NaN in the vectors for good.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm  # torch exports what puts it on, not the class
from torch.nn.utils.spectral_norm import SpectralNorm

from core.surgery.initialise import seeded

POWER_ITERATIONS = 15  # as torch takes when the norm is put on


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Buffers that turn into NaN or infinity within have their values again afterwards."""
    before = {
        name: buffer.detach().clone()
        for name, buffer in module.named_buffers()
        if buffer.is_floating_point() and not buffer.is_meta
    }
    yield
    for name, buffer in module.named_buffers():
        if name in before and not bool(buffer.isfinite().all()) and bool(before[name].isfinite().all()):
            with torch.no_grad():
                buffer.copy_(before[name])


def settle_(module: nn.Module, *, seed: int | None = None) -> None:
    """Start the power iterations of torch's spectral norm anew, as when it is put on, in place.

    Both of torch's forms: `torch.nn.utils.parametrizations.spectral_norm` and the older hook.

    Args:
        module: the network; its parameters have their values.
        seed: for the first vectors; None draws from torch's global generator.
    """
    with seeded(seed), torch.no_grad():
        for child in module.modules():
            for made_by in getattr(child, "parametrizations", {}).values():
                for item in made_by:
                    if isinstance(item, _SpectralNorm) and made_by.original.dim() > 1:
                        item._u.normal_()
                        item._v.normal_()
                        item._power_method(item._reshape_weight_to_matrix(made_by.original), POWER_ITERATIONS)
            for hook in child._forward_pre_hooks.values():
                if isinstance(hook, SpectralNorm):
                    getattr(child, f"{hook.name}_u").normal_()
                    for _ in range(POWER_ITERATIONS):
                        weight = hook.compute_weight(child, do_power_iteration=True)
                    setattr(child, hook.name, weight.data)
