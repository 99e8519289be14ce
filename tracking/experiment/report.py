"""The trackers' additions to the shared report: checkpoints, plots, cost and speed per frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.experiments.checkpoints import save_checkpoints
from core.experiments.settings import Run, Settings
from core.experiments.task import Described, Shown
from core.graph.complexity import count, count_params, latency
from core.methods.subject import Pretrained
from core.report.page import Section, Table, Text
from core.report.style import title_of
from core.surgery.architecture import Architecture
from core.tables import engineering, markdown_table
from tracking.dimp.checkpoint import KEY, Description
from tracking.dimp.net import DiMPNet
from tracking.evaluation.evaluation import Evaluation
from tracking.evaluation.plots import save_plots
from tracking.experiment.config import RunConfig
from tracking.experiment.panels import curve_charts, frame_blocks
from tracking.experiment.tryout import Tryout
from tracking.training import trained_on

FRAME_NOTE = (
    "Convolutions on a search crop, heads included, in the convention `macs`. Milliseconds of these convolutions are "
    "medians of turns on the CPU; frames per second are those of the evaluation, decoding left out."
)


class PerFrame(nn.Module):
    """All of a tracker's convolutions on one search crop: backbone, classification features, box features.

    The rest of a frame's work, the filter's correlation and the box's refinement, does not depend on the backbone.
    """

    def __init__(self, network: DiMPNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised crops (N, 3, s, s)."""
        stages = self.network.extract(images)
        return self.network.classifier.features(stages), *self.network.bb_regressor.iou_features(stages)


def finish(
    config: RunConfig, tryout: Tryout, settings: Settings, runs: Sequence[Run], pretrained: Pretrained | None
) -> Shown:
    """Write a checkpoint for each method and the plots; returns the task's part of the reports.

    Args:
        config: the protocol.
        tryout: where the tracks are.
        settings: the experiment.
        runs: all trained trackers.
        pretrained: weights that were used.
    """
    networks: dict[str, DiMPNet] = {}
    folders: dict[str, Path] = {}
    evaluations: list[Evaluation] = []
    files = []
    described = partial(describe, config, tryout.changes)
    for run, network, line in save_checkpoints(
        settings, runs, described, lambda description: description.build(config.backbone.name), pretrained
    ):
        files.append(line)
        name = title_of(run.method)
        networks[name] = network.eval()
        evaluations.append(replace(tryout.network(network), name=name))
        folders[name] = tryout.folder_of(network)
    evaluations += [tryout.built_in(name) for name in tryout.references]
    evaluations.sort(key=_auc, reverse=True)
    pictures = save_plots(settings.work_dir, evaluations, tryout.dataset.split)
    header, rows = _frame_rows(networks, evaluations, tryout.settings.crop_size)
    markdown = (
        "## Plots",
        f"Seed {runs[0].seed}.",
        *(f"![{path.stem}]({path.name})" for path in pictures if path.suffix == ".png"),
        "## Cost and speed of a frame",
        FRAME_NOTE,
        markdown_table(header, rows),
        "Checkpoints for `python -m tracking.track VIDEO --box x,y,w,h --tracker dimp50 --checkpoint FILE`:\n\n"
        + "\n".join(files),
    )
    told = f"Seed {runs[0].seed}."
    sections = (
        Section("Success", tuple(curve_charts(evaluations, tryout.dataset.split, told))),
        Section("Frames", tuple(frame_blocks(tryout.dataset, folders))),
        Section("Cost and speed of a frame", (Text([FRAME_NOTE.replace("`", "")]), Table(header, rows))),
    )
    return Shown(markdown, sections)


def describe(config: RunConfig, changes: Mapping[str, Any], found: Architecture | None) -> Described:
    """The description in checkpoints: of `core.experiments.task.Task`; `changes` are the tracker's own settings."""
    widths = None if found is None else found.to_json()
    description = Description(config.backbone.name, widths, config.network, changes)
    return Described(KEY, description, trained_on(config), config.data)


def _auc(evaluation: Evaluation) -> float:
    """The sort key of trackers; one without a score, or with NaN, comes last."""
    score = evaluation.scores()["success_auc"]
    return -math.inf if score is None or math.isnan(score) else score


def _frame_rows(
    networks: dict[str, DiMPNet], evaluations: Sequence[Evaluation], side: int
) -> tuple[list[str], list[list[str]]]:
    crop = torch.zeros(1, 3, side, side)
    modules = [PerFrame(network).cpu() for network in networks.values()]
    speeds = {item.name: item.speed for item in evaluations}
    seconds = latency(modules, crop)
    flops = [count(module, crop) for module in modules]
    rows = [
        [
            name,
            engineering(cost),
            f"{100 * cost / flops[0]:.2f}",
            engineering(count_params(network)),
            f"{1000 * time:.1f}",
            f"{100 * time / seconds[0]:.1f}",
            "" if (speed := speeds[name]) is None else f"{speed:.1f}",
        ]
        for (name, network), cost, time in zip(networks.items(), flops, seconds, strict=True)
    ]
    return ["method", "FLOPs", "ratio %", "params", "ms", "ratio %", "frames/s"], rows
