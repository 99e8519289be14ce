"""Single-shot shrinkage: widen, score every channel once, keep the best under a budget (LW-DNA, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from core.allocation import Allocation
from core.architecture import Architecture
from core.budget import Budget, BudgetError
from core.complexity import latency
from core.resize import resize
from core.scores import ScoreFunction, score_channels
from core.selection import Fractions, SearchResult, search
from core.space import open_space

__all__ = ["Budget", "BudgetError", "SearchResult", "search", "shrink"]


def shrink(
    model: nn.Module,
    example_inputs: Any,
    batches: Iterable[tuple[Any, Any]],
    loss_fn: Callable[[Any, Any], Tensor],
    *,
    widen: float = 2.0,
    budget: Budget = Budget(flops=0.9),  # noqa: B008  # frozen
    score: str | ScoreFunction = "gradient",
    allocation: Allocation = "threshold",
    floor: Fractions = 0.4,
    ceiling: Fractions = 1.0,
    round_to: int = 1,
    seed: int = 0,
    latents: Literal["gate", "hypernetwork"] = "gate",
    embedding: int = 8,
    name: str | None = None,
    freeze: Sequence[str] = (),
    taps: Sequence[str] = (),
    ties: Sequence[tuple[str, str]] = (),
    outputs: Literal["single", "freeze", "free"] = "single",
) -> Architecture:
    """Find layer-wise widths for a CNN: the whole method in one call.

    Args:
        model: any CNN; it is not changed, and its weights do not matter.
        example_inputs: as for `trace_channels`.
        batches: (inputs, targets) pairs; one or a few are enough. Not read for random and uniform scores.
        loss_fn: (outputs, targets) -> scalar loss.
        widen: growth of the space of widths, at least 1.
        budget: limits relative to `model`, or absolute.
        score: see `core.scores`.
        allocation: how a channel's score and its cost are weighed; see `core.allocation`.
        floor: least fraction of the *widened* width to keep: with widen=2 and floor=0.4 every group keeps at least
            0.8 of the baseline's width. A number, or patterns of group names -> number.
        ceiling: largest fraction of the widened width.
        round_to: widths are multiples of it.
        seed: for the widened network's weights, and for the score. The result is a function of it.
        latents: see `score_channels`.
        embedding: see `score_channels`.
        name: the model's name in the file; its class name by default.
        freeze: see `trace_channels`, as are `taps`, `ties` and `outputs`.
        taps: see `trace_channels`.
        ties: see `trace_channels`.
        outputs: see `trace_channels`.

    Returns:
        The architecture: widths, how they were found, what they cost.

    Raises:
        BudgetError: the budget cannot be met; the message gives the reachable range.
        UserError, TraceError: see the functions above.
    """
    space = open_space(
        model, example_inputs, widen, seed=seed, freeze=freeze, taps=taps, ties=ties, outputs=outputs
    )
    wide, graph = space.wide, space.graph
    counted = 0

    def counting() -> Iterable[tuple[Any, Any]]:
        nonlocal counted
        for batch in batches:
            counted += 1
            yield batch

    scores = score_channels(
        wide, graph, counting(), loss_fn, score=score, latents=latents, embedding=embedding, seed=seed
    )
    baseline = space.baseline(budget.convention)
    device = next(model.parameters()).device

    def measure(widths: dict[str, int]) -> float:
        # Timed in turns with the baseline, in units of it, so that a machine that slows down does not move the limit.
        candidate = resize(wide, graph, widths, seed=seed)
        seconds = latency([model, candidate], example_inputs, device=device)
        return seconds[1] / seconds[0] * baseline["latency"]

    if budget.latency is not None:
        baseline["latency"] = latency(model, example_inputs, device=device)[0]
    found = search(
        graph,
        scores,
        budget,
        baseline,
        floor=floor,
        ceiling=ceiling,
        round_to=round_to,
        allocation=allocation,
        measure=measure if budget.latency is not None else None,
    )
    return space.architecture(
        found.widths,
        name,
        {
            "score": score if isinstance(score, str) else getattr(score, "__name__", type(score).__name__),
            "allocation": allocation,
            "seed": seed,
            "budget": budget.to_json(),
            "batches": counted,
            "widen": widen,
            "floor": floor if isinstance(floor, (int, float)) else dict(floor),
            "ceiling": ceiling if isinstance(ceiling, (int, float)) else dict(ceiling),
            "round_to": round_to,
            "latents": latents,
            **({"embedding": embedding} if latents == "hypernetwork" else {}),
            "at_floor": found.at_floor,
            "at_ceiling": found.at_ceiling,
            **({"latency_seconds": found.cost["latency"]} if "latency" in found.cost else {}),
        },
    )
