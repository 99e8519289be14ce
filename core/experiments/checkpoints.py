"""The checkpoints that an experiment leaves: every network says what it is and how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from torch import nn

from core.experiments.plan import FROM_SCRATCH
from core.experiments.pretrained import as_json
from core.experiments.settings import Run, Settings, TeacherConfig
from core.experiments.store import plain
from core.experiments.task import Described
from core.methods.subject import Pretrained
from core.report.style import title_of
from core.storage.checkpoint import load_weights, save_weights
from core.storage.description import Origin, header_of
from core.surgery.architecture import Architecture
from core.training.distillation import DistillationConfig
from core.training.divergence import Divergence
from core.training.run_files import RunFiles
from core.training.train import TrainConfig

M = TypeVar("M", bound=nn.Module)


def header(
    described: Described,
    method: str,
    train: TrainConfig,
    distillation: DistillationConfig | None,
    teacher: TeacherConfig,
    divergences: Sequence[Divergence],
    weights: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The entries of a trained network's header.

    Args:
        described: the network.
        method: how its widths were found.
        train: the recipe, with the training's seed.
        distillation: of the training; None without.
        teacher: likewise.
        divergences: where the training left the recipe.
        weights: which trained weights were used, and how; see `core.experiments.pretrained.as_json`.
    """
    recipe = {"train": train.plain(), "data": asdict(described.data)}
    if weights is not None:
        recipe["weights"] = dict(weights)
    if distillation is not None:
        recipe |= {"distillation": asdict(distillation), "teacher": asdict(teacher)}
    notes = tuple(f"{divergence}." for divergence in divergences)
    origin = Origin(described.dataset, method, train.seed, plain(recipe), notes)
    return header_of(described.key, described.description, origin)


def trained_network(settings: Settings, run: Run, told: Described, build: Callable[[Any], M]) -> M:
    """The network of a finished training, with its weights.

    Args:
        settings: the experiment.
        run: the training.
        told: what the network is.
        build: a description -> its network.

    Raises:
        UserError: the weights are missing, damaged, or not of these widths.
    """
    network = build(told.description)
    load_weights(network, RunFiles(settings.run_dir(run.method, run.seed)).weights)
    return network


def save_checkpoints(
    settings: Settings,
    runs: Sequence[Run],
    described: Callable[[Architecture | None], Described],
    build: Callable[[Any], M],
    pretrained: Pretrained | None = None,
) -> Iterator[tuple[Run, M, str]]:
    """Write METHOD.safetensors for every method, with the network of the first seed.

    Args:
        settings: the experiment.
        runs: its finished trainings.
        described: see `core.experiments.task.Task`.
        build: a description -> its network.
        pretrained: the trained weights that were used.

    Yields:
        The training, its network with its weights, and a line of Markdown that names the file.

    Raises:
        UserError: the weights of a training are missing, damaged, or not of these widths.
    """
    for run in runs:
        if run.seed != runs[0].seed:
            continue
        told = described(run.architecture)
        network = trained_network(settings, run, told, build)
        path = settings.work_dir / f"{run.method}.safetensors"
        train = replace(settings.train, seed=run.seed)
        save_weights(
            network,
            path,
            header(
                told, run.method, train, settings.distillation, settings.teacher, run.divergences,
                as_json(pretrained, "scratch" if run.method.endswith(FROM_SCRATCH) else settings.start),
            ),
        )  # fmt: skip
        title = title_of(run.method)
        yield run, network, f"- `{path.name}`: {title}, seed {run.seed}"
