"""Blocks that can be left out: which they are, that the rest is what remains, and the search that gives them up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.models import build
from core.errors import UserError
from core.experiments.width_plots import layer_widths
from core.graph.channels import TraceOptions, trace_channels
from core.graph.complexity import count, count_params
from core.surgery.architecture import Architecture, ArchitectureError
from core.surgery.depth import (
    blocks_that_see_all,
    free_blocks,
    inner_groups,
    lifted,
    removable_blocks,
    shorten,
    vanished,
)
from core.surgery.resize import resize
from core.surgery.verification import randomise_
from core.widths.budget import Budget, BudgetError
from core.widths.shrinkage import shrink
from super_resolution.models import build as build_upscaler
from tests.toys import TOYS

IMAGES = {"resnet20": (3, 32), "resnet164": (3, 32), "densenet40": (3, 32)}


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network and an image for it."""
    torch.manual_seed(0)
    if name in ("edsr", "srresnet"):
        return build_upscaler(name, scale=2), torch.rand(1, 3, 8, 8)
    channels, side = IMAGES.get(name, (3, 64))
    return build(name, 10, dataset="cifar" if name in IMAGES else "imagenet"), torch.rand(
        2, channels, side, side
    )


# Blocks of the published networks whose shortcut is the identity: stride 1 and equal widths.
COUNTS = {
    "resnet20": 7,  # 3 + 2 + 2: the first block of a later stage has a projection
    "resnet164": 51,  # 17 in each of three stages of 18 bottlenecks, the first of which gets wider
    "resnet18": 5,
    "resnet50": 12,
    "resnext50_32x4d": 12,
    "mobilenetv2": 10,
    "mobilenetv3_small": 6,
    "regnety_400mf": 12,
    "efficientnet_b0": 9,
    "edsr": 8,
    "srresnet": 16,
    "mobilenetv1": 0,
    "shufflenetv2_x1_0": 0,  # half of the channels go past a block, but are shuffled
    "densenet40": 0,
}


@pytest.mark.parametrize("name", COUNTS)
def test_blocks_with_an_identity_shortcut_are_found(name: str) -> None:
    model, image = network(name)
    assert len(removable_blocks(model, image)) == COUNTS[name]


@pytest.mark.parametrize("name", [name for name, number in COUNTS.items() if number])
def test_the_shortened_network_is_the_whole_one_with_silent_blocks(name: str) -> None:
    model, image = network(name)
    model, image = model.double().eval(), image.double()
    randomise_(model, 1)
    blocks = removable_blocks(model, image)
    short = shorten(model, blocks)
    with torch.no_grad():
        before = model(image)
        short_output = short(image)
        for block in blocks:
            for parameter in model.get_submodule(block).parameters():
                parameter.zero_()
        assert torch.equal(model(image), short_output)
    assert not torch.allclose(before, short_output)
    graph = trace_channels(short, image)
    assert graph.flops(convention="paper") == count(short, image, "paper") < count(model, image, "paper")
    assert graph.params() == count_params(short)
    gone = {
        group for groups in inner_groups(trace_channels(model, image), blocks).values() for group in groups
    }
    assert set(graph.widths) == set(trace_channels(model, image).widths) - gone
    graph.verify(short, image)


@pytest.mark.parametrize("name", [name for name in TOYS if name != "residual"])
def test_toys_without_a_residual_block_of_their_own_have_nothing_to_leave_out(name: str) -> None:
    assert removable_blocks(TOYS[name].build(), TOYS[name].inputs()) == ()


class Block(nn.Module):
    """x + conv(x), or what `change` makes of it."""

    stride = 1

    def __init__(self, change: str = "") -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)
        self.norm = nn.BatchNorm2d(4)
        self.change = change
        if change == "starts at zero":
            nn.init.zeros_(self.norm.weight)
            nn.init.zeros_(self.norm.bias)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        if self.change == "writes":
            x = F.relu_(x)
        out = x + scale * self.second(self.norm(self.first(x)))
        return {"doubled": 2 * out, "cut": out[..., 1:]}.get(self.change, out)


class Chain(nn.Module):
    """A stem, the blocks, a head; `way` says how the blocks are called."""

    def __init__(self, *blocks: nn.Module, way: str = "") -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 6, 1), nn.Sequential(*blocks), nn.Conv2d(6, 2, 1)
        self.way = way
        if way == "zero stem":
            nn.init.zeros_(self.stem.weight)
            nn.init.zeros_(self.stem.bias)
        if way == "two names":
            self.same = nn.ModuleList([blocks[0]])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        first, *rest = self.blocks
        if self.way == "scaled":
            x = first(x, scale=0.5)
        elif self.way == "two names":
            x = self.same[0](x)
        elif self.way == "read" and first.stride != 1:
            raise AssertionError
        else:
            x = first(x)
        for block in rest:
            x = block(x)
        return self.head(first(x) if self.way == "twice" else x)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (Chain(Block(), Block()), ("blocks.0", "blocks.1")),
        (Chain(Block(), nn.Conv2d(6, 6, 1)), ("blocks.0",)),  # of equal shape, but nothing goes past it
        (Chain(Block("doubled"), Block()), ("blocks.1",)),
        (Chain(Block("cut"), Block()), ("blocks.1",)),
        (Chain(Block("writes"), Block()), ("blocks.1",)),  # changes its input in place
        (Chain(Block("starts at zero"), Block()), ("blocks.0", "blocks.1")),  # and not its last convolution
        (Chain(Block(), nn.Conv2d(6, 6, 1), way="zero stem"), ("blocks.0",)),
        (Chain(Block(), Block(), way="twice"), ("blocks.1",)),  # one module in two places
        (Chain(Block(), Block(), way="scaled"), ("blocks.1",)),  # an argument that an identity does not take
        (Chain(Block(), Block(), way="read"), ("blocks.1",)),  # an attribute that it does not have
        (Chain(Block(), Block(), way="two names"), ("blocks.0", "blocks.1")),
        (Chain(nn.Sequential(Block(), nn.ReLU())), ("blocks.0.0",)),  # the smallest one
        (Chain(nn.Dropout(), nn.Identity()), ()),  # hand on their input, but hold nothing
    ],
    ids=["residual", "plain", "doubled", "cut", "writes", "starts at zero", "zero stem", "twice", "scaled", "read",
         "two names", "nested", "weightless"],
)  # fmt: skip
def test_what_can_be_left_out(chain: nn.Module, expected: tuple[str, ...]) -> None:
    before = {name: tensor.clone() for name, tensor in chain.state_dict().items()}
    image = torch.rand(1, 3, 5, 5)
    assert removable_blocks(chain, image) == expected
    assert all(torch.equal(tensor, before[name]) for name, tensor in chain.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in chain.modules())
    chain.eval()
    short = shorten(chain, expected)(image)
    with torch.no_grad():
        for name in expected:
            for parameter in chain.get_submodule(name).parameters():
                parameter.zero_()
    assert torch.equal(chain(image), short)


def test_a_block_that_is_frozen_tapped_or_tied_stays() -> None:
    chain, image = Chain(Block(), Block(), Block(), Block()), torch.zeros(1, 3, 5, 5)
    options = TraceOptions(freeze=("blocks.0",), taps=("blocks.1.*",), ties=(("blocks.2.second", "stem"),))
    assert free_blocks(chain, image, options) == ("blocks.3",)


def test_shortening_shares_weights_and_leaves_the_model_alone() -> None:
    chain = Chain(Block(), Block())
    short = shorten(chain, ["blocks.1"])
    assert isinstance(chain.blocks[1], Block)
    assert isinstance(short.blocks[1], nn.Identity)
    assert short.stem.weight is chain.stem.weight
    assert shorten(chain, []) is chain
    with pytest.raises(UserError, match=r"block 'blocks\.7' cannot be left out"):
        shorten(chain, ["blocks.7"])


def test_blocks_vanish_by_the_share_that_they_keep() -> None:
    inner = {"a": ["a.1", "a.2"], "b": ["b.1"], "c": ["c.1"]}
    kept = {
        "a.1": torch.tensor([True, False]),
        "a.2": torch.arange(8) < 1,  # 2 of 10 of block a
        "b.1": torch.tensor([True, True, False, False]),
        "c.1": torch.tensor([False] * 99 + [True]),
    }
    assert vanished(inner, kept, dict.fromkeys(kept, 0.5)) == [
        "c",
        "a",
    ]  # the emptiest first; a half is not less than a half
    assert vanished(inner, kept, dict.fromkeys(kept, 0.1)) == ["c"]
    assert lifted(0.4, inner) == {"*": 0.4, "a.1": 0.0, "a.2": 0.0, "b.1": 0.0, "c.1": 0.0}
    # The last pattern that matches counts: a floor that names a group of a block goes, wherever it stands.
    assert list(lifted({"b.1": 0.4, "*": 0.2}, {"b": ["b.1"]}).items()) == [("*", 0.2), ("b.1", 0.0)]
    # A floor of 0.4 guarantees 3 of 9 choices, which are less than 0.4 of them.
    assert vanished({"d": ["d.1"]}, {"d.1": torch.arange(9) < 3}, {"d.1": 0.4}) == ["d"]
    assert vanished({"d": ["d.1"]}, {"d.1": torch.arange(9) < 4}, {"d.1": 0.4}) == []


def found_for(name: str = "resnet20", **options: Any) -> tuple[nn.Module, Tensor, Architecture]:
    model, image = network(name)
    batches = iter([(torch.rand(8, *image.shape[1:]), torch.arange(8) % 10)])  # can be looked at only once
    options = {"budget": Budget(flops=0.9), "vanish": 0.4, **options}
    return model, image, shrink(model, image, batches, F.cross_entropy, **options)


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2"])
def test_the_shortened_network_meets_the_budget_to_one_channel(name: str) -> None:
    model, image, arch = found_for(name)
    assert arch.removed
    base = count(model, image, "paper")
    built = arch.build(model, seed=0)
    assert count(built, image, "paper") == arch.costs[0].paper <= int(0.9 * base)
    assert count_params(built) == arch.costs[0].params
    assert arch.costs[1].paper == base
    assert set(arch.widths) < set(arch.baseline_widths)
    graph = arch.graph(model)
    for group in graph.groups:  # not one choice more would fit, and floors hold in the blocks that stay
        assert arch.widths[group.name] >= int(0.4 * 2 * group.width)
        more = {**arch.widths, group.name: arch.widths[group.name] + group.step}
        if arch.widths[group.name] < 2 * group.width:
            assert graph.flops(more, "paper") > int(0.9 * base)
    assert built(image).shape == model(image).shape
    assert type(built) is type(model)
    for block in arch.removed:
        assert isinstance(built.get_submodule(block), nn.Identity)


def test_nothing_vanishes_unless_asked_and_scores_are_counted_once() -> None:
    _, _, plain = found_for(vanish=0.0)
    assert plain.removed == ()
    assert "vanish" not in plain.found_by
    _, _, arch = found_for()
    assert (arch.found_by["vanish"], arch.found_by["batches"]) == (0.4, 1)
    _, _, again = found_for()
    assert again == arch
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="vanish"):
            found_for(vanish=value)


def test_uniform_scores_leave_out_every_block_at_one_and_none_at_the_floor() -> None:
    model, image, arch = found_for(score="uniform", vanish=1.0, budget=Budget(flops=0.6), floor=0.2)
    assert set(arch.removed) == set(removable_blocks(model, image))
    assert found_for(score="uniform", vanish=0.4)[2].removed == ()


def test_no_more_blocks_vanish_than_the_budget_can_spare() -> None:
    # A block is about a ninth of the network: at twice the width and without all seven of them, less than 8/9 are left.
    assert len(found_for(score="uniform", vanish=1.0)[2].removed) == 6
    _, _, arch = found_for(score="uniform", widen=1.25, floor=0.0, vanish=1.0)
    assert 0 < len(arch.removed) < 6
    assert 0.89 < arch.costs[0].paper / arch.costs[1].paper <= 0.9
    assert found_for(widen=1.0, floor=0.0, budget=Budget(flops=1.0))[2].removed == ()


def test_a_latency_does_not_keep_the_other_limits_from_being_filled() -> None:
    _, _, arch = found_for(score="uniform", vanish=1.0, budget=Budget(flops=0.9, latency="100s"))
    assert len(arch.removed) == 6
    assert 0.89 < arch.costs[0].paper / arch.costs[1].paper <= 0.9


def test_blocks_that_hold_every_free_channel_do_not_all_vanish() -> None:
    chain, image = Chain(Block(), Block()), torch.zeros(1, 3, 5, 5)
    arch = shrink(chain, image, [], F.cross_entropy, score="uniform", freeze=("stem",), floor=0.0, vanish=1.0,
                  widen=4.0, budget=Budget(flops=0.9))  # fmt: skip
    assert len(arch.removed) == 1
    assert len(arch.widths) == 1


def test_scores_without_data_look_at_no_batch() -> None:
    def endless() -> Iterator[Any]:
        raise AssertionError("a batch was asked for")
        yield

    model, image = network("resnet20")
    for score in ("uniform", "random"):
        shrink(model, image, endless(), F.cross_entropy, score=score, vanish=1.0)


def test_a_budget_out_of_reach_is_told_with_the_floors() -> None:
    for budget in (0.1, 5.0):
        with pytest.raises(BudgetError) as plain:
            found_for(vanish=0.0, budget=Budget(flops=budget))
        with pytest.raises(BudgetError) as deep:
            found_for(budget=Budget(flops=budget))
        if budget > 1:
            assert str(deep.value) == str(plain.value)


def test_removed_blocks_are_listed_in_the_order_of_execution() -> None:
    model, image, arch = found_for()
    order = removable_blocks(model, image)
    assert list(arch.removed) == [block for block in order if block in arch.removed]


def test_the_widths_file_knows_what_was_left_out(tmp_path: Path) -> None:
    model, _, arch = found_for()
    arch.save(tmp_path / "w.json")
    again = Architecture.load(tmp_path / "w.json")
    assert again == arch
    assert f"left out: {', '.join(arch.removed)}" in again.describe()
    torch.jit.script(again.build(model, seed=0))
    content = json.loads((tmp_path / "w.json").read_text())
    for damaged in ("layer1.0", [1], [""], {"layer1.0": 1}):
        with pytest.raises(ArchitectureError, match=r"removed(\[0\])? must be"):
            Architecture.from_json({**content, "removed": damaged})
    with pytest.raises(ArchitectureError, match=r"block 'layer9\.1' cannot be left out"):
        replace(arch, removed=("layer9.1",)).build(model)
    with pytest.raises(ArchitectureError, match="is missing in the widths file"):
        replace(arch, removed=()).build(model)


def test_a_layer_that_is_gone_has_no_channels_in_the_plot() -> None:
    model, _, arch = found_for()
    layer = f"{arch.removed[0]}.conv1"
    stem = arch.widths["conv1"]
    assert layer_widths(arch.build(model, seed=0), ["conv1", layer]) == [stem, 0]


def test_a_shortened_network_can_be_resized_again() -> None:
    model, image = network("resnet20")
    short = shorten(model, removable_blocks(model, image))
    graph = trace_channels(short, image)
    widths = {group.name: group.width + 1 for group in graph.groups}
    assert count_params(resize(short, graph, widths, seed=0)) == graph.params(widths)


def test_blocks_that_see_the_whole_image_follow_the_arithmetic_of_receptive_fields() -> None:
    """ResNet20: 3 pixels behind the stem, and every 3x3 convolution adds twice its stride's product."""
    model = build("resnet20", 10, dataset="cifar")
    blocks = removable_blocks(model, torch.zeros(1, 3, 32, 32))
    field, seen, step = 3, {}, 1
    for stage in (1, 2, 3):
        for number in range(3):
            seen[f"layer{stage}.{number}"] = field
            first = 2 if stage > 1 and number == 0 else 1
            field += 2 * step + 2 * step * first
            step *= first
    for side in (8, 16, 24, 32, 40):
        image = torch.zeros(1, 3, side, side)
        # At an even side no position has the image's middle: one more pixel is needed.
        expected = tuple(block for block in blocks if seen[block] >= side + 1)
        assert blocks_that_see_all(model, image, blocks) == expected
    assert blocks_that_see_all(model, torch.zeros(1, 3, 200, 200), blocks) == ()


def test_blocks_go_by_their_field_of_view_the_last_first_and_no_more_than_the_budget_bears() -> None:
    model, image = network("resnet20")
    arch = shrink(model, image, [], F.cross_entropy, score="uniform", vanish="receptive-field")
    seen = blocks_that_see_all(model, image, removable_blocks(model, image))
    assert arch.removed == seen[len(seen) - len(arch.removed) :] != ()
    assert 0.88 < arch.costs[0].paper / arch.costs[1].paper <= 0.9
    with pytest.raises(UserError, match="use a fraction, 'floor' or 'receptive-field'"):
        shrink(model, image, [], F.cross_entropy, score="uniform", vanish="field")


def test_a_block_with_a_frozen_parameter_stays() -> None:
    net, image = build("resnet20", 10), torch.zeros(1, 3, 32, 32)
    free = free_blocks(net, image, TraceOptions())
    held = free_blocks(net, image, TraceOptions(freeze=("layer1.1.conv1.weight",)))
    assert set(free) - set(held) == {"layer1.1"}
