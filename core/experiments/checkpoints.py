"""The checkpoints that an experiment leaves: one per method, of the first seed, which says what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from core.experiments.report import METHOD_TITLES
from core.experiments.settings import Run, Settings
from core.experiments.store import plain
from core.storage.checkpoint import load_weights
from core.storage.description import Origin
from core.surgery.architecture import Architecture

M = TypeVar("M", bound=nn.Module)
D = TypeVar("D")


def save_checkpoints(
    settings: Settings,
    runs: Sequence[Run],
    dataset: str,
    describe: Callable[[Architecture | None], D],
    build: Callable[[D], M],
    save: Callable[[Path, M, D, Origin], None],
    data: Any,
) -> Iterator[tuple[Run, M, str]]:
    """Write METHOD.safetensors of every method, of the first seed.

    Args:
        settings: the experiment.
        runs: its finished trainings.
        dataset: what they were trained on.
        describe: the widths (None for the baseline's own) -> the task's description.
        build: the description -> its network.
        save: writes a file.
        data: the protocol's section `data`, a dataclass.

    Yields:
        The training, its network with its weights, and a line of Markdown that names the file.

    Raises:
        UserError: the weights of a training are missing, damaged, or not of these widths.
    """
    for run in runs:
        if run.seed != runs[0].seed:
            continue
        description = describe(run.architecture)
        network = build(description)
        load_weights(network, settings.run_dir(run.method, run.seed) / "model.safetensors")
        path = settings.work_dir / f"{run.method}.safetensors"
        save(path, network, description, origin_of(settings, run, dataset, data))
        title = METHOD_TITLES.get(run.method, run.method.capitalize())
        yield run, network, f"- `{path.name}`: {title}, seed {run.seed}"


def origin_of(settings: Settings, run: Run, dataset: str, data: Any) -> Origin:
    """How the network of a run was made."""
    recipe = {"train": asdict(replace(settings.train, seed=run.seed)), "data": asdict(data)}
    if settings.distillation is not None:
        recipe |= {"distillation": asdict(settings.distillation), "teacher": asdict(settings.teacher)}
    return Origin(
        dataset,
        run.method,
        run.seed,
        plain(recipe),
        tuple(f"{divergence}." for divergence in run.divergences),
    )
