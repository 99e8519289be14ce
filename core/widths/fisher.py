"""Per-sample scores: the squares of every sample's own z · dL/dz instead of one signed sum over a batch.

A gate z of a channel multiplies the rows of the weights that produce it and the columns of those that read it. Give
every sample n a gate of its own; then, for a convolution or linear layer y = W x + b, a sample's share of z · dL/dz is

    Σ_positions (y - b) · dL/dy      of an output channel        Σ_positions x · dL/dx      of an input channel

because W x is linear in both. Summed over samples this is Σ W · dL/dW of the governed slices (`core.widths.scores`),
where samples that pull in opposite directions cancel. In the sum of squares, the diagonal of the empirical Fisher
information (Theis et al., 2018; Liu et al., ICML 2021), they do not. Behind a BatchNorm in training mode the producers'
sum over the samples is exactly zero (a scaled filter changes nothing); the shares of single samples are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.errors import UserError
from core.graph.channels import ChannelGraph
from core.modules import call, hooked, map_tensors
from core.surgery.gates import governed_weights

Roles = Literal["all", "readers"]
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


def fisher(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Any],
    loss_fn: Callable[..., Any],
    *,
    roles: Roles = "all",
) -> dict[str, Tensor]:
    """Σ_n (z · dL_n/dz)² of every choice, with L_n the share of sample n in the batch's mean loss times the batch size.

    Args:
        model: the network that `graph` was traced from, on its device; a copy that may be changed, as
            `core.widths.scores` hands it over. Scored in training mode.
        graph: its channel groups.
        batches: (inputs, targets) pairs; the score is the mean over all their samples.
        loss_fn: (outputs, targets) -> mean loss over the batch.
        roles: "all" counts rows of producers and columns of readers, "readers" only the columns, as the gates
            on feature maps in Group Fisher Pruning (Liu et al.) do.

    Returns:
        Group name -> (size,), float64.

    Raises:
        UserError: a governed weight belongs to no convolution or linear layer, or there is no batch.
    """
    recorder = _Recorder(graph, roles)
    model = model.train()
    handles = recorder.attach(model)
    model.requires_grad_(False)  # only gradients of feature maps are needed
    device = next(model.parameters()).device
    total = torch.zeros(graph.choices, dtype=torch.float64, device=device)
    samples = 0
    with hooked(handles):
        for batch in batches:
            inputs, targets = (map_tensors(item, lambda tensor: tensor.to(device)) for item in batch)
            inputs = map_tensors(
                inputs, lambda image: image.detach().requires_grad_(image.is_floating_point())
            )
            recorder.start()
            finite_loss(loss_fn(call(model, inputs), targets), f"after {samples} samples").backward()
            shares = recorder.shares()
            # The mean loss weighs a sample by 1 / N, so its own loss is N times its share.
            total += (len(shares) * shares).square().sum(0)
            samples += len(shares)
    if samples == 0:
        raise UserError("no batch to score channels with: pass at least one (inputs, targets) pair")
    return graph.split((total / samples).cpu())


def finite_loss(value: Any, when: str) -> Tensor:
    """The loss in what a loss function returns: a loss, or a loss and metrics.

    Raises:
        UserError: it is not finite; `when` says which loss it was.
    """
    loss: Tensor = value[0] if isinstance(value, tuple) else value
    if not bool(torch.isfinite(loss)):
        raise UserError(f"the loss {when} is {loss.item()}; channels cannot be scored by it")
    return loss


class _Recorder:
    """Collects every sample's z · dL/dz during one backward pass, (samples, sum of group sizes)."""

    def __init__(self, graph: ChannelGraph, roles: Roles) -> None:
        self.graph = graph
        self.roles = roles
        self.total: Tensor | None = None

    def start(self) -> None:
        """Forget the previous batch."""
        self.total = None

    def shares(self) -> Tensor:
        """What the last backward pass collected, without frozen rows."""
        if self.total is None:
            raise UserError("the loss reaches no weight that a free channel group governs")
        return self.total[:, :-1]

    def attach(self, model: nn.Module) -> list[Any]:
        """Hook every layer with a governed weight.

        Raises:
            UserError: see `fisher`.
        """
        governed = governed_weights(model, self.graph)
        by_weight = {id(parameter): name for name, parameter in model.named_parameters() if name in governed}
        handles: list[Any] = []
        covered: set[str] = set()
        for module in model.modules():
            weight = getattr(module, "weight", None)
            name = by_weight.get(id(weight))
            if name is None or name in self.graph.computed or not isinstance(module, LAYERS):
                continue
            covered.add(name)
            handles += self._hook(module, governed[name])
        if set(governed) - covered:
            raise UserError(
                f"per-sample scores cover convolutions and linear layers that use their weights as they are; "
                f"'{sorted(set(governed) - covered)[0]}' belongs to none: use the score gradient"
            )
        return handles

    def _hook(self, module: nn.Module, tables: dict[int, NDArray[np.int64]]) -> list[Any]:
        transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        reads, makes = (0, 1) if transposed else (1, 0)
        handles: list[Any] = []
        if reads in tables:

            def before(layer: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                x = arguments[0]
                if not x.requires_grad:
                    return arguments
                # An alias: its gradient comes from this layer alone.
                alias = x.view_as(x)
                alias.register_hook(partial(self._add, layer, x.detach(), tables[reads]))
                return (alias, *arguments[1:])

            handles.append(module.register_forward_pre_hook(before))
        if makes in tables and self.roles == "all":

            def after(layer: Any, arguments: Any, y: Tensor) -> Tensor:
                linear = y.detach()
                if layer.bias is not None:
                    linear = linear - _along_channels(layer, layer.bias.detach(), y.dim())
                # A clone for later layers: an in-place activation would overwrite the factor that is used below.
                passed = y.clone()
                passed.register_hook(partial(self._add, layer, linear, tables[makes]))
                return passed

            handles.append(module.register_forward_hook(after))
        return handles

    def _add(self, layer: Any, value: Tensor, table: NDArray[np.int64], gradient: Tensor) -> None:
        product = (value * gradient.to(value.dtype)).double()
        if isinstance(layer, nn.Linear):
            shares = product.reshape(len(product), -1, product.shape[-1]).sum(1)
        else:
            shares = product.flatten(2).sum(2)
        if shares.shape[1] != len(
            table
        ):  # a grouped convolution: one row of the weight stands in every group
            shares = shares.reshape(len(shares), -1, len(table)).sum(1)
        if self.total is not None and len(self.total) != len(shares):
            raise UserError(
                f"per-sample scores need the samples in the first axis everywhere; found {len(self.total)} and "
                f"{len(shares)} rows: use the score gradient"
            )
        if self.total is None:
            columns = self.graph.choices + 1
            self.total = torch.zeros(len(shares), columns, dtype=torch.float64, device=shares.device)
        index = torch.from_numpy(table).to(shares.device) % self.total.shape[1]
        self.total.index_add_(1, index, shares)


def _along_channels(layer: nn.Module, bias: Tensor, rank: int) -> Tensor:
    return bias if isinstance(layer, nn.Linear) else bias.reshape([1, -1] + [1] * (rank - 2))
