from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from core.errors import UserError
from core.storage.checkpoint import load_state, load_weights
from core.training.distillation import DistillationConfig, distillation_loss
from core.training.pace import PaceMeter
from core.training.progress import TrainingDisplay
from core.training.run_files import read_history
from core.training.train import (
    EpochRecord,
    OptimizerConfig,
    TrainConfig,
    TrainingDiverged,
    fit,
    make_fabric,
    seed_everything,
)
from tests.core.training.training_runs import DigitsLoader, cross_entropy, held_out_accuracy, network, run


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def equal_states(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def written_out_loop(model, loader, epochs, lr, *, teacher=None, accumulate=1, clip=None):
    """SGD with momentum 0.9, weight decay 1e-4 and cosine, as a textbook writes it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    seed_everything(5)
    for epoch in range(epochs):
        batches = list(loader.epoch(epoch))
        for start in range(0, len(batches), accumulate):
            images = torch.cat([x for x, _ in batches[start : start + accumulate]])
            labels = torch.cat([y for _, y in batches[start : start + accumulate]])
            outputs = model(images)
            loss = F.cross_entropy(outputs, labels)
            if teacher is not None:
                with torch.no_grad():
                    soft = F.softmax(teacher(images) / 4, 1)
                kl = (soft * (soft.log() - F.log_softmax(outputs / 4, 1))).sum(1).mean()
                loss = 0.6 * loss + 0.4 * 16 * kl
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        scheduler.step()


def test_it_learns_to_read_digits(tmp_path):
    result = run(tmp_path, recipe={"epochs": 6})
    assert result.metrics["top1"] > 0.75
    assert result.history[-1].train_loss < result.history[0].train_loss / 2
    assert [record.epoch for record in result.history] == [1, 2, 3, 4, 5, 6]
    assert result.images_seen == 6 * 320


def test_it_equals_a_loop_written_out(tmp_path):
    model, expected = network(), network()
    run(tmp_path, model=model, recipe={"ema_decay": None})
    written_out_loop(expected, DigitsLoader(), 3, 0.05)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_history_holds_means_over_images(tmp_path):
    """A last batch of another size must not count like a full one: 309 images are nine batches of 32 and 21."""
    model = network(0.0)
    frozen = {"optimizer": OptimizerConfig(lr=0.0)}
    result = run(tmp_path, model=model, loader=DigitsLoader(count=309), recipe=frozen)
    reference = network(0.0).train()
    total = correct = 0.0
    for images, labels in DigitsLoader(count=309).epoch(0):
        outputs = reference(images)
        total += F.cross_entropy(outputs, labels, reduction="sum").item()
        correct += (outputs.argmax(1) == labels).sum().item()
    first = result.history[0]
    assert first.images == 309
    assert first.train_loss == pytest.approx(total / 309, rel=1e-5)
    assert first.train_metrics["accuracy"] == pytest.approx(correct / 309, rel=1e-6)


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    """Also where the last group is smaller and its last batch is not full (309 = 4 · 64 + 32 + 21)."""
    model, expected = network(0.0, normalise=False), network(0.0, normalise=False)
    loader = DigitsLoader(count=309)
    run(tmp_path, model=model, loader=loader, recipe={"ema_decay": None, "accumulate": 2})
    written_out_loop(expected, loader, 3, 0.05, accumulate=2)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped(tmp_path):
    model, expected = network(), network()
    run(tmp_path, model=model, recipe={"ema_decay": None, "clip_grad_norm": 0.1})
    written_out_loop(expected, DigitsLoader(), 3, 0.05, clip=0.1)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_distillation_equals_the_formula(tmp_path):
    model, expected, teacher = network(), network(), network(seed=9)
    run(tmp_path, model=model, teacher=teacher, recipe={"ema_decay": None})
    assert not teacher.training
    written_out_loop(expected, DigitsLoader(), 3, 0.05, teacher=teacher)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_distillation_weight_zero_equals_none(tmp_path):
    plain, distilled = network(), network()
    run(tmp_path / "plain", model=plain)
    off = DistillationConfig(hard_weight=1.0, soft_weight=0.0)
    run(tmp_path / "distilled", model=distilled, teacher=network(seed=9), distillation=off)
    assert equal_states(plain, distilled)


def test_running_average_is_evaluated_saved_and_kept(tmp_path):
    """Against the recurrence a ← d·a + (1−d)·w, its decay warmed up, with every step's weights read in the loop."""
    model, averages = network(), []

    def follow(outputs, targets):
        if (
            model.training and torch.is_grad_enabled()
        ):  # the weights before this step: those after the step before
            averages.append(model[0].weight.detach().clone())
        return F.cross_entropy(outputs, targets)

    evaluated = []

    def evaluate(module):
        evaluated.append(module)
        assert not module.training
        assert not torch.is_grad_enabled()
        return {}

    recipe = TrainConfig(epochs=2, ema_decay=0.8, optimizer=OptimizerConfig(lr=0.05))
    fabric = make_fabric("cpu")
    result = fit(
        model,
        DigitsLoader(),
        follow,
        recipe,
        work_dir=tmp_path,
        evaluate=evaluate,
        fabric=fabric,
        progress=False,
    )
    raw = load_state(tmp_path / "last.safetensors")["model"]["0.weight"]
    weights = [*averages[1:], raw]
    expected = weights[0]
    for number, weight in enumerate(weights[1:], start=1):
        decay = min(0.8, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(model[0].weight, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(evaluated[-1][0].weight, expected, rtol=1e-5, atol=1e-7)
    assert [module is model for module in evaluated] == [True, False] * 2
    saved = network(seed=1)
    load_weights(saved, result.weights)
    assert equal_states(saved, model)
    assert not torch.equal(raw, model[0].weight)


def test_files_of_a_run(tmp_path):
    result = run(tmp_path, recipe={"eval_every": 2})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [EpochRecord(**line) for line in lines] == list(result.history)
    assert [bool(record.eval_metrics) for record in result.history] == [False, True, True]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("eval/top1")] == pytest.approx(
        [record.eval_metrics["top1"] for record in result.history[1:]]
    )


def test_log_stays_json_when_a_metric_is_infinite(tmp_path):
    result = run(tmp_path, evaluate=lambda model: {"psnr": math.inf, "worst": -math.inf})
    line = (tmp_path / "log.jsonl").read_text().splitlines()[0]
    assert json.loads(line, parse_constant=pytest.fail)["eval_metrics"] == {"psnr": "inf", "worst": "-inf"}
    assert result.metrics == {"psnr": math.inf, "worst": -math.inf}
    assert read_history(tmp_path) == result.history
    assert read_history(tmp_path / "nowhere") == ()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_learns_in_low_precision(tmp_path, precision):
    # Fabric itself offers float16 on GPUs alone; the plugin runs the same code, scaler included, on the CPU.
    fabric = Fabric(accelerator="cpu", plugins=[MixedPrecision(precision, "cpu")])
    dtypes, model = set(), network()
    model[3].register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    result = run(
        tmp_path,
        model=model,
        fabric=fabric,
        evaluate=None,
        recipe={"epochs": 4, "precision": precision, "ema_decay": None},
    )
    assert dtypes == {torch.bfloat16 if precision == "bf16-mixed" else torch.float16}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert result.history[-1].train_loss < result.history[0].train_loss * 0.7
    scaler = load_state(tmp_path / "last.safetensors")["scaler"]
    assert ("scale" in scaler) == (precision == "16-mixed")


def test_channels_last_converts_weights_and_inputs(tmp_path):
    model, plain, seen = network(0.0), network(0.0), set()  # dropout draws in the order of the memory

    def look(module, inputs):
        seen.add(inputs[0].is_contiguous(memory_format=torch.channels_last))

    model[3].register_forward_pre_hook(look)
    run(tmp_path / "last", model=model, recipe={"channels_last": True, "epochs": 1})
    run(tmp_path / "plain", model=plain, recipe={"epochs": 1})
    assert model[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert seen == {True}
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_model_trains_alike_and_keeps_its_names(tmp_path):
    model, plain = network(0.0), network(0.0)
    run(tmp_path / "compiled", model=model, recipe={"compile": True, "epochs": 1})
    run(tmp_path / "plain", model=plain, recipe={"epochs": 1})
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, image, scale):
        return {"logits": self.linear(image.flatten(1)) * scale}


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_inputs_may_be_tuples_and_dicts(tmp_path, form):
    class Nested(DigitsLoader):
        def epoch(self, epoch, start=0):
            for images, labels in super().epoch(epoch, start):
                inputs = (
                    (images, torch.ones(1)) if form == "tuple" else {"scale": torch.ones(1), "image": images}
                )
                yield inputs, {"label": (labels,)}

    def loss(outputs, targets):
        return F.cross_entropy(outputs["logits"], targets["label"][0])

    config = TrainConfig(epochs=1, optimizer=OptimizerConfig(lr=0.1))
    result = fit(
        TwoInputs(), Nested(), loss, config, work_dir=tmp_path, fabric=make_fabric("cpu"), progress=False
    )
    assert result.history[0].train_loss < math.log(10)


def test_divergence_names_step_and_keeps_the_last_state(tmp_path):
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        return F.cross_entropy(outputs, targets) * (math.nan if len(calls) == 8 else 1.0)

    config = TrainConfig(epochs=2, checkpoint_every_steps=3, optimizer=OptimizerConfig(lr=0.05))
    with pytest.raises(
        TrainingDiverged, match=r"loss nan at step 8 \(epoch 1\), learning rate 0.05"
    ) as caught:
        fit(
            network(),
            DigitsLoader(),
            loss,
            config,
            work_dir=tmp_path,
            fabric=make_fabric("cpu"),
            progress=False,
        )
    assert (caught.value.step, "\n" in str(caught.value)) == (8, False)
    state = load_state(tmp_path / "last.safetensors")
    assert state["position"]["step"] == 6
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_a_loader_shorter_than_it_says_is_refused(tmp_path):
    class Short(DigitsLoader):
        def epoch(self, epoch, start=0):
            yield from list(super().epoch(epoch, start))[:-1]

    with pytest.raises(RuntimeError, match="yielded 9 batches, but its length is 10"):
        run(tmp_path, loader=Short())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distillation": DistillationConfig()}, "no teacher"),
        ({"loader": DigitsLoader(count=0)}, "yields no batch"),
        (
            {"fabric": Fabric(accelerator="cpu", precision="bf16-mixed")},
            "32-true in the recipe but bf16-mixed",
        ),
        (
            {"recipe": {"optimizer": OptimizerConfig(groups=(("layr", 0.1),))}},
            "no trainable parameter under 'layr'",
        ),
        ({"teacher": nn.Flatten()}, "teacher trained on the same classes"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, **arguments)


def test_frozen_parameters_stay(tmp_path):
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    run(tmp_path, model=model, recipe={"epochs": 1, "ema_decay": None})
    assert torch.equal(model[0].weight, before)


def test_the_seed_alone_decides(tmp_path):
    models = [network() for _ in range(3)]
    for index, (model, seed) in enumerate(zip(models, [5, 5, 6])):
        random.random(), np.random.rand(index), torch.rand(index)  # noqa: NPY002 - disturbs the generators
        run(tmp_path / str(index), model=model, recipe={"seed": seed})
    assert equal_states(models[0], models[1])
    assert not equal_states(models[0], models[2])


def test_display(tmp_path):
    record = EpochRecord(2, 0.1, 1.5, {"top1": 0.5}, {"top1": 0.25}, 1.0, 64)
    for terminal, enabled, expected in [
        (False, True, "epoch 2/3  loss 1.5  top1 0.5  eval top1 0.25  64 images/s\n"),
        (False, False, ""),
        (True, False, ""),
    ]:
        with (tmp_path / "shown").open("w") as file:
            console = Console(file=file, force_terminal=terminal)
            with TrainingDisplay(enabled, 3, 10, PaceMeter(3, 10, 1), console) as display:
                display.start_epoch()
                display.advance(1, 4, 32, 0.7)
                display.end_epoch(record, 64.0)
        assert (tmp_path / "shown").read_text() == expected
    with (tmp_path / "shown").open("w") as file:
        console = Console(file=file, force_terminal=True, width=120)
        meter = PaceMeter(3, 10, 1, clock=iter([100.0, 104.0]).__next__)
        with TrainingDisplay(True, 3, 10, meter, console) as display:
            display.start_epoch()
            display.advance(1, 3, 32, 0.7)
            display.advance(1, 4, 32, 0.7)
            display.note("[a] is gone")
    shown = (tmp_path / "shown").read_text()
    assert "epoch 2/3  batch 4/10  loss 0.7" in shown
    assert "about 64 s left" not in shown
    assert "about 1 min left" in shown  # 16 batches of 4 s
    assert "note: [a] is gone" in shown


def test_the_loss_may_be_called_loss_only_by_the_loop(tmp_path):
    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets), {"loss": 1.0}

    with pytest.raises(UserError, match="must not call a metric 'loss'"):
        fit(
            network(),
            DigitsLoader(),
            loss,
            replace(TrainConfig(), epochs=1),
            work_dir=tmp_path,
            progress=False,
        )


def test_distillation_loss_is_part_of_what_is_reported(tmp_path):
    student, teacher = network(0.0, seed=1), network(0.0, seed=2).eval()
    recipe = {"epochs": 1, "optimizer": OptimizerConfig(lr=0.0)}
    result = run(tmp_path, model=student, teacher=teacher, loader=DigitsLoader(count=32), recipe=recipe)
    images, labels = next(DigitsLoader(count=32).epoch(0))
    outputs = network(0.0, seed=1)(images)
    expected = distillation_loss(
        F.cross_entropy(outputs, labels), outputs, teacher(images), DistillationConfig()
    )
    assert result.history[0].train_loss == pytest.approx(expected.item(), rel=1e-6)
    assert held_out_accuracy(student) == result.metrics
    assert cross_entropy(outputs, labels)[0].item() != pytest.approx(expected.item())
