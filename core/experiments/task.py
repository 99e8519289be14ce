"""What a task tells the experiment about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from core.experiments.settings import Run, Settings
from core.methods.subject import Subject
from core.surgery.architecture import Architecture


@dataclass(frozen=True)
class Metric:
    """A number that a task reports."""

    key: str
    label: str
    higher_is_better: bool
    digits: int = 2


@dataclass(frozen=True, kw_only=True)
class Task(Subject):
    """What a task has to say about itself to be run, beside what a `Subject` says.

    Attributes:
        name: "classification", "super_resolution", ...
        dataset: name of the data set, for the report.
        evaluate: model -> metrics by key.
        metrics: what the table shows, the primary one first.
        curves: (key of a training metric or "loss", metric of `evaluate`, label) for the plot of curves.
        references: methods without a network, such as bicubic resizing -> metrics by key.
        notes: lines for the report, such as data sets that are missing.
        finish: makes the task's own pictures and files once all is trained; returns Markdown for the report.
        given: widths of the found network where they are known beforehand; controls are still found.
    """

    name: str
    dataset: str
    evaluate: Callable[[nn.Module], Mapping[str, float]]
    metrics: tuple[Metric, ...]
    curves: tuple[str, str, str]
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    finish: Callable[[Settings, Sequence[Run]], list[str]] = lambda settings, runs: []
    given: Architecture | None = None
