"""Widths of a trained network: it is scored as it is, and the file says which of its channels are kept."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import core
from classification.models import build
from core.errors import UserError
from core.surgery.architecture import Architecture, ArchitectureError
from core.widths.config import ShrinkConfig

BUDGET = core.Budget(flops=0.6)
INPUTS = torch.zeros(1, 3, 16, 16)


class Centred(nn.Module):
    """A group that is not exact: its mean over channels is taken off."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.second(x - x.mean(1, keepdim=True)).relu()).mean((2, 3))


def batches(classes=10):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % classes)]


def network(name="resnet20"):
    torch.manual_seed(3)
    model = build(name, 10, dataset="cifar")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as trained: no two channels are alike
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return model


def found(model, score="gradient", **changes):
    settings = {"widen": 1, "budget": BUDGET, "floor": 0.2, "keep_weights": True, "score": score, **changes}
    return core.shrink(model, INPUTS, batches(), nn.functional.cross_entropy, **settings)


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2_small"])
@pytest.mark.parametrize("score", ["gradient", "fisher", "magnitude"])
def test_the_cut_is_that_of_the_best_channels(name, score):
    model = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    arch = found(model, score)
    assert arch.cost.macs <= 0.6 * arch.baseline.macs
    graph = core.trace_channels(model, INPUTS)
    scores = core.score_channels(model, graph, batches(), nn.functional.cross_entropy, score=score)
    keep = {}
    for group in graph.groups:
        kept = arch.kept[group.name]
        assert len(kept) * group.step == arch.widths[group.name]
        mask = torch.zeros(group.size, dtype=torch.bool)
        mask[list(kept)] = True
        if not mask.all():
            assert scores[group.name][mask].min() >= scores[group.name][~mask].max()
        keep[group.name] = mask
    cut, expected = arch.cut(model), core.keep_channels(model, graph, keep)
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in cut.state_dict().items())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(cut.eval()(x), expected.eval()(x))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert core.unknown_start(cut) == {}


def test_scores_depend_on_the_weights():
    kinds = {
        tuple(found(model).widths.values()) for model in (network(), build("resnet20", 10, dataset="cifar"))
    }
    assert len(kinds) == 2


@pytest.mark.parametrize("score", ["uniform", "random"])
def test_where_a_score_does_not_rank_channels_magnitude_does(score):
    model = network()
    arch = found(model, score)
    assert arch.found_by["kept_by"] == "magnitude"
    graph = core.trace_channels(model, INPUTS)
    magnitude = core.score_channels(model, graph, [], None, score="magnitude")
    for group in graph.groups:
        best = magnitude[group.name].argsort(descending=True)[: len(arch.kept[group.name])]
        assert sorted(best.tolist()) == list(arch.kept[group.name])


def test_the_file_brings_the_channels_back(tmp_path):
    model = network()
    arch = found(model)
    arch.save(tmp_path / "widths.json")
    again = Architecture.load(tmp_path / "widths.json")
    assert again.kept == arch.kept
    one, other = arch.cut(model).state_dict(), again.cut(model).state_dict()
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    fresh = again.build(model, seed=0)  # and the same widths start from scratch
    assert [value.shape for value in fresh.state_dict().values()] == [value.shape for value in one.values()]
    assert "kept" not in core.shrink(model, INPUTS, batches(), nn.functional.cross_entropy).to_json()


def test_blocks_that_vanish_leave_the_rest_trained():
    model = network()
    arch = found(model, vanish=0.6)
    assert arch.removed
    cut = arch.cut(model).state_dict()
    assert not any(key.startswith(f"{block}.") for block in arch.removed for key in cut)
    kept = list(arch.kept["conv1"])
    assert torch.equal(cut["conv1.weight"], model.state_dict()["conv1.weight"][kept])


@pytest.mark.parametrize(
    ("kept", "problem"),
    [
        ({"conv1": [0, 99]}, "group 'conv1' keeps 2 of its 16 choices, up to 99"),
        ({"conv1": [0]}, "group 'conv1' keeps 1 of its 16 choices"),
        ({"conv1": [1, 0]}, "'kept' has to be an object of group: list of its choices, rising"),
        ({"conv1": []}, "'kept' has to be"),
        ({"conv1": [True]}, r"kept\.conv1\[0\] must be int"),
        ([], "kept must be dict"),
        ({"none": [0]}, "no channel group is called 'none'"),
        ({}, "does not say which channels are kept: it was not found by the weights"),
    ],
)
def test_damaged_files_are_refused(kept, problem):
    model = network()
    content = {**found(model).to_json(), "kept": kept}
    with pytest.raises(ArchitectureError, match=problem):
        Architecture.from_json(content, "file").cut(model)


def test_a_group_without_choices_is_refused():
    model = network()
    arch = found(model)
    name = next(name for name, width in arch.widths.items() if width < arch.baseline_widths[name])
    some = replace(arch, kept={key: value for key, value in arch.kept.items() if key != name})
    with pytest.raises(ArchitectureError, match=f"does not say which channels of group '{name}' are kept"):
        some.cut(model)


def test_groups_that_are_not_exact_stay_whole():
    model = Centred()
    classes = batches(2)
    settings = {"widen": 1, "budget": core.Budget(flops=0.7), "floor": 0.2, "keep_weights": True}
    with pytest.warns(
        UserWarning, match=r"1 groups stay whole, .*\(first\); inexact=True cuts them too"
    ) as told:
        arch = core.shrink(model, INPUTS, classes, nn.functional.cross_entropy, **settings)
    assert len([w for w in told if "stay whole" in str(w.message)]) == 1
    assert arch.widths.keys() == {"second"}
    cut = arch.cut(model)
    assert cut.first.weight.shape[0] == 8
    assert cut.second.weight.shape[0] == arch.widths["second"] < 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = core.shrink(model, INPUTS, classes, nn.functional.cross_entropy, **settings, inexact=True)
        assert asked.cut(model).first.weight.shape[0] == asked.widths["first"]


def test_what_does_not_go_together_is_refused():
    for settings, problem in (
        ({"keep_weights": True}, "shrink.widen is 2.0, .*set it to 1"),
        ({"keep_weights": True, "widen": 1, "latents": "hypernetwork"}, "shrink.latents is 'hypernetwork'"),
        ({"inexact": True}, "shrink.inexact is for kept weights"),
    ):
        with pytest.raises(UserError, match=problem):
            ShrinkConfig(**settings)
