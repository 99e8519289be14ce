"""The running average of weights, and the statistics measured for it."""

from __future__ import annotations

import copy
from itertools import islice

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from core.errors import UserError
from core.storage.checkpoint import load_state, load_weights, save_state
from core.training.averaging import recompute_statistics, running_average, warmed_up
from core.training.train import TrainConfig
from tests.bits import assert_same_bits
from tests.core.training.test_train_resume import Stop, stop_at
from tests.core.training.training_runs import DigitsLoader, held_out_accuracy, network, run


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def call(module: nn.Module, inputs: torch.Tensor) -> object:
    return module(inputs)


@pytest.mark.parametrize(
    ("updates", "expected"), [(0, 1 / 10), (1, 2 / 11), (90, 91 / 100), (890, 0.99), (10**6, 0.99)]
)
def test_the_decay_is_warmed_up(updates, expected):
    assert warmed_up(0.99, updates) == pytest.approx(expected)


@pytest.mark.parametrize("decay", [1.0, 1.5, -0.1, float("nan")])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(UserError, match=r"ema_decay must be at least 0 and below 1, got"):
        TrainConfig(ema_decay=decay)


def test_an_average_is_its_recurrence_and_buffers_are_the_models():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    average = running_average(model, 0.5)
    expected = 0.0
    for step, value in enumerate([1.0, 2.0, 4.0, 8.0]):
        nn.init.constant_(model[0].weight, value)
        model[1].running_mean.fill_(value)
        model[1].num_batches_tracked += 1
        average.update_parameters(model)
        decay = warmed_up(0.5, step) if step else 0.0
        expected = decay * expected + (1 - decay) * value
    assert average.module[0].weight.item() == pytest.approx(expected)
    assert (average.module[1].running_mean.item(), average.module[1].num_batches_tracked.item()) == (8.0, 4)


def test_statistics_are_the_means_over_batches():
    """Worked by hand: batches (0, 2) and (4, 10) have means 1 and 7, unbiased variances 2 and 18."""
    norm = nn.BatchNorm1d(1, momentum=0.3)
    norm.running_mean.fill_(torch.nan)
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [10.0]])]
    assert recompute_statistics(norm, call, batches) == 1
    assert (norm.running_mean.item(), norm.running_var.item()) == (4.0, 10.0)
    assert (norm.num_batches_tracked.item(), norm.momentum, norm.training) == (2, 0.3, False)


def test_statistics_equal_torchs():
    model = network(0.0)
    expected = copy.deepcopy(model)
    batches = [images for images, _ in DigitsLoader().epoch(0)]
    recompute_statistics(model, call, batches)
    update_bn(batches, expected)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-7)


class Odd(nn.Module):
    """All that could go wrong: a frozen norm, one without use, dropout, spectral norm, a running instance norm."""

    def __init__(self):
        super().__init__()
        self.frozen, self.unused, self.used = nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.instance = nn.InstanceNorm1d(4, track_running_stats=True)
        self.linear = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.dropout = nn.Dropout(0.5)

    def train(self, mode: bool = True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        x = self.instance(x[:, :, None].expand(-1, -1, 3) * torch.arange(1, 4))[:, :, 0]
        return self.used(self.dropout(self.linear(self.frozen(x))))


def test_only_what_training_measures_is_measured():
    torch.manual_seed(0)
    model = Odd()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    batches = [torch.randn(8, 4, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    assert recompute_statistics(model, call, batches) == 2
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {
        "used.running_mean",
        "used.running_var",
        "used.num_batches_tracked",
        "instance.running_mean",
        "instance.running_var",
    }
    assert torch.equal(torch.get_rng_state(), generator)  # no dropout
    scaled = torch.stack(
        [batch[:, :, None] * torch.arange(1, 4) for batch in batches]
    )  # batch, row, channel, place
    torch.testing.assert_close(model.instance.running_mean, scaled.mean((0, 1, 3)))
    assert not any(module.training for module in model.modules())


def test_networks_without_statistics_need_no_batches():
    model = nn.Sequential(nn.Linear(2, 4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4, track_running_stats=False))

    def never():
        raise AssertionError("no batch is needed")
        yield

    assert recompute_statistics(model, call, never()) == 0


def test_a_processes_statistics_are_averaged():
    norm = nn.BatchNorm1d(1)
    recompute_statistics(norm, call, [torch.tensor([[0.0], [2.0]])], mean=lambda value: (value + 3) / 2)
    assert (norm.running_mean.item(), norm.running_var.item()) == (2.0, 2.5)


@pytest.mark.parametrize("evaluated", [True, False])
def test_saved_averages_carry_their_own_statistics_and_both_are_scored(tmp_path, evaluated):
    result = run(tmp_path, evaluate=held_out_accuracy if evaluated else None)
    state = load_state(tmp_path / "last.safetensors")
    saved = network(seed=1)
    load_weights(saved, result.weights)
    expected = copy.deepcopy(saved)
    expected[6].p = 0.0
    images = (images for images, _ in DigitsLoader().epoch(3 + 2))  # epochs, and the one that has ended
    update_bn(list(islice(images, 64)), expected)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(saved.state_dict()[name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(saved.state_dict()[name], state["ema"][f"module.{name}"])
    raw = network(seed=1)
    raw.load_state_dict(state["model"])
    assert not torch.equal(raw[1].running_var, saved[1].running_var)
    scores = held_out_accuracy(saved.eval()), held_out_accuracy(raw.eval())
    assert (result.metrics, result.history[-1].raw_metrics) == (scores if evaluated else ({}, {}))


def test_averages_of_a_short_run_are_no_worse_than_their_weights(tmp_path):
    """Without warm-up and statistics of its own the average of 30 steps at 0.999 is at chance."""
    result = run(tmp_path, recipe={"ema_decay": 0.999, "epochs": 6})
    raw = result.history[-1].raw_metrics["top1"]
    assert raw > 0.6
    assert result.metrics["top1"] > raw - 0.05


def test_without_an_average_there_is_one_score(tmp_path):
    assert run(tmp_path, recipe={"ema_decay": None, "epochs": 1}).history[0].raw_metrics == {}


def test_a_run_stopped_after_skipped_evaluations_resumes_exactly(tmp_path):
    recipe = {"eval_every": 2, "epochs": 3, "checkpoint_every_steps": None}
    run(tmp_path / "whole", recipe=recipe)
    with pytest.raises(Stop):
        run(tmp_path / "stopped", loader=stop_at(2, 9), recipe=recipe)
    run(tmp_path / "stopped", model=network(seed=77), recipe=recipe)
    states = [load_state(tmp_path / name / "last.safetensors") for name in ("whole", "stopped")]
    assert_same_bits(*states)


def test_a_state_averaged_by_an_earlier_release_is_refused(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, loader=stop_at(1, 9))
    state = load_state(tmp_path / "last.safetensors")
    del state["identity"]["averaging"]
    save_state(tmp_path / "last.safetensors", state)
    with pytest.raises(UserError, match="an earlier release averaged its weights otherwise") as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)
