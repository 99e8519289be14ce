"""shrink() is the whole method in one call: any score, any widening, within the budget, without side effects."""

from __future__ import annotations

import copy
import math
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import classification.models
import core
from core.errors import UserError
from core.graph.channels import ChannelGraph, trace_channels
from core.graph.complexity import count
from core.widths.budget import Budget, BudgetError
from core.widths.config import ShrinkConfig
from core.widths.shrinkage import shrink
from tests.toys import TOYS


def task(name: str = "squeeze_excite") -> tuple[nn.Module, Any, list[tuple[Any, Tensor]]]:
    net, inputs = TOYS[name].build(), TOYS[name].inputs()
    generator = torch.Generator().manual_seed(0)
    return net, inputs, [(inputs, torch.randn(net(*inputs).shape, generator=generator)) for _ in range(2)]


@pytest.mark.parametrize("score", ["gradient", "sensitivity", "magnitude", "random", "uniform"])
@pytest.mark.parametrize("name", ["squeeze_excite", "grouped", "dense_block"])
def test_every_score_meets_the_budget_of_the_baseline(name: str, score: str) -> None:
    net, inputs, batches = task(name)
    arch = shrink(net, inputs, batches, F.mse_loss, budget=Budget(flops=0.9), score=score, floor=0.3)
    graph = trace_channels(net, inputs)
    limit = 0.9 * graph.flops(convention="paper")
    built = arch.build(net, seed=0)
    found = trace_channels(built, inputs)
    assert found.widths == arch.widths
    assert found.flops(convention="paper") == arch.costs[0].paper <= limit
    assert found.params() == arch.costs[0].params
    assert arch.costs[1].paper == graph.flops(convention="paper")
    assert arch.baseline_widths == graph.widths
    assert arch.found_by["score"] == score
    assert arch.found_by["batches"] == (2 if score in ("gradient", "sensitivity") else 0)


def test_the_model_handed_in_is_untouched() -> None:
    net, inputs, batches = task("batch_norm")
    net.eval()
    state = copy.deepcopy(net.state_dict())
    random_state = torch.random.get_rng_state()
    shrink(net, inputs, batches, F.mse_loss)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert not net.training
    assert net.a.out_channels == 8
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_the_result_is_a_function_of_the_seed_and_not_of_the_weights() -> None:
    net, inputs, batches = task("dense_block")
    first = shrink(net, inputs, batches, F.mse_loss, seed=1)
    torch.manual_seed(99)
    again = shrink(net, inputs, batches, F.mse_loss, seed=1)
    assert first == again
    others = [
        shrink(net, inputs, [], F.mse_loss, score="random-scores", seed=seed).widths for seed in range(4)
    ]
    assert len({tuple(widths.values()) for widths in others}) > 1


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 3.0])
def test_any_widening_stays_within_the_budget_and_the_space(factor: float) -> None:
    net, inputs, batches = task("dense_block")
    arch = shrink(net, inputs, batches, F.mse_loss, widen=factor, budget=Budget(flops=0.8), floor=0.1)
    base = trace_channels(net, inputs)
    assert arch.costs[0].paper <= 0.8 * base.flops(convention="paper")
    for name, width in arch.widths.items():
        assert 1 <= width <= int(factor * base.widths[name])


def test_uniform_keeps_the_same_fraction_everywhere() -> None:
    net = nn.Sequential(nn.Conv2d(3, 40, 1), nn.Conv2d(40, 80, 1), nn.Conv2d(80, 20, 1), nn.Conv2d(20, 4, 1))
    arch = shrink(
        net, torch.zeros(1, 3, 4, 4), [], F.mse_loss, score="uniform", budget=Budget(flops=0.5), floor=0.0
    )
    ratios = [width / base for width, base in zip(arch.widths.values(), (40, 80, 20), strict=True)]
    assert max(ratios) - min(ratios) < 0.06


def test_a_configuration_travels_whole_and_keywords_are_laid_over_it() -> None:
    net, inputs, batches = task("u_net")
    config = core.ShrinkConfig(widen=1.5, budget=Budget(flops=0.8), score="magnitude", allocation="per-flop",
                               floor={"*": 0.2}, ceiling=0.9, round_to=2, latents="hypernetwork", embedding=2,
                               freeze=("up",), taps=("a",), outputs="free")  # fmt: skip
    whole = shrink(net, inputs, batches, F.mse_loss, config, seed=3)
    settings = {item.name: getattr(config, item.name) for item in fields(config)}
    del settings["batches"], settings["batch_size"]
    assert shrink(net, inputs, batches, F.mse_loss, seed=3, **settings) == whole
    assert "up" not in whole.widths
    assert (whole.options.freeze, whole.options.taps, whole.options.outputs) == (("up",), ("a",), "free")
    wider = shrink(net, inputs, batches, F.mse_loss, config, seed=3, ceiling=1.0)
    assert wider == shrink(net, inputs, batches, F.mse_loss, replace(config, ceiling=1.0), seed=3)


@pytest.mark.parametrize(
    ("wrong", "close"), [("flor", "floor"), ("ceil", "ceiling"), ("batch_size", "allowed: widen")]
)
def test_an_unknown_keyword_is_a_type_error_that_names_a_close_one(wrong: str, close: str) -> None:
    net, inputs, batches = task()
    with pytest.raises(TypeError, match=rf"shrink\(\) knows no keyword '{wrong}', .*{close}"):
        shrink(net, inputs, batches, F.mse_loss, **{wrong: 1})


def test_round_to_eight() -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 48, 3), nn.Conv2d(48, 20, 3), nn.Conv2d(20, 4, 3))
    batches = [(torch.randn(2, 3, 12, 12), torch.randn(2, 4, 4, 4))]
    arch = shrink(net, batches[0][0], batches, F.mse_loss, round_to=8, floor=0.2)
    assert all(width % 8 == 0 for width in arch.widths.values())


def test_hypernetwork_latents() -> None:
    net, inputs, batches = task("residual")
    arch = shrink(net, inputs, batches, F.mse_loss, latents="hypernetwork", embedding=2, floor=0.2)
    assert arch.found_by["latents"] == "hypernetwork"
    assert arch.costs[0].paper <= 0.9 * arch.costs[1].paper


def test_an_own_score_and_its_name() -> None:
    def prefer_first(model: Any, graph: ChannelGraph, batches: Any, loss_fn: Any) -> dict[str, Tensor]:
        return {group.name: torch.full((group.size,), float(group.name == "a")) for group in graph.groups}

    net, inputs, batches = task("residual")
    arch = shrink(net, inputs, batches, F.mse_loss, score=prefer_first, floor=0.1)
    assert arch.found_by["score"] == "prefer_first"
    assert arch.widths["a"] / 16 > arch.widths["b"] / 12


def test_grouped_convolutions_gain_groups_and_lose_group_width() -> None:
    net, inputs, batches = task("grouped")
    arch = shrink(net, inputs, batches, F.mse_loss, widen=2.0, budget=Budget(flops=0.9), floor=0.1)
    assert arch.conv_groups == {"b": 4}
    assert arch.build(net).b.groups == 4
    assert arch.widths["a"] % 4 == 0


def test_a_measured_latency_budget() -> None:
    net = nn.Sequential(nn.Conv2d(3, 48, 3), nn.ReLU(), nn.Conv2d(48, 48, 3), nn.ReLU(), nn.Conv2d(48, 4, 3))
    image = torch.zeros(1, 3, 40, 40)
    arch = shrink(
        net, image, [], F.mse_loss, score="random", budget=Budget(latency=0.7, params=1.0), floor=0.05
    )
    assert arch.found_by["latency_seconds"] > 0
    assert arch.costs[0].params <= arch.costs[1].params
    assert sum(arch.widths.values()) < 96


def test_latency_is_measured_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []

    def fake(models: Any, inputs: Any, *, device: Any = "cpu") -> list[float]:
        devices.append(torch.device(device).type)
        return [1.0 for _ in (models if isinstance(models, list) else [models])]

    monkeypatch.setattr("core.widths.shrinkage.latency", fake)
    for place in (
        "meta",
        "cpu",
    ):  # "meta" holds no values: a rule that looks at none stands in for the model's
        devices.clear()
        net, inputs, _ = task("residual")
        net.init_weights = lambda: None
        shrink(net.to(place), inputs, [], F.mse_loss, score="random", budget=Budget(latency=1.0))
        assert len(devices) > 1
        assert set(devices) == {place}


def test_the_embedding_is_noted_where_it_was_used() -> None:
    net, inputs, batches = task("residual")
    found = shrink(net, inputs, batches, F.mse_loss, latents="hypernetwork", embedding=3)
    assert found.found_by["embedding"] == 3
    assert "embedding" not in shrink(net, inputs, batches, F.mse_loss, embedding=3).found_by


def test_what_cannot_be_shrunk_is_refused() -> None:
    with pytest.raises(UserError, match="no free channel group"):
        shrink(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8), [], F.mse_loss)
    net, inputs, _ = task("residual")
    with pytest.raises(UserError, match="no batch"):
        shrink(net, inputs, [], F.mse_loss)
    with pytest.raises(BudgetError):
        shrink(net, inputs, [], F.mse_loss, score="random", budget=Budget(flops=0.2), floor=0.5)


def test_the_promised_call() -> None:
    net, inputs, batches = task("residual")
    arch = core.shrink(
        net,
        inputs,
        batches,
        F.mse_loss,
        widen=2.0,
        budget=core.Budget(flops=0.9),
        score="gradient",
        floor=0.4,
        round_to=1,
        seed=0,
    )
    assert set(arch.widths) == {"a", "b"}
    assert isinstance(arch.build(net), type(net))


def test_random_scores_give_nearly_uniform_widths_and_random_widths_do_not() -> None:
    """The standard deviation of log(width / baseline's) within ResNet20, the column *sd log w* of result tables."""
    model, image = classification.models.build("resnet20", num_classes=10), torch.zeros(1, 3, 32, 32)
    spread: dict[str, list[float]] = {"random-scores": [], "random": []}
    found = set()
    for score, values in spread.items():
        for seed in range(3):
            arch = shrink(model, image, [], F.cross_entropy, score=score, floor=0.2, seed=seed)
            base = arch.baseline_widths
            values.append(float(np.std([math.log(arch.widths[name] / base[name]) for name in base], ddof=1)))
            found.add(tuple(arch.widths.values()))
            assert 0.89 * arch.costs[1].paper < arch.costs[0].paper <= 0.9 * arch.costs[1].paper
    assert len(found) == 6
    assert 0.09 < min(spread["random-scores"]) < max(spread["random-scores"]) < 0.17
    assert 0.2 < min(spread["random"]) < max(spread["random"]) < 0.5


def test_groups_without_a_floor_are_named() -> None:
    model, image = classification.models.build("resnet20", num_classes=10), torch.zeros(1, 3, 32, 32)
    base = shrink(model, image, [], F.cross_entropy, score="random").baseline_widths
    arch = shrink(model, image, [], F.cross_entropy, score="random", floor={"*.conv1": 0.4})
    rest = [name for name in base if not name.endswith(".conv1")]
    assert arch.found_by["without_floor"] == rest
    assert f"no floor was set for {len(rest)} groups: {rest[0]}" in arch.describe()


def test_floors_of_blocks_that_vanish_are_no_mistake() -> None:
    model, image = classification.models.build("resnet20", num_classes=10), torch.zeros(1, 3, 32, 32)
    floor = {"*": 0.4, **{f"layer{stage}.{block}.conv1": 0.3 for stage in (1, 2, 3) for block in (0, 1, 2)}}
    arch = shrink(model, image, [], F.cross_entropy, score="uniform", vanish=1.0, floor=floor)
    assert arch.removed
    with pytest.raises(UserError, match=r"floor: no channel group fits 'layer9\.\*'"):
        shrink(
            model, image, [], F.cross_entropy, score="uniform", vanish=1.0, floor={**floor, "layer9.*": 0.1}
        )


def test_readmes_snippet_stays_below_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MobileNetV2 had .90005 of the MACs where "paper" alone was counted."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    snippet = text.partition("## Your own network")[2].partition("```python\n")[2].partition("```")[0]
    batches = [(torch.randn(2, 3, 64, 64), torch.arange(2))]
    factory = partial(classification.models.build, "mobilenetv2", 10, dataset="tiny-imagenet")
    names: dict[str, Any] = {"MyNetwork": factory, "batches": batches, "loss_fn": F.cross_entropy}
    exec(snippet.replace("1, 3, 224, 224", "1, 3, 64, 64"), names)
    arch = names["arch"]
    assert 0.89 < arch.cost.macs / arch.baseline.macs <= 0.9
    assert arch.cost.paper <= 0.9 * arch.baseline.paper
    assert core.trace_channels(names["net"], batches[0][0]).widths == arch.widths


def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds are MACs."""

    def seconds(models: Any, inputs: Any, **options: Any) -> list[float]:
        return [float(count(model, inputs)) for model in (models if isinstance(models, list) else [models])]

    monkeypatch.setattr("core.widths.shrinkage.latency", seconds)


@pytest.mark.parametrize("widen", [1.0, 2.0])
def test_a_limit_on_latency_alone_leaves_out_no_more_blocks_than_it_can_be_filled_without(
    widen: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady_clock(monkeypatch)
    net, image = classification.models.build("resnet20", 10), torch.zeros(1, 3, 32, 32)
    config = ShrinkConfig(widen=widen, score="uniform", vanish=1.0, floor=0.2, budget=Budget(latency=0.9))
    found = shrink(net, image, [], F.cross_entropy, config, seed=0)
    counted = shrink(
        net, image, [], F.cross_entropy, replace(config, budget=Budget(flops=0.9, convention="macs")), seed=0
    )
    assert len(found.removed) == len(counted.removed)
    assert found.costs[0].macs == pytest.approx(0.9 * found.costs[1].macs, rel=0.02)
    assert bool(found.removed) == (widen > 1)


@pytest.mark.parametrize(
    "settings", [{"widen": 1.0, "floor": 0.8}, {"widen": 2.0, "floor": 0.4, "ceiling": 0.5}]
)
def test_blocks_are_left_out_until_floors_fit_a_small_budget(settings: dict[str, Any]) -> None:
    net, image = classification.models.build("resnet20", 10), torch.zeros(1, 3, 32, 32)
    config = ShrinkConfig(score="uniform", vanish=1.0, budget=Budget(flops=0.35), **settings)
    found = shrink(net, image, [], F.cross_entropy, config, seed=0)
    assert found.removed
    assert 0.3 < found.costs[0].paper / found.costs[1].paper <= 0.35
