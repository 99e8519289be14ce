"""How widths are found: everything that decides them except the network, the data and the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from core.errors import UserError, check_known, did_you_mean, meant_share
from core.graph.channels import ChannelGraph, TraceOptions
from core.widths.allocation import ALLOCATIONS, Allocation
from core.widths.bounds import Bounds, Fractions, group_bounds
from core.widths.budget import Budget
from core.widths.scores import ScoreFunction, check_score

OF_BATCHES = ("batches", "batch_size")


@dataclass(frozen=True)
class ShrinkConfig:
    """How widths are found; the argument of `core.shrink` and of every method.

    Args:
        widen: growth of the space of widths, at least 1.
        budget: limits relative to the baseline, or absolute.
        score: see `core.widths.scores`.
        allocation: how a channel's score and cost are weighed; see `core.widths.allocation`.
        floor: least fraction of the *widened* width to keep: with widen=2 and floor=0.4 every group keeps at least
            0.8 of the baseline's width. A number, or patterns of group names -> number: the last one that fits counts,
            and a group that none fits has no floor (the default is for all groups or none). These groups are listed
            under "without_floor" in the result's `found_by`; `{"*": 0.4, "layer1.*": 0.3}` leaves none.
        ceiling: largest fraction of the widened width, likewise; without one a group may keep all.
        round_to: widths are multiples of it.
        batches: number of batches for scoring, where an experiment draws them.
        batch_size: images in each of them, likewise.
        latents: see `core.widths.scores.score_channels`.
        embedding: likewise.
        freeze: see `core.graph.channels.trace_channels`, as are `ties`, `taps` and `outputs`.
        ties: likewise.
        vanish: whether blocks may be left out; 0 keeps all. With a fraction the search first runs without floors within
            the blocks that can go. Blocks that then keep less than this fraction of their widened channels are removed,
            the emptiest first, while the rest can still fill the limits on FLOPs and parameters. Then the widths of the
            rest are searched. "floor" removes the blocks that only their own floor would keep. "receptive-field"
            removes blocks whose input already sees the whole image, the last first, whatever the scores. See
            `core.surgery.depth`.
        keep_weights: whether the network keeps its weights: it is scored with them, as it is, and the result lists the
            channels to keep (`Architecture.kept`). It has no others, so this needs widen=1.
        inexact: with `keep_weights`, cut groups that are not exact (`ChannelGroup.exact`) as well; otherwise
            they stay whole.
        taps: see `core.graph.channels.trace_channels`.
        outputs: likewise; where an experiment searches a part of a network, the outputs of that part are free unless
            this freezes them.

    Raises:
        UserError: a value that is not allowed; the message names the setting.
    """

    widen: float = 2.0
    budget: Budget = field(default_factory=lambda: Budget(flops=0.9))
    score: str | ScoreFunction = "gradient"
    allocation: Allocation = "threshold"
    floor: float | Mapping[str, float] = 0.4
    ceiling: float | Mapping[str, float] = 1.0
    round_to: int = 1
    batches: int = 1
    batch_size: int = 64
    latents: Literal["gate", "hypernetwork"] = "gate"
    embedding: int = 8
    freeze: tuple[str, ...] = ()
    ties: tuple[tuple[str, str], ...] = ()
    vanish: float | Literal["floor", "receptive-field"] = 0.0
    keep_weights: bool = False
    inexact: bool = False
    taps: tuple[str, ...] = ()
    outputs: Literal["single", "freeze", "free"] = "single"

    def __post_init__(self) -> None:
        if isinstance(self.vanish, str):
            if self.vanish not in ("floor", "receptive-field"):
                raise UserError(
                    f"shrink.vanish is '{self.vanish}': use a fraction, 'floor' or 'receptive-field'"
                )
        elif not 0 <= self.vanish <= 1:
            raise UserError(
                f"shrink.vanish is {self.vanish}: use a fraction between 0 and 1, 'floor' or 'receptive-field'"
                f"{meant_share(self.vanish)}"
            )
        check_known("shrink.allocation: unknown allocation", [self.allocation], ALLOCATIONS)
        check_score(self.score, self.latents, self.allocation, "shrink.score")
        if self.keep_weights and self.widen != 1:
            raise UserError(
                f"shrink.widen is {self.widen}, but where weights are kept (shrink.keep_weights) there are no channels "
                f"beyond the network's own: set it to 1"
            )
        if self.keep_weights and self.latents != "gate":
            raise UserError(
                f"shrink.latents is '{self.latents}', whose networks have weights of their own: use 'gate' where "
                f"weights are kept (shrink.keep_weights)"
            )
        if self.inexact and not self.keep_weights:
            raise UserError(
                "shrink.inexact is for kept weights (shrink.keep_weights): fresh networks cut such groups anyway"
            )
        if self.batches < 1 or self.batch_size < 1:
            raise UserError("shrink.batches and shrink.batch_size have to be at least 1")

    @property
    def by_scores(self) -> bool:
        """Whether blocks may vanish and the scores decide which."""
        return bool(self.vanish) and self.vanish != "receptive-field"

    @property
    def trace(self) -> TraceOptions:
        """How networks are traced."""
        return TraceOptions(
            tuple(self.freeze), tuple(self.taps), tuple((a, b) for a, b in self.ties), self.outputs
        )

    @property
    def score_name(self) -> str:
        """The score's name; for a callable its own name, or that of its class."""
        score = self.score
        return score if isinstance(score, str) else getattr(score, "__name__", type(score).__name__)

    def bounds(self, graph: ChannelGraph) -> Bounds:
        """What the groups of a (widened) network may keep under floor, ceiling and round_to.

        Raises:
            UserError: see `core.widths.bounds.group_bounds`.
        """
        return group_bounds(graph, self.floor, self.ceiling, self.round_to)

    def changed(self, changes: Mapping[str, Any]) -> ShrinkConfig:
        """This configuration, changed by the keywords of `core.shrink`.

        Raises:
            TypeError: an unknown keyword; the message names close ones.
            UserError: a value that is not allowed.
        """
        known = [item.name for item in fields(self) if item.name not in OF_BATCHES]
        for name in changes:
            if name not in known:
                raise TypeError(f"shrink() knows no keyword '{name}', {did_you_mean(name, known)}")
        return replace(self, **changes)

    def found_by(self, **facts: Any) -> dict[str, Any]:
        """What a widths file says of the search, as plain JSON: these settings and further facts."""
        return {
            "budget": self.budget.to_json(),
            "widen": self.widen,
            "floor": plain_fractions(self.floor),
            "ceiling": plain_fractions(self.ceiling),
            "round_to": self.round_to,
            **facts,
        }


def plain_fractions(setting: Fractions) -> float | dict[str, float]:
    """A floor or ceiling as plain JSON."""
    return dict(setting) if isinstance(setting, Mapping) else setting
