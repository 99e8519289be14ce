"""Depth: the blocks of a network that can be left out, and which of them a search for widths gives up.

A block can go where the network runs on without it: a module that hands its input on unchanged once its own parameters
are zero, such as a residual block without a projection on its shortcut. Nothing has to be known of its class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.graph.channels import ChannelGraph, TraceOptions
from core.modules import (
    FORWARD_FAILURES,
    call,
    copy_model,
    copy_structure,
    hooked,
    map_tensors,
    named_tensors,
)
from core.surgery.initialise import seeded


def removable_blocks(model: nn.Module, example_inputs: Any) -> tuple[str, ...]:
    """Names of the smallest modules that can be left out, in the order of execution.

    Such a module is called once, with one tensor and nothing else, has trainable weights, and returns that tensor if
    all its parameters are zero, whatever the other weights are. The network has to run without it, too: a
    module whose attributes others read stays. A module that holds such a module (a whole stage) is not listed.

    Args:
        model: any CNN; it is not changed, and its weights do not matter.
        example_inputs: a tensor, a tuple of positional or a dictionary of named arguments; only shapes matter.
    """
    probe = copy_model(model).cpu().float().eval()
    inspection = _Inspection()
    handles = []
    with seeded(0), torch.no_grad():
        _randomise(probe)
        for name, module in probe.named_modules():
            if name and any(_is_weight(parameter) for parameter in module.parameters()):
                handles += inspection.watch(name, module)
        inputs = map_tensors(example_inputs, _drawn)
        with hooked(handles):
            call(probe, inputs)
        found = [name for name, passes in inspection.passing.items() if passes]
        blocks = [name for name in found if not any(other.startswith(f"{name}.") for other in found)]
        if not _runs_without(probe, blocks, inputs):
            blocks = [name for name in blocks if _runs_without(probe, [name], inputs)]
    return tuple(blocks)


def _drawn(tensor: Tensor) -> Tensor:
    floating = tensor.is_floating_point()
    return torch.randn(tensor.shape) if floating else torch.zeros(tensor.shape, dtype=tensor.dtype)


def _randomise(model: nn.Module) -> None:
    """Draw weights so that none is zero by chance or by design, as the last norm of a block often is."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_floating_point():
            continue
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() > 1 and isinstance(tensor, nn.Parameter):
            tensor.normal_(0, (2 * len(tensor) / max(1, tensor.numel())) ** 0.5)


def _is_weight(parameter: Tensor) -> bool:
    """Is it a matrix or a kernel that is trained? EDSR's mean shift is not: it is a fixed convolution."""
    return parameter.requires_grad and parameter.dim() > 1


def _runs_without(model: nn.Module, blocks: Sequence[str], inputs: Any) -> bool:
    try:
        call(shorten(model, blocks), inputs)
    except FORWARD_FAILURES:
        return False
    return True


class _Inspection:
    """Hooks that call every watched module a second time, with its parameters at zero."""

    def __init__(self) -> None:
        self.passing: dict[str, bool] = {}  # stays False once a module has been called twice
        self._given: dict[str, Tensor] = {}
        self._again = False  # True within the second call, which is not watched

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        """Handles of the hooks."""

        def before(called: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self._again:
                return
            if name in self.passing or named or len(inputs) != 1 or not isinstance(inputs[0], Tensor):
                self.passing[name] = False
            else:
                self._given[name] = inputs[0].clone()  # the module may write into it

        def after(called: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if self._again or name not in self._given:
                return
            given = self._given.pop(name)
            same = isinstance(output, Tensor) and output.shape == given.shape
            self.passing[name] = same and torch.equal(self._silent(called, given.clone()), given)

        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after),
        ]

    def _silent(self, module: nn.Module, given: Tensor) -> Tensor:
        kept = [(parameter, parameter.clone()) for parameter in module.parameters()]
        self._again = True
        try:
            for parameter, _ in kept:
                parameter.zero_()
            output = module(given)
        finally:
            self._again = False
            for parameter, value in kept:
                parameter.copy_(value)
        return output


def free_blocks(model: nn.Module, example_inputs: Any, options: TraceOptions) -> tuple[str, ...]:
    """The removable blocks that hold no module, parameter or buffer which is frozen, tapped or tied by name."""
    named = [*options.freeze, *options.taps, *(name for pair in options.ties for name in pair)]
    parts = chain(model.named_modules(), model.named_parameters(), model.named_buffers())
    held = [name for name, _ in parts if any(fnmatchcase(name, pattern) for pattern in named)]
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
    result = copy_structure(model, {id(tensor): tensor for _, tensor in named_tensors(model)})
    for name in blocks:
        owner, _, leaf = name.rpartition(".")
        try:
            block = result.get_submodule(owner)._modules[leaf]
        except (AttributeError, KeyError):
            raise UserError(f"block '{name}' cannot be left out: the model has no such module") from None
        for module in list(result.modules()):  # it may be known by several names
            for child, known in list(module._modules.items()):
                if known is block:
                    module._modules[child] = nn.Identity()
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


def blocks_that_see_all(model: nn.Module, example_inputs: Any, blocks: Sequence[str]) -> tuple[str, ...]:
    """The blocks whose input already depends, at some position, on the whole image, in the order of execution.

    Such a block adds depth, but no receptive field. Found by trying: a NaN in one corner of the image reaches exactly
    the positions that see this corner, whatever the weights are, and receptive fields are rectangles. Behind a
    squeeze-and-excitation or any other global mean every block sees the whole image.

    Args:
        model: any CNN; it is not changed.
        example_inputs: a tensor, a tuple of positional or a dictionary of named arguments; every floating-point tensor
            with more than two dimensions is an image, its last two (or one, or three) dimensions are its sides.
        blocks: modules that are called with one tensor, as `removable_blocks` finds them.
    """
    probe = copy_model(model).cpu().float().eval()
    seen: dict[str, Tensor] = {}
    for name in blocks:
        probe.get_submodule(name).register_forward_pre_hook(partial(_note_nan, seen, name))
    sides = 0

    def count_sides(tensor: Tensor) -> Tensor:
        nonlocal sides
        sides = max(sides, tensor.dim() - 2 if tensor.is_floating_point() else 0)
        return tensor

    map_tensors(example_inputs, count_sides)
    # Without oneDNN, whose tiles would carry a NaN to neighbours that do not see it.
    with seeded(0), torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        _randomise(probe)
        for corner in product((0, -1), repeat=sides):
            call(probe, map_tensors(example_inputs, partial(_with_nan, corner=corner)))
    return tuple(name for name in blocks if name in seen and bool(seen[name].any()))


def _note_nan(seen: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Narrow the positions of a block's input that have seen every corner so far."""
    nan = inputs[0].isnan()
    here = nan.flatten(2).any(1) if nan.dim() > 2 else nan.any()
    seen[name] = seen[name] & here if name in seen else here


def _with_nan(tensor: Tensor, *, corner: tuple[int, ...]) -> Tensor:
    drawn = _drawn(tensor)
    if drawn.is_floating_point() and drawn.dim() > 2:
        place: tuple[Any, ...] = (..., *corner[: drawn.dim() - 2])
        drawn[place] = float("nan")
    return drawn


def blocks_to_lift(model: nn.Module, example_inputs: Any, graph: ChannelGraph) -> dict[str, list[str]]:
    """`inner_groups` of a model's `free_blocks`: a search that lets blocks vanish lifts their floors.

    Args:
        model: the baseline.
        example_inputs: of the baseline.
        graph: groups of the baseline or of its widened form, which have the same names and options.
    """
    return inner_groups(graph, free_blocks(model, example_inputs, graph.options))


def lifted(floor: float | Mapping[str, float], inner: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Floors as patterns (see `core.widths.selection.search`), none of them within the blocks."""
    free = {name: 0.0 for names in inner.values() for name in names}
    given = floor if isinstance(floor, Mapping) else {"*": floor}
    return {**{pattern: value for pattern, value in given.items() if pattern not in free}, **free}


def vanished(
    inner: Mapping[str, Sequence[str]], kept: Mapping[str, Tensor], least: Mapping[str, float]
) -> list[str]:
    """The blocks whose inner groups together keep less than a fraction of their choices, the emptiest first.

    Args:
        inner: block -> its groups.
        kept: group -> boolean mask over its choices.
        least: group -> the fraction; unlike floors it is not rounded to whole choices. The groups of a block are
            weighed by their choices.
    """
    shares, needed = {}, {}
    for block, names in inner.items():
        shares[block] = float(torch.cat([kept[name] for name in names]).double().mean())
        sizes = [len(kept[name]) for name in names]
        fractions = {least[name] for name in names}
        mean = sum(least[name] * size for name, size in zip(names, sizes, strict=True)) / sum(sizes)
        needed[block] = fractions.pop() if len(fractions) == 1 else mean
    return sorted((block for block, share in shares.items() if share < needed[block]), key=shares.__getitem__)
