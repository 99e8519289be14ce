"""The proof that a cut is right: a network whose dropped channels are masked gives the cut network's output.

Masked means: every weight row and column of a dropped channel is multiplied by (next to) zero, and statistics that run
over channels (LayerNorm, GroupNorm) are taken over the kept ones. Norms and biases keep their values, so a cut channel
that some reader still reads shows up in the output.

Groups that are not exact (`ChannelGroup.exact`) are masked likewise, and operations over their channels, a mean or a
softmax, run over the kept ones (`core.surgery.over_kept`). Where that is impossible, such groups are kept whole in both
networks, and a further run only tries whether the network runs with them cut. Either way they are reported as untested,
for masking alone does not give the cut network.

Both modes are compared. In training mode BatchNorm takes its statistics from the batch, channel by channel, so the two
networks agree there as well. Random draws in the shape of an activation differ with the widths: dropout is left out in
both networks, and other draws of the kind are constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from core.errors import UserError, quoted, warn
from core.graph.channels import ChannelGraph, Output
from core.graph.rules.calls import argument
from core.modules import (
    FORWARD_FAILURES,
    axis_shape,
    bare,
    call,
    copy_model,
    generators,
    map_constants_,
    map_tensors,
    tensors_in,
    train_,
)
from core.surgery.over_kept import NotSeparable, run_over_kept
from core.surgery.resize import keep_channels, keep_flags

# Not zero itself: a computed weight may divide by the norm of a row. In double precision its square does not
# underflow, and what it adds to any output is far below rounding.
MASKED = 2.0**-500

_FAILURES = (*FORWARD_FAILURES, AssertionError, ArithmeticError)


class UntestedGroupsWarning(UserWarning):
    """Groups for which `verify` only tries whether the cut network runs."""


class VerificationError(UserError):
    """Masked and cut outputs differ, or the cut network does not run."""


class Verified(float):
    """The largest difference found, relative to the largest output, and what was compared.

    Attributes:
        modes: those of "evaluation" and "training" that were checked -> the largest difference there.
        unchecked: those that could not be checked -> why.
        untested: groups that are not exact: masking alone does not give the cut network.
        over_kept: the untested groups that could be compared all the same, in a masked network whose operations over
            channels ran over the kept channels alone. For the others only the cut network was tried: it runs.
    """

    modes: Mapping[str, float]
    unchecked: Mapping[str, str]
    untested: tuple[str, ...]
    over_kept: tuple[str, ...]

    def __new__(
        cls,
        modes: Mapping[str, float],
        unchecked: Mapping[str, str],
        untested: Sequence[str] = (),
        over_kept: Sequence[str] = (),
    ) -> Verified:
        """The largest of all differences."""
        result = super().__new__(cls, max(modes.values()))
        result.modes = dict(modes)
        result.unchecked = dict(unchecked)
        result.untested = tuple(untested)
        result.over_kept = tuple(over_kept)
        return result


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
    """A copy of the same size of a model in double precision, with dropped rows and columns next to zero."""
    flags = keep_flags(graph, keep)
    result = copy_model(model)
    weights = {name: parameter for name, parameter in result.named_parameters() if parameter.dim() > 1}
    with torch.no_grad():
        for (name, dim), table in graph.slots.items():
            if name in weights:
                weight = weights[name]
                kept = torch.from_numpy(flags[table]).to(weight.device).reshape(axis_shape(dim, weight.dim()))
                weight.mul_(torch.full_like(weight, MASKED).masked_fill(kept, 1.0))
    return result


class _Replayed(TorchFunctionMode):
    """Makes two runs at different widths comparable: no dropout, constants for random activations, one precision."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name.rstrip("_") in _DROPOUT:
            return args[0] if args else kwargs["input"]
        if name in _DRAWS:
            return func(*args, **kwargs).fill_(_DRAWS[name])
        if name == "rrelu":
            args, kwargs["training"] = args[:3], False
        if name == "multi_head_attention_forward":
            kwargs["training"] = False  # only its dropout asks for it
        if name == "scaled_dot_product_attention":
            args, kwargs = (
                ((*args[:4], 0.0, *args[5:]), kwargs) if args[4:] else (args, {**kwargs, "dropout_p": 0.0})
            )
        if name in _OF_ONE_TYPE:  # a constant or a conversion may have the precision that the author gave it
            args, kwargs = map_tensors(args, _double), map_tensors(kwargs, _double)
        return func(*args, **kwargs)


_DROPOUT = frozenset(
    "alpha_dropout dropout dropout1d dropout2d dropout3d feature_alpha_dropout feature_dropout".split()
)
_DRAWS = {
    **dict.fromkeys(("rand", "rand_like", "uniform_"), 0.5),
    **dict.fromkeys(("bernoulli", "bernoulli_", "randn", "randn_like", "normal", "normal_"), 1.0),
}
_OF_ONE_TYPE = frozenset(
    """addmm affine_grid baddbmm batch_norm bilinear bmm cdist conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d einsum grid_sample group_norm instance_norm layer_norm linear matmul __matmul__ mm
    multi_head_attention_forward prelu rms_norm scaled_dot_product_attention""".split()
)


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


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
        over = {functional.group_norm: _group_norm, functional.layer_norm: _layer_norm}.get(func)
        kept = self.flags.get(id(argument(args, kwargs, 2, "weight")), self.bare)
        return func(*args, **kwargs) if over is None or kept is None else over(kept, args, kwargs)


def _affine(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor | None, Tensor | None, float]:
    """Weight, bias and ε of a norm."""
    weight, bias = argument(args, kwargs, 2, "weight"), argument(args, kwargs, 3, "bias")
    return weight, bias, argument(args, kwargs, 4, "eps", 1e-5)


def _layer_norm(kept: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x, shape = args[0], argument(args, kwargs, 1, "normalized_shape")
    weight, bias, eps = _affine(args, kwargs)
    dims = tuple(range(x.dim() - len(shape), x.dim()))
    inside = kept.expand(x.shape[x.dim() - len(shape) :]).to(x)
    total = inside.sum()
    mean = (x * inside).sum(dims, keepdim=True) / total
    variance = ((x - mean) ** 2 * inside).sum(dims, keepdim=True) / total
    x = (x - mean) / torch.sqrt(variance + eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _group_norm(kept: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x, groups = args[0], argument(args, kwargs, 1, "num_groups")
    result = functional.group_norm(*args, **kwargs)
    if groups == x.shape[1]:  # one channel per statistic: dropped ones do not mix in
        return result
    result, columns = result.clone(), torch.nonzero(kept.reshape(-1)).reshape(-1)
    weight, bias, eps = _affine(args, kwargs)
    weight, bias = (item if item is None else item[columns] for item in (weight, bias))
    result[:, columns] = functional.group_norm(x[:, columns], groups, weight, bias, eps)
    return result


def run_masked(model: nn.Module, graph: ChannelGraph, keep: dict[str, Tensor], inputs: Any) -> Any:
    """The output of the masked network (`mask_channels`), with channel statistics over kept channels."""
    flags = keep_flags(graph, keep)
    masked = mask_channels(model, graph, keep)
    over_channels = any(not flags[table].all() for table in _choices_over_channels(graph))
    by_tensor: dict[int, Tensor] = {}
    for name, parameter in masked.named_parameters():
        tables = {dim: graph.slots[name, dim] for dim in range(parameter.dim()) if (name, dim) in graph.slots}
        if len(tables) == 1:
            ((dim, table),) = tables.items()
            by_tensor[id(parameter)] = torch.from_numpy(flags[table]).reshape(
                axis_shape(dim, parameter.dim())
            )
    mode = _KeptStatistics(by_tensor)
    for name, table in graph.bare_norms.items():
        _note_bare(masked.get_submodule(name), mode, flags[table])
    with torch.set_grad_enabled(model.training), mode:
        return run_over_kept(masked, graph, flags, inputs) if over_channels else call(masked, inputs)


def _choices_over_channels(graph: ChannelGraph) -> list[slice]:
    """The choices of groups that are not exact."""
    return [
        slice(start, start + group.size)
        for start, group in zip(graph.offsets.tolist(), graph.groups, strict=False)
        if not group.exact
    ]


def _note_bare(module: nn.Module, mode: _KeptStatistics, flags: NDArray[np.bool_]) -> None:
    def before(module: nn.Module, inputs: Any) -> None:
        mode.bare = torch.from_numpy(flags)

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        mode.bare = None

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def randomise_(model: nn.Module, seed: int) -> None:
    """Draw biases, norm weights and running statistics, so that a wrongly cut channel changes the output."""
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
) -> Verified:
    """Prove on randomly kept channels of every group that masked equals cut.

    Both networks run in double precision, with random biases and statistics, in evaluation and in training mode.

    Args:
        graph: channel groups of `model`.
        model: the network; it is not changed.
        example_inputs: real values, as for `trace_channels`.
        keep: fraction of each group that is kept.
        seed: for the kept channels and the random statistics.
        tolerance: largest accepted difference, relative to the largest output.

    Returns:
        The largest difference found, a number that also says which modes were checked. Where the network does not run
        in a mode on these inputs, that mode is not checked, and a warning says why. `untested` lists the groups that
        are not exact. They are compared in a masked network whose operations over channels run over the kept channels
        alone. Where that is impossible they are left out, and an `UntestedGroupsWarning` names them.

    Raises:
        VerificationError: the cut network does not run, its output differs, nothing in an output is finite, or the
            network runs in neither mode.
    """
    model = copy_model(bare(model)).cpu().double().eval()
    map_constants_(model, lambda tensor: _double(tensor.cpu()))
    randomise_(model, seed)
    inputs = map_tensors(example_inputs, lambda tensor: _double(tensor.detach().cpu()))
    every = random_keep(graph, keep, seed)
    exact = {group.name: every[group.name] for group in graph.groups if group.exact}
    inseparable = ""  # why operations over channels cannot run over the kept ones alone
    modes: dict[str, float] = {}
    unchecked: dict[str, str] = {}
    for mode, outputs in (("evaluation", graph.outputs), ("training", graph.train_outputs)):
        if mode == "training":
            train_(model)
            if graph.untrained:  # the trace has warned of it
                unchecked[mode] = graph.untrained
                continue
        try:
            given = _fitting(model, inputs, seed)
        except _FAILURES as error:
            unchecked[mode] = f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
            warn(f"{mode} mode is not verified, as the network does not run in it: {unchecked[mode]}")
        else:
            if not inseparable:
                try:
                    modes[mode] = _difference(graph, model, every, given, outputs, mode, seed)
                except NotSeparable as error:
                    inseparable = str(error)
            if inseparable:
                _run_cut(graph, model, every, given, mode, seed)
                modes[mode] = _difference(graph, model, exact, given, outputs, mode, seed)
    if not modes:
        raise VerificationError(
            f"nothing is verified, as the network does not run: {unchecked['evaluation']}"
        )
    result = Verified(modes, unchecked, graph.inexact, () if inseparable else graph.inexact)
    if not result <= tolerance:
        where = max(modes, key=lambda mode: modes[mode])
        raise VerificationError(
            f"masked and cut outputs differ by {result:.1e} of the largest output (allowed {tolerance:.0e}) in {where} "
            f"mode; pass freeze= with the module that mixes channels to trace_channels, and please report it"
        )
    if inseparable:
        warn(
            f"untested: {len(graph.inexact)} of {len(graph.groups)} groups ({quoted(graph.inexact)}) are not exact, "
            f"as something runs over their channels, and it cannot run over the kept ones alone ({inseparable}): "
            f"it was only tried whether the cut network runs",
            UntestedGroupsWarning,
        )
    return result


def _fitting(model: nn.Module, inputs: Any, seed: int) -> Any:
    """Inputs on which the network runs in its present mode: the given ones, or twice as many samples.

    BatchNorm refuses a single value per channel, which one sample gives it behind a global pooling.
    """
    try:
        _run(copy_model(model), inputs, seed)
    except ValueError:
        generator = torch.Generator().manual_seed(seed)
        batch = len(tensors_in(inputs)[0])

        def twice(tensor: Tensor) -> Tensor:
            if not tensor.dim() or len(tensor) != batch:
                return tensor
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            return torch.cat([tensor, tensor + noise if tensor.is_floating_point() else tensor])

        inputs = map_tensors(inputs, twice)
        _run(copy_model(model), inputs, seed)
    return inputs


def _run(model: nn.Module, inputs: Any, seed: int) -> Any:
    with torch.set_grad_enabled(model.training), generators(seed), _Replayed():
        return call(model, map_tensors(inputs, Tensor.clone))  # the network may write into them


def _difference(
    graph: ChannelGraph,
    model: nn.Module,
    masks: dict[str, Tensor],
    inputs: Any,
    outputs: Sequence[Output],
    mode: str,
    seed: int,
) -> float:
    """The largest difference of masked and cut outputs in the model's present mode, relative to the largest output."""
    with generators(seed), _Replayed():
        expected = tensors_in(run_masked(model, graph, masks, map_tensors(inputs, Tensor.clone)))
    actual = _run_cut(graph, model, masks, inputs, mode, seed)
    if not len(expected) == len(actual) == len(outputs):
        raise VerificationError(
            f"in {mode} mode the traced network returned {len(outputs)} tensors, the masked one {len(expected)}, the "
            f"cut one {len(actual)}: what they return depends on chance or on values"
        )
    flags = keep_flags(graph, masks)
    worst = 0.0
    for whole, got, output in zip(expected, actual, outputs, strict=True):
        kept = flags[output.table]
        rows = torch.from_numpy(np.flatnonzero(kept))
        wanted = whole if kept.all() else whole.index_select(output.axis, rows)
        if wanted.shape != got.shape:
            raise VerificationError(
                f"cut output has shape {tuple(got.shape)}, masked {tuple(wanted.shape)} in {mode} mode"
            )
        worst = max(worst, _relative(wanted.detach(), got.detach(), mode))
    return worst


def _run_cut(
    graph: ChannelGraph, model: nn.Module, masks: dict[str, Tensor], inputs: Any, mode: str, seed: int
) -> list[Tensor]:
    cut = keep_channels(model, graph, masks, inexact=True)
    try:
        return tensors_in(_run(cut, inputs, seed))
    except _FAILURES as error:
        raise VerificationError(
            f"the cut network does not run in {mode} mode: {(str(error) or type(error).__name__).splitlines()[0]}; a "
            f"size is probably typed into a forward method: pass freeze= with that module's name to trace_channels"
        ) from error


def _relative(wanted: Tensor, got: Tensor, mode: str) -> float:
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return float(not torch.equal(wanted, got))
    if not wanted.numel():
        return 0.0
    finite = wanted.isfinite()
    if not bool(finite.any()):
        raise VerificationError(f"an output is not finite in {mode} mode, so that nothing could be compared")
    alike = (wanted == got) | (wanted.isnan() & got.isnan())
    differences = (wanted - got).abs().masked_fill(alike, 0.0)
    scale = float(wanted[finite].abs().max().clamp_min(1e-30))
    return float(differences.nan_to_num(nan=torch.inf).max()) / scale
