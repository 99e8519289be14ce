"""What an experiment is asked to do, and what it has to show of each training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from core.errors import UserError
from core.surgery.architecture import Architecture
from core.training.distillation import DistillationConfig
from core.training.divergence import Divergence
from core.training.run_files import EpochRecord
from core.training.train import TrainConfig
from core.widths.config import ShrinkConfig
from core.widths.scores import GATES_ONLY, NAMES

Stage = Literal["baseline", "shrink", "train", "compare"]
STAGES: tuple[Stage, ...] = get_args(Stage)
BASELINE, FOUND = "baseline", "lwdna"


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


@dataclass(frozen=True)
class Settings:
    """One experiment.

    Attributes:
        train: the recipe of every network; its seed is the first of `seeds`.
        shrink: how widths are found.
        work_dir: where everything is written.
        controls: scores to compare with, at the same budget: "random", "uniform", "magnitude", ...
        seeds: number of repetitions, each with its own widths, weights and data order.
        stages: which parts to run.
        distillation: train every network with a teacher.
        teacher: which one.
        progress: show bars.
        lowered_lr: learning rate with which trainings that have diverged go on; see `core.training.divergence`.
    """

    train: TrainConfig
    shrink: ShrinkConfig
    work_dir: Path
    controls: tuple[str, ...] = ()
    seeds: int = 1
    stages: tuple[Stage, ...] = STAGES
    distillation: DistillationConfig | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    progress: bool = True
    lowered_lr: float | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"seeds={self.seeds}: use at least 1")
        for control in self.controls:
            if control not in NAMES:
                raise UserError(f"control '{control}': use some of {', '.join(NAMES)}")
            if control == self.shrink.score:
                raise UserError(f"control '{control}' is the score of the found network itself; name another")
            if control in GATES_ONLY and self.shrink.latents != "gate":
                raise UserError(
                    f"control '{control}' is defined for plain gates, but shrink.latents='{self.shrink.latents}'; name "
                    f"another"
                )
        for stage in self.stages:
            if stage not in STAGES:
                raise UserError(f"stage '{stage}': use some of {', '.join(STAGES)}")

    @property
    def scores(self) -> dict[str, str]:
        """Method -> score, for every method that has widths to find."""
        return {FOUND: self.shrink.score, **{control: control for control in self.controls}}

    @property
    def seed_list(self) -> list[int]:
        """The seeds of the repetitions."""
        return [self.train.seed + number for number in range(self.seeds)]

    def widths_file(self, method: str, seed: int) -> Path:
        """Where the widths of one method and seed are kept."""
        return self.work_dir / "widths" / f"{method}-seed{seed}.json"

    def run_dir(self, method: str, seed: int) -> Path:
        """Where one training is kept."""
        return self.work_dir / "runs" / f"{method}-seed{seed}"


@dataclass(frozen=True)
class Run:
    """One trained network, as the report needs it."""

    method: str
    seed: int
    history: tuple[EpochRecord, ...]
    architecture: Architecture | None
    divergences: tuple[Divergence, ...] = ()
