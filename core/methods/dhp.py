"""DHP: differentiable meta pruning by hypernetworks (Li et al., ECCV 2020).

The widened network's weights come from latent vectors, one per channel group (`core.surgery.hypernetwork`). Training
minimises

    L(z, θ) + λ Σ_g ||z_g||_1

by proximal gradient: an optimiser step on the loss, then soft-thresholding of every latent by λ · lr, except in groups
that are down to their least number of latents of magnitude τ. Every so many steps the FLOPs of the network
that keeps the latents above τ are compared with the target, as fractions of the widened network's; the search ends when
the excess is at most `stop_limit`, or after `max_epochs`. Unlike a single-shot score this costs epochs of training.

Deviations: the authors take the mask at that moment, up to `stop_limit` above the target, and go on with the sliced
weights. Here |z| is the score for the exact search that all methods share, so the result fills the budget to within
one channel, and the network starts afresh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning_fabric import Fabric

from core.errors import UserError
from core.surgery.architecture import Architecture
from core.surgery.gates import LATENTS, Latents
from core.surgery.hypernetwork import alive_latents, attach_hypernetwork, soft_threshold_
from core.training.recipe import ScheduleConfig, require_range
from core.training.train import Loader, TrainConfig, fit
from core.widths.config import ShrinkConfig
from core.widths.selection import check_reachable, exact_limits
from core.widths.shrinkage import priced_baseline, search_space
from core.widths.space import Space


@dataclass(frozen=True)
class DhpConfig:
    """Settings of the search; by default the authors' for MobileNetV2 on Tiny-ImageNet (ResNet20: strength 2e-4).

    Args:
        strength: λ.
        threshold: τ, the least magnitude of a latent that counts as alive.
        stop_limit: excess over the target, as a fraction of the widened network's FLOPs, at which the search ends.
        max_epochs: epochs after which the search ends at the latest.
        check_every: optimiser steps between looks at the FLOPs.
        embedding: size of the hypernetworks' embedding.
        schedule: learning rate of the search (the recipe's optimiser is used).
    """

    strength: float = 1e-4
    threshold: float = 5e-3
    stop_limit: float = 0.02
    max_epochs: int = 100
    check_every: int = 100
    embedding: int = 8
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(name="step", milestones=(50, 70)))

    def __post_init__(self) -> None:
        for name in ("strength", "threshold", "stop_limit"):
            require_range(f"dhp.{name}", getattr(self, name), 0, float("inf"))
        for name in ("max_epochs", "check_every", "embedding"):
            require_range(f"dhp.{name}", getattr(self, name), 1, float("inf"))


@dataclass(frozen=True)
class DhpResult:
    """What the search gave.

    Attributes:
        architecture: widths within the budget.
        steps: optimiser steps taken.
        epochs: these steps in epochs.
        excess: FLOPs above the target at the end, as a fraction of the widened network's.
        reached: whether the stop rule ended the search, and not the last epoch.
    """

    architecture: Architecture
    steps: int
    epochs: float
    excess: float
    reached: bool


class _Reached(Exception):
    """The stop rule holds."""


def dhp_search(
    space: Space,
    loader: Loader,
    loss_fn: Callable[[Any, Any], Any],
    train: TrainConfig,
    dhp: DhpConfig,
    config: ShrinkConfig,
    *,
    seed: int,
    work_dir: Path,
    fabric: Fabric,
    name: str | None = None,
    progress: bool = False,
) -> DhpResult:
    """Search widths by proximal gradient; after an interruption at any time, the same call goes on.

    Args:
        space: the baseline, its widened form and their groups.
        loader: training batches.
        loss_fn: (outputs, targets) -> loss, or (loss, metrics).
        train: the recipe whose optimiser, batch size and precision the search uses.
        dhp: the search itself.
        config: budget, floors, ceilings, round_to, allocation. The authors keep 4 channels where they give no floor.
        seed: of latents, hypernetworks and training.
        work_dir: for the checkpoints of the search.
        fabric: device and processes.
        name: the model's name in the architecture.
        progress: show a bar.

    Raises:
        UserError: the budget limits neither FLOPs nor parameters, or a pattern fits no group; and whatever `fit` and
            `search` raise.
    """
    graph = space.graph
    limits = exact_limits(config.budget, space.baseline)
    if not limits:
        raise UserError("DHP's stop rule needs a budget of FLOPs or parameters: add flops=... to the budget")
    bounds = config.bounds(graph)  # refuses mistakes before epochs of training
    check_reachable(graph, bounds, limits, space.baseline)
    least = np.minimum(np.maximum(bounds.low, 4), graph.sizes)
    keep = {group.name: int(count) for group, count in zip(graph.groups, least, strict=True)}
    hyper = attach_hypernetwork(space.wide, graph, embedding=dhp.embedding, seed=seed)
    latents = cast(Latents, getattr(hyper, LATENTS))
    done = 0

    def excess() -> float:
        counts = np.maximum(alive_latents(latents, dhp.threshold).cpu().numpy(), least)
        return max((int(graph.cost(kind, counts)) - limit) / int(graph.cost(kind, graph.sizes))
                   for kind, limit in limits.items())  # fmt: skip

    def after_step(step: int, lr: float) -> None:
        nonlocal done
        done = step
        soft_threshold_(latents, dhp.strength * lr, keep=keep, threshold=dhp.threshold)
        if step % dhp.check_every == 0 and excess() <= dhp.stop_limit:
            raise _Reached

    recipe = replace(
        train, epochs=dhp.max_epochs, schedule=dhp.schedule, seed=seed, ema_decay=None, compile=False,
        eval_every=dhp.max_epochs,
    )  # fmt: skip
    reached = False
    try:
        fit(
            hyper,
            loader,
            loss_fn,
            recipe,
            work_dir=work_dir,
            fabric=fabric,
            progress=progress,
            after_step=after_step,
        )
    except _Reached:
        reached = True
    steps = done or dhp.max_epochs * len(loader)  # a search that has already ended takes no step
    scores = {group: z.detach().abs().float().cpu() for group, z in latents.split(latents.z).items()}
    found = search_space(space, scores, config, priced_baseline(space, config.budget))
    result = {
        "steps": steps,
        "epochs": steps / len(loader),
        "excess": excess(),
        "reached": reached,
    }
    architecture = space.architecture(
        found.widths,
        name,
        config.found_by(score="dhp", seed=seed, allocation=config.allocation, strength=dhp.strength,
                        threshold=dhp.threshold, embedding=dhp.embedding, at_floor=found.at_floor,
                        at_ceiling=found.at_ceiling, **result),
    )  # fmt: skip
    return DhpResult(architecture=architecture, **result)  # type: ignore[arg-type]
