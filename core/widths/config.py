"""How widths are found: everything that decides them but the network, the data and the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from core.errors import UserError
from core.widths.allocation import ALLOCATIONS, Allocation
from core.widths.budget import Budget
from core.widths.scores import GATES_ONLY, NAMES


@dataclass(frozen=True)
class ShrinkConfig:
    """How widths are found; see `core.widths.shrinkage.shrink`.

    Args:
        floor: a number, or patterns of group names -> number; groups that no pattern fits have no floor.
        ceiling: likewise.
        batches: batches that channels are scored on.
        batch_size: images in each of them.
        vanish: see `core.widths.shrinkage.shrink`; for methods that score channels.
    """

    widen: float = 2.0
    budget: Budget = field(default_factory=lambda: Budget(flops=0.9))
    score: str = "gradient"
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
    vanish: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.vanish <= 1:
            raise UserError(f"shrink.vanish is {self.vanish}: use a fraction between 0 and 1")
        if self.score not in NAMES:
            raise UserError(f"shrink.score: unknown score '{self.score}'; use one of {', '.join(NAMES)}")
        if self.latents != "gate" and self.score in GATES_ONLY:
            raise UserError(
                f"shrink.score: '{self.score}' is defined for plain gates: use shrink.latents='gate', or another score"
            )
        if self.allocation not in ALLOCATIONS:
            raise UserError(
                f"shrink.allocation: unknown rule '{self.allocation}'; use one of {', '.join(ALLOCATIONS)}"
            )
        if self.batches < 1 or self.batch_size < 1:
            raise UserError("shrink.batches and shrink.batch_size have to be at least 1")
