"""Checks before the first trial, for what would otherwise stop one after others have run for hours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from core.errors import UserError
from core.experiments.engine import Engine
from core.experiments.plan import Trial
from core.experiments.starts import check_start
from core.experiments.task import Task
from core.methods.registry import BASELINE
from core.methods.subject import find_architecture
from core.surgery.depth import blocks_to_lift, lifted
from core.surgery.initialise import seeded
from core.widths.budget import BudgetError
from core.widths.config import ShrinkConfig
from core.widths.selection import search
from core.widths.shrinkage import check_latency
from core.widths.space import open_space


def check_trials(engine: Engine, trials: Iterable[Trial], *, budgets: bool = True) -> list[Trial]:
    """Check what would stop trials after others have run for hours; returns those that are still to be run.

    Args:
        engine: of the trials.
        trials: all trials.
        budgets: whether to refuse a budget that cannot be reached; otherwise each trial does.

    Raises:
        UserError: a method does not exist or cannot do what is asked of it here; or see `check_start`, `check`.
        MissingData: a method that is still to be run needs a package that is not installed.
    """
    missing = []
    for trial in trials:
        if trial.finder.method != BASELINE:
            engine.method(trial.method).check_config(trial.finder.method, trial.shrink)
        if engine.load(trial) is None:
            missing.append(trial)
    found = [trial for trial in missing if trial.finder.method != BASELINE]
    if any(engine.starts_from(trial) == "scratch" for trial in found):
        check_start(engine.task, found[0].shrink, engine.allow_unknown_start)
    searches = {(trial.finder.method, repr(trial.shrink)): trial.finder for trial in found}
    configs = {}
    for trial in searches.values():
        method = engine.method(trial.method)
        method.check(trial.method, trial.shrink, engine.task)
        # Whether budget and floors can be met does not depend on these.
        config = replace(method.config(trial.shrink), score="uniform", allocation="threshold", latents="gate")
        configs[repr(config)] = config
    for config in configs.values():
        try:
            check(engine.task, config, engine.fabric.device if budgets else None)
        except BudgetError:
            if budgets:
                raise
    return missing


def check(task: Task, config: ShrinkConfig, device: torch.device | None = None) -> None:
    """Check in seconds what would otherwise fail after the baseline's training.

    Args:
        task: whose widths are searched.
        config: how.
        device: where the narrowest network is timed against a limit on latency; None times nothing.

    Raises:
        UserError: the model cannot be built or traced, there is no batch to score channels on, floors, ceilings or
            round_to are out of range or fit no group, or the budget cannot be reached.
    """
    if len(task.train_loader(config.batch_size, 0)) < 1:
        raise UserError(
            f"shrink.batch_size={config.batch_size}: the training set holds no batch of that size"
        )
    if config.budget.latency is None and not config.vanish:
        find_architecture(task, replace(config, score="uniform"), seed=0)
        return
    with seeded(0):
        model, inputs = task.searched(config.keep_weights)
    space = open_space(model, inputs, task.traced(config), seed=0)
    # A clock that stands still lets every latency pass, so that the search checks everything else. Scores decide which
    # blocks vanish; no choice of blocks changes whether the budget can be met without floors.
    inner = blocks_to_lift(model, inputs, space.graph) if config.by_scores else {}
    search(
        space.graph,
        {group.name: torch.zeros(group.size) for group in space.graph.groups},
        config.budget,
        replace(space.baseline, latency=1.0),
        floor=lifted(config.floor, inner),
        ceiling=config.ceiling,
        round_to=config.round_to,
        measure=lambda widths: 0.0,
    )
    if device is not None:
        space.model.to(device)
        check_latency(space, config)
