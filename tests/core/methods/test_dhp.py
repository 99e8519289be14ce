"""DHP's search: the proximal step's place in training, its stop rule, floors, resuming; accumulated scores."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.errors import UserError
from core.methods.accumulated import accumulate_scores, stretch
from core.methods.dhp import DhpConfig, dhp_search
from core.surgery.gates import LATENTS
from core.surgery.hypernetwork import alive_latents, attach_hypernetwork, soft_threshold_
from core.training.recipe import OptimizerConfig, ScheduleConfig, TrainConfig
from core.training.train import fit, make_fabric
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from core.widths.scores import score_channels
from core.widths.space import Space, open_space
from tests.core.training.training_runs import DigitsLoader, cross_entropy, network

TRAIN = TrainConfig(epochs=4, batch_size=32, optimizer=OptimizerConfig(lr=0.05), checkpoint_every_steps=3)
QUICK = DhpConfig(strength=1.0, threshold=5e-3, stop_limit=0.02, max_epochs=6, check_every=2, embedding=2,
                  schedule=ScheduleConfig("constant"))  # fmt: skip
LOADER = DigitsLoader(count=160)
FABRIC = make_fabric("cpu")
IMAGE = torch.zeros(1, 1, 8, 8)


def space() -> Space:
    return open_space(network(dropout=0.0), IMAGE, ShrinkConfig(), seed=0)


def searched(folder: Path, config: DhpConfig = QUICK, **options: Any) -> Any:
    loader = options.pop("loader", LOADER)
    shrink = ShrinkConfig(**{"budget": Budget(flops=0.8), "floor": 0.2, **options})
    return dhp_search(
        space(), loader, cross_entropy, TRAIN, config, shrink, seed=1, work_dir=folder, fabric=FABRIC
    )


def test_latents_follow_proximal_gradient_descent(tmp_path: Path) -> None:
    """Two steps by hand: z - lr · gradient (momentum, weight decay), then soft-thresholding by λ · lr."""
    made = space()
    config = replace(QUICK, strength=0.3, max_epochs=1, check_every=10**6)
    hyper = attach_hypernetwork(made.wide, made.graph, embedding=2, seed=1)
    latents = getattr(hyper, LATENTS)
    optimiser = torch.optim.SGD(hyper.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    hyper.train()
    for images, labels in LOADER.epoch(0):
        optimiser.zero_grad()
        cross_entropy(hyper(images), labels)[0].backward()
        optimiser.step()
        with torch.no_grad():
            latents.z.copy_(torch.sign(latents.z) * (latents.z.abs() - 0.3 * 0.05).clamp_min(0))
    found = searched(tmp_path, config, floor=0.0, budget=Budget(flops=0.3))
    assert (found.steps, found.epochs, found.reached) == (5, 1.0, False)
    state = torch.cat([z.abs() for z in latents.split(latents.z.detach()).values()])
    alive = int((state >= config.threshold).sum())
    assert 8 < alive < int(made.graph.sizes.sum())  # neither group at its least: all latents were thresholded
    counts = alive_latents(latents, config.threshold).numpy()
    kept, whole = made.graph.price(made.graph.widths_at(np.maximum(counts, 4))), made.graph.price()
    macs = (kept.macs - int(0.3 * made.baseline.macs)) / whole.macs
    paper = (kept.paper - int(0.3 * made.baseline.paper)) / whole.paper
    assert found.excess == pytest.approx(
        max(macs, paper)
    )  # of the convention that is further from the target


def test_the_stop_rule_ends_the_search_and_the_budget_is_met(tmp_path: Path) -> None:
    found = searched(tmp_path)
    base = found.architecture.costs[1].paper
    assert found.reached
    assert found.excess <= QUICK.stop_limit
    assert found.steps % QUICK.check_every == 0
    assert found.steps < QUICK.max_epochs * len(LOADER)
    assert found.architecture.costs[0].paper <= 0.8 * base
    assert found.architecture.found_by["score"] == "dhp"
    assert all(width >= 0.2 * 2 * was for (width, was) in
               zip(found.architecture.widths.values(), found.architecture.baseline_widths.values()))  # fmt: skip
    slower = searched(tmp_path / "slower", replace(QUICK, strength=0.5))
    assert slower.steps > found.steps


def test_without_regularisation_nothing_reaches_the_target(tmp_path: Path) -> None:
    found = searched(tmp_path, replace(QUICK, strength=0.0, max_epochs=1))
    assert not found.reached
    assert found.excess > 0.3
    assert found.architecture.costs[0].paper <= 0.8 * found.architecture.costs[1].paper


class _Stopped(Exception):
    pass


def test_a_search_that_was_stopped_goes_on_to_the_same_widths(tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole")

    def stop(epoch: int, batch: int) -> None:
        if (epoch, batch) == (0, 4):
            raise _Stopped

    with pytest.raises(_Stopped):
        searched(tmp_path / "parts", loader=replace(LOADER, before_batch=stop))
    assert (tmp_path / "parts" / "last.safetensors").exists()
    resumed = searched(tmp_path / "parts")
    assert (resumed.steps, resumed.excess) == (whole.steps, whole.excess)
    assert resumed.architecture == whole.architecture
    again = searched(tmp_path / "parts")  # a finished search is gone through again from its last checkpoint
    assert again.architecture == whole.architecture


def test_parameters_can_be_what_the_budget_limits_and_a_latency_alone_cannot(tmp_path: Path) -> None:
    found = searched(tmp_path / "params", budget=Budget(params=0.5), floor=0.1).architecture
    assert found.costs[0].params <= 0.5 * found.costs[1].params
    with pytest.raises(UserError, match="needs a budget of FLOPs or parameters"):
        searched(tmp_path / "latency", budget=Budget(latency=0.5))
    assert not (tmp_path / "latency").exists()
    with pytest.raises(UserError, match=r"dhp\.max_epochs"):
        DhpConfig(max_epochs=0)


def test_a_latent_counts_as_alive_from_the_threshold_on() -> None:
    made = space()
    latents = getattr(attach_hypernetwork(made.wide, made.graph, embedding=2, seed=0), LATENTS)
    first, second = latents.names
    with torch.no_grad():
        latents.of(first).fill_(1.0)
        latents.of(first)[5:] = 0.004
        latents.of(second).fill_(0.004)
    assert alive_latents(latents, 5e-3).tolist() == [5, 0]
    soft_threshold_(latents, 0.001, keep={first: 4, second: 4}, threshold=5e-3)
    assert latents.of(first)[:5].tolist() == pytest.approx([0.999] * 5)
    assert latents.of(second).tolist() == pytest.approx([0.004] * len(latents.of(second)))  # at its least
    soft_threshold_(latents, 0.001, keep={first: 5, second: 4}, threshold=5e-3)
    assert latents.of(first)[:5].tolist() == pytest.approx([0.999] * 5)


def test_accumulated_scores_are_the_sum_over_the_steps_of_the_ordinary_run(tmp_path: Path) -> None:
    made = space()
    model = network(dropout=0.0)
    found = accumulate_scores(copy.deepcopy(model), made.base_graph, LOADER, cross_entropy, TRAIN, epochs=2,
                              work_dir=tmp_path, fabric=FABRIC)  # fmt: skip
    weights: list[dict[str, Tensor]] = []
    follower = copy.deepcopy(model)
    weights.append(copy.deepcopy(follower.state_dict()))
    fit(follower, LOADER, cross_entropy, TRAIN, work_dir=tmp_path / "fit", fabric=FABRIC, progress=False,
        after_step=lambda step, lr: weights.append(copy.deepcopy(follower.state_dict())))  # fmt: skip
    batches = [batch for epoch in (0, 1) for batch in LOADER.epoch(epoch)]
    expected = {group.name: torch.zeros(group.size) for group in made.base_graph.groups}
    for batch, state in zip(batches, weights):
        step = copy.deepcopy(model)
        step.load_state_dict(state)
        for name, value in score_channels(step, made.base_graph, [batch], cross_entropy).items():
            expected[name] += value / len(batches)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-7)


def test_accumulation_goes_on_after_a_stop(tmp_path: Path) -> None:
    made = space()

    def accumulated(folder: Path, loader: DigitsLoader = LOADER) -> dict[str, Tensor]:
        return accumulate_scores(network(), made.base_graph, loader, cross_entropy, TRAIN, epochs=2,
                                 work_dir=folder, fabric=FABRIC)  # fmt: skip

    def stop(epoch: int, batch: int) -> None:
        if (epoch, batch) == (1, 3):
            raise _Stopped

    whole = accumulated(tmp_path / "whole")
    with pytest.raises(_Stopped):
        accumulated(tmp_path / "parts", replace(LOADER, before_batch=stop))
    resumed = accumulated(tmp_path / "parts")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    with pytest.raises(UserError, match="over 5 epochs: use between 1 and 4"):
        accumulate_scores(network(), made.base_graph, LOADER, cross_entropy, TRAIN, epochs=5,
                          work_dir=tmp_path, fabric=FABRIC)  # fmt: skip


def test_stretched_scores_keep_the_distribution() -> None:
    made = space()
    scores = {group.name: torch.arange(float(group.size)) ** 2 for group in made.base_graph.groups}
    found = stretch(scores, made.graph)
    for group in made.graph.groups:
        known, wide = scores[group.name], found[group.name]
        assert len(wide) == 2 * len(known)
        assert (wide[:-1] >= wide[1:]).all()
        assert (float(wide[0]), float(wide[-1])) == (float(known.max()), float(known.min()))
        assert float(wide.mean()) == pytest.approx(float(known.mean()), rel=0.02)
    same = stretch(scores, made.base_graph)
    assert all(same[name].tolist() == sorted(scores[name].tolist(), reverse=True) for name in scores)
