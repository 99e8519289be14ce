"""What all trials of a command share: task, recipe, store and methods, and the keys under which results are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from core.errors import check_known
from core.experiments.plan import SCHEMA, Start, Trial, finder_of
from core.experiments.settings import TeacherConfig
from core.experiments.store import Record, Store, key_of
from core.experiments.task import Task
from core.methods.method import Method, Request, SearchConfig
from core.methods.registry import BASELINE
from core.training.devices import alone
from core.training.distillation import DistillationConfig
from core.training.train import TrainConfig


@dataclass(frozen=True)
class Engine:
    """What all trials of a command share.

    Attributes:
        task: data set, network, loss.
        train: the recipe of every network, to which each trial adds its seed.
        store: where results are kept.
        fabric: device and processes.
        methods: by the method names of trials.
        search: options of the methods.
        distillation: how every network is trained with a teacher; None without.
        teacher: the teacher.
        lowered_lr: learning rate with which trainings that have diverged go on.
        allow_unknown_start: train networks even if some tensors may start otherwise than the baseline's.
        start: what trainings begin with; "pretrained" needs a task that has trained weights.
        schema: of the trials; an earlier release's if its records are only read.
        say: takes one line of news at a time.
        progress: show bars.
        waits: whether to wait for a training or search that another command is running; if not,
            `core.storage.claims.Claimed` is raised.
    """

    task: Task
    train: TrainConfig
    store: Store
    fabric: Fabric
    methods: Mapping[str, Method]
    search: SearchConfig = field(default_factory=SearchConfig)
    distillation: DistillationConfig | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    lowered_lr: float | None = None
    allow_unknown_start: bool = False
    start: Start = "scratch"
    schema: int = SCHEMA
    say: Callable[[str], None] = print
    progress: bool = False
    waits: bool = True

    def subject(self) -> dict[str, Any]:
        """Network and data, as far as they decide a result."""
        return {"schema": self.schema, **self.task.subject}

    def recipe(self, seed: int) -> dict[str, Any]:
        """The training, as far as it decides a result."""
        recipe = replace(self.train, seed=seed).decisive()
        del recipe["eval_every"]
        distilled = self.distillation is not None
        return {
            "train": recipe,
            "distillation": asdict(self.distillation) if self.distillation else None,
            "teacher": asdict(self.teacher) if distilled else None,
        }

    def starts_from(self, trial: Trial) -> Start:
        """The weights with which the trial's training begins."""
        return "scratch" if trial.from_scratch else self.start

    def started(self, trial: Trial) -> list[dict[str, str]]:
        """The start, as far as it decides a result; empty for fresh weights."""
        if self.starts_from(trial) == "scratch":
            return []
        assert self.task.pretrained is not None
        return [{"pretrained": self.task.pretrained.checksum}]

    def request(self, trial: Trial, work_dir: Path) -> Request:
        """The trial as a search for widths; a run that was given more epochs finds them as before."""
        train = replace(self.train.began(), seed=trial.seed)
        return Request(
            self.task, trial.shrink, train, self.search, alone(self.fabric), work_dir, self.progress
        )

    def decided_by(self, trial: Trial) -> dict[str, Any] | None:
        """All settings that decide the widths; None for the baseline."""
        if trial.finder.method == BASELINE:
            return None
        decided = self.method(trial.method).decided_by(self.request(trial, Path()))
        weights = self.task.pretrained if trial.shrink.keep_weights else None
        return decided if weights is None else {**decided, "pretrained": weights.checksum}

    def method(self, name: str) -> Method:
        """How a method finds widths.

        Raises:
            UserError: there is no such method.
        """
        check_known("unknown method", [finder_of(name)], [BASELINE, *self.methods])
        return self.methods[finder_of(name)]

    def search_key(self, trial: Trial) -> str:
        """A key of all that decides the widths."""
        return key_of([self.subject(), trial.finder.method, self.decided_by(trial)])

    def record_key(self, trial: Trial) -> str:
        """A key of all that decides the trial's result; a baseline does not depend on how widths are found."""
        widths = BASELINE if trial.finder.method == BASELINE else self.search_key(trial)
        # The control of an experiment has its own record, which bears its name.
        start = [{"start": "scratch"}] if trial.from_scratch else self.started(trial)
        return key_of([self.subject(), widths, self.recipe(trial.seed), *start])

    def load(self, trial: Trial) -> Record | None:
        """The record of a trial, or None where it has not been run.

        Raises:
            UserError: the record belongs to something other than what is asked for, or to an earlier release.
        """
        return self.store.load(trial, self.record_key(trial))
