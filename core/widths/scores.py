"""Channel scores: how much each channel of a network matters, from a few batches.

    gradient      |dL/dz|      LW-DNA's criterion
    sensitivity   |z · dL/dz|  equal to `gradient` for plain gates, whose z is 1; different behind a hypernetwork
    magnitude     |z| behind a hypernetwork; for gates the mean |W| over the slices that a channel governs
    fisher        Σ over samples of (z · dL/dz)²: see `core.widths.fisher`; fisher-readers leaves out the producers
    synflow       z · dR/dz of the data-free R of SynFlow: see `core.widths.proxies`
    diminishing-returns         1 / j for the j-th choice of every group: log w_g to be, of width w_g
    fisher-diminishing-returns  a_g / j, with a_g² the group's sum of `fisher`
    uniform         the rank within the group: every group keeps the same fraction
    random          likewise, after a width is drawn for each group: log-normal shares
    random-scores   a draw from U(0, 1) for each choice: the control that keeps the search and drops the information;
                    one threshold over independent draws keeps nearly the same share of every group

or any callable `score(model, graph, batches, loss_fn) -> {group name: (size,) tensor}`.

Diminishing returns maximise Σ_g a_g log w_g: at equal scores a group's first channels are worth more than its last, so
that no group is starved or glutted. They measure worth, not rank, so they go with an allocation by cost.

Gates need not be attached: z · dL/dz is the sum of W · dL/dW over the governed slices of the plain network
(`core.surgery.gates` says why), which costs one ordinary forward and backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.errors import UserError, check_known, did_you_mean
from core.graph.channels import ChannelGraph
from core.modules import bare, call, copy_model, map_tensors
from core.surgery.gates import LATENTS, governed_parameters, governed_weights
from core.surgery.initialise import seeded
from core.widths.allocation import Allocation
from core.widths.fisher import Roles, finite_loss, fisher
from core.widths.proxies import synflow_products

Scores = Mapping[str, Tensor]
ScoreFunction = Callable[[nn.Module, ChannelGraph, Iterable[Any], Callable[..., Any]], Scores]
Latents = Literal["gate", "hypernetwork"]
SPREAD = 0.35  # standard deviation of the logarithms of drawn widths
BY_COST: tuple[Allocation, ...] = ("per-flop", "equalised")


@dataclass(frozen=True)
class Scored:
    """The inputs of a score; see `score_channels`."""

    model: nn.Module
    graph: ChannelGraph
    batches: Iterable[Any]
    loss_fn: Callable[..., Any]
    latents: Latents = "gate"
    embedding: int = 8


@dataclass(frozen=True)
class Score:
    """A score with a name.

    Attributes:
        summary: one line for tables.
        of: the score of every choice, by group.
        gates_only: whether it is defined for plain gates, but not behind a hypernetwork.
        allocations: those with which it makes sense, the usual one first; empty for all.
        ranks: whether it says which channels of a group matter, and not only how many.
    """

    summary: str
    of: Callable[[Scored], Scores]
    gates_only: bool = False
    allocations: tuple[Allocation, ...] = ()
    ranks: bool = True


def check_score(
    score: str | ScoreFunction, latents: str, allocation: str | None = None, what: str = "score"
) -> None:
    """Refuse a score that is unknown, is not defined for the latents, or means nothing to the allocation.

    Args:
        score: a name, or a callable, which is always accepted.
        latents: "gate" or "hypernetwork".
        allocation: see `core.widths.allocation`; None where none is made.
        what: what messages call the setting.

    Raises:
        UserError: it is refused; the message lists what is allowed.
    """
    check_known("unknown latents", [latents], get_args(Latents))
    if not isinstance(score, str):
        return
    if score not in SCORES:
        raise UserError(f"{what}: unknown score '{score}', {did_you_mean(score, SCORES)}, or a callable")
    if SCORES[score].gates_only and latents != "gate":
        raise UserError(f"{what}: '{score}' is defined for plain gates: use latents='gate', or another score")
    allowed = SCORES[score].allocations
    if allocation is not None and allowed and allocation not in allowed:
        raise UserError(
            f"{what}: '{score}' says nothing to allocation='{allocation}': use "
            + " or ".join(f"allocation='{name}'" for name in allowed)
        )


def score_channels(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[tuple[Any, Any]],
    loss_fn: Callable[[Any, Any], Tensor],
    *,
    score: str | ScoreFunction = "gradient",
    latents: Literal["gate", "hypernetwork"] = "gate",
    embedding: int = 8,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Score every choice of every group; a higher score is kept longer.

    Args:
        model: the (widened) network that `graph` was traced from; it is not changed. Scored in training mode on its
            own device.
        graph: its channel groups.
        batches: (inputs, targets) pairs; the score is the mean over them of the absolute value per batch.
        loss_fn: (outputs, targets) -> scalar loss.
        score: one of the names above, or a callable.
        latents: where the latents live: multiplicative gates, or DHP's hypernetworks with random latents.
        embedding: size of the hypernetworks' embedding.
        seed: for random scores, hypernetworks and dropout.

    Returns:
        Group name -> scores, (size,), float32 on the CPU.

    Raises:
        UserError: an unknown score, no batch, a loss that is not finite, or a callable that returns the wrong groups,
            shapes or values.
    """
    check_score(score, latents)
    model = bare(model)
    with seeded(seed):
        if isinstance(score, str):
            found = SCORES[score].of(Scored(model, graph, batches, loss_fn, latents, embedding))
        else:
            found = score(copy_model(model), graph, batches, loss_fn)
    return _checked(graph, found)


def _by_size(of: Callable[[int], Tensor]) -> Callable[[Scored], Scores]:
    """A score that depends only on the size of a group."""
    return lambda given: {group.name: of(group.size) for group in given.graph.groups}


def _by_drawn_widths(given: Scored) -> Scores:
    # A threshold t keeps the first (1 - t) * share of every group.
    shares = torch.exp(SPREAD * torch.randn(len(given.graph.groups), dtype=torch.float64)).tolist()
    return {
        group.name: 1 - (1 - _shares(group.size)) / share
        for group, share in zip(given.graph.groups, shares, strict=True)
    }


def _shares(size: int) -> Tensor:
    """1 minus the fraction of a group that lies before the middle of each choice, (size,)."""
    return 1 - (torch.arange(size, dtype=torch.float64) + 0.5) / size


def _by_fishers_diminishing_returns(given: Scored) -> Scores:
    found = {}
    for name, value in _by_fisher(given, roles="all").items():
        rank = torch.empty_like(value)
        rank[value.argsort(descending=True, stable=True)] = torch.arange(
            1.0, len(value) + 1, dtype=rank.dtype
        )
        found[name] = value.sum().sqrt() / rank
    return found


def _by_latents(given: Scored, *, score: str) -> Scores:
    parts = given.model, given.graph, given.batches, given.loss_fn, score
    flat = _gate_scores(*parts) if given.latents == "gate" else _hypernetwork_scores(*parts, given.embedding)
    return given.graph.split(flat.float().cpu())


def _by_fisher(given: Scored, *, roles: Roles) -> Scores:
    return fisher(copy_model(given.model), given.graph, given.batches, given.loss_fn, roles=roles)


def _by_synflow(given: Scored) -> Scores:
    return synflow_scores(copy_model(given.model), given.graph, given.batches)


SCORES: dict[str, Score] = {
    "gradient": Score("|dL/dz| of plain gates", partial(_by_latents, score="gradient")),
    "sensitivity": Score("|z · dL/dz| of plain gates: equals gradient, trained once for both",
                         partial(_by_latents, score="sensitivity")),
    "magnitude": Score("mean |W|, of fresh weights where none are kept", partial(_by_latents, score="magnitude")),
    "random": Score("control: widths drawn per group", _by_drawn_widths, allocations=("threshold",), ranks=False),
    "uniform": Score("control: every group keeps the same fraction", _by_size(_shares), allocations=("threshold",),
                     ranks=False),
    "random-scores": Score("control: random scores; nearly uniform widths", _by_size(torch.rand)),
    "fisher": Score("Σ over samples of (z · dL/dz)²", partial(_by_fisher, roles="all"), True),
    "fisher-readers": Score("fisher, counted at the layers that read the channel",
                            partial(_by_fisher, roles="readers"), True),
    "synflow": Score("z · dR/dz of SynFlow", _by_synflow, True),
    "diminishing-returns": Score("Σ log w: the j-th channel of a group is worth 1/j, per FLOP",
                                 _by_size(lambda size: 1 / torch.arange(1.0, size + 1)), allocations=BY_COST,
                                 ranks=False),
    "fisher-diminishing-returns": Score("Σ a log w, a² a group's summed fisher, per FLOP",
                                        _by_fishers_diminishing_returns, True, BY_COST),
}  # fmt: skip
NAMES = tuple(SCORES)


def governed_sums(
    graph: ChannelGraph, products: Iterable[tuple[str, Tensor]], *, count: bool = False
) -> Tensor:
    """Sum weight-shaped tensors over the slices that each choice governs, (sum of sizes,), float64.

    Args:
        graph: the channel groups.
        products: (weight name, tensor of the weight's shape), W · dL/dW for instance. Each is used before the next
            is taken, so all can be made in the same memory.
        count: whether to divide by the number of summed entries.
    """
    tables: list[NDArray[np.int64]] = []
    sums: list[Tensor] = []
    entries: list[float] = []  # summed entries of each row
    for name, product in products:
        for dim in range(product.dim()):
            table = graph.free_table(name, dim)
            if table is not None:
                tables.append(table)
                sums.append(_sum_but(product, dim))
                entries.append(product.numel() / len(table))
    if not tables:
        raise UserError("no weight is governed by a free channel group: there is nothing to score")
    choices = graph.choices
    # All rows at once. Frozen rows, index -1, go into one more entry at the end, which is dropped.
    rows = np.concatenate(tables) % (choices + 1)
    total = torch.zeros(choices + 1, device=sums[0].device, dtype=torch.float64)
    total.index_add_(0, torch.from_numpy(rows).to(total.device), torch.cat(sums).double())
    if count:
        per_row = np.repeat(entries, [len(table) for table in tables])
        counted = np.bincount(rows, weights=per_row, minlength=choices + 1)
        total /= torch.from_numpy(counted).to(total.device).clamp_min(1)
    return total[:-1]


def _sum_but(product: Tensor, dim: int) -> Tensor:
    """The sum over all dimensions but one; for the first two by plain sums of a matrix, which are many times faster."""
    if dim == 0:
        return product.flatten(1).sum(1)
    if dim == 1:
        return product.flatten(1).sum(0).reshape(product.shape[1], -1).sum(1)
    return product.sum([axis for axis in range(product.dim()) if axis != dim])


def synflow_scores(model: nn.Module, graph: ChannelGraph, batches: Iterable[Any]) -> dict[str, Tensor]:
    """z · dR/dz, R of `core.widths.proxies.synflow`; the first batch only gives the shape of the inputs."""
    for inputs, _ in batches:
        names = governed_weights(model, graph)
        products = ((name, product) for name, product in synflow_products(model, inputs) if name in names)
        flat = governed_sums(graph, products)
        # R grows with the product of all layers' gains; float32 can hold the derivative of its logarithm.
        return graph.split((flat / flat.max()).cpu())
    raise UserError("no batch to score channels with: pass at least one (inputs, targets) pair")


def _gate_scores(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[Any], loss_fn: Callable[..., Any], score: str
) -> Tensor:
    if score == "magnitude":
        return governed_sums(graph, _magnitudes(model, graph), count=True)
    names = governed_weights(model, graph)
    model = copy_model(model).train()
    weights = {name: weight for name, weight in model.named_parameters() if name in names}
    model.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)

    def per_batch(gradients: dict[str, Tensor]) -> Tensor:
        products = ((name, weight.detach() * gradients[name]) for name, weight in weights.items())
        return governed_sums(graph, products).abs()

    return _mean_over_batches(model, batches, loss_fn, weights, per_batch)


def magnitudes(model: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """Mean |W| over the slices that each choice governs, by group: (size,), float64."""
    return graph.split(governed_sums(graph, _magnitudes(model, graph), count=True))


def _magnitudes(model: nn.Module, graph: ChannelGraph) -> Iterator[tuple[str, Tensor]]:
    """|W| of the governed weights, one after the other in the same memory, as fresh memory costs more than the sums."""
    weights = [(name, weight.detach()) for name, weight, _ in governed_parameters(model, graph)]
    scratch: dict[tuple[torch.device, torch.dtype], Tensor] = {}
    for name, weight in sorted(weights, key=lambda item: -item[1].numel()):
        place = weight.device, weight.dtype
        if place not in scratch:
            scratch[place] = torch.empty(weight.numel(), device=weight.device, dtype=weight.dtype)
        yield name, torch.abs(weight, out=scratch[place][: weight.numel()].view(weight.shape))


def _hypernetwork_scores(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Any],
    loss_fn: Callable[..., Any],
    score: str,
    embedding: int,
) -> Tensor:
    from core.surgery.hypernetwork import attach_hypernetwork

    hyper = attach_hypernetwork(model, graph, embedding=embedding).train()
    z = getattr(hyper, LATENTS).z
    if score == "magnitude":
        return z.detach().abs()
    for parameter in hyper.parameters():
        parameter.requires_grad_(parameter is z)

    def per_batch(gradients: dict[str, Tensor]) -> Tensor:
        scale = z.detach() if score == "sensitivity" else 1.0
        return (scale * gradients["z"]).abs()

    return _mean_over_batches(hyper, batches, loss_fn, {"z": z}, per_batch)


def _mean_over_batches(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[..., Any],
    wanted: Mapping[str, Tensor],
    per_batch: Callable[[dict[str, Tensor]], Tensor],
) -> Tensor:
    device = next(model.parameters()).device
    total: Tensor | None = None
    count = 0
    for batch in batches:
        inputs, targets = (map_tensors(item, lambda tensor: tensor.to(device)) for item in batch)
        loss = finite_loss(loss_fn(call(model, inputs), targets), f"of batch {count}")
        found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        gradients = {
            name: torch.zeros_like(tensor) if gradient is None else gradient
            for (name, tensor), gradient in zip(wanted.items(), found, strict=True)
        }
        value = per_batch(gradients)
        total = value if total is None else total + value
        count += 1
    if total is None:
        raise UserError("no batch to score channels with: pass at least one (inputs, targets) pair")
    return total / count


def _checked(graph: ChannelGraph, scores: Scores) -> dict[str, Tensor]:
    for group in graph.groups:
        value = scores.get(group.name)
        if value is None or tuple(value.shape) != (group.size,):
            shape = None if value is None else tuple(value.shape)
            raise UserError(f"score of group '{group.name}': need shape ({group.size},), got {shape}")
    values = {group.name: scores[group.name].detach().float().cpu() for group in graph.groups}
    if values and not bool(torch.isfinite(torch.cat(list(values.values()))).all()):
        name = next(name for name, value in values.items() if not bool(torch.isfinite(value).all()))
        raise UserError(f"score of group '{name}' holds NaN or infinity")
    return values
