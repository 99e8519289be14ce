"""The proof that a cut is right: a network whose dropped channels are masked gives the cut network's output.

Masked means: every weight row and column of a dropped channel is multiplied by (next to) zero, and statistics that run
over channels (LayerNorm, GroupNorm) are taken over the kept ones. Norms and biases keep their values, so a channel that
some reader was not told about shows up in the output.

Groups that are not exact (`ChannelGroup.exact`) are kept whole in both: where a network takes a mean over channels, its
masked form differs from the cut one by construction. Of these only that the cut network runs is tried, as is said.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.errors import UserError
from core.graph.channels import ChannelGraph
from core.modules import call, map_tensors, tensors_in
from core.surgery.resize import keep_channels, keep_flags

# Not zero itself: a computed weight may divide by the norm of a row. In double precision its square is still a number,
# and what it adds to any output is far below rounding.
MASKED = 2.0**-500


class UntestedGroupsWarning(UserWarning):
    """Groups of which `verify` cannot show that masked equals cut."""


class VerificationError(UserError):
    """Masked and cut outputs differ, or the cut network does not run."""


def random_keep(graph: ChannelGraph, keep: float, seed: int) -> dict[str, Tensor]:
    """A boolean mask for every group that keeps about the fraction `keep` of its choices, at least one."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for group in graph.groups:
        count = max(1, min(group.size - 1, round(keep * group.size)))
        mask = torch.zeros(group.size, dtype=torch.bool)
        mask[torch.randperm(group.size, generator=generator)[:count]] = True
        masks[group.name] = mask
    return masks


def mask_channels(model: nn.Module, graph: ChannelGraph, keep: dict[str, Tensor]) -> nn.Module:
    """A copy of the same size, of a model in double precision, whose dropped rows and columns are next to zero."""
    flags = keep_flags(graph, keep)
    result = copy.deepcopy(model)
    weights = {name: parameter for name, parameter in result.named_parameters() if parameter.dim() > 1}
    with torch.no_grad():
        for (name, dim), table in graph.slots.items():
            if name in weights:
                weight = weights[name]
                shape = [1] * weight.dim()
                shape[dim] = -1
                kept = torch.from_numpy(flags[table]).to(weight.device).reshape(shape)
                weight.mul_(torch.where(kept, 1.0, MASKED).to(weight))
    return result


class _KeptStatistics(TorchFunctionMode):
    """Takes LayerNorm's and GroupNorm's statistics over the kept channels, as the cut network does.

    A norm is recognised by the identity of its input channels: a kept-or-dropped row of its weight or, for a norm
    without weights, of its module.
    """

    def __init__(self, flags: dict[int, Tensor]) -> None:
        super().__init__()
        self.flags = flags
        self.bare: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.group_norm:
            weight = args[2] if len(args) > 2 else kwargs.get("weight")
            kept = self.flags.get(id(weight), self.bare)
            if kept is not None:
                return self._group_norm(func, kept, args, kwargs)
        if func is torch.nn.functional.layer_norm:
            weight = args[2] if len(args) > 2 else kwargs.get("weight")
            kept = self.flags.get(id(weight), self.bare)
            if kept is not None:
                return self._layer_norm(kept, args, kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def _layer_norm(kept: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        x, shape = args[0], args[1] if len(args) > 1 else kwargs["normalized_shape"]
        weight = args[2] if len(args) > 2 else kwargs.get("weight")
        bias = args[3] if len(args) > 3 else kwargs.get("bias")
        eps = args[4] if len(args) > 4 else kwargs.get("eps", 1e-5)
        dims = tuple(range(x.dim() - len(shape), x.dim()))
        inside = kept.expand(x.shape[x.dim() - len(shape) :]).to(x)
        total = inside.sum()
        mean = (x * inside).sum(dims, keepdim=True) / total
        variance = ((x - mean) ** 2 * inside).sum(dims, keepdim=True) / total
        x = (x - mean) / torch.sqrt(variance + eps)
        x = x if weight is None else x * weight
        return x if bias is None else x + bias

    @staticmethod
    def _group_norm(func: Any, kept: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        x, groups = args[0], args[1] if len(args) > 1 else kwargs["num_groups"]
        kept = kept.reshape(-1)
        if groups == x.shape[1]:  # one channel per statistic: dropped ones do not mix in
            return func(*args, **kwargs)
        result = func(*args, **kwargs).clone()
        columns = torch.nonzero(kept).reshape(-1)
        rest = [item if item is None else item[columns] for item in _affine(args, kwargs)]
        eps = args[4] if len(args) > 4 else kwargs.get("eps", 1e-5)
        result[:, columns] = func(x[:, columns], groups, *rest, eps)
        return result


def _affine(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    return [
        args[2] if len(args) > 2 else kwargs.get("weight"),
        args[3] if len(args) > 3 else kwargs.get("bias"),
    ]


def run_masked(model: nn.Module, graph: ChannelGraph, keep: dict[str, Tensor], inputs: Any) -> Any:
    """The output of the masked network (`mask_channels`), with channel statistics over kept channels."""
    flags = keep_flags(graph, keep)
    masked = mask_channels(model, graph, keep)
    by_tensor: dict[int, Tensor] = {}
    for name, parameter in masked.named_parameters():
        tables = {dim: graph.slots[name, dim] for dim in range(parameter.dim()) if (name, dim) in graph.slots}
        if len(tables) == 1:
            ((dim, table),) = tables.items()
            shape = [1] * parameter.dim()
            shape[dim] = -1
            by_tensor[id(parameter)] = torch.from_numpy(flags[table]).reshape(shape)
    mode = _KeptStatistics(by_tensor)
    for name, table in graph.bare_norms.items():
        _note_bare(masked.get_submodule(name), mode, flags[table])
    with torch.no_grad(), mode:
        return call(masked, inputs)


def _note_bare(module: nn.Module, mode: _KeptStatistics, flags: NDArray[np.bool_]) -> None:
    def before(module: nn.Module, inputs: Any) -> None:
        mode.bare = torch.from_numpy(flags)

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        mode.bare = None

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def randomise_(model: nn.Module, seed: int) -> None:
    """Random biases, norm weights and running statistics, so that a channel that was cut wrongly changes the output."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5
            tensor.data.copy_(values.to(tensor))


def verify(
    graph: ChannelGraph,
    model: nn.Module,
    example_inputs: Any,
    *,
    keep: float = 0.6,
    seed: int = 0,
    tolerance: float = 1e-5,
) -> float:
    """Prove on a random keep of every exact group that masked equals cut.

    Both networks run in double precision and eval mode, with random biases and statistics.

    Args:
        graph: channel groups of `model`.
        model: the network; it is not changed.
        example_inputs: real values, as for `trace_channels`.
        keep: fraction of each group that is kept.
        seed: for the keep and the random statistics.
        tolerance: largest accepted difference, relative to the largest output.

    Returns:
        The largest difference found, relative to the largest output. Groups that are not exact take no part in it: an
        `UntestedGroupsWarning` names them.

    Raises:
        VerificationError: the cut network does not run, or its output differs.
    """
    model = copy.deepcopy(model).cpu().double().eval()
    randomise_(model, seed)
    inputs = map_tensors(
        example_inputs, lambda t: t.detach().cpu().double() if t.is_floating_point() else t.cpu()
    )
    every = random_keep(graph, keep, seed)
    masks = {group.name: every[group.name] for group in graph.groups if group.exact}
    if untested := graph.inexact:
        warnings.warn(
            f"untested: {len(untested)} of {len(graph.groups)} groups ({_listed(untested)}) are not exact, as "
            f"something runs over their channels; of them only that the cut network runs was tried",
            UntestedGroupsWarning,
            stacklevel=3,
        )
        _run_cut(model, graph, every, inputs)
    expected = tensors_in(run_masked(model, graph, masks, inputs))
    actual = _run_cut(model, graph, masks, inputs)
    flags = keep_flags(graph, masks)
    worst = 0.0
    for whole, got, table, axis in zip(expected, actual, graph.outputs, graph.output_axes, strict=True):
        rows = torch.from_numpy(np.flatnonzero(flags[table]))
        wanted = whole if flags[table].all() else whole.index_select(axis, rows)
        if wanted.shape != got.shape:
            raise VerificationError(f"cut output has shape {tuple(got.shape)}, masked {tuple(wanted.shape)}")
        scale = float(wanted.abs().max().clamp_min(1e-30))
        worst = max(worst, float((wanted - got).abs().max()) / scale)
    if not worst <= tolerance:
        raise VerificationError(
            f"masked and cut outputs differ by {worst:.1e} of the largest output (allowed {tolerance:.0e}); pass "
            f"freeze= with the module that mixes channels to trace_channels, and please report it"
        )
    return worst


def _run_cut(model: nn.Module, graph: ChannelGraph, masks: dict[str, Tensor], inputs: Any) -> list[Tensor]:
    cut = keep_channels(model, graph, masks, inexact=True)
    try:
        with torch.no_grad():
            return tensors_in(call(cut, inputs))
    except (RuntimeError, ValueError, IndexError) as error:
        raise VerificationError(
            f"the cut network does not run: {str(error).splitlines()[0]}; a size is probably typed into a forward "
            f"method: pass freeze= with that module's name to trace_channels"
        ) from error


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more
