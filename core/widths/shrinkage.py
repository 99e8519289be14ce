"""Single-shot shrinkage: widen, score every channel once, keep the best under a budget (LW-DNA, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from core.graph.complexity import Cost, latency
from core.graph.labels import Note
from core.modules import bare
from core.surgery.architecture import Architecture
from core.surgery.depth import blocks_that_see_all, blocks_to_lift, lifted, vanished
from core.surgery.initialise import Factory
from core.surgery.resize import reshaped
from core.widths.bounds import fitting, group_fractions, unlimited
from core.widths.budget import Budget, BudgetError
from core.widths.config import ShrinkConfig
from core.widths.scores import SCORES, score_channels
from core.widths.selection import SearchResult, exact_limits, largest, out_of_time, search
from core.widths.space import Space, open_space

CLEARLY = 1.05  # clocks are noisy: within this factor of the limit a network may still be found

__all__ = ["Budget", "BudgetError", "SearchResult", "ShrinkConfig", "search", "shrink"]


def shrink(
    model: nn.Module,
    example_inputs: Any,
    batches: Iterable[tuple[Any, Any]],
    loss_fn: Callable[[Any, Any], Tensor],
    config: ShrinkConfig = ShrinkConfig(),  # noqa: B008  # frozen
    *,
    seed: int = 0,
    name: str | None = None,
    factory: Factory | None = None,
    **changes: Any,
) -> Architecture:
    """Find layer-wise widths for a CNN: the whole method in one call.

    Args:
        model: any CNN; it is not changed, and its weights do not matter unless `keep_weights` says so.
        example_inputs: as for `trace_channels`.
        batches: (inputs, targets) pairs; one or a few are enough. Not read for random and uniform scores.
        loss_fn: (outputs, targets) -> scalar loss.
        config: how widths are found.
        seed: for the widened network's weights and for the score; it determines the result.
        name: the model's name in the file; its class name by default.
        factory: builds `model` anew; used where the model itself does not show how it starts.
        changes: entries of the configuration as keywords, which override it: `widen`, `budget`, `score`, `allocation`,
            `floor`, `ceiling`, `round_to`, `latents`, `embedding`, `freeze`, `taps`, `ties`, `outputs`, `vanish`,
            `keep_weights`, `inexact`. The number of batches is that of `batches`.

    Returns:
        The architecture: widths, how they were found, what they cost.

    Raises:
        BudgetError: the budget cannot be met; the message gives the reachable range.
        UserError: a pattern that fits no group or no module; the message names it and close ones.
        UserError, TraceError: see `trace_channels`, `score_channels` and `search`.
        TypeError: an unknown keyword; the message names close ones.
    """
    config = config.changed(changes)
    shrinkage = _Shrinkage(bare(model), example_inputs, loss_fn, config, seed, factory)
    space = shrinkage.open()
    without_floor = unlimited(config.floor, space.graph.groups)
    if config.vanish == "receptive-field" and (gone := shrinkage.blocks_that_see_all(space)):
        space = shrinkage.open(gone)
    scores = shrinkage.score(space, shrinkage.reading(batches))
    if config.by_scores and (gone := shrinkage.blocks_that_vanish(space, scores)):
        space = shrinkage.open(gone)
        scores = shrinkage.score(space, shrinkage.kept)
    found = shrinkage.search(space, scores)
    ranks = not isinstance(config.score, str) or SCORES[config.score].ranks
    return space.architecture(
        found.widths,
        name,
        keep=found.keep if ranks else None,
        found_by=config.found_by(
            score=config.score_name,
            allocation=config.allocation,
            seed=seed,
            batches=shrinkage.counted,
            **({"without_floor": without_floor} if without_floor else {}),
            **({"vanish": config.vanish} if config.vanish else {}),
            latents=config.latents,
            **({"embedding": config.embedding} if config.latents == "hypernetwork" else {}),
            groups=_groups(space, config, scores, found),
            at_floor=found.at_floor,
            at_ceiling=found.at_ceiling,
            **({"latency_seconds": found.cost.latency} if found.cost.latency is not None else {}),
        ),
    )


def _groups(
    space: Space, config: ShrinkConfig, scores: Mapping[str, Tensor], found: SearchResult
) -> dict[str, dict[str, float]]:
    """For every group, the width at its floor and the mean score of the channels that stay."""
    floors = space.graph.widths_at(fitted(space, config).bounds(space.graph).low)
    kept = {name: scores[name][indices] for name, indices in found.keep.items()}
    return {
        name: {"floor": floors[name], **({"score": float(f"{own.double().mean():.4g}")} if len(own) else {})}
        for name, own in kept.items()
    }


@dataclass
class _Shrinkage:
    """One call of `shrink`: its three steps and what they share."""

    model: nn.Module
    inputs: Any
    loss_fn: Callable[[Any, Any], Tensor]
    config: ShrinkConfig
    seed: int
    factory: Factory | None = None
    kept: list[tuple[Any, Any]] = field(default_factory=list)  # batches, where they are needed again
    counted: int = 0  # batches that the first score read
    baseline: Cost | None = None  # measured once
    told: Sequence[Note] = ()  # what the first trace warned of

    def open(self, removed: Sequence[str] = ()) -> Space:
        """The space of widths, without some blocks; refuses mistaken limits before anything is scored."""
        space = open_space(
            self.model,
            self.inputs,
            self.config,
            seed=self.seed,
            removed=removed,
            told=self.told,
            factory=self.factory,
        )
        self.told = space.base_graph.notes
        if not removed:
            self.config.bounds(space.graph)
        return space

    def score(self, space: Space, batches: Iterable[tuple[Any, Any]]) -> dict[str, Tensor]:
        """The score of every channel of the space's widened network."""
        config = self.config
        return score_channels(space.wide, space.graph, batches, self.loss_fn, score=config.score,
                              latents=config.latents, embedding=config.embedding, seed=self.seed)  # fmt: skip

    def search(self, space: Space, scores: Mapping[str, Tensor], **changes: Any) -> SearchResult:
        """The widths of the best channels within the budget; `changes` are made to the configuration."""
        return search_space(space, scores, replace(self.config, **changes), self._baseline(space))

    def blocks_that_see_all(self, space: Space) -> Sequence[str]:
        """The blocks whose input sees the whole image, in the order of execution; the last are the first to go."""
        inner = blocks_to_lift(self.model, self.inputs, space.graph)
        last_first = blocks_that_see_all(self.model, self.inputs, list(inner))[::-1]
        return self._as_many_as_leave_enough(last_first)[::-1]

    def blocks_that_vanish(self, space: Space, scores: Mapping[str, Tensor]) -> Sequence[str]:
        """The blocks that keep too little once no floor keeps them, in the order of execution."""
        config = self.config
        inner = blocks_to_lift(self.model, self.inputs, space.graph)
        try:
            kept = self.search(space, scores, floor=lifted(config.floor, inner)).keep
        except BudgetError:
            self.search(space, scores)  # fails as well, and says what the floors leave
            raise
        if config.vanish == "floor":
            least = dict(
                zip(space.graph.names, group_fractions(space.graph.groups, config.floor, "floor").tolist())
            )
        else:
            least = dict.fromkeys(space.graph.names, float(config.vanish))
        gone = self._as_many_as_leave_enough(vanished(inner, kept, least))
        return [block for block in inner if block in gone]

    def _as_many_as_leave_enough(self, emptiest_first: Sequence[str]) -> Sequence[str]:
        """As many of these blocks, from the first on, as the budget can still be filled without.

        The ceilings decide: without a block the floors only leave less. Beside limits in closed form one on latency is
        ignored, since every answer takes a measurement; alone it is measured.
        """
        if not emptiest_first:
            return emptiest_first

        def can_be_filled(number: int) -> bool:
            space = self.open(emptiest_first[:number])
            if not space.graph.groups:
                return False
            baseline, config = self._baseline(space), fitted(space, self.config)
            widest = config.bounds(space.graph).high
            limits = exact_limits(config.budget, baseline)
            if limits:
                return any(space.graph.cost(kind, widest) >= limit for kind, limit in limits.items())
            slowest = _clock(space, baseline)(space.graph.widths_at(widest))
            return slowest >= config.budget.limits(baseline)["latency"]

        return emptiest_first[: largest(can_be_filled, 0, len(emptiest_first))]

    def reading(self, batches: Iterable[tuple[Any, Any]]) -> Iterable[tuple[Any, Any]]:
        """The batches, counted; kept where they are needed for scoring once more."""
        for batch in batches:
            self.counted += 1
            if self.config.by_scores:
                self.kept.append(batch)
            yield batch

    def _baseline(self, space: Space) -> Cost:
        if self.baseline is None:
            self.baseline = priced_baseline(space, self.config.budget)
        return self.baseline


def priced_baseline(space: Space, budget: Budget) -> Cost:
    """The cost to which fractions of a budget refer; latency is measured if the budget limits it."""
    if budget.latency is None:
        return space.baseline
    device = next(space.model.parameters()).device
    return replace(space.baseline, latency=latency(space.model, space.inputs, device=device)[0])


def fitted(space: Space, config: ShrinkConfig) -> ShrinkConfig:
    """The configuration without the patterns that fit only blocks that are left out."""
    if not space.removed:
        return config
    groups = space.graph.groups
    return replace(config, floor=fitting(config.floor, groups), ceiling=fitting(config.ceiling, groups))


def search_space(
    space: Space, scores: Mapping[str, Tensor], config: ShrinkConfig, baseline: Cost
) -> SearchResult:
    """Search a space by scores, as the configuration says; see `core.widths.selection.search`.

    Args:
        space: the baseline and its widened form. Patterns that fit only blocks that are left out are
            accepted.
        scores: group -> (size,).
        config: budget, floors, ceilings, round_to, allocation.
        baseline: see `priced_baseline`.
    """
    config = fitted(space, config)
    return search(space.graph, scores, config.budget, baseline, floor=config.floor, ceiling=config.ceiling,
                  round_to=config.round_to, allocation=config.allocation,
                  measure=_clock(space, baseline) if config.budget.latency is not None else None)  # fmt: skip


def _clock(space: Space, baseline: Cost) -> Callable[[dict[str, int]], float]:
    """Widths -> seconds, scaled by the baseline measured in turns: a slower machine does not move the limit."""
    device = next(space.model.parameters()).device

    def measure(widths: dict[str, int]) -> float:
        candidate = reshaped(space.wide, space.graph, widths)
        seconds = latency([space.model, candidate], space.inputs, device=device)
        return seconds[1] / seconds[0] * float(baseline.latency or 0)

    return measure


def check_latency(space: Space, config: ShrinkConfig) -> None:
    """Measure whether a space has a network that is fast enough; the search measures it again at its end.

    Args:
        space: the baseline and its widened form, on the device that counts.
        config: of the search, which alone decides on blocks that may vanish.

    Raises:
        BudgetError: its narrowest network takes clearly longer than the budget allows.
    """
    if config.budget.latency is None or config.vanish:
        return
    baseline = priced_baseline(space, config.budget)
    measure, bounds = _clock(space, baseline), config.bounds(space.graph)
    limit, own = config.budget.limits(baseline)["latency"], float(baseline.latency or 0)
    least = measure(space.graph.widths_at(bounds.low))
    if least > CLEARLY * limit:
        raise out_of_time(space.graph, bounds, measure, least, limit, own)
