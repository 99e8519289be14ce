"""Every shipped network: its groups, its plan, the proof, its costs, and gates against cuts.

The plans under tests/golden/plans were made by this code and read by a person; they make a release of torch that
changes a group fail a test instead of a run. After a wanted change, write them anew and read the difference:

    python -m tests.core.graph.test_all_networks
    git diff tests/golden/plans
"""

from __future__ import annotations

import copy
import json
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from torch import Tensor, nn

import classification.models
from core.graph.channels import ChannelGraph, trace_channels
from core.graph.complexity import count, count_params
from core.graph.labels import FrozenChannelsWarning
from core.surgery.gates import LATENTS, attach_gates, detach
from core.surgery.hypernetwork import attach_hypernetwork
from core.surgery.resize import keep_channels, resize, widen
from core.surgery.verification import UntestedGroupsWarning, random_keep, randomise_
from tests.properties import examples
from tests.subjects import RELATIVES, SUBJECTS, Traced, traced_subject

PLANS = Path(__file__).parents[2] / "golden" / "plans"
Tracer = Callable[[str], Traced]


def plan_text(graph: ChannelGraph) -> str:
    """A plan as JSON, one group on a line, so that a difference can be read."""
    plan = graph.to_json()
    groups = ",\n".join("  " + json.dumps(group) for group in plan.pop("groups"))
    rest = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in plan.items())
    return f'{{\n "groups": [\n{groups}\n ],\n{rest}\n}}\n'


@pytest.mark.parametrize("name", SUBJECTS)
def test_number_of_free_groups(name: str, traced: Tracer) -> None:
    graph = traced(name).graph
    assert len(graph.groups) == SUBJECTS[name].groups
    assert not graph.notes


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_plan_is_the_golden_one(name: str, traced: Tracer) -> None:
    golden = (PLANS / f"{name}.json").read_text(encoding="utf-8")
    assert plan_text(traced(name).graph) == golden
    assert json.loads(golden)["plan_version"] == 1


def test_no_golden_plan_is_left_over() -> None:
    assert {path.stem for path in PLANS.glob("*.json")} == {*SUBJECTS, *RELATIVES}


def test_every_network_for_classification_has_a_golden_plan() -> None:
    assert set(classification.models.MODELS) <= {*SUBJECTS, *RELATIVES}


def relative(name: str) -> tuple[nn.Module, Tensor, ChannelGraph]:
    """A network of `RELATIVES` without values, an input for it and its groups."""
    subject = RELATIVES[name]
    with torch.device("meta"):
        model = subject.package.build(name, **subject.options).eval()
        inputs = torch.empty(2, *subject.shape)
    return model, inputs, trace_channels(model, inputs)


@pytest.mark.parametrize("name", RELATIVES)
def test_plan_and_counts_of_a_relative(name: str) -> None:
    model, inputs, graph = relative(name)
    assert len(graph.groups) == RELATIVES[name].groups
    assert not graph.notes
    assert plan_text(graph) == (PLANS / f"{name}.json").read_text(encoding="utf-8")
    for convention in ("macs", "paper"):
        assert graph.flops(convention=convention) == count(model, inputs, convention)
    assert graph.params() == count_params(model)


@pytest.mark.parametrize("name", SUBJECTS)
def test_masked_equals_cut(name: str, traced: Tracer) -> None:
    subject = traced(name)
    assert subject.graph.verify(subject.model, subject.inputs, keep=0.5, seed=1) <= 1e-10


@pytest.mark.parametrize("name", SUBJECTS)
def test_widening_by_two_doubles_every_width(name: str, traced: Tracer) -> None:
    subject = traced(name)
    with torch.device("meta"):
        model = SUBJECTS[name].package.build(name, **SUBJECTS[name].options)
    graph = subject.graph
    wide = widen(model, graph, 2)
    assert trace_channels(wide, subject.inputs).widths == {
        group: 2 * width for group, width in graph.widths.items()
    }


@examples(2, [HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", SUBJECTS)
@given(data=st.data())
def test_closed_form_equals_counting_at_random_widths(name: str, data: st.DataObject, traced: Tracer) -> None:
    subject = traced(name)
    graph = subject.graph
    fractions = data.draw(
        st.lists(st.floats(0.01, 2.5), min_size=len(graph.groups), max_size=len(graph.groups))
    )
    widths = {
        group.name: max(1, round(fraction * group.size)) * group.step
        for fraction, group in zip(fractions, graph.groups, strict=True)
    }
    with torch.device("meta"):
        model = SUBJECTS[name].package.build(name, **SUBJECTS[name].options)
    built = resize(model, graph, widths)
    # `count` takes the MACs as half of torch's FlopCounterMode, and knows nothing of groups.
    assert graph.flops(widths) == count(built, subject.inputs)
    assert graph.flops(widths, "paper") == count(built, subject.inputs, "paper")
    assert graph.params(widths) == count_params(built)


@pytest.mark.parametrize("latents", ["gate", "hypernetwork"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_masked_gated_network_equals_the_sliced_network(name: str, latents: str, traced: Tracer) -> None:
    subject = traced(name)
    graph, keep = subject.graph, random_keep(subject.graph, 0.5, 3)
    model = copy.deepcopy(subject.model)
    randomise_(model, 3)
    gated = (
        attach_gates(model, graph)
        if latents == "gate"
        else attach_hypernetwork(model, graph, embedding=1, seed=3)
    )
    with torch.no_grad():
        shared = getattr(gated, LATENTS)
        for group, z in shared.split(shared.z).items():
            z.mul_(keep[group])
        masked = gated.eval()(subject.inputs)
        sliced = keep_channels(detach(gated), graph, keep).eval()(subject.inputs)
    assert float((masked - sliced).abs().max() / sliced.abs().max()) <= 1e-5


@pytest.mark.parametrize(
    "name", ["resnet20", "mobilenetv2", "regnety_200mf", "shufflenetv2_x1_0", "edsr", "unet"]
)
def test_every_parameter_of_a_found_network_learns(name: str, traced: Tracer) -> None:
    subject = traced(name)
    graph = subject.graph
    widths = {group.name: max(1, (2 * group.size) // 3) * group.step for group in graph.groups}
    net = resize(subject.model, graph, widths, seed=0)
    net(torch.rand(4, *subject.inputs.shape[1:])).square().mean().backward()
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained == {
        name for name, parameter in subject.model.named_parameters() if parameter.requires_grad
    }
    for key, parameter in net.named_parameters():
        assert (parameter.grad is not None) == (key in trained)
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ["resnet56", "densenet40", "efficientnet_b0"])
def test_batch_size_and_image_size_do_not_change_the_groups(name: str, traced: Tracer) -> None:
    subject = traced(name)
    groups = [(group.name, group.width, group.step, dict(group.slots)) for group in subject.graph.groups]
    for shape in ((1, *subject.inputs.shape[1:]), (3, 3, 48, 64)):
        graph = trace_channels(subject.model, torch.empty(shape, device="meta"))
        assert [(group.name, group.width, group.step, dict(group.slots)) for group in graph.groups] == groups


# ---- timm's networks ---------------------------------------------------------------------------------------------

# Free groups where every channel operation is known; None where attention freezes some, with warnings.
TIMM: dict[str, int | None] = {
    "convnext_atto": 16,
    "convnextv2_atto": 16,
    "resnetv2_50": 37,
    "efficientnet_b0": 40,
    "mobilenetv4_conv_small": 21,
    "regnety_002": 31,
    "ghostnet_100": 31,
    "resnest14d": 19,
    "edgenext_xx_small": None,
    "pvt_v2_b0": 12,
    "inception_next_atto": 29,
    "rexnet_100": 46,
    "res2net50_14w_8s": 61,
    "mixnet_s": 72,
    "cs3darknet_focus_s": 22,
    "ecaresnet26t": 23,
    "resnetblur18": 12,
    "nf_regnet_b0": 38,
    "eca_nfnet_l0": 23,
    "resnetv2_50x1_bit": 37,
    "poolformer_s12": 16,
    "dpn48b": 41,
    "focalnet_tiny_srf": None,
}
# Built at half the width or less: the same layers in the same groups, and a fraction of the weights.
NARROW = {
    "resnetv2_50": (64, 128, 256, 512),
    "resnetv2_50x1_bit": (128, 256, 512, 1024),
    **dict.fromkeys(("res2net50_14w_8s", "ecaresnet26t", "resnest14d"), (32, 64, 128, 256)),
}


@pytest.mark.parametrize("name", TIMM)
def test_a_plan_of_a_timm_network_can_be_proved(name: str, timm: types.ModuleType) -> None:
    torch.manual_seed(0)
    narrow = {"channels": NARROW[name]} if name in NARROW else {}
    model = timm.create_model(name, num_classes=10, **narrow).eval()
    image = torch.rand(1, 3, 64, 64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = trace_channels(model, image)
    told = [item for item in caught if issubclass(item.category, FrozenChannelsWarning)]
    if TIMM[name] is None:
        assert told
        assert graph.groups
    else:
        assert not told
        assert len(graph.groups) == TIMM[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntestedGroupsWarning)
        assert graph.verify(model, image) <= 1e-10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenChannelsWarning)
        wide = widen(model, graph, 1.5, seed=0).eval()
    with torch.no_grad():
        assert wide(image).isfinite().all()
    assert graph.flops() == count(model, image)


def _write_plans() -> None:
    PLANS.mkdir(parents=True, exist_ok=True)
    for name in SUBJECTS:
        (PLANS / f"{name}.json").write_text(plan_text(traced_subject(name).graph), encoding="utf-8")
    for name in RELATIVES:
        (PLANS / f"{name}.json").write_text(plan_text(relative(name)[2]), encoding="utf-8")


if __name__ == "__main__":
    _write_plans()
