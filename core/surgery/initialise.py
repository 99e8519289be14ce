"""A fresh start by the baseline's rules, at whatever widths the layers have now.

With the baseline's factory, the network starts as the factory would start it at its widths (`core.surgery.starting`);
at the baseline's widths and an equal seed it equals the factory's network bit for bit. With the network alone, its own
code and its values show the rules (`core.surgery.imitation`). One `UnknownStartWarning` names the tensors whose rule is
not known; `unknown_start` lists them.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from core.modules import named_tensors
from core.surgery.computed_weights import settle_
from core.surgery.imitation import REPEATED, imitate_
from core.surgery.starting import differing, start

Factory = Callable[[], nn.Module]
# Layer -> its parameters whose rule is not known -> why. Layers that move into another network take this along.
_UNKNOWN: weakref.WeakKeyDictionary[nn.Module, dict[str, str]] = weakref.WeakKeyDictionary()


class UnknownStartWarning(UserWarning):
    """Tensors of a network may not start by the baseline's rule; the message names them."""


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a generator seeded by `seed` and restore the global one afterwards; None changes nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def initialise_(
    module: nn.Module, *, like: nn.Module, factory: Factory | None = None, seed: int | None = None
) -> None:
    """Give every parameter and buffer of `module` a fresh value, in place.

    Args:
        module: the network to initialise, of the same class as `like` but at other widths.
        like: the network whose rules are used; its values are looked at, and copied only where they are not trained.
        factory: builds `like` anew; its rules then count, not the values of `like`.
        seed: for the draw; None uses torch's global generator.

    Warns:
        UnknownStartWarning: the rule of some tensors is not known; see `unknown_start`.

    Raises:
        UserError: the factory builds another network than `like`.
    """
    with seeded(seed), torch.no_grad():
        unknown = imitate_(module, like) if factory is None else _as_built_(module, like, factory)
        started = settle_(module, None if factory is None else unknown)
    unknown = {name: why for name, why in unknown.items() if name not in started}
    for layer in module.modules():
        _UNKNOWN.pop(layer, None)
    for name, why in unknown.items():
        owner, _, leaf = name.rpartition(".")
        _UNKNOWN.setdefault(module.get_submodule(owner), {})[leaf] = why
    if unknown:
        reasons = {why: [name for name in unknown if unknown[name] == why] for why in unknown.values()}
        told = "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())
        remedy = "; build(..., factory=...) shows how they start" if factory is None else ""
        warnings.warn(
            f"{len(unknown)} tensors of {type(module).__name__} may start otherwise than the baseline's "
            f"({told}){remedy}",
            UnknownStartWarning,
            stacklevel=3,
        )


def unknown_start(module: nn.Module) -> dict[str, str]:
    """Tensors of a resized network whose rule is not known -> why; empty where all start as in the baseline."""
    return {
        f"{name}.{leaf}".lstrip("."): why
        for name, layer in module.named_modules()
        for leaf, why in _UNKNOWN.get(layer, {}).items()
    }


def _as_built_(module: nn.Module, like: nn.Module, factory: Factory) -> dict[str, str]:
    found = start(factory, like, module)
    tensors = dict(named_tensors(module))
    for name, value in found.values.items():
        tensors[name].copy_(value)
    missing = {name for name in found.missing if isinstance(tensors[name], nn.Parameter)}
    repeated = dict.fromkeys((name for name in found.missing if name not in missing), REPEATED)
    if not missing:
        return found.unknown | repeated
    source, target = copy.deepcopy(like), copy.deepcopy(module)
    for name, tensor in named_tensors(source):
        if name in found.missing:
            tensor.copy_(found.missing[name])
    guessed = imitate_(target, source)
    for name, tensor in named_tensors(target):
        if name in missing:
            tensors[name].copy_(tensor)
    return found.unknown | repeated | {name: why for name, why in guessed.items() if name in missing}


def same_start(factory: Factory, *, seed: int = 0) -> list[str]:
    """Tensors that `initialise_` starts otherwise than its factory does, at the factory's widths and one seed.

    Args:
        factory: builds a network.
        seed: for both.

    Returns:
        Names; empty where parameters and buffers of both networks are equal bit for bit.
    """
    with seeded(seed):
        own = factory()
    again = copy.deepcopy(own)
    with torch.no_grad():
        for tensor in again.parameters():
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))  # so that what is not started shows
    initialise_(again, like=own, factory=factory, seed=seed)
    return differing(named_tensors(own), named_tensors(again))
