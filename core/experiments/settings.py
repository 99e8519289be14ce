"""The settings of an experiment, and the results of each of its trainings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from core.errors import UserError, check_known
from core.experiments.plan import FROM_SCRATCH, SCHEMA, Start, Trial, finder_of, grid
from core.methods.method import SearchConfig
from core.methods.registry import BASELINE, METHODS
from core.surgery.architecture import Architecture
from core.training.distillation import DistillationConfig
from core.training.divergence import Divergence
from core.training.run_files import EpochRecord
from core.training.train import TrainConfig
from core.widths.config import ShrinkConfig

Stage = Literal["baseline", "shrink", "train", "compare"]
STAGES: tuple[Stage, ...] = get_args(Stage)
FOUND = "lwdna"


@dataclass(frozen=True)
class TeacherConfig:
    """The network that students learn from.

    Args:
        widen: the teacher is the baseline widened by this factor, trained by the same recipe without distillation
            (the reference widens its teacher like its search space).
        checkpoint: weights of a trained teacher; None trains one first.
    """

    widen: float = 2.0
    checkpoint: str | None = None


def name_of(method: str, seed: int) -> str:
    """The name of files and folders of one method and seed in a work directory."""
    return f"{method}-seed{seed}"


@dataclass(frozen=True)
class Settings:
    """One experiment.

    Attributes:
        train: the recipe of every network; its seed is the first of `seeds`.
        shrink: how widths are found.
        work_dir: where everything is written.
        controls: methods of `core.methods.registry.METHODS` to compare with, at the same budget.
        seeds: number of repetitions, each with its own widths, weights and data order.
        stages: which parts to run.
        method: the one of these methods that finds the found network's widths; None: as `shrink` says.
        search: options of single methods.
        distillation: how every network is trained with a teacher; None without.
        teacher: the teacher.
        progress: show bars.
        lowered_lr: learning rate with which trainings that have diverged go on; see `core.training.divergence`.
        allow_unknown_start: train networks even if some tensors may start otherwise than the baseline's.
        schema: of the trials in the work directory, which an earlier release may have begun.
        start: what trainings begin with. With "pretrained" the found network is trained from scratch too, as a control.
    """

    train: TrainConfig
    shrink: ShrinkConfig
    work_dir: Path
    controls: tuple[str, ...] = ()
    seeds: int = 1
    stages: tuple[Stage, ...] = STAGES
    method: str | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    distillation: DistillationConfig | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    progress: bool = True
    lowered_lr: float | None = None
    allow_unknown_start: bool = False
    schema: int = SCHEMA
    start: Start = "scratch"

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"seeds={self.seeds}: use at least 1")
        named = [] if self.method is None else [self.method]
        check_known("unknown method", [*self.controls, *named], METHODS)
        for control in self.controls:
            if control == (self.method or self.shrink.score):
                what = "score" if self.method is None else "method"
                raise UserError(
                    f"control '{control}' is the {what} of the found network itself; name another"
                )
        check_known("unknown stage", self.stages, STAGES)

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods with found widths, by their names in files."""
        control = (FOUND + FROM_SCRATCH,) if self.start == "pretrained" else ()
        return (FOUND, *control, *self.controls)

    @property
    def seed_list(self) -> list[int]:
        """The seeds of the repetitions."""
        return [self.train.seed + number for number in range(self.seeds)]

    def trials(self) -> list[Trial]:
        """All trials, seed by seed, the baseline first."""
        return grid((BASELINE, *self.methods), [self.shrink], self.seed_list)

    def widths_file(self, method: str, seed: int) -> Path:
        """Where the widths of one method and seed are kept."""
        return self.work_dir / "widths" / f"{name_of(finder_of(method), seed)}.json"

    def run_dir(self, method: str, seed: int) -> Path:
        """Where one training is kept."""
        return self.work_dir / "runs" / name_of(method, seed)


@dataclass(frozen=True)
class Run:
    """One trained network, as the report needs it."""

    method: str
    seed: int
    history: tuple[EpochRecord, ...]
    architecture: Architecture | None
    divergences: tuple[Divergence, ...] = ()
    unknown_start: Mapping[str, str] = field(default_factory=dict)
    at_start: Mapping[str, float] = field(
        default_factory=dict
    )  # metrics with trained weights, before fine-tuning
