"""Torch-Pruning as an outside peer: widths from its pruner, at our budget.

It gets the same widened network, fresh, the same batches, and the lowest floor as its largest pruning ratio; how it
couples layers and ranks channels is its own. Its widths are moved to the nearest that floors, ceilings and `round_to`
allow. `pruning_ratio` is bisected on fresh copies until no larger network is within the budget, counted by our closed
form. Where weights are kept (`ShrinkConfig.keep_weights`) it gets the trained network, and the channels that it leaves
are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.errors import UserError
from core.graph.channels import trace_channels
from core.methods.candidates import limits_of
from core.methods.method import NO_SCORES, Found, Method, Request, open_request
from core.methods.subject import first_batches, only_loss
from core.modules import call, map_tensors
from core.widths.bounds import IntArray
from core.widths.scores import magnitudes
from core.widths.selection import best_choices
from core.widths.space import Space

TRIALS = 14  # halvings of the ratio: 1 / 16384 of the channels


def prune(request: Request, *, importance: str) -> Found:
    """Widths by Torch-Pruning's global ranking of channel groups.

    Args:
        request: the space, the budget of FLOPs and the batches.
        importance: "taylor" (GroupTaylorImportance, gradients of the scoring batches) or "norm"
            (GroupMagnitudeImportance, p=2).

    Raises:
        UserError: no ratio meets the budget within the floors.
    """
    import torch_pruning

    config = request.shrink
    space = open_request(request)
    limits = limits_of(space, config)
    least = float((limits.bounds.low / space.graph.sizes).min())
    wide = space.wide.train()
    ranking: Any = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    if importance == "taylor":
        _accumulate_gradients(wide, request)
        ranking = torch_pruning.importance.GroupTaylorImportance()

    def pruned(ratio: float) -> tuple[IntArray, dict[str, IntArray]]:
        """Choices per group, (G,), and layer -> the rows that are left."""
        model = copy.deepcopy(wide)
        for copied, original in zip(model.parameters(), wide.parameters(), strict=True):
            copied.grad = None if original.grad is None else original.grad.clone()  # deepcopy drops them
        inputs = map_tensors(request.subject.example_inputs, lambda tensor: tensor.to(request.fabric.device))
        pruner = torch_pruning.pruner.MetaPruner(
            model, inputs, importance=ranking, global_pruning=True, pruning_ratio=ratio,
            max_pruning_ratio=1 - least, ignored_layers=_outputs(space, model),
            in_channel_groups={}, out_channel_groups={}, num_heads={},
        )  # fmt: skip
        names = {id(module): name for name, module in model.named_modules()}
        rows = {name: np.arange(_rows(model, name)) for name in _layers(space, model)}
        for group in pruner.step(interactive=True):
            for dep, indices in group.items:
                name = names.get(id(dep.target.module))
                if name in rows and pruner.DG.is_out_channel_pruning_fn(dep.handler):
                    rows[name] = np.delete(rows[name], [int(index) for index in indices])
            group.prune()
        counts = np.rint(_elements(space, model) / limits.bounds.block).astype(np.int64) * limits.bounds.block
        return np.clip(counts, limits.bounds.low, limits.bounds.high), rows

    low, high = 0.0, 1.0 - least
    best: tuple[IntArray, dict[str, IntArray]] | None = None
    for _ in range(TRIALS):
        ratio = (low + high) / 2
        found = pruned(ratio)
        if limits.fits(space.graph, found[0][None]).all():
            best, high = found, ratio
        else:
            low = ratio
    if best is None:
        raise UserError("Torch-Pruning reaches no network within the budget and the floors: lower floor")
    facts = config.found_by(score=f"torch-pruning {importance}", seed=request.seed, ratio=high)
    epochs = request.epochs(config.batches) if importance == "taylor" else 0.0
    counts, rows = best
    keep = best_choices(space.graph, _left(space, rows), counts) if space.keeps_weights else None
    widths = space.graph.widths_at(counts)
    return Found(
        space.architecture(widths, request.subject.model_name, facts, keep), epochs, epochs * config.widen**2
    )


def _left(space: Space, rows: Mapping[str, IntArray]) -> dict[str, Tensor]:
    """Scores that rank the channels that the library left first; the rest, for floors and multiples, by |W|."""
    scores = {name: value / (1 + value.max()) for name, value in magnitudes(space.wide, space.graph).items()}
    flat = torch.cat(list(scores.values()))
    for name, left in rows.items():
        table = space.graph.free_table(f"{name}.weight", _output_dim(space.wide.get_submodule(name))[0])
        if table is not None:
            choices = torch.from_numpy(np.unique(table[left]))
            flat[choices[choices >= 0]] += 1
    return space.graph.split(flat)


def _accumulate_gradients(model: nn.Module, request: Request) -> None:
    loss_fn = only_loss(request.subject)
    for batch in first_batches(request.subject, request.shrink, request.seed):
        inputs, targets = (
            map_tensors(item, lambda tensor: tensor.to(request.fabric.device)) for item in batch
        )
        loss_fn(call(model, inputs), targets).backward()


def _outputs(space: Space, model: nn.Module) -> list[nn.Module]:
    """Layers that the library must leave alone: those whose outputs are frozen in our groups."""
    layers = (nn.modules.conv._ConvNd, nn.Linear)
    free = set(space.graph.producers)
    return [
        module for name, module in model.named_modules() if isinstance(module, layers) and name not in free
    ]


def _layers(space: Space, model: nn.Module) -> list[str]:
    """Convolutions and linear layers whose outputs are free."""
    return [
        name
        for name in space.graph.producers
        if isinstance(model.get_submodule(name), nn.modules.conv._ConvNd | nn.Linear)
    ]


def _rows(model: nn.Module, name: str) -> int:
    """Output channels of a layer."""
    dim, times = _output_dim(model.get_submodule(name))
    return int(model.get_parameter(f"{name}.weight").shape[dim]) * times


def _output_dim(layer: nn.Module) -> tuple[int, int]:
    """The dimension of a layer's weight that holds its outputs, and of how many groups it holds one."""
    return (1, layer.groups) if isinstance(layer, nn.modules.conv._ConvTransposeNd) else (0, 1)


def _elements(space: Space, model: nn.Module) -> NDArray[np.float64]:
    """Elements of every group in the pruned network, (G,); for groups that are tied only on request, their mean.

    Raises:
        UserError: the library cut layers apart that share a group.
    """
    options = replace(space.graph.options, ties=())
    free = trace_channels(space.wide, space.inputs, **asdict(options))
    widths = {name: _rows(model, name) for name in free.names}
    for name in _layers(space, model):
        dim, times = _output_dim(model.get_submodule(name))
        found, width = _rows(model, name), free.width_of(name, widths, dim) * times
        if found != width:
            raise UserError(f"Torch-Pruning left '{name}' with {found} channels where its group has {width}")
    kept = {group.name: widths[group.name] / group.width for group in free.groups}
    tied = [
        [own.name for own in free.groups if own.slots.keys() <= group.slots.keys()]
        for group in space.graph.groups
    ]
    return space.graph.sizes * np.array([np.mean([kept[name] for name in names]) for names in tied])


PACKAGE = ("torch_pruning", "peers")
PEERS: dict[str, Method] = {
    name: Method(f"Torch-Pruning: group {ranking}, global", partial(prune, importance=importance),
                 refuses=NO_SCORES, whole=True, package=PACKAGE)
    for name, ranking, importance in (
        ("torch-pruning", "Taylor", "taylor"), ("torch-pruning-norm", "L2 norm", "norm")
    )
}  # fmt: skip
