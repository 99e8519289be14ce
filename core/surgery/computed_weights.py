"""What belongs to weights that are computed from parameters: buffers that follow them, scales, and a fresh start.

A layer's `reset_parameters()` runs while its parameters have no values yet. Reading a weight with spectral norm then
takes a step of its power iteration, which would leave NaN in the vectors for good.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import (
    _SpectralNorm,
    _WeightNorm,
)  # torch exports only the functions that put them on
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

POWER_ITERATIONS = 15  # as many as torch takes when the norm is put on


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Give buffers that turn into NaN or infinity within the block their values back afterwards."""
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


def settle_(module: nn.Module, which: Container[str] | None = None) -> set[str]:
    """Start the power iterations of torch's spectral norm anew, as when it is put on, in place.

    Both of torch's forms: `torch.nn.utils.parametrizations.spectral_norm` and the older hook. The first vectors are
    drawn from torch's global generator.

    Args:
        module: the network; its parameters have their values.
        which: only the iterations of these buffers; None: all.

    Returns:
        The buffers that were started.
    """
    settled: set[str] = set()

    def starts(vectors: set[str]) -> bool:
        wanted = which is None or any(name in which for name in vectors)
        settled.update(vectors if wanted else ())
        return wanted

    with torch.no_grad():
        for prefix, child in module.named_modules():
            before = f"{prefix}." if prefix else ""
            for name, made_by in getattr(child, "parametrizations", {}).items():
                originals = [parameter for _, parameter in made_by.named_parameters(recurse=False)]
                value = originals[0]
                for number, item in enumerate(made_by):
                    own = f"{before}parametrizations.{name}.{number}."
                    vectors = {f"{own}_u", f"{own}_v"}
                    if isinstance(item, _SpectralNorm) and value.dim() > 1 and starts(vectors):
                        item._u.normal_()
                        item._v.normal_()
                        item._power_method(item._reshape_weight_to_matrix(value), POWER_ITERATIONS)
                    if number + 1 < len(made_by):
                        trains = item.training
                        item.training = False  # reading it is no step of its iteration
                        value = item(*originals) if number == 0 else item(value)
                        item.training = trains
            for hook in child._forward_pre_hooks.values():
                if isinstance(hook, SpectralNorm) and starts(
                    {f"{before}{hook.name}_u", f"{before}{hook.name}_v"}
                ):
                    getattr(child, f"{hook.name}_u").normal_()
                    for _ in range(POWER_ITERATIONS):
                        weight = hook.compute_weight(child, do_power_iteration=True)
                    setattr(child, hook.name, weight.data)
    return settled


def lengths(module: nn.Module) -> dict[str, tuple[str, int]]:
    """Parameter of torch's weight norm that holds lengths -> (the one that it was computed from, the dimension)."""
    found = {}
    for prefix, child in module.named_modules():
        before = f"{prefix}." if prefix else ""
        for name, made_by in getattr(child, "parametrizations", {}).items():
            if isinstance(made_by[0], _WeightNorm):
                own = f"{before}parametrizations.{name}.original"
                found[f"{own}0"] = f"{own}1", made_by[0].dim
        for hook in child._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                found[f"{before}{hook.name}_g"] = f"{before}{hook.name}_v", hook.dim
    return found


def scale_by_fan_(result: nn.Module, model: nn.Module) -> None:
    """Give scales that were computed from a fan-in when a layer was made (`gain / fan_in ** 0.5`) their new value.

    Scaled weight standardisation and the equalised learning rate keep such numbers as attributes. An attribute counts
    as such a scale if its product with √fan_in is the same in all layers of a class, whose fan-ins differ. Where all
    fan-ins are equal, only 1 / √fan_in and √(2 / fan_in) count.

    Args:
        result: the network at its new widths, changed in place.
        model: the network that it was made from.
    """
    found: dict[tuple[type, str], list[tuple[nn.Module, float, int, int]]] = {}
    for old, new in zip(model.modules(), result.modules(), strict=True):
        if type(old).__module__.startswith("torch.nn."):
            continue
        weight, resized = _only_weight(old), _only_weight(new)
        if weight is None or resized is None:
            continue
        for name, value in vars(old).items():
            if type(value) is float and value > 0:
                entry = new, value, weight[0].numel(), resized[0].numel()
                found.setdefault((type(old), name), []).append(entry)
    for (_, name), entries in found.items():
        gains = [value * math.sqrt(fan) for _, value, fan, _ in entries]
        one_gain = max(gains) - min(gains) <= 1e-6 * max(gains)
        known = len({fan for _, _, fan, _ in entries}) > 1 or any(
            math.isclose(gains[0], gain, rel_tol=1e-6) for gain in (1.0, math.sqrt(2))
        )
        if one_gain and known:
            for module, value, fan, fan_now in entries:
                setattr(module, name, value * math.sqrt(fan / fan_now))


def _only_weight(module: nn.Module) -> Tensor | None:
    """The one parameter of two or more dimensions that a module or its direct children have."""
    held = [module, *module.children()]
    weights = [
        item for child in held for item in child._parameters.values() if item is not None and item.dim() > 1
    ]
    large = [item for item in weights if item[0].numel() > 1]  # a gain per row does not count
    return large[0] if len(large) == 1 else None
