"""Single-shot shrinkage: widen, score every channel once, keep the best under a budget (LW-DNA, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.graph.complexity import latency
from core.surgery.architecture import Architecture
from core.surgery.depth import blocks_to_lift, lifted, vanished
from core.surgery.resize import resize
from core.widths.allocation import Allocation
from core.widths.budget import Budget, BudgetError
from core.widths.scores import ScoreFunction, score_channels
from core.widths.selection import (
    Fractions,
    SearchResult,
    fitting,
    group_fractions,
    largest,
    search,
    unlimited,
)
from core.widths.space import Space, open_space

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
    vanish: float = 0.0,
) -> Architecture:
    """Find layer-wise widths for a CNN: the whole method in one call.

    Args:
        model: any CNN; it is not changed, and its weights do not matter.
        example_inputs: as for `trace_channels`.
        batches: (inputs, targets) pairs; one or a few are enough. Not read for random and uniform scores.
        loss_fn: (outputs, targets) -> scalar loss.
        widen: growth of the space of widths, at least 1.
        budget: limits relative to `model`, or absolute.
        score: see `core.widths.scores`.
        allocation: how a channel's score and its cost are weighed; see `core.widths.allocation`.
        floor: least fraction of the *widened* width to keep: with widen=2 and floor=0.4 every group keeps at least
            0.8 of the baseline's width. A number, or patterns of group names -> number: the last one that fits counts,
            and a group that none fits has no floor (the default is for all groups or none). These groups are listed
            under "without_floor" in the result's `found_by`; `{"*": 0.4, "layer1.*": 0.3}` leaves none.
        ceiling: largest fraction of the widened width, likewise; without one a group may keep all.
        round_to: widths are multiples of it.
        seed: for the widened network's weights, and for the score. The result is a function of it.
        latents: see `score_channels`.
        embedding: see `score_channels`.
        name: the model's name in the file; its class name by default.
        freeze: see `trace_channels`, as are `taps`, `ties` and `outputs`.
        taps: see `trace_channels`.
        ties: see `trace_channels`.
        outputs: see `trace_channels`.
        vanish: depth: the search is first run without floors within blocks that can be left out; blocks that then keep
            less than this fraction of their widened channels are removed, the emptiest first and no more than leave
            enough to fill limits on FLOPs and parameters; widths are then searched in what is left. 0 removes none; the
            floor itself removes what would have to be held up by it. See `core.surgery.depth`.

    Returns:
        The architecture: widths, how they were found, what they cost.

    Raises:
        BudgetError: the budget cannot be met; the message gives the reachable range.
        UserError: a pattern that fits no group or no module; the message names it and close ones.
        UserError, TraceError: see the functions above.
    """
    if not 0 <= vanish <= 1:
        raise UserError(f"vanish={vanish}: use a fraction between 0 and 1")
    seen: list[tuple[Any, Any]] = []  # kept where they are needed again
    counted = 0

    def first_look() -> Iterable[tuple[Any, Any]]:
        nonlocal counted
        for batch in batches:
            counted += 1
            if vanish:
                seen.append(batch)
            yield batch

    def opened(removed: Sequence[str]) -> Space:
        return open_space(model, example_inputs, widen, seed=seed, freeze=freeze, taps=taps, ties=ties, outputs=outputs,
                          removed=removed)  # fmt: skip

    def scored(space: Space, batches: Iterable[tuple[Any, Any]]) -> dict[str, Tensor]:
        return score_channels(space.wide, space.graph, batches, loss_fn, score=score, latents=latents,
                              embedding=embedding, seed=seed)  # fmt: skip

    def searched(
        space: Space, scores: Mapping[str, Tensor], budget: Budget, floor: Fractions
    ) -> SearchResult:
        def measure(widths: dict[str, int]) -> float:
            # In turns with the baseline and in units of it: a machine that slows down does not move the limit.
            candidate = resize(space.wide, space.graph, widths, seed=seed)
            seconds = latency([model, candidate], example_inputs, device=device)
            return seconds[1] / seconds[0] * float(baseline.latency or 0)

        limits = [
            fitting(limit, space.graph.groups) if space.removed else limit for limit in (floor, ceiling)
        ]
        return search(space.graph, scores, budget, baseline, floor=limits[0], ceiling=limits[1], round_to=round_to,
                      allocation=allocation, measure=measure if budget.latency is not None else None)  # fmt: skip

    space = opened([])
    group_fractions(space.graph.groups, floor, "floor")  # refuses mistakes before anything is scored or timed
    group_fractions(space.graph.groups, ceiling, "ceiling")
    without_floor = unlimited(floor, space.graph.groups)
    baseline = space.baseline
    device = next(model.parameters()).device
    if budget.latency is not None:
        baseline = replace(baseline, latency=latency(model, example_inputs, device=device)[0])
    scores = scored(space, first_look())
    if vanish:
        inner = blocks_to_lift(model, example_inputs, space.graph)
        try:
            kept = searched(space, scores, budget, lifted(floor, inner)).keep
        except BudgetError:
            searched(space, scores, budget, floor)  # fails likewise, and says what the floors leave
            raise
        empty = vanished(inner, kept, vanish)
        gone = _as_many_as_leave_enough(empty, opened, partial(searched, floor=floor), budget)
        if gone:
            space = opened([block for block in inner if block in gone])
            scores = scored(space, seen)
    found = searched(space, scores, budget, floor)
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
            **({"without_floor": without_floor} if without_floor else {}),
            "round_to": round_to,
            **({"vanish": vanish} if vanish else {}),
            "latents": latents,
            **({"embedding": embedding} if latents == "hypernetwork" else {}),
            "at_floor": found.at_floor,
            "at_ceiling": found.at_ceiling,
            **({"latency_seconds": found.cost.latency} if found.cost.latency is not None else {}),
        },
    )


def _as_many_as_leave_enough(
    emptiest_first: Sequence[str],
    opened: Callable[[Sequence[str]], Space],
    searched: Callable[[Space, Mapping[str, Tensor], Budget], SearchResult],
    budget: Budget,
) -> Sequence[str]:
    """The blocks, or the first of them, without which the budget can still be filled.

    A limit on latency is left out of it: every answer would take a measurement.
    """
    if not emptiest_first or (budget.flops is None and budget.params is None):
        return emptiest_first
    counted = replace(budget, latency=None)

    def can_be_filled(number: int) -> bool:
        space = opened(emptiest_first[:number])
        zeros = {group.name: torch.zeros(group.size) for group in space.graph.groups}
        try:
            return bool(zeros) and bool(searched(space, zeros, counted).keep)
        except BudgetError:
            return False

    return emptiest_first[: largest(can_be_filled, 0, len(emptiest_first))]
