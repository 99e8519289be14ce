"""Trainings that diverge: what is told, that the state on disk is a good one, and that a lower rate goes on from it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from core.errors import NonFiniteOutput, UserError
from core.experiments.settings import Settings
from core.storage.checkpoint import load_state
from core.training.divergence import (
    Divergence,
    lowered_rate,
    read_divergences,
    settle_rate,
    write_divergences,
)
from core.training.run_files import training_notes
from core.training.train import EpochRecord, FitResult, OptimizerConfig, TrainingDiverged
from core.widths.config import ShrinkConfig
from tests.bits import assert_same_bits
from tests.core.training.test_train_resume import Stop, stop_at
from tests.core.training.training_runs import RECIPE, DigitsLoader, held_out_accuracy, network, run

LOWER = {"optimizer": OptimizerConfig(lr=0.005)}
ASKED = Settings(RECIPE, ShrinkConfig(), Path())
LOWERED = replace(ASKED, train=replace(RECIPE, **LOWER))
ONCE_AN_EPOCH = {"checkpoint_every_steps": None}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stored(folder: Path) -> dict[str, Any]:
    return load_state(folder / "last.safetensors")


def at_step(step: int, change: Callable[[], object]) -> Callable[[int, float], None]:
    """For `after_step`: a change of the weights right after that step."""
    return lambda number, lr: change() if number == step else None


def blow_up(model: nn.Module, factor: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)


def diverge(folder: Path, model: nn.Module, step: int, factor: float, **changes: Any) -> TrainingDiverged:
    with pytest.raises(TrainingDiverged) as caught:
        run(folder, model=model, after_step=at_step(step, lambda: blow_up(model, factor)), **changes)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("tensor", ["0.weight", "1.running_var", "8.bias"])
def test_a_state_that_is_not_finite_is_never_written(tmp_path, tensor):
    """After the last step of the second epoch nothing is left that a loss could show."""
    model = network()

    def spoil() -> None:
        with torch.no_grad():
            model.state_dict()[tensor].view(-1)[1] = math.inf

    with pytest.raises(TrainingDiverged, match=rf"not finite, such as '{tensor}' at step 20 \(epoch 2\)"):
        run(tmp_path, model=model, after_step=at_step(20, spoil), recipe=ONCE_AN_EPOCH)
    state = stored(tmp_path)
    assert state["position"]["step"] == 10
    assert all(value.isfinite().all() for value in (*state["model"].values(), *state["ema"].values()))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_the_optimisers_state_is_looked_at(tmp_path):
    model = network(0.0, normalise=False)
    # Their squares overflow: Adam would divide by infinity and never move these weights again.
    model[0].weight.register_hook(lambda gradient: gradient * 1e30)
    adam = {"optimizer": OptimizerConfig("adam", lr=1e-3), "ema_decay": None, "epochs": 1}
    with pytest.raises(TrainingDiverged, match=r"'exp_avg_sq of 0.weight'"):
        run(tmp_path, model=model, recipe=adam)


@pytest.mark.parametrize("factor", [1e3, 1e25])
def test_the_kept_state_is_not_the_blown_up_one(tmp_path, factor):
    """Blown up just before a state is written: it is finite, but its next loss is enormous, or NaN at once."""
    model = network(0.0, normalise=False)

    def worse(step: int, lr: float) -> None:
        if step >= 6:
            blow_up(model, factor)

    with pytest.raises(TrainingDiverged) as caught:
        run(tmp_path, model=model, after_step=worse)
    assert caught.value.step > 6
    assert stored(tmp_path)["position"]["step"] == 3
    assert f"after step 3 (epoch 1), in '{tmp_path / 'last.safetensors'}'" in str(caught.value)
    assert not (tmp_path / "previous.safetensors").exists()
    result = run(tmp_path, model=network(0.0, normalise=False), recipe=LOWER)
    assert result.history[-1].train_loss < result.history[0].first_loss


def test_without_a_good_state_there_is_none(tmp_path):
    error = diverge(tmp_path, network(), 10, math.nan, recipe=ONCE_AN_EPOCH)
    assert "there is no good state to return to" in str(error)
    assert "--resume and --cfg-options train.optimizer.lr=0.005 starts this training anew" in str(error)
    assert not (tmp_path / "last.safetensors").exists()


def test_a_finished_run_leaves_one_state(tmp_path):
    run(tmp_path)
    assert not (tmp_path / "previous.safetensors").exists()


def test_a_run_killed_between_two_states_goes_on_from_the_first(tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "killed", loader=stop_at(1, 9))
    (tmp_path / "killed" / "last.safetensors").unlink()
    run(tmp_path / "killed", model=network(seed=77))
    assert_same_bits(stored(tmp_path / "killed"), stored(tmp_path / "whole"))


def test_outputs_in_evaluation_that_are_not_finite_end_the_run(tmp_path):
    calls = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        calls.append(model)
        if len(calls) == 2:
            raise NonFiniteOutput("3 of 4 images have logits that are NaN or infinite")
        return {"top1": 1.0}

    with pytest.raises(TrainingDiverged, match=r"in evaluation 3 of 4 images .* at step 20 \(epoch 2\)"):
        run(tmp_path, evaluate=evaluate, recipe={"ema_decay": None})
    assert stored(tmp_path)["position"]["step"] == 18  # that of step 20 gave those outputs


def test_gradients_whose_norm_overflows_are_not_clipped_to_nothing(tmp_path):
    model = network()
    model[0].weight.register_hook(lambda gradient: gradient * 1e30)
    with pytest.raises(TrainingDiverged, match="norm of the gradients inf at step 1 "):
        run(tmp_path, model=model, recipe={"clip_grad_norm": 1.0})


def scaled(tmp_path: Path, spoilt: Callable[[int], bool], **recipe: Any) -> FitResult:
    """A run in float16 with infinite gradients in some of the steps."""
    steps = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        return gradient * math.inf if spoilt(len(steps)) else gradient

    model = network()
    model[8].bias.register_hook(spoil)
    fabric = Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu")])
    return run(tmp_path, model=model, fabric=fabric, recipe={"precision": "16-mixed", "epochs": 1, **recipe})


@pytest.mark.parametrize("clip", [None, 1.0])
def test_steps_that_the_scaler_leaves_out_are_counted(tmp_path, clip):
    result = scaled(tmp_path, lambda step: step in (3, 7), clip_grad_norm=clip)
    skipped = result.history[0].skipped_steps
    assert skipped >= 2
    assert stored(tmp_path)["ema"]["n_averaged"] == 10 - skipped
    assert any(f"{skipped} optimiser steps were left out" in note for note in training_notes(result.history))


def test_a_scaler_that_never_takes_a_step_ends_the_run(tmp_path):
    with pytest.raises(TrainingDiverged, match="gradients not finite at any scale at step 31 "):
        scaled(tmp_path, lambda step: True, epochs=5)


def test_weights_that_are_not_finite_from_the_start_are_refused(tmp_path):
    model = network()
    blow_up(model, math.nan)
    with pytest.raises(UserError, match=r"cannot be trained: .* tensors of the state not finite"):
        run(tmp_path, model=model)


def test_infinities_by_design_are_none_of_the_trainings_doing(tmp_path):
    model = network()
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    assert len(run(tmp_path, model=model, recipe={"epochs": 1}).history) == 1


def test_statistics_that_are_infinite_from_the_start_are_refused(tmp_path):
    """Such a network is constant in evaluation, and its score would look like a number."""
    model = network()
    model[1].running_var.fill_(math.inf)
    with pytest.raises(UserError, match=r"cannot be trained: .* such as '1.running_var'"):
        run(tmp_path, model=model)


def test_a_blown_up_state_of_an_earlier_release_is_refused(tmp_path):
    from core.storage.checkpoint import save_state

    with pytest.raises(Stop):
        run(tmp_path, loader=stop_at(1, 9))
    state = stored(tmp_path)
    state["model"]["1.running_mean"][0] = math.nan
    save_state(tmp_path / "last.safetensors", state)
    with pytest.raises(UserError, match="cannot be resumed"):
        run(tmp_path)


# A lower rate.


def test_a_lower_rate_goes_on_from_the_kept_state(tmp_path):
    diverge(tmp_path, network(), 17, math.nan)
    (divergence,) = read_divergences(tmp_path)
    assert (divergence.step, divergence.kept_step, divergence.lr, divergence.lowered_to) == (
        18,
        15,
        0.05,
        None,
    )
    begun = stored(tmp_path)
    result = run(tmp_path, model=network(seed=77), recipe=LOWER)
    assert read_divergences(tmp_path) == (replace(divergence, lowered_to=0.005),)
    assert begun["position"]["step"] == 15
    # Epoch 2 of 3 was begun at 0.05 and ended at a tenth of it.
    assert [record.lr for record in result.history] == pytest.approx([0.05, 0.005 * 0.75, 0.005 * 0.25])


def test_a_lowered_run_goes_on_with_either_recipe(tmp_path):
    diverge(tmp_path / "whole", network(), 17, math.nan)
    for name in ("first", "lowered"):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
    run(tmp_path / "whole", recipe=LOWER)
    for name, recipe in (("first", {}), ("lowered", LOWER)):
        with pytest.raises(Stop):
            run(tmp_path / name, model=network(seed=77), loader=stop_at(2, 5), recipe=LOWER)
        run(tmp_path / name, model=network(seed=78), recipe=recipe)
        assert_same_bits(stored(tmp_path / name), stored(tmp_path / "whole"))


def test_a_run_started_anew_at_a_lower_rate_is_one_at_that_rate(tmp_path):
    diverge(tmp_path / "lowered", network(), 4, math.nan, recipe=ONCE_AN_EPOCH)
    lowered = run(tmp_path / "lowered", recipe={**LOWER, **ONCE_AN_EPOCH})
    fresh = run(tmp_path / "fresh", recipe={**LOWER, **ONCE_AN_EPOCH})
    assert_same_bits(stored(tmp_path / "lowered")["model"], stored(tmp_path / "fresh")["model"])
    assert [record.lr for record in lowered.history] == [record.lr for record in fresh.history]
    assert str(read_divergences(tmp_path / "lowered")[0]).endswith("started anew at 0.005")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"optimizer": OptimizerConfig(lr=0.06)}, "recipe.optimizer.lr is 0.05 there and 0.06 here"),
        ({"optimizer": OptimizerConfig(lr=0.005, momentum=0.5)}, "recipe.optimizer.momentum is 0.9 there"),
    ],
)
def test_nothing_but_a_lower_rate_may_change(tmp_path, recipe, message):
    diverge(tmp_path, network(), 17, math.nan)
    before = read_divergences(tmp_path)
    with pytest.raises(UserError, match=message):
        run(tmp_path, recipe=recipe)
    assert read_divergences(tmp_path) == before


def test_starting_anew_forgets_divergences(tmp_path):
    diverge(tmp_path, network(), 17, math.nan)
    run(tmp_path, resume=False, recipe={"epochs": 1, "optimizer": OptimizerConfig(lr=0.2)})
    assert read_divergences(tmp_path) == ()


def test_without_a_divergence_no_rate_may_be_lowered(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, loader=stop_at(1, 9))
    with pytest.raises(UserError, match=r"recipe.optimizer.lr is 0.05 there and 0.005 here"):
        run(tmp_path, recipe=LOWER)


def test_a_rate_is_lowered_as_often_as_it_takes():
    first = Divergence("loss nan", 1, 8, lr=0.05, kept_step=6)
    config, began, record = settle_rate(replace(RECIPE, optimizer=OptimizerConfig(lr=0.01)), (first,))
    assert (config.optimizer.lr, began.optimizer.lr, record[-1].lowered_to) == (0.01, 0.05, 0.01)
    second = Divergence("loss nan", 2, 15, lr=0.01, kept_step=12)
    config, began, record = settle_rate(
        replace(RECIPE, optimizer=OptimizerConfig(lr=0.001)), (*record, second)
    )
    assert (config.optimizer.lr, began.optimizer.lr) == (0.001, 0.05)
    assert [entry.lowered_to for entry in record] == [0.01, 0.001]
    config, began, _ = settle_rate(RECIPE, record)
    assert (config.optimizer.lr, began.optimizer.lr) == (0.001, 0.05)


ENTRY = '{"what": "loss nan", "epoch": 1, "step": 8, "lr": %s, "kept_step": %s}'


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", "[{}]", "[1]", f"[{ENTRY % ('null', 0)}]", f"[{ENTRY % ('true', 0)}]",
        f"[{ENTRY % (0.1, '[]')}]", ENTRY % (0.1, 0), f"[{ENTRY % (0.1, 0)}",
    ],
)  # fmt: skip
def test_a_damaged_record_is_named(text, tmp_path):
    (tmp_path / "divergences.json").write_text(text)
    with pytest.raises(UserError, match=r"divergences\.json' is damaged"):
        read_divergences(tmp_path)
    with pytest.raises(UserError, match=r"divergences\.json' is damaged"):
        lowered_rate(LOWERED, ASKED, tmp_path)


def test_words_for_numbers_are_read_back(tmp_path):
    divergence = Divergence("loss nan", 1, 8, lr=math.inf, kept_step=0)
    write_divergences(tmp_path, (divergence,))
    assert read_divergences(tmp_path) == (divergence,)


def test_a_protocols_rate_may_be_lowered_where_a_training_diverged(tmp_path):
    """The stored protocol stays; the rate goes to the trainings that have diverged."""
    from core.experiments.settings import Settings

    asked = Settings(RECIPE, ShrinkConfig(), tmp_path)
    lower = replace(asked, train=replace(RECIPE, optimizer=OptimizerConfig(lr=0.005)))
    assert lowered_rate(lower, None, tmp_path) == (lower, None)
    assert lowered_rate(lower, asked, tmp_path) == (lower, None)  # nothing has diverged
    divergence = Divergence("loss nan", 1, 8, lr=0.05, kept_step=6)
    write_divergences(tmp_path / "runs" / "baseline-seed0", (divergence,))
    assert lowered_rate(lower, asked, tmp_path) == (asked, 0.005)
    assert lowered_rate(asked, lower, tmp_path) == (asked, None)  # a higher one
    (
        tmp_path / "runs" / "baseline-seed0" / "model.safetensors"
    ).touch()  # gone on at the same rate, to the end
    assert lowered_rate(lower, asked, tmp_path) == (lower, None)
    (tmp_path / "runs" / "baseline-seed0" / "model.safetensors").unlink()
    other = replace(lower, seeds=2)
    assert lowered_rate(other, asked, tmp_path) == (other, None)
    write_divergences(tmp_path / "runs" / "baseline-seed0", (replace(divergence, lowered_to=0.005),))
    assert lowered_rate(lower, asked, tmp_path) == (asked, 0.005)  # the same command once more
    write_divergences(tmp_path / "runs" / "baseline-seed0", (replace(divergence, lowered_to=0.01),))
    assert lowered_rate(lower, asked, tmp_path) == (lower, None)


def test_a_network_that_did_not_learn_is_told(tmp_path, capsys):
    record = EpochRecord(1, 0.1, 2.5, {}, {}, 1.0, 64, first_loss=2.0)
    assert training_notes([record]) == [
        "did not learn: the training loss is 2.5 in the last epoch and was 2 at the first step"
    ]
    assert training_notes([record, replace(record, epoch=2, train_loss=1.5, first_loss=1.9)]) == []
    assert training_notes([replace(record, first_loss=None)]) == []
    run(tmp_path, recipe={"epochs": 1, "optimizer": OptimizerConfig(lr=2.0)}, progress=True)
    assert "did not learn" in capsys.readouterr().err


@pytest.mark.parametrize(("lr", "epochs", "epoch"), [(30.0, 2, 1), (3.0, 1, 1)])
def test_a_loss_that_blew_up_is_a_divergence_though_it_is_finite(tmp_path, lr, epochs, epoch):
    """A hundred times the first step's in any epoch, and what no state is gone on from in the last one."""
    recipe = {"epochs": epochs, "optimizer": OptimizerConfig(lr=lr)}
    message = rf"training loss \S+ over the epoch, 2\.476 at the first step at step \d+ \(epoch {epoch}\)"
    with pytest.raises(TrainingDiverged, match=message):
        run(tmp_path, recipe=recipe)
    assert not (tmp_path / "model.safetensors").exists()


def test_first_losses_are_those_of_the_first_steps(tmp_path):
    model, seen = network(0.0), []
    reference = network(0.0).train()
    images, labels = next(DigitsLoader().epoch(0))
    seen.append(nn.functional.cross_entropy(reference(images), labels).item())
    result = run(tmp_path, model=model, evaluate=held_out_accuracy, recipe={"epochs": 1})
    assert result.history[0].first_loss == pytest.approx(seen[0], rel=1e-6)
