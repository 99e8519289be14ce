"""Scores accumulated over the first epochs of the baseline's own training, which has to be run anyway.

A single-shot score reads one batch at the start of training; here |Σ W · dL/dW| of every channel is added up over all
steps of the first epochs. The run is the baseline's: same seed, same data, same learning rates. Its channels are not
those of the widened network, so each widened group gets the distribution of scores of its baseline group.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from core.errors import UserError
from core.graph.channels import ChannelGraph
from core.modules import hooked
from core.surgery.gates import governed_weights
from core.training.train import Loader, TrainConfig, fit
from core.widths.scores import governed_sums

BUFFER = "accumulated_scores"


class _Enough(Exception):
    """The epochs are over."""


def accumulate_scores(
    model: nn.Module,
    graph: ChannelGraph,
    loader: Loader,
    loss_fn: Callable[[Any, Any], Any],
    train: TrainConfig,
    *,
    epochs: int,
    work_dir: Path,
    fabric: Fabric,
    progress: bool = False,
) -> dict[str, Tensor]:
    """Train the first `epochs` epochs of the recipe and add up |Σ W · dL/dW| over the steps.

    Args:
        model: the baseline; trained in place.
        graph: its channel groups.
        loader: training batches.
        loss_fn: (outputs, targets) -> loss, or (loss, metrics).
        train: the recipe; its learning rates are those of the whole training.
        epochs: how many of its epochs.
        work_dir: for checkpoints; an interrupted call is resumed from them.
        fabric: device and processes.
        progress: show a bar.

    Returns:
        Group -> (size,), float32: the mean over the steps.

    Raises:
        UserError: gradients are scaled (precision 16-mixed) or accumulated over batches, or there are fewer epochs.
    """
    if train.precision == "16-mixed" or train.accumulate != 1:
        raise UserError(
            "accumulated scores need gradients as they are: use bf16-mixed or 32-true and accumulate=1"
        )
    if not 1 <= epochs <= train.epochs:
        raise UserError(f"accumulated scores over {epochs} epochs: use between 1 and {train.epochs}")
    steps = epochs * len(loader)
    fabric.to_device(model)  # before its weights get hooks
    # In a buffer, so that the state of an interrupted run holds it.
    zeros = torch.zeros(graph.choices, dtype=torch.float64, device=fabric.device)
    model.register_buffer(BUFFER, zeros)
    names = set(governed_weights(model, graph))
    step_sums: list[Tensor] = []

    def add(name: str, weight: Tensor) -> None:
        assert weight.grad is not None
        step_sums.append(governed_sums(graph, [(name, weight.detach() * weight.grad.float())]))

    def after_step(step: int, lr: float) -> None:
        if step_sums:
            getattr(model, BUFFER).add_(torch.stack(step_sums).sum(0).abs())
            step_sums.clear()
        if step >= steps:
            raise _Enough

    handles = [
        weight.register_post_accumulate_grad_hook(lambda tensor, name=name: add(name, tensor))
        for name, weight in model.named_parameters()
        if name in names
    ]
    with hooked(handles), suppress(_Enough):
        fit(
            model,
            loader,
            loss_fn,
            train,
            work_dir=work_dir,
            fabric=fabric,
            progress=progress,
            after_step=after_step,
        )
    return graph.split((getattr(model, BUFFER) / steps).float().cpu())


def stretch(scores: dict[str, Tensor], graph: ChannelGraph) -> dict[str, Tensor]:
    """Scores of the baseline's channels as scores of the widened network's, by the quantiles of each group.

    Args:
        scores: group -> (size in the baseline,).
        graph: the widened network's groups, of the same names.

    Returns:
        Group -> (size,), falling: choice i gets the value of the baseline's sorted scores at the fraction
        (i + 1/2) / size, linearly interpolated; beyond the first and the last score the value stays.
    """
    stretched = {}
    for group in graph.groups:
        known = scores[group.name].double().sort(descending=True).values
        places = (np.arange(group.size) + 0.5) / group.size * len(known) - 0.5
        stretched[group.name] = torch.from_numpy(np.interp(places, np.arange(len(known)), known)).float()
    return stretched
