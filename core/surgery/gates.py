"""Gated layers: one latent vector per channel group, multiplied into every weight that the group governs.

A weight of output group a and input group b becomes W[j, i] · z_a[j] · z_b[i]; so a channel appears in the rows of its
producers and in the columns of all its readers, and

    z_c · dL/dz_c = Σ W · dL/dW over all weight slices that channel c governs

by the chain rule, since each of these weights holds z_c as a factor. DHP's hypernetwork (ECCV 2020) gives the same sum
while its biases are zero, as at its start.

Biases, norm weights and statistics stay ordinary parameters: nobody reads a channel with z = 0, so they do not
matter. Everything is a parametrization of `weight`; no `forward` changes, and `detach` takes it off again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from core.graph.channels import ChannelGraph
from core.modules import axis_shape, copy_model, named_tensors

LATENTS = "channel_latents"


class Latents(nn.Module):
    """The latent vectors of all groups in one parameter `z`, (sum of group sizes,)."""

    one: Tensor

    def __init__(self, graph: ChannelGraph, z: Tensor) -> None:
        super().__init__()
        self.z = nn.Parameter(z)
        self.names = graph.names
        self.sizes = [group.size for group in graph.groups]
        self.register_buffer("one", torch.ones(1, dtype=z.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input: a Sequential to which the latents are added calls them as its last layer."""
        return x

    def of(self, name: str) -> Tensor:
        """The latent vector of one group, (size,)."""
        return self.split(self.z)[name]

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat vector over all choices, (sum of sizes,), by group."""
        return dict(zip(self.names, flat.split(self.sizes), strict=True))

    def gather(self, index: Tensor) -> Tensor:
        """Latents of rows by flat choice index; index -1, a frozen row, reads the constant 1."""
        return torch.cat([self.z, self.one])[index]


class RowsOfLatents(nn.Module):
    """Base of the weight parametrizations: the latents of a weight's output rows and input columns."""

    def __init__(self, latents: Latents, tables: dict[int, NDArray[np.int64]], rank: int) -> None:
        super().__init__()
        # In a tuple, so that the shared latents are a submodule of the model alone and not of every layer.
        self.shared = (latents,)
        self.rank = rank
        self.dims = sorted(tables)
        for dim in self.dims:
            self.register_buffer(f"rows{dim}", torch.from_numpy(tables[dim].copy()), persistent=False)

    def along(self, dim: int) -> Tensor:
        """Latents along one weight dimension, shaped to broadcast against the weight."""
        return self.shared[0].gather(getattr(self, f"rows{dim}")).reshape(axis_shape(dim, self.rank))


class GatedWeight(RowsOfLatents):
    """W[j, i, ...] · z_out[j] · z_in[i]."""

    def forward(self, weight: Tensor) -> Tensor:
        """Weight of any rank -> gated weight of the same shape."""
        for dim in self.dims:
            weight = weight * self.along(dim)
        return weight


def governed_parameters(
    model: nn.Module, graph: ChannelGraph
) -> Iterator[tuple[str, nn.Parameter, dict[int, NDArray[np.int64]]]]:
    """Weights of two or more dimensions that free groups govern: name, weight, {dimension: row -> choice}."""
    for name, parameter in named_tensors(model):
        if parameter.dim() > 1 and isinstance(parameter, nn.Parameter):
            tables = {dim: graph.free_table(name, dim) for dim in range(parameter.dim())}
            if free := {dim: table for dim, table in tables.items() if table is not None}:
                yield name, parameter, free


def governed_weights(model: nn.Module, graph: ChannelGraph) -> dict[str, dict[int, NDArray[np.int64]]]:
    """`governed_parameters` by name: name -> {dimension: row -> choice}."""
    return {name: tables for name, _, tables in governed_parameters(model, graph)}


def parametrize_weight_(model: nn.Module, name: str, parametrization: nn.Module) -> None:
    """Register a parametrization on a weight, in place; modules that share the weight share the parametrization."""
    owner, _, leaf = name.rpartition(".")
    first = model.get_submodule(owner)
    weight = getattr(first, leaf)
    sharing = [
        (module, own)
        for module in model.modules()
        for own, tensor in module._parameters.items()
        if tensor is weight and (module, own) != (first, leaf)
    ]
    parametrize.register_parametrization(first, leaf, parametrization)
    for module, own in sharing:
        parametrize.register_parametrization(module, own, nn.Identity())
        module.parametrizations[own] = first.parametrizations[leaf]  # type: ignore[index,operator]


def attach_gates(model: nn.Module, graph: ChannelGraph, *, init: float = 1.0) -> nn.Module:
    """A copy of `model` with a gate on every channel.

    Args:
        model: the network that `graph` was traced from; it is not changed.
        graph: its channel groups.
        init: value of every latent. With 1 the copy computes what `model` computes.

    Returns:
        A module of the same interface; its latents are `result.channel_latents` (`Latents`).
    """
    gated = copy_model(model)
    reference = next(model.parameters())
    latents = Latents(graph, torch.full((graph.choices,), init, dtype=reference.dtype)).to(reference.device)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, tables in governed_weights(model, graph).items():
        parametrize_weight_(gated, name, GatedWeight(latents, tables, len(shapes[name])).to(reference.device))
    gated.add_module(LATENTS, latents)
    return gated


def detach(gated: nn.Module, *, bake: bool = True) -> nn.Module:
    """A plain copy without latents.

    Args:
        gated: what `attach_gates` or `attach_hypernetwork` returned; it is not changed.
        bake: keep the weights that the latents produced; False gives back the weights below the gates (gates only).
    """
    # torch copies only leaves, and what a hook has computed (its older spectral and weight norm) is none.
    held = [
        value for module in gated.modules() for value in vars(module).values() if isinstance(value, Tensor)
    ]
    plain = copy.deepcopy(gated, {id(value): value.detach().clone() for value in held if not value.is_leaf})
    weights: dict[int, nn.Parameter] = {}  # one for each parametrization; modules may share one
    found: list[tuple[nn.Module, dict[str, nn.Parameter]]] = []
    for module in plain.modules():
        own: dict[str, nn.Parameter] = {}
        for leaf, made_by in getattr(module, "parametrizations", {}).items():
            if any(isinstance(item, RowsOfLatents) for item in made_by):
                value = getattr(module, leaf) if bake else made_by.original
                own[leaf] = weights.setdefault(id(made_by), nn.Parameter(value.detach().clone()))
        if own:
            found.append((module, own))
    for module, own in found:
        # torch's remove_parametrizations would take the weight's property off the class, which `gated` still needs.
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        module._parameters.update(own)
        _first(module._parameters, own)
    delattr(plain, LATENTS)
    return plain


def _first(parameters: dict[str, nn.Parameter | None], names: Iterable[str]) -> None:
    """Move entries to the front, in place: a plain layer lists its weight before its bias."""
    for name in [name for name in parameters if name not in names]:
        parameters[name] = parameters.pop(name)
