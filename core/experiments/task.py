"""What a task tells an experiment about itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from core.command_line.factories import factory_file
from core.experiments.settings import Run, Settings
from core.methods.subject import Subject
from core.report.page import Section
from core.surgery.architecture import Architecture


@dataclass(frozen=True)
class Described:
    """A network as its checkpoint describes it (`core.storage.description`).

    Attributes:
        key: of the task.
        description: the task's dataclass.
        dataset: the data set on which it is trained.
        data: the protocol's section `data`, a dataclass.
    """

    key: str
    description: Any
    dataset: str
    data: Any


@dataclass(frozen=True)
class Metric:
    """A number that a task reports."""

    key: str
    label: str
    higher_is_better: bool
    digits: int = 2


@dataclass(frozen=True)
class Shown:
    """A task's own part of the reports of a run.

    Attributes:
        markdown: paragraphs of report.md.
        sections: of report.html.
    """

    markdown: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task(Subject):
    """All that a task has to provide to be run, beyond a `Subject`.

    Attributes:
        name: "classification", "super_resolution", ...
        dataset: name of the data set, for the report.
        evaluate: model -> metrics by key.
        detail: model -> what else its record keeps of it, plain and small, such as a curve; asked once it is trained.
        metrics: those of the table, the primary one first.
        curves: (key of a training metric or "loss", metric of `evaluate`, label) for the plot of curves.
        references: methods without a network, such as bicubic resizing -> metrics by key.
        notes: lines for the report, such as data sets that are missing.
        finish: makes the task's own pictures and files after all trainings; returns its part of the reports.
        given: widths of the found network, if they are known beforehand; controls are still found.
        subject: network and data, as plain data, as far as they decide a result; part of every trial's key.
        described: widths (None for the baseline's own) -> what the checkpoint of such a network says of it; None if it
            says nothing.
        keep: writes what the work directory keeps of the data; called in the first process after all checks.
        close: called in every process when the experiment is over; returns lines of news.
        one_process: why its trials cannot run in processes of their own; "" if they can.
    """

    name: str
    dataset: str
    evaluate: Callable[[nn.Module], Mapping[str, float]]
    metrics: tuple[Metric, ...]
    curves: tuple[str, str, str]
    detail: Callable[[nn.Module], Mapping[str, Any]] = lambda model: {}
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    finish: Callable[[Settings, Sequence[Run]], Shown] = lambda settings, runs: Shown()
    given: Architecture | None = None
    subject: Mapping[str, Any] = field(default_factory=dict)
    described: Callable[[Architecture | None], Described] | None = None
    keep: Callable[[], None] = lambda: None
    close: Callable[[], list[str]] = list
    one_process: str = ""


def model_text(model: str) -> dict[str, str]:
    """{"model_text"} for a user's own network, as its file's text decides a result, not its name; else empty.

    What that file imports is not read. The suite's own modules count as its names do: their release decides.

    Args:
        model: "path/to/file.py:factory", "package.module:factory", or any other name.
    """
    path = factory_file(model)
    return {} if path is None else {"model_text": hashlib.sha256(path.read_bytes()).hexdigest()}
