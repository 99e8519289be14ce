"""Depth: the blocks of a network that can be left out, and which of them a search for widths gives up.

A block can go where the network runs on without it: a module that hands its input on unchanged once its own parameters
are zero, such as a residual block without a projection on its shortcut. Nothing has to be known of its class.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from core.channels import ChannelGraph, TraceOptions
from core.errors import UserError
from core.initialise import seeded
from core.modules import call, map_tensors, walk


def removable_blocks(model: nn.Module, example_inputs: Any) -> tuple[str, ...]:
    """Names of the smallest modules that can be left out, in the order of execution.

    Such a module is called once, with one tensor, has trainable weights, and returns that tensor if all
    its parameters are zero. One that holds another such module (a whole stage) is not listed.

    Args:
        model: any CNN; it is not changed.
        example_inputs: a tensor, a tuple of positional or a dictionary of named arguments; only shapes matter.
    """
    probe = copy.deepcopy(model).cpu().float().eval()
    passing: dict[
        str, bool
    ] = {}  # name -> whether it hands its input on; False for good once it is called twice
    handles = []
    for name, module in walk(probe):
        if name and any(_is_weight(parameter) for parameter in module.parameters()):
            handles.append(module.register_forward_hook(_probing(name, module, passing)))

    def drawn(tensor: Tensor) -> Tensor:
        floating = tensor.is_floating_point()
        return torch.randn(tensor.shape) if floating else torch.zeros(tensor.shape, dtype=tensor.dtype)

    with seeded(0), torch.no_grad():
        call(probe, map_tensors(example_inputs, drawn))
    for handle in handles:
        handle.remove()
    found = [name for name, passes in passing.items() if passes]
    return tuple(name for name in found if not any(other.startswith(f"{name}.") for other in found))


def _is_weight(parameter: Tensor) -> bool:
    """Something that is trained, and a matrix or a kernel. EDSR's shift of the mean is a fixed convolution."""
    return parameter.requires_grad and parameter.dim() > 1


def _probing(name: str, module: nn.Module, passing: dict[str, bool]) -> Callable[..., None]:
    # A copy is made now, while it has no hooks of its own and of its children that would be called again.
    silent = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in silent.parameters():
            parameter.zero_()

    def hook(called: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        single = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
        if name in passing or not single or output.shape != inputs[0].shape:
            passing[name] = False
            return
        passing[name] = torch.equal(silent(inputs[0].clone()), inputs[0])

    return hook


def free_blocks(model: nn.Module, example_inputs: Any, options: TraceOptions) -> tuple[str, ...]:
    """The removable blocks that hold no module which is frozen, tapped or tied by name."""
    named = [*options.freeze, *options.taps, *(name for pair in options.ties for name in pair)]
    held = [name for name, _ in walk(model) if any(fnmatchcase(name, pattern) for pattern in named)]
    return tuple(
        block
        for block in removable_blocks(model, example_inputs)
        if not any(name == block or name.startswith(f"{block}.") for name in held)
    )


def shorten(model: nn.Module, blocks: Sequence[str]) -> nn.Module:
    """A copy of the network in which `nn.Identity` stands in the place of each block; weights are shared with `model`.

    Raises:
        UserError: the model has no such module.
    """
    if not blocks:
        return model
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    result = copy.deepcopy(model, memo)
    for name in blocks:
        owner, _, leaf = name.rpartition(".")
        try:
            parent = result.get_submodule(owner)
            parent.get_submodule(leaf)
        except AttributeError:
            raise UserError(f"block '{name}' cannot be left out: the model has no such module") from None
        setattr(parent, leaf, nn.Identity())
    return result


def inner_groups(graph: ChannelGraph, blocks: Iterable[str]) -> dict[str, list[str]]:
    """Block -> the channel groups that lie within it; blocks without any are not listed."""
    found: dict[str, list[str]] = {}
    for block in blocks:
        own = [
            group.name
            for group in graph.groups
            if all(tensor.startswith(f"{block}.") for tensor, _ in group.slots)
        ]
        if own:
            found[block] = own
    return found


def lifted(floor: float | Mapping[str, float], inner: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Floors as patterns (see `core.selection.search`), none of them within the blocks."""
    free = {name: 0.0 for names in inner.values() for name in names}
    return {**(floor if isinstance(floor, Mapping) else {"*": floor}), **free}


def vanished(inner: Mapping[str, Sequence[str]], kept: Mapping[str, Tensor], least: float) -> list[str]:
    """The blocks whose inner groups together keep less than a fraction of their choices, the emptiest first.

    Args:
        inner: block -> its groups.
        kept: group -> boolean mask over its choices.
        least: the fraction.
    """
    shares = {
        block: float(torch.cat([kept[name] for name in names]).double().mean())
        for block, names in inner.items()
    }
    return sorted((block for block, share in shares.items() if share < least), key=shares.__getitem__)
