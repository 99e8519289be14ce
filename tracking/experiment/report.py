"""What the comparison of trackers leaves beside the shared report: checkpoints, plots, cost and speed per frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from core.experiments.checkpoints import save_checkpoints
from core.experiments.report import METHOD_TITLES
from core.experiments.settings import Run, Settings
from core.experiments.task import Described
from core.graph.complexity import count, count_params, latency
from core.methods.subject import Pretrained
from core.surgery.architecture import Architecture
from core.tables import engineering, markdown_table
from tracking.dimp.checkpoint import KEY, Description
from tracking.dimp.net import DiMPNet
from tracking.evaluation.evaluation import Evaluation
from tracking.evaluation.plots import save_plots
from tracking.experiment.config import RunConfig
from tracking.experiment.tryout import Tryout
from tracking.training import trained_on


class PerFrame(nn.Module):
    """All of a tracker's convolutions on one search crop: backbone, classification features, box features.

    What else a frame needs, the filter's correlation and the refinement of the box, does not depend on the backbone.
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
) -> list[str]:
    """Write a checkpoint per method and the plots; returns Markdown for the report.

    Args:
        config: the protocol.
        tryout: where the tracks are.
        settings: the experiment.
        runs: all trained trackers.
        pretrained: weights that were used.
    """
    networks: dict[str, DiMPNet] = {}
    evaluations: list[Evaluation] = []
    files = []
    described = partial(describe, config, tryout.changes)
    for run, network, line in save_checkpoints(
        settings, runs, described, lambda description: description.build(config.backbone.name), pretrained
    ):
        files.append(line)
        name = METHOD_TITLES.get(run.method, run.method.capitalize())
        networks[name] = network.eval()
        evaluations.append(replace(tryout.network(network), name=name))
    evaluations += [tryout.built_in(name) for name in tryout.references]
    evaluations.sort(key=_auc, reverse=True)
    pictures = save_plots(settings.work_dir, evaluations, tryout.dataset.split)
    return [
        "## Plots",
        f"Seed {runs[0].seed}.",
        *(f"![{path.stem}]({path.name})" for path in pictures if path.suffix == ".png"),
        "## Cost and speed of a frame",
        "Convolutions on a search crop, heads included, in the convention `macs`. Milliseconds of these convolutions "
        "are medians of turns on the CPU; frames per second are those of the evaluation, decoding left out.",
        _frame_table(networks, evaluations, tryout.settings.crop_size),
        "Checkpoints for `python -m tracking.track VIDEO --box x,y,w,h --tracker dimp50 --checkpoint FILE`:\n\n"
        + "\n".join(files),
    ]


def describe(config: RunConfig, changes: Mapping[str, Any], found: Architecture | None) -> Described:
    """What checkpoints say: of `core.experiments.task.Task`; `changes` are the tracker's settings that differ."""
    widths = None if found is None else found.to_json()
    description = Description(config.backbone.name, widths, config.network, changes)
    return Described(KEY, description, trained_on(config), config.data)


def _auc(evaluation: Evaluation) -> float:
    """What trackers are sorted by; one without a score, or with NaN, comes last."""
    score = evaluation.scores()["success_auc"]
    return -math.inf if score is None or math.isnan(score) else score


def _frame_table(networks: dict[str, DiMPNet], evaluations: Sequence[Evaluation], side: int) -> str:
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
    return markdown_table(["method", "FLOPs", "ratio %", "params", "ms", "ratio %", "frames/s"], rows)
