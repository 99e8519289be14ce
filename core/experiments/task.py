"""What a task tells the experiment about itself, and how widths and teachers are configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor, nn

from core.errors import UserError
from core.surgery.architecture import Architecture
from core.training.train import Loader
from core.widths.allocation import ALLOCATIONS, Allocation
from core.widths.budget import Budget
from core.widths.scores import GATES_ONLY, NAMES

if TYPE_CHECKING:
    from core.experiments.experiment import Run, Settings


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


@dataclass(frozen=True)
class TeacherConfig:
    """The network that students learn from.

    Args:
        widen: the teacher is the baseline widened by this factor, trained by the same recipe without distillation
            (method.md section 3: the reference widens its teacher like its search space).
        checkpoint: weights of a trained teacher; None trains one first.
    """

    widen: float = 2.0
    checkpoint: str | None = None


@dataclass(frozen=True)
class Metric:
    """A number that a task reports."""

    key: str
    label: str
    higher_is_better: bool
    digits: int = 2


@dataclass(frozen=True)
class Part:
    """A part of a task's network whose widths are searched while the rest keeps its own: a tracker's backbone.

    Attributes:
        name: what it is called in reports: "backbone".
        build: the part with its regular widths, freshly initialised from torch's global generator.
        example_inputs: of the part; only shapes matter.
        batch: a training batch's (inputs, targets) -> (inputs of the part, what the loss needs besides its outputs).
        loss_fn: (outputs of the part at any widths, the rest) -> loss.
        insert: (widths of the part, seed) -> the whole network around it, freshly initialised.
    """

    name: str
    build: Callable[[], nn.Module]
    example_inputs: Any
    batch: Callable[[Any, Any], tuple[Any, Any]]
    loss_fn: Callable[[Any, Any], Tensor]
    insert: Callable[[Architecture, int], nn.Module]


class Searched(NamedTuple):
    """What `core.shrink` and `core.trace_channels` take of a task.

    Attributes:
        model: freshly initialised.
        example_inputs: of it.
        outputs: what becomes of the channels that it returns.
    """

    model: nn.Module
    example_inputs: Any
    outputs: Literal["single", "free"]


@dataclass(frozen=True)
class Task:
    """What a task has to say about itself to be run.

    Attributes:
        name: "classification", "super_resolution", ...
        dataset: name of the data set, for the report.
        model_name: name of the baseline, for the report and the widths file.
        build: a freshly initialised baseline, from torch's global generator.
        example_inputs: what one sample looks like to the network; only shapes matter.
        train_loader: (batch size, seed) -> training batches.
        loss_fn: (outputs, targets) -> loss, or (loss, metrics by name).
        evaluate: model -> metrics by key.
        metrics: what the table shows, the primary one first.
        curves: (key of a training metric or "loss", metric of `evaluate`, label) for the plot of curves.
        references: methods without a network, such as bicubic resizing -> metrics by key.
        notes: lines for the report, such as data sets that are missing.
        finish: makes the task's own pictures and files once all is trained; returns Markdown for the report.
        part: what is searched, where that is not the whole network; FLOPs and parameters are then the part's.
        given: widths of the found network where they are known beforehand; controls are still found.
    """

    name: str
    dataset: str
    model_name: str
    build: Callable[[], nn.Module]
    example_inputs: Any
    train_loader: Callable[[int, int], Loader]
    loss_fn: Callable[[Any, Any], Any]
    evaluate: Callable[[nn.Module], Mapping[str, float]]
    metrics: tuple[Metric, ...]
    curves: tuple[str, str, str]
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    finish: Callable[[Settings, Sequence[Run]], list[str]] = lambda settings, runs: []
    part: Part | None = None
    given: Architecture | None = None

    def searched(self) -> Searched:
        """What widths are searched in: the whole network or its part, freshly initialised."""
        if self.part is None:
            return Searched(self.build(), self.example_inputs, "single")
        return Searched(self.part.build(), self.part.example_inputs, "free")
