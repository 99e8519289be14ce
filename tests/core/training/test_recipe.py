"""Recipes: which values are refused, schedules and optimisers against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.errors import UserError
from core.training.optim import build_optimizer, learning_rate_factor
from core.training.recipe import cut_short
from core.training.train import OptimizerConfig, ScheduleConfig, TrainConfig, make_fabric, seed_everything
from tests.core.training.training_runs import DigitsLoader, network, run


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(epochs=0), "epochs must be >= 1, got 0"),
        (
            lambda: TrainConfig(precision="fp16"),
            "precision must be one of 32-true, bf16-mixed, 16-mixed; got 'fp16'",
        ),
        (lambda: TrainConfig(clip_grad_norm=0.0), "clip_grad_norm must be above 0"),
        (lambda: OptimizerConfig(lr=math.nan), "optimizer.lr must be >= 0, got nan"),
        (lambda: OptimizerConfig(name="adam", nesterov=True), "nesterov needs name='sgd'"),
        (
            lambda: OptimizerConfig("adam", betas=(0.9, 9.0)),
            "optimizer.betas must be at least 0 and below 1, got 9.0",
        ),
        (lambda: OptimizerConfig("adam", betas=(0.9, 1.0)), "optimizer.betas must be at least 0 and below 1"),
        (lambda: OptimizerConfig("adam", eps=-1.0), "optimizer.eps must be >= 0"),
        (lambda: TrainConfig(seed=2**64), "seed must be between 0 and 9223372036854775808"),
        (lambda: OptimizerConfig(lr=math.inf), "optimizer.lr must be finite and >= 0, got inf"),
        (lambda: OptimizerConfig(weight_decay=math.inf), "optimizer.weight_decay must be finite"),
        (lambda: OptimizerConfig(groups=(("head", -1.0),)), "optimizer.groups 'head' must be >= 0"),
        (
            lambda: TrainConfig(schedule=ScheduleConfig(min_lr=1.0)),
            "schedule.min_lr must be between 0 and 0.1",
        ),
        (lambda: ScheduleConfig("step"), "milestones belong to name='step'"),
        (lambda: ScheduleConfig("step", milestones=(5, 3)), "milestones must rise"),
        (lambda: ScheduleConfig(warmup_factor=0.0), "warmup_factor must be in"),
        (lambda: make_fabric("gpu:x"), "device must be auto, cpu"),
        (lambda: make_fabric("cpu", "16-mixed"), "needs a GPU"),
        (lambda: make_fabric("cuda:99"), "this machine offers"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_launcher_with_another_number_of_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="started 4 processes, but devices=1 times num_nodes=1 is 1"):
        make_fabric("cpu")


def torch_rates(make_scheduler, lr, epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, rates = make_scheduler(optimizer), []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


LR = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("schedule", "scheduler"),
    [
        (ScheduleConfig("cosine"), lambda o: LR.CosineAnnealingLR(o, 20)),
        (ScheduleConfig("cosine", min_lr=0.01), lambda o: LR.CosineAnnealingLR(o, 20, eta_min=0.01)),
        (ScheduleConfig("step", (6, 12), gamma=0.3), lambda o: LR.MultiStepLR(o, [6, 12], gamma=0.3)),
        (ScheduleConfig("constant"), lambda o: LR.ConstantLR(o, factor=1.0)),
        (
            ScheduleConfig("cosine", warmup_epochs=5, warmup_factor=0.2),
            lambda o: LR.SequentialLR(
                o, [LR.LinearLR(o, 0.2, total_iters=5), LR.CosineAnnealingLR(o, 15)], milestones=[5]
            ),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_schedules_equal_torchs(schedule, scheduler):
    mine = [0.4 * learning_rate_factor(schedule, 0.4, 20, epoch) for epoch in range(20)]
    assert mine == pytest.approx(torch_rates(scheduler, 0.4, 20), rel=1e-9)


def test_learning_rates_of_groups(tmp_path):
    """The longest prefix wins; '3' must not take what belongs to a module whose name merely starts alike."""
    model = nn.ModuleDict(
        {"backbone": nn.Linear(2, 2), "backbone2": nn.Linear(2, 2), "head": nn.Linear(2, 2)}
    )
    config = OptimizerConfig(lr=1.0, groups=(("backbone", 0.1), ("backbone.bias", 0.5)))
    optimizer = build_optimizer(model, config)
    rates = {id(p): group["lr_multiplier"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in model.parameters()] == [0.1, 0.5, 1, 1, 1, 1]

    net = network()
    before = net[0].weight.detach().clone()
    recipe = {"optimizer": OptimizerConfig(lr=0.05, groups=(("0", 0.0),)), "epochs": 1, "ema_decay": None}
    run(tmp_path, model=net, recipe=recipe)
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_equals_torchs(tmp_path, name):
    model, expected = network(), network()
    optimizer = OptimizerConfig(name, lr=1e-3, weight_decay=0.01, betas=(0.8, 0.99), eps=1e-6)
    run(tmp_path, model=model, recipe={"optimizer": optimizer, "ema_decay": None, "epochs": 1})
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    reference = kind(expected.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.8, 0.99), eps=1e-6)
    seed_everything(5)
    for images, labels in DigitsLoader().epoch(0):
        reference.zero_grad()
        F.cross_entropy(expected(images), labels).backward()
        reference.step()
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_what_of_a_schedule_lies_behind_the_last_epoch_is_said():
    step = ScheduleConfig("step", milestones=(3, 5, 8))
    assert cut_short(TrainConfig(epochs=9, schedule=step)) == []
    (line,) = cut_short(TrainConfig(epochs=5, schedule=step))
    assert line.startswith("2 of 3 train.schedule.milestones (5, 8) lie behind the last of 5 epochs")
    warm = ScheduleConfig(warmup_epochs=3)
    assert cut_short(TrainConfig(epochs=4, schedule=warm)) == []
    for epochs in (1, 3):
        (line,) = cut_short(TrainConfig(epochs=epochs, schedule=warm))
        assert "does not end within" in line
        factors = [learning_rate_factor(warm, 0.1, epochs, epoch) for epoch in range(epochs)]
        assert max(factors) < 1
