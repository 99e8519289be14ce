"""The only code that changes tensor sizes: widen, resize to new widths, cut to kept channels.

Every function returns a new module of the same class; the module handed in is never changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.errors import UserError, warn
from core.graph.channels import ChannelGraph
from core.graph.labels import SlotKey, owner_of
from core.modules import bare, copy_with, named_tensors
from core.storage.limits import check_network
from core.surgery.computed_weights import buffers_kept, scale_by_fan_
from core.surgery.initialise import Factory, initialise_
from core.surgery.recording import repeat_rows

IntArray = NDArray[np.int64]
# Attributes of torch's layers, and by custom of other layers, that repeat the size of a weight.
_OUT = ("out_channels", "out_features", "num_features", "num_channels", "num_parameters")
_IN = ("in_channels", "in_features")


def widen(
    model: nn.Module,
    graph: ChannelGraph,
    factor: float,
    *,
    factory: Factory | None = None,
    seed: int | None = None,
) -> nn.Module:
    """A fresh network whose free groups are `factor` times as wide: width -> int(factor · size) · step.

    `size` is the number of a group's choices and `step` the channels of each: 1 for most groups, so that width is
    int(factor · width), and more where channels come and go together (before a pixel shuffle, say).
    Grouped convolutions keep their group width and gain groups, as RegNet's do; depthwise ones follow their channels.
    Input, output and frozen dimensions keep their sizes.

    Args:
        model: the network that `graph` was traced from.
        graph: its channel groups.
        factor: at least 1; any real number.
        factory: builds `model` anew and so shows how it starts; see `core.surgery.initialise`.
        seed: for the fresh weights; None draws from torch's global generator.

    Raises:
        UserError: the factor is below 1 or not finite.
    """
    if not math.isfinite(factor) or factor < 1:
        raise UserError(f"widening factor {factor}: use a finite number of at least 1")
    widths, conv_groups = widened_widths(graph, factor)
    return resize(model, graph, widths, conv_groups=conv_groups, factory=factory, seed=seed)


def widened_widths(graph: ChannelGraph, factor: float) -> tuple[dict[str, int], dict[str, int]]:
    """(group -> width, grouped convolution -> number of groups) after widening by `factor`.

    Channel groups that meet in grouped convolutions grow alike: by the largest fraction up to `factor` at which
    all of these convolutions have a whole number of groups.
    """
    grouped = grouped_convolutions(graph)
    weights = {tensor for tensor, _ in graph.per_group}
    # With frozen channels on one side, the number of groups stays and the groups get wider.
    fixed = {
        owner_of(name) for (name, _), table in graph.slots.items() if name in weights and (table < 0).any()
    }
    widths: dict[str, int] = {}
    conv_groups: dict[str, int] = {}
    for group in graph.groups:
        together = _linked(grouped, group.name)
        if not together or together & fixed:
            widths[group.name] = int(factor * group.size + 1e-9) * group.step
            continue
        unit = math.gcd(*(graph.conv_groups[name] for name in together))
        growth = Fraction(int(factor * unit + 1e-9), unit)
        widths[group.name] = int(group.width * growth)
        conv_groups |= {name: int(graph.conv_groups[name] * growth) for name in together}
    return widths, conv_groups


def _linked(grouped: Mapping[str, list[str]], group: str) -> set[str]:
    """All grouped convolutions that share channel groups with those of `group`, directly or through others."""
    found: set[str] = set()
    wanted = set(grouped[group])
    while wanted - found:
        found |= wanted
        wanted = {name for names in grouped.values() if found.intersection(names) for name in names}
    return found


def grouped_convolutions(graph: ChannelGraph) -> dict[str, list[str]]:
    """Group -> the grouped (not depthwise) convolutions that it enters or leaves."""
    weights = {tensor for tensor, _ in graph.per_group}
    owners = {
        group.name: dict.fromkeys(owner_of(tensor) for tensor, _ in group.slots if tensor in weights)
        for group in graph.groups
    }
    return {group: [name for name in names if name in graph.conv_groups] for group, names in owners.items()}


def resize(
    model: nn.Module,
    graph: ChannelGraph,
    widths: Mapping[str, int],
    *,
    conv_groups: Mapping[str, int] | None = None,
    factory: Factory | None = None,
    seed: int | None = None,
) -> nn.Module:
    """A fresh network of the same class at other widths, initialised by the model's own rules.

    Args:
        model: the network that `graph` was traced from; its weights only tell how to initialise.
        graph: its channel groups.
        widths: group -> channels; groups that are not named keep their width.
        conv_groups: grouped convolution -> number of groups, where it differs from the model's.
        factory: builds `model` anew and so shows how it starts; see `core.surgery.initialise`.
        seed: for the fresh weights; None draws from torch's global generator.

    Returns:
        A plain module in training mode, on the model's device.

    Warns:
        UnknownStartWarning: it is not known how some tensors start.

    Raises:
        UserError: an unknown group, or a width that the group's step or a grouped convolution does not allow; or the
            factory builds another network.
    """
    model = bare(model)
    result = reshaped(model, graph, widths, conv_groups=conv_groups)
    with buffers_kept(result):
        initialise_(result, like=model, factory=factory, seed=seed)
    return result


def reshaped(
    model: nn.Module,
    graph: ChannelGraph,
    widths: Mapping[str, int],
    *,
    conv_groups: Mapping[str, int] | None = None,
) -> nn.Module:
    """`resize` without a start, for weights to be loaded: parameters of another shape are zero, others the model's.

    Args and errors are those of `resize`.
    """
    model = bare(model)
    conv_groups = dict(conv_groups or {})
    ratios = _group_ratios(graph, conv_groups)
    sizes = graph.sizes.copy()
    for index, group in enumerate(graph.groups):
        if group.name in widths:
            step = group.step * ratios[index]
            if step.denominator != 1:
                raise UserError(f"group '{group.name}': conv_groups do not divide its {group.width} channels")
            sizes[index] = group.elements(widths[group.name], int(step))
    for name in widths:
        graph.group(name)

    shapes = {
        name: [_new_size(graph, (name, dim), size, sizes, ratios) for dim, size in enumerate(tensor.shape)]
        for name, tensor in named_tensors(model)
    }
    made = [(math.prod(shapes[name]), tensor) for name, tensor in named_tensors(model) if not tensor.is_meta]
    total = sum(values for values, _ in made)
    check_network(
        total, sum(values * tensor.itemsize for values, tensor in made), f"a network of {total:,} numbers"
    )

    def resized(name: str, tensor: Tensor) -> Tensor:
        shape = shapes[name]
        if shape == list(tensor.shape):
            return tensor.detach().clone()
        if isinstance(tensor, nn.Parameter):
            return torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
        return repeat_rows(tensor.detach(), shape)  # a buffer that no layer resets (a blur kernel, a mask)

    def rows(table: IntArray) -> int:
        return int((table < 0).sum()) + _scaled(table, graph, sizes, ratios)

    result = copy_with(model, resized)
    _update_attributes(result, model, graph, rows, {**graph.conv_groups, **conv_groups})
    scale_by_fan_(result, model)
    return result.train()


def keep_channels(
    model: nn.Module, graph: ChannelGraph, keep: Mapping[str, Tensor], *, inexact: bool = False
) -> nn.Module:
    """Cut: the network with only the kept choices of each group, weights and statistics included.

    Args:
        model: the network that `graph` was traced from.
        graph: its channel groups.
        keep: group -> boolean mask over its choices, (size,); groups that are not named are kept whole.
        inexact: whether to cut groups that are not exact (`ChannelGroup.exact`) as well. Their kept weights were
            trained beside those that go, in a mean or a norm over all of them. Without it such groups are kept whole,
            with a warning.

    Raises:
        UserError: an unknown group, a mask of the wrong length, or one that keeps nothing.
    """
    model = bare(model)
    if not inexact:
        asked = [name for name in graph.inexact if name in keep and not bool(keep[name].all())]
        if asked:
            warn(
                f"{len(asked)} groups are kept whole, as trained weights do not survive a cut where the network "
                f"computes over all channels ({', '.join(asked)}); inexact=True cuts them too"
            )
        keep = {name: mask for name, mask in keep.items() if name not in asked}
    flags = keep_flags(graph, keep)
    selected: dict[int, Tensor | None] = {}  # id of a table (many tensors share one) -> kept rows; None: all

    def select(table: IntArray) -> Tensor | None:
        if id(table) not in selected:
            kept = flags[table]
            selected[id(table)] = None if kept.all() else torch.from_numpy(np.flatnonzero(kept))
        return selected[id(table)]

    def cut(name: str, tensor: Tensor) -> Tensor:
        data = tensor.detach()
        whole = True
        for dim in range(tensor.dim()):
            table = graph.slots.get((name, dim))
            rows = None if table is None else select(table)
            if rows is not None:
                data, whole = data.index_select(dim, rows.to(tensor.device)), False
        return data.clone() if whole else data

    result = copy_with(model, cut)
    _update_attributes(result, model, graph, lambda table: int(flags[table].sum()), graph.conv_groups)
    return result


def keep_flags(graph: ChannelGraph, keep: Mapping[str, Tensor]) -> NDArray[np.bool_]:
    """Masks by group as one flat mask over all choices; the last entry, index -1, stands for frozen rows.

    Raises:
        UserError: an unknown group, a mask of the wrong length or type, or one that keeps nothing.
    """
    flags = np.ones(graph.choices + 1, dtype=bool)
    starts = dict(zip(graph.names, graph.offsets.tolist(), strict=False))
    for name, mask in keep.items():
        group = graph.group(name)
        if mask.dtype != torch.bool or mask.shape != (group.size,) or not bool(mask.any()):
            raise UserError(
                f"group '{name}': keep needs a boolean mask of shape ({group.size},) with at least one True, got "
                f"{tuple(mask.shape)} {mask.dtype}"
            )
        flags[starts[name] : starts[name] + group.size] = mask.cpu().numpy()
    return flags


def _group_ratios(graph: ChannelGraph, conv_groups: Mapping[str, int]) -> list[Fraction]:
    """By which fraction the number of convolution groups behind each channel group grows."""
    for name, count in conv_groups.items():
        if name not in graph.conv_groups:
            raise UserError(f"conv_groups: '{name}' is not a grouped convolution of this model")
        if not isinstance(count, int) or count < 1:
            raise UserError(f"conv_groups: '{name}' needs a positive number of groups, got {count!r}")
    ratios = []
    for group, names in grouped_convolutions(graph).items():
        found = {
            Fraction(conv_groups.get(name, graph.conv_groups[name]), graph.conv_groups[name])
            for name in names
        }
        if len(found) > 1:
            raise UserError(
                f"group '{group}': the grouped convolutions {', '.join(names)} must grow by one factor"
            )
        ratios.append(found.pop() if found else Fraction(1))
    return ratios


def _new_size(graph: ChannelGraph, key: SlotKey, size: int, sizes: IntArray, ratios: list[Fraction]) -> int:
    table = graph.slots.get(key)
    if table is None:
        return size
    own = [Fraction(1)] * len(ratios) if key in graph.per_group else ratios
    return int((table < 0).sum()) + _scaled(table, graph, sizes, own)


def _scaled(table: IntArray, graph: ChannelGraph, sizes: IntArray, ratios: list[Fraction]) -> int:
    """Rows that the free groups own in a table, at new sizes and with grown convolution groups."""
    counts = np.bincount(graph.owner[table[table >= 0]], minlength=len(sizes))
    return sum(int(counts[g] // graph.sizes[g] * sizes[g] * ratios[g]) for g in np.flatnonzero(counts))


def _update_attributes(
    result: nn.Module,
    model: nn.Module,
    graph: ChannelGraph,
    rows: Callable[[IntArray], int],
    conv_groups: Mapping[str, int],
) -> None:
    """Make attributes such as `out_channels`, `groups` and `normalized_shape` agree with the new sizes.

    `rows` gives the new number of rows of a table, for layers that have a size but no tensor (a norm without weights).
    """
    for name, table in graph.bare_norms.items():
        _set_sizes(result.get_submodule(name), {len(table): rows(table)}, None)
    _set_attributes(result, graph, rows)
    free = {name for name, dim in graph.slots if graph.free_table(name, dim) is not None}
    first_owner: dict[int, str] = {}  # a shared tensor goes by its first owner's name
    for (prefix, old), (_, new) in zip(model.named_modules(), result.named_modules(), strict=True):
        owned = set()
        for leaf, tensor in _own_tensors(old):
            name = first_owner.setdefault(id(tensor), f"{prefix}.{leaf}" if prefix else leaf)
            if name in free:
                owned.add(name)
        if not owned:
            continue
        _set_conv_groups(new, old, {owner_of(tensor) for tensor in owned}, graph, conv_groups)
        (out, inside, weight), (old_out, old_inside, _) = _sizes(new), _sizes(old)
        _set_sizes(new, {old_out: out}, weight, _OUT)
        _set_sizes(new, {old_inside: inside}, weight, _IN)


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """A layer's parameters and buffers, those of its parametrizations included, by names within it."""
    found = [*module._parameters.items(), *module._buffers.items()]
    below = module._modules.get("parametrizations")
    if below is not None:
        found += [(f"parametrizations.{name}", tensor) for name, tensor in below.named_parameters()]
    return [(leaf, tensor) for leaf, tensor in found if tensor is not None]


def _set_attributes(result: nn.Module, graph: ChannelGraph, rows: Callable[[IntArray], int]) -> None:
    """Set the sizes that modules keep in attributes and that their forward methods give to operations."""
    for (name, attribute, index), (table, each) in graph.attributes.items():
        if not (table >= 0).any():
            continue
        module, size = result.get_submodule(name), rows(table) * each
        if size.denominator != 1:
            raise UserError(
                f"'{attribute}' of '{name}' would have to be {size}: use widths that make it whole"
            )
        if index is None:
            setattr(module, attribute, int(size))
        else:
            old = getattr(module, attribute)
            setattr(module, attribute, type(old)([*old[:index], int(size), *old[index + 1 :]]))


def _set_conv_groups(
    new: Any, old: Any, owners: set[str], graph: ChannelGraph, conv_groups: Mapping[str, int]
) -> None:
    if not isinstance(getattr(old, "groups", None), int):
        return
    for name in owners:
        if name in graph.depthwise:  # with a depth multiplier m there are m outputs for each input
            new.groups = old.groups * _sizes(new)[2].shape[0] // _sizes(old)[2].shape[0]
        elif name in conv_groups:
            new.groups = conv_groups[name]


def _sizes(module: Any) -> tuple[int, int, Tensor]:
    """(output size, input size, weight) of a layer, read off its tensors."""
    weight = module._parameters.get("weight")
    if weight is None or not weight.dim():
        # Computed from other tensors, the largest of which has its shape: `weight_v` beside `weight_g`, `original1`.
        sized = {leaf: tensor for leaf, tensor in _own_tensors(module) if tensor.dim()}
        weight = sized.get("weight", max(sized.values(), key=Tensor.numel))
    groups = getattr(module, "groups", 1)
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return weight.shape[1] * groups, weight.shape[0], weight
    if weight.dim() == 1:
        return weight.shape[0], 0, weight
    return weight.shape[0], weight.shape[1] * (groups if weight.dim() > 2 else 1), weight


def _set_sizes(
    module: Any, sizes: Mapping[int, int], weight: Tensor | None, attributes: tuple[str, ...] = _OUT
) -> None:
    """Set attributes that hold an old size to the new one; one of such a name that holds something else stays."""
    if isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels in sizes:
        module.num_groups = sizes[module.num_channels]  # one statistic per channel
    for attribute in attributes:
        old = getattr(module, attribute, None)
        if isinstance(old, int) and not isinstance(old, bool) and sizes.get(old, old) != old:
            setattr(module, attribute, sizes[old])
    shape = getattr(module, "normalized_shape", None)
    if isinstance(shape, (tuple, list)):
        module.normalized_shape = type(shape)(sizes.values() if weight is None else weight.shape)
