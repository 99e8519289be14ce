"""A fresh start by the baseline's own rules, at whatever widths the layers have now.

Every layer with a `reset_parameters()` draws its parameters by it first: torch's defaults. On top of that, where the
model has `init_weights()` (ours, mmcv's and many others' networks do), that is the rule. Otherwise the rule of each
parameter is read off the model that it came from:

- What does not learn beside what does (`requires_grad` false: a mean shift, a Sobel filter) keeps its values.
- Constants stay constants.
- Other weights of two and more dimensions are matched against the initialisations in use by their spread, because a
  rule such as He's depends on the widths and a copied spread would be wrong at new ones.
- What no rule explains, weights of fewer than 64 values, whose spread says too little, and vectors that are not
  constant stay as `reset_parameters()` drew them.

A parameter that none of all this has filled, one of the model's own class that belongs to no layer, is drawn anew with
the mean, spread and kind of distribution that it had.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MATCH = 4.0  # standard errors within which an empirical spread agrees with a rule's


@dataclass(frozen=True)
class Rule:
    """One initialisation: the standard deviation that it gives a weight, and how it draws."""

    name: str
    std: Callable[[Tensor], float]
    uniform: bool

    def fill_(self, tensor: Tensor) -> None:
        """Draw fresh values in place."""
        std = self.std(tensor)
        if self.uniform:
            nn.init.uniform_(tensor, -math.sqrt(3) * std, math.sqrt(3) * std)
        else:
            nn.init.normal_(tensor, 0.0, std)


def _fan(tensor: Tensor, mode: str) -> int:
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(tensor)
    return {"in": fan_in, "out": fan_out, "both": fan_in + fan_out}[mode]


def _scaled(gain: float, mode: str) -> Callable[[Tensor], float]:
    return lambda tensor: math.sqrt(gain / _fan(tensor, mode))


def _fixed(value: float) -> Callable[[Tensor], float]:
    return lambda tensor: value


RULES = (
    Rule("torch default", _scaled(1 / 3, "in"), True),  # kaiming_uniform_(a=sqrt(5))
    Rule("He normal, fan out", _scaled(2.0, "out"), False),
    Rule("He normal, fan in", _scaled(2.0, "in"), False),
    Rule("He uniform, fan in", _scaled(2.0, "in"), True),
    Rule("He uniform, fan out", _scaled(2.0, "out"), True),
    Rule("Glorot uniform", _scaled(2.0, "both"), True),
    Rule("Glorot normal", _scaled(2.0, "both"), False),
    Rule("LeCun normal", _scaled(1.0, "in"), False),
    Rule("normal 0.01", _fixed(0.01), False),
    Rule("normal 0.02", _fixed(0.02), False),
    Rule("normal 0.001", _fixed(0.001), False),
)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a generator seeded by `seed` and restore the global one afterwards; None changes nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def initialise_(module: nn.Module, *, like: nn.Module, seed: int | None = None) -> None:
    """Give every parameter and buffer of `module` a fresh value, in place.

    Args:
        module: the network to initialise, of the same class as `like` but at other widths.
        like: the network whose rules are used; its values are looked at, and copied only where they do not learn.
        seed: for the draw; None uses torch's global generator.
    """
    with seeded(seed), torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.fill_(math.nan)  # whatever nobody fills shows
        for child in module.modules():
            reset = getattr(child, "reset_parameters", None)
            if callable(reset):
                reset()
        own = getattr(module, "init_weights", None)
        if callable(own):
            own()
        else:
            _infer(module, like)
        old = dict(like.named_parameters())
        for name, parameter in module.named_parameters():
            if not parameter.is_meta and bool(parameter.isnan().any()):
                _draw_like_(parameter, old[name].detach())


def _draw_like_(tensor: Tensor, source: Tensor) -> None:
    """Fresh values with the mean, spread and kind of distribution of `source`, in place."""
    mean, std, uniform = _moments(source)
    if uniform:
        nn.init.uniform_(tensor, mean - math.sqrt(3) * std, mean + math.sqrt(3) * std)
    else:
        nn.init.normal_(tensor, mean, std)


def repeat_rows(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The values of a fixed tensor (a blur kernel, a mask) at another shape: its rows over and over."""
    for dim, size in enumerate(shape):
        if size != tensor.shape[dim]:
            tensor = tensor.index_select(dim, torch.arange(size, device=tensor.device) % tensor.shape[dim])
    return tensor


def _infer(module: nn.Module, like: nn.Module) -> None:
    old = dict(like.named_parameters())
    some_learn = any(tensor.requires_grad for tensor in old.values())
    spreads = {name: _matches(tensor) for name, tensor in old.items() if tensor.dim() > 1}
    votes = Counter(rule.name for found in spreads.values() for rule in found)
    for name, tensor in module.named_parameters():
        source = old[name].detach()
        if some_learn and not old[name].requires_grad:
            tensor.copy_(repeat_rows(source, tensor.shape))  # not learned but fixed, as a mean shift is
        elif bool((source == source.reshape(-1)[0]).all()):
            tensor.fill_(source.reshape(-1)[0].item())  # ones, zeros, PReLU's 0.25, a zeroed last BatchNorm
        elif spreads.get(name):
            # Several rules agree where fan in equals fan out; the rule that most layers follow is the model's.
            max(spreads[name], key=lambda rule: votes[rule.name]).fill_(tensor)


def _matches(tensor: Tensor) -> list[Rule]:
    """Rules whose spread and shape of distribution agree with the values."""
    if tensor.numel() < 64:
        return []
    _, std, uniform = _moments(tensor)
    if std == 0.0:
        return []
    error = MATCH * std / math.sqrt(2 * tensor.numel())
    return [rule for rule in RULES if rule.uniform == uniform and abs(rule.std(tensor) - std) < error]


def _moments(tensor: Tensor) -> tuple[float, float, bool]:
    """(mean, standard deviation, does it look uniform rather than normal)."""
    values = tensor.detach().double().reshape(-1)
    mean, std = float(values.mean()), float(values.std(correction=0))
    kurtosis = (
        float(((values - mean) ** 4).mean()) / std**4 if std else 0.0
    )  # 3 for a normal, 1.8 for a uniform
    return mean, std, kurtosis < 2.4
